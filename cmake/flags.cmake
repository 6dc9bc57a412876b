# The flags of everything that is built here: library, tests, examples, benchmarks.

set(CMAKE_C_STANDARD 11)
set(CMAKE_C_STANDARD_REQUIRED ON)
set(CMAKE_C_EXTENSIONS ON)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)
set(THREADS_PREFER_PTHREAD_FLAG ON)
find_package(Threads REQUIRED)

set(gort_c_flags
  -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion
  -Wstrict-prototypes -Wmissing-prototypes -Wvla)
if(GORT_WERROR)
  list(APPEND gort_c_flags -Werror)
endif()
foreach(flag IN LISTS gort_c_flags)
  add_compile_options($<$<COMPILE_LANGUAGE:C>:${flag}>)
endforeach()

foreach(flag GORT_DEBUG GORT_TORTURE)
  if(${flag})
    add_compile_definitions(${flag}=1)
  endif()
endforeach()

if(GORT_SANITIZE)
  # What sanitizers put in makes gcc take initialized variables for uninitialized ones; and it
  # warns of every fence that the thread sanitizer does not see.
  add_compile_options("$<$<C_COMPILER_ID:GNU>:-Wno-maybe-uninitialized;-Wno-tsan>")
  add_compile_options(-fsanitize=${GORT_SANITIZE} -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${GORT_SANITIZE})
endif()

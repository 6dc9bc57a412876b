# The library, compiled once and put together twice: gort_shared and gort_static.

file(GLOB gort_sources CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*/*.c)
if(NOT gort_sources)
  message(FATAL_ERROR "there is nothing in src/ to build")
endif()

if(CMAKE_SYSTEM_PROCESSOR MATCHES "^(x86_64|AMD64|amd64)$")
  set(gort_arch amd64)
elseif(CMAKE_SYSTEM_PROCESSOR MATCHES "^(aarch64|arm64)$")
  set(gort_arch arm64)
else()
  message(FATAL_ERROR "gort does not know how to switch goroutines on ${CMAKE_SYSTEM_PROCESSOR}")
endif()
file(GLOB gort_assembly CONFIGURE_DEPENDS ${PROJECT_SOURCE_DIR}/src/*/*_${gort_arch}.S)

# The model of thread-local storage: the default one may call malloc at the first access in a
# thread, which a signal handler must not. -z now: nor may the dynamic linker take its lock
# there. -z nodelete: the runtime's threads outlive a dlclose.
add_library(gort_objects OBJECT ${gort_sources} ${gort_assembly})
set_target_properties(gort_objects PROPERTIES
  POSITION_INDEPENDENT_CODE ON
  C_VISIBILITY_PRESET hidden)
target_compile_definitions(gort_objects PRIVATE GORT_BUILD GORT_VERSION="${PROJECT_VERSION}")
target_compile_options(gort_objects PRIVATE
  -fno-strict-aliasing -fno-omit-frame-pointer -ftls-model=initial-exec)
target_include_directories(gort_objects PUBLIC
  ${PROJECT_SOURCE_DIR}/include ${PROJECT_SOURCE_DIR}/src)
target_link_libraries(gort_objects PUBLIC Threads::Threads)

add_library(gort_shared SHARED $<TARGET_OBJECTS:gort_objects>)
set_target_properties(gort_shared PROPERTIES
  VERSION ${PROJECT_VERSION}
  SOVERSION ${PROJECT_VERSION_MAJOR}
  EXPORT_NAME gort)
target_link_options(gort_shared PRIVATE -Wl,-z,now -Wl,-z,nodelete)
if(NOT GORT_SANITIZE)
  target_link_options(gort_shared PRIVATE -Wl,-z,defs)
endif()

# Names that run across files have no prefix. In the archive they are made local, so that a
# program linked with it may have a function of the same name.
set(gort_object ${PROJECT_BINARY_DIR}/gort.o)
add_custom_command(OUTPUT ${gort_object}
  COMMAND ${CMAKE_LINKER} -r -o ${gort_object} $<TARGET_OBJECTS:gort_objects>
  COMMAND ${CMAKE_OBJCOPY} --localize-hidden ${gort_object}
  DEPENDS gort_objects $<TARGET_OBJECTS:gort_objects>
  COMMAND_EXPAND_LISTS VERBATIM)
add_library(gort_static STATIC ${gort_object})
set_target_properties(gort_static PROPERTIES LINKER_LANGUAGE C EXPORT_NAME static)

foreach(library gort_shared gort_static)
  set_target_properties(${library} PROPERTIES OUTPUT_NAME gort)
  target_include_directories(${library} INTERFACE
    $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include>
    $<INSTALL_INTERFACE:${CMAKE_INSTALL_INCLUDEDIR}>)
  target_link_libraries(${library} PRIVATE Threads::Threads)
endforeach()
add_library(gort::gort ALIAS gort_shared)
add_library(gort::static ALIAS gort_static)

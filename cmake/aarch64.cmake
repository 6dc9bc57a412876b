# A toolchain file: for aarch64 on another machine, with Debian's cross compiler, and run by qemu.
#
# qemu needs memory for every page that the program maps, whether it touches it or not: some 16 GB
# for the address space that gort reserves where it may. So there is a limit, and gort takes half.

set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CROSSCOMPILING_EMULATOR
  prlimit --as=8589934592 qemu-aarch64 -L /usr/aarch64-linux-gnu)

# In the second one are the libraries that Debian has no cross packages of, unpacked by `gort test`.
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu ${CMAKE_CURRENT_LIST_DIR}/../build/aarch64-root)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)

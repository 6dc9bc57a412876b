# cmake --install: headers, both libraries, gort.pc, and the package for find_package(gort).

include(CMakePackageConfigHelpers)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/gort)
set(pkgconfig_dir ${CMAKE_INSTALL_LIBDIR}/pkgconfig)

# gort.pc finds its prefix from where it lies, so that the tree can be moved.
cmake_path(RELATIVE_PATH CMAKE_INSTALL_PREFIX
  BASE_DIRECTORY ${CMAKE_INSTALL_PREFIX}/${pkgconfig_dir} OUTPUT_VARIABLE GORT_PC_PREFIX)
configure_file(cmake/gort.pc.in gort.pc @ONLY)
write_basic_package_version_file(gortConfigVersion.cmake COMPATIBILITY SameMinorVersion)

install(FILES include/gort.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/gort DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} FILES_MATCHING PATTERN "*.h")
install(TARGETS gort_shared gort_static EXPORT gort
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR}
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR})
install(EXPORT gort NAMESPACE gort:: FILE gortTargets.cmake DESTINATION ${package_dir})
install(FILES cmake/gortConfig.cmake ${PROJECT_BINARY_DIR}/gortConfigVersion.cmake
  DESTINATION ${package_dir})
install(FILES ${PROJECT_BINARY_DIR}/gort.pc DESTINATION ${pkgconfig_dir})

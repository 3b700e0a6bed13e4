# cmake/install_package.cmake: what find_package(window_matmul) finds after `cmake --install`: window_matmul::window_matmul, for C++, and window_matmul::c.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(package_dir "${CMAKE_INSTALL_LIBDIR}/cmake/window_matmul")

set_target_properties(window_matmul_core PROPERTIES EXPORT_NAME window_matmul)
install(TARGETS window_matmul_core EXPORT window_matmul ARCHIVE DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(TARGETS window_matmul_c EXPORT window_matmul LIBRARY DESTINATION "${CMAKE_INSTALL_LIBDIR}")
install(DIRECTORY include/window_matmul DESTINATION "${CMAKE_INSTALL_INCLUDEDIR}")
install(EXPORT window_matmul NAMESPACE window_matmul:: FILE window_matmul-targets.cmake DESTINATION "${package_dir}")
file(WRITE "${PROJECT_BINARY_DIR}/window_matmul-config.cmake" [[
include(CMakeFindDependencyMacro)
find_dependency(Threads)
include("${CMAKE_CURRENT_LIST_DIR}/window_matmul-targets.cmake")
]])
write_basic_package_version_file("${PROJECT_BINARY_DIR}/window_matmul-config-version.cmake" COMPATIBILITY SameMinorVersion)
install(FILES "${PROJECT_BINARY_DIR}/window_matmul-config.cmake" "${PROJECT_BINARY_DIR}/window_matmul-config-version.cmake"
  DESTINATION "${package_dir}")

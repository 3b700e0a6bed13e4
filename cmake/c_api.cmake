# cmake/c_api.cmake: libwindow_matmul.so, the core behind include/window_matmul/c_api.h: for C, NumPy and whatever can call C.
file(GLOB c_api_sources CONFIGURE_DEPENDS src/c_api/*.cpp)
add_library(window_matmul_c SHARED ${c_api_sources})
add_library(window_matmul::c ALIAS window_matmul_c)
window_matmul_compile_options(window_matmul_c)
set_target_properties(window_matmul_c PROPERTIES OUTPUT_NAME window_matmul EXPORT_NAME c)
target_include_directories(window_matmul_c
  PUBLIC $<BUILD_INTERFACE:${PROJECT_SOURCE_DIR}/include> $<INSTALL_INTERFACE:include>
  PRIVATE src)
target_link_libraries(window_matmul_c PRIVATE window_matmul_core)
set_property(TARGET window_matmul_c PROPERTY INTERFACE_COMPILE_FEATURES "") # none of C++: projects in C alone have no compiler for it
# What it offers begins with wm_. Templates of the C++ library, which are visible otherwise, stay its own.
file(CONFIGURE OUTPUT c_api.map CONTENT "{ global: wm_*; local: *; };\n")
target_link_options(window_matmul_c PRIVATE "LINKER:--version-script=${CMAKE_CURRENT_BINARY_DIR}/c_api.map")

if(NOT WINDOW_MATMUL_BUILD_TESTS)
  return()
endif()
# A call by XLA, made by hand: it runs where there is no XLA. The functions are declared by a header that is not installed.
add_executable(window_matmul_xla_test tests/c/xla_test.cpp)
window_matmul_compile_options(window_matmul_xla_test)
target_include_directories(window_matmul_xla_test PRIVATE src)
target_link_libraries(window_matmul_xla_test PRIVATE window_matmul_c GTest::gtest_main)
add_test(NAME c_api.xla_test COMMAND window_matmul_xla_test --gtest_brief=1)
add_dependencies(window_matmul_tests window_matmul_xla_test)

include(CheckLanguage)
check_language(C)
if(NOT CMAKE_C_COMPILER)
  message(STATUS "Tests of the C interface: none, there is no C compiler")
  return()
endif()
enable_language(C)
foreach(source IN ITEMS examples/c/main.c tests/c/c_api_test.c)
  cmake_path(GET source STEM name)
  set(program "window_matmul_c_${name}")
  add_executable(${program} ${source})
  set_target_properties(${program} PROPERTIES C_STANDARD 11 C_STANDARD_REQUIRED ON C_EXTENSIONS OFF)
  target_compile_options(${program} PRIVATE -Wall -Wextra -Wpedantic -Wconversion -Wshadow)
  target_link_libraries(${program} PRIVATE window_matmul_c m)
  add_test(NAME c_api.${name} COMMAND ${program})
  add_dependencies(window_matmul_tests ${program})
endforeach()

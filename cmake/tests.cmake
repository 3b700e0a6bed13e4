# cmake/tests.cmake: the C++ tests and the check of the ISA objects, registered with CTest.
find_package(GTest QUIET)
if(NOT GTest_FOUND)
  include(FetchContent)
  set(INSTALL_GTEST OFF)
  FetchContent_Declare(googletest
    URL https://github.com/google/googletest/archive/refs/tags/v1.15.2.tar.gz
    URL_HASH SHA256=7b42b4d6ed48810c5362c265a17faebe90dc2373c885e5216439d37927f02926
    DOWNLOAD_EXTRACT_TIMESTAMP ON SYSTEM)
  FetchContent_MakeAvailable(googletest)
endif()

file(GLOB tests CONFIGURE_DEPENDS tests/cpp/*.cpp)
add_executable(window_matmul_tests ${tests})
window_matmul_compile_options(window_matmul_tests)
target_compile_options(window_matmul_tests PRIVATE -O1 # compiles in half the time
  $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds;-Wno-maybe-uninitialized>) # GCC 12 sees both in std::vector, where they are not
target_include_directories(window_matmul_tests PRIVATE src tests/cpp)
target_link_libraries(window_matmul_tests PRIVATE window_matmul_core GTest::gtest_main)
include(GoogleTest)
gtest_discover_tests(window_matmul_tests DISCOVERY_TIMEOUT 60)

# The CUDA kernels, run on this CPU. The sanitizers do not follow fibers from stack to stack; the emulation checks memory itself.
if(NOT WINDOW_MATMUL_SANITIZE)
  file(GLOB emulation CONFIGURE_DEPENDS src/cuda/emulation/*.cpp src/cuda/arch/emulated*.cpp)
  file(GLOB cuda_tests CONFIGURE_DEPENDS tests/cuda_emulation/*.cpp)
  add_executable(window_matmul_cuda_tests ${emulation} ${cuda_tests})
  window_matmul_compile_options(window_matmul_cuda_tests)
  target_compile_options(window_matmul_cuda_tests PRIVATE -O2 # in every configuration: a matrix instruction is thousands of operations here
    $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds;-Wno-maybe-uninitialized>)
  target_include_directories(window_matmul_cuda_tests PRIVATE src tests/cpp tests/cuda_emulation)
  target_link_libraries(window_matmul_cuda_tests PRIVATE window_matmul_core GTest::gtest_main)
  target_sources(window_matmul_cuda_tests PRIVATE # the primitives and what they must do
    src/cuda/conformance/compare.cpp src/cuda/conformance/definitions.cpp src/cuda/conformance/on_emulation.cpp)
  gtest_discover_tests(window_matmul_cuda_tests TEST_PREFIX cuda_emulation. DISCOVERY_TIMEOUT 60)
endif()

# What ptxas says of the kernels, where nvcc is present.
if(WINDOW_MATMUL_CUDA_FOUND)
  add_test(NAME cuda_kernels.build COMMAND "${CMAKE_COMMAND}" --build "${PROJECT_BINARY_DIR}" --target window_matmul_cuda)
  add_test(NAME cuda_kernels.gates
    COMMAND "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/scripts/check_cuda_kernels.py" ${WINDOW_MATMUL_CUDA_OBJECTS})
  set_tests_properties(cuda_kernels.build PROPERTIES FIXTURES_SETUP cuda_object)
  set_tests_properties(cuda_kernels.gates PROPERTIES FIXTURES_REQUIRED cuda_object)
endif()

# A weak symbol or a static initialiser of an ISA object could run on a machine without that ISA. Sanitizers add both: not there.
if(NOT WINDOW_MATMUL_SANITIZE)
  find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
  set(check "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/scripts/check_isa_symbols.py" --nm "${CMAKE_NM}" --readelf "${CMAKE_READELF}")
  get_property(isas GLOBAL PROPERTY window_matmul_isas)
  foreach(isa IN LISTS isas)
    add_test(NAME isa_symbols.${isa} COMMAND ${check} $<TARGET_OBJECTS:window_matmul_isa_${isa}> COMMAND_EXPAND_LISTS)
  endforeach()
  add_test(NAME isa_symbols.self_test COMMAND ${check} --self-test "${CMAKE_CXX_COMPILER}")
endif()

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

# window_matmul_add_test_program(program prefix file...): a process for each test file, and one for the tests that no file was found to hold. Half of
# the time went into starting a process for each test; what a process has computed serves all rows of the kernel table.
function(window_matmul_add_test_program program prefix)
  set(rest "-")
  foreach(file IN LISTS ARGN)
    file(STRINGS "${file}" suites REGEX "^(TEST|TEST_F|TEST_P|TYPED_TEST)\\([A-Za-z0-9_]+,")
    list(TRANSFORM suites REPLACE "^[A-Z_]+\\(([A-Za-z0-9_]+),.*" "\\1")
    list(REMOVE_DUPLICATES suites)
    set(filter "")
    foreach(suite IN LISTS suites)
      string(APPEND filter "${suite}.*:*/${suite}.*:")
    endforeach()
    cmake_path(GET file STEM name)
    add_test(NAME ${prefix}.${name} COMMAND ${program} --gtest_brief=1 "--gtest_filter=${filter}")
    string(APPEND rest "${filter}")
  endforeach()
  add_test(NAME ${prefix}.rest COMMAND ${program} --gtest_brief=1 "--gtest_filter=${rest}")
endfunction()

# Most of the time of the tests of kernels is that of the tests themselves, which make operands and evaluate definitions: the sanitizers look at the
# library and at the tests of what lies in headers, and not at these, nor at their tools. Their headers are parsed once, for the emulation's tests too.
file(GLOB tests CONFIGURE_DEPENDS tests/cpp/*_test.cpp)
file(GLOB test_tools CONFIGURE_DEPENDS tests/cpp/*.cpp)
list(REMOVE_ITEM test_tools ${tests})
set(tests_of_kernels "")
foreach(file IN LISTS tests)
  file(STRINGS "${file}" includes REGEX "include \"(trial|rows|attention_trial)\\.hpp\"")
  if(includes)
    list(APPEND tests_of_kernels "${file}")
  endif()
endforeach()
set(other_tests ${tests})
list(REMOVE_ITEM other_tests ${tests_of_kernels})
set(sanitized SANITIZED)
if(WINDOW_MATMUL_SANITIZE MATCHES "address")
  set(sanitized NOT_SANITIZED)
else() # then all have the same options, and one precompiled header
  set(tests_of_kernels ${tests})
  set(other_tests "")
endif()

add_library(window_matmul_test_tools OBJECT ${test_tools})
window_matmul_compile_options(window_matmul_test_tools ${sanitized})
target_precompile_headers(window_matmul_test_tools PRIVATE tests/cpp/attention_trial.hpp)
add_library(window_matmul_tests_of_kernels OBJECT ${tests_of_kernels})
window_matmul_compile_options(window_matmul_tests_of_kernels ${sanitized})
target_precompile_headers(window_matmul_tests_of_kernels REUSE_FROM window_matmul_test_tools)
add_executable(window_matmul_tests ${other_tests} $<TARGET_OBJECTS:window_matmul_tests_of_kernels> $<TARGET_OBJECTS:window_matmul_test_tools>)
window_matmul_compile_options(window_matmul_tests)
foreach(target IN ITEMS window_matmul_test_tools window_matmul_tests_of_kernels window_matmul_tests)
  target_compile_options(${target} PRIVATE -O1 # compiles in half the time
    $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds;-Wno-maybe-uninitialized>) # GCC 12 sees both in std::vector, where they are not
  target_include_directories(${target} PRIVATE src include tests tests/cpp)
endforeach()
# Words of the vocabulary, each compiled for the processors that have it. No function of a header of others is in these files.
if(x86_64)
  add_library(window_matmul_words OBJECT tests/words/dot_pairs.cpp tests/words/emulated_dot_pairs.cpp)
  window_matmul_compile_options(window_matmul_words)
  target_include_directories(window_matmul_words PRIVATE src include tests/words)
  set_property(SOURCE tests/words/dot_pairs.cpp PROPERTY COMPILE_OPTIONS ${avx512bf16})
  set_property(SOURCE tests/words/emulated_dot_pairs.cpp PROPERTY COMPILE_OPTIONS ${avx2})
  target_sources(window_matmul_tests PRIVATE $<TARGET_OBJECTS:window_matmul_words>)
  set_property(SOURCE tests/cpp/pairs_test.cpp PROPERTY COMPILE_DEFINITIONS WINDOW_MATMUL_TEST_WORDS=1)
endif()
target_link_libraries(window_matmul_test_tools PRIVATE GTest::gtest)
target_link_libraries(window_matmul_tests_of_kernels PRIVATE GTest::gtest)
target_link_libraries(window_matmul_tests PRIVATE window_matmul_core GTest::gtest_main)
if(WINDOW_MATMUL_SANITIZE)
  # Of an inline function that both have, the linker keeps the first: the library's, which is sanitized.
  target_link_options(window_matmul_tests PRIVATE "LINKER:--whole-archive,$<TARGET_FILE:window_matmul_core>,--no-whole-archive")
endif()
window_matmul_add_test_program(window_matmul_tests cpp ${tests})
set(long_tests cpp.attention_test cpp.attention_nonfinite_test cpp.ops_test) # begun first: none is left over for one processor alone

# AddressSanitizer's checks of single accesses, for those that are calls of its shared library.
if(WINDOW_MATMUL_SANITIZE MATCHES "address" AND CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND x86_64)
  add_library(window_matmul_address_checks OBJECT tests/sanitized/address_checks.cpp)
  window_matmul_compile_options(window_matmul_address_checks NOT_SANITIZED)
  add_executable(window_matmul_address_checks_tests tests/sanitized/address_checks_test.cpp)
  window_matmul_compile_options(window_matmul_address_checks_tests KERNELS)
  target_link_libraries(window_matmul_address_checks_tests PRIVATE GTest::gtest_main)
  foreach(program IN ITEMS window_matmul_tests window_matmul_address_checks_tests)
    target_sources(${program} PRIVATE $<TARGET_OBJECTS:window_matmul_address_checks>)
  endforeach()
  add_test(NAME address_checks COMMAND window_matmul_address_checks_tests --gtest_brief=1)
endif()

# The CUDA kernels, run on this CPU. The sanitizers do not follow fibers from stack to stack; the emulation checks memory itself.
if(NOT WINDOW_MATMUL_SANITIZE)
  file(GLOB kernels CONFIGURE_DEPENDS src/cuda/arch/emulated*.cpp)
  file(GLOB cuda_tests CONFIGURE_DEPENDS tests/cuda_emulation/*.cpp)
  add_executable(window_matmul_cuda_tests ${kernels} ${cuda_tests} $<TARGET_OBJECTS:window_matmul_cuda_emulation>
    $<TARGET_OBJECTS:window_matmul_test_tools>)
  window_matmul_compile_options(window_matmul_cuda_tests)
  # In every configuration and for the kernels too: a matrix instruction is thousands of operations here, few of them the kernels' own. What
  # takes the time is the emulation, by -O2. The precompiled header is that of the other tests, whose options these are: of a library.
  target_compile_options(window_matmul_cuda_tests PRIVATE -O1 -fPIC
    $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds;-Wno-maybe-uninitialized>)
  target_precompile_headers(window_matmul_cuda_tests REUSE_FROM window_matmul_test_tools)
  set_property(SOURCE ${kernels} PROPERTY SKIP_PRECOMPILE_HEADERS ON)
  # The longest ones, in two thirds of the time. Those of the band are counted by what is inlined into what, which -Og leaves out.
  set(attention_kernels ${kernels})
  list(FILTER attention_kernels INCLUDE REGEX "_(attention|backward)_")
  set_property(SOURCE ${attention_kernels} PROPERTY COMPILE_OPTIONS -Og)
  target_include_directories(window_matmul_cuda_tests PRIVATE src tests/cpp tests/cuda_emulation)
  target_link_libraries(window_matmul_cuda_tests PRIVATE window_matmul_core GTest::gtest_main)
  window_matmul_add_test_program(window_matmul_cuda_tests cuda_emulation ${cuda_tests})
  list(APPEND long_tests cuda_emulation.kernels_test cuda_emulation.attention_backward_test)
endif()
set_tests_properties(${long_tests} PROPERTIES COST 1)

# What ptxas says of the kernels, where nvcc is present. PTX alone, where there is no GPU, says nothing: window_matmul_cuda_check has it translated.
if(WINDOW_MATMUL_CUDA_FOUND AND NOT WINDOW_MATMUL_SANITIZE AND cuda_codes MATCHES "sm_")
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

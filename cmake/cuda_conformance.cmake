# cmake/cuda_conformance.cmake: the program that compares GPU, emulation and definitions of each primitive; part of the wheel.
#
# One text, src/cuda/conformance/kernels.cuh, is compiled twice into one program: by nvcc and by the C++ compiler. The two sets of
# primitives lie in namespaces of their own (inline: gpu, emulated) and the kernels in unnamed ones, so that nothing is defined twice.
# The emulation's fibers are not followed by sanitizers.
if(WINDOW_MATMUL_SANITIZE)
  return()
endif()

# The emulation, the primitives on it, and what they must do: of this program and of the tests.
file(GLOB emulation_sources CONFIGURE_DEPENDS src/cuda/emulation/*.cpp)
add_library(window_matmul_cuda_emulation OBJECT EXCLUDE_FROM_ALL ${emulation_sources}
  src/cuda/conformance/compare.cpp src/cuda/conformance/definitions.cpp src/cuda/conformance/definitions_of_functions.cpp
  src/cuda/conformance/on_emulation.cpp)
window_matmul_compile_options(window_matmul_cuda_emulation)
target_compile_options(window_matmul_cuda_emulation PRIVATE -O2
  $<$<CXX_COMPILER_ID:GNU>:-Wno-array-bounds;-Wno-maybe-uninitialized>) # as in cmake/tests.cmake
target_include_directories(window_matmul_cuda_emulation PRIVATE include src)

if(NOT WINDOW_MATMUL_CUDA_FOUND)
  return()
endif()

if(NOT WINDOW_MATMUL_CUDART)
  message(STATUS "CUDA conformance program: not built, no libcudart_static.a beside ${WINDOW_MATMUL_NVCC}")
  return()
endif()

set(conformance_object "${PROJECT_BINARY_DIR}/cuda/conformance.o")
# Code of compute capability 8.0 runs on all 8.x, and has no stmatrix; what is newer than 9.0 translates 9.0's PTX. Little code, for every GPU.
set(conformance_architectures ${cuda_known})
list(FILTER conformance_architectures INCLUDE REGEX "^(80|90)$")
if(NOT conformance_architectures)
  list(GET cuda_known 0 conformance_architectures)
endif()
list(GET conformance_architectures -1 newest)
set(gencode -gencode "arch=compute_${newest},code=compute_${newest}")
foreach(arch IN LISTS conformance_architectures)
  list(APPEND gencode -gencode "arch=compute_${arch},code=sm_${arch}")
endforeach()
set(conformance_source "${PROJECT_SOURCE_DIR}/src/cuda/conformance/on_gpu.cu")
add_custom_command(OUTPUT "${conformance_object}" "${conformance_object}.ptxas"
  COMMAND ${compile_cuda} --object "${conformance_object}" --
    "${WINDOW_MATMUL_NVCC}" -std=c++20 -O2 --expt-relaxed-constexpr -Xcompiler -fPIC,-fvisibility=hidden ${gencode}
    -I "${PROJECT_SOURCE_DIR}/include" -I "${PROJECT_SOURCE_DIR}/src" -c "${conformance_source}"
  DEPENDS "${conformance_source}" "${PROJECT_SOURCE_DIR}/scripts/compile_cuda.py" DEPFILE "${conformance_object}.d"
  COMMENT "Compiling the conformance kernels" VERBATIM)

add_executable(window_matmul_cuda_conformance
  src/cuda/conformance/main.cpp $<TARGET_OBJECTS:window_matmul_cuda_emulation> "${conformance_object}")
window_matmul_compile_options(window_matmul_cuda_conformance)
target_compile_options(window_matmul_cuda_conformance PRIVATE -O2)
target_include_directories(window_matmul_cuda_conformance PRIVATE include src)
target_link_libraries(window_matmul_cuda_conformance PRIVATE "${WINDOW_MATMUL_CUDART}" Threads::Threads ${CMAKE_DL_LIBS} rt)
target_link_options(window_matmul_cuda_conformance PRIVATE -Wl,--gc-sections -s)

if(WINDOW_MATMUL_BUILD_TESTS)
  add_test(NAME cuda_conformance.emulation COMMAND window_matmul_cuda_conformance --emulation-only)
endif()

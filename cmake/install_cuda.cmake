# cmake/install_cuda.cmake: run when a wheel is filled: links what nvcc compiled, or leaves it out and writes down why.
#
# configure_file fills in the names between @. Whoever asks for the kernels by WINDOW_MATMUL_CUDA=ON does not come here: then it is an error.
set(said "")
file(GLOB failed "@PROJECT_BINARY_DIR@/cuda/*.failed")
if(failed)
  list(GET failed 0 first)
  file(READ "${first}" said)
else()
  execute_process(COMMAND "@CMAKE_COMMAND@" --build "@PROJECT_BINARY_DIR@" --target @linked_words@
    RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_VARIABLE said)
endif()

set(why_file "${CMAKE_INSTALL_PREFIX}/window_matmul/lib/why_no_cuda.txt")
if(failed)
  file(REMOVE "@PROJECT_BINARY_DIR@/lib@torch_cuda@.so" "@PROJECT_BINARY_DIR@/window_matmul_cuda_conformance" "${why_file}")
  include("@PROJECT_SOURCE_DIR@/cmake/first_error.cmake")
  window_matmul_first_error("${said}" line)
  message(STATUS "CUDA for PyTorch: left out, the package is for the CPU alone: @WINDOW_MATMUL_NVCC@ does not compile the kernels: ${line}")
  file(WRITE "${why_file}" "nvcc does not compile them: ${line}\n")
endif()

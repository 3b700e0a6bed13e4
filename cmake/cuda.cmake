# cmake/cuda.cmake: the CUDA kernels: compiled by nvcc where there is one; run by the emulation in the tests everywhere.
#
# WINDOW_MATMUL_CUDA is AUTO (where nvcc is found), ON or OFF. nvcc is looked for on the PATH and in the usual places. Not CMake's language
# CUDA: that wants nvcc at configure time of every build and links its runtime; here one command makes one object of device and host code.
set(WINDOW_MATMUL_CUDA AUTO CACHE STRING "Compile the CUDA kernels: AUTO (where nvcc is found), ON, OFF")
set(WINDOW_MATMUL_CUDA_ARCHITECTURES 80 CACHE STRING "GPUs to compile for: 80;86;89;90;100;120")
set(WINDOW_MATMUL_CUDA_FOUND OFF)

function(window_matmul_find_nvcc)
  file(GLOB places /usr/local/cuda /usr/local/cuda-* /opt/cuda)
  find_program(WINDOW_MATMUL_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS ${places} PATH_SUFFIXES bin)
endfunction()

if(WINDOW_MATMUL_CUDA)
  window_matmul_find_nvcc()
  find_package(Python 3.10 COMPONENTS Interpreter) # runs nvcc and keeps what ptxas says
  if(WINDOW_MATMUL_NVCC AND NOT Python_FOUND)
    message(STATUS "CUDA kernels: not compiled, no Python to run scripts/compile_cuda.py")
  elseif(WINDOW_MATMUL_NVCC)
    set(WINDOW_MATMUL_CUDA_FOUND ON)
    message(STATUS "CUDA kernels: sm_${WINDOW_MATMUL_CUDA_ARCHITECTURES} by ${WINDOW_MATMUL_NVCC} (target window_matmul_cuda)")
  elseif(WINDOW_MATMUL_CUDA STREQUAL AUTO)
    message(STATUS "CUDA kernels: not compiled, no nvcc on the PATH, in CUDA_HOME or under /usr/local; the emulation runs them in the tests")
  else()
    message(FATAL_ERROR "WINDOW_MATMUL_CUDA is ON and there is no nvcc on the PATH, in CUDA_HOME or under /usr/local. "
      "Install the CUDA toolkit, name it with -DWINDOW_MATMUL_NVCC=<file>, or leave WINDOW_MATMUL_CUDA out.")
  endif()
else()
  message(STATUS "CUDA kernels: not compiled (WINDOW_MATMUL_CUDA=OFF)")
endif()

# The object, and beside it what ptxas said of each kernel. Not part of `all`: `make cuda` builds it.
if(WINDOW_MATMUL_CUDA_FOUND)
  set(cuda_object "${PROJECT_BINARY_DIR}/cuda/gpu.o")
  set(cuda_flags -std=c++20 -O3 --expt-relaxed-constexpr -Werror all-warnings -Xptxas -v -Xcompiler -fPIC,-fvisibility=hidden)
  foreach(arch IN LISTS WINDOW_MATMUL_CUDA_ARCHITECTURES)
    list(APPEND cuda_flags -gencode "arch=compute_${arch},code=sm_${arch}")
  endforeach()
  file(GLOB cuda_headers CONFIGURE_DEPENDS include/window_matmul/*.hpp src/*.hpp src/cuda/*.hpp src/cuda/kernels/* src/cuda/primitives/* src/cuda/arch/*)
  file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/cuda")
  add_custom_command(OUTPUT "${cuda_object}" "${cuda_object}.ptxas"
    COMMAND "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/scripts/compile_cuda.py" --log "${cuda_object}.ptxas" --
      "${WINDOW_MATMUL_NVCC}" ${cuda_flags} -I "${PROJECT_SOURCE_DIR}/include" -I "${PROJECT_SOURCE_DIR}/src"
      -c "${PROJECT_SOURCE_DIR}/src/cuda/arch/gpu.cu" -o "${cuda_object}"
    DEPENDS ${cuda_headers} "${PROJECT_SOURCE_DIR}/scripts/compile_cuda.py"
    COMMENT "Compiling the CUDA kernels for sm_${WINDOW_MATMUL_CUDA_ARCHITECTURES}" VERBATIM COMMAND_EXPAND_LISTS)
  add_custom_target(window_matmul_cuda DEPENDS "${cuda_object}")
endif()

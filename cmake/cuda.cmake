# cmake/cuda.cmake: the CUDA kernels: compiled by nvcc where there is one; run by the emulation in the tests everywhere.
#
# WINDOW_MATMUL_CUDA is AUTO (where nvcc is found), ON or OFF. nvcc is looked for on the PATH and in the usual places. Not CMake's language
# CUDA: that wants nvcc at configure time of every build and links its runtime; here one command makes an object of device and host code.
set(WINDOW_MATMUL_CUDA AUTO CACHE STRING "Compile the CUDA kernels: AUTO (where nvcc is found), ON, OFF")
set(WINDOW_MATMUL_CUDA_ARCHITECTURES 80 90 100 120 CACHE STRING "GPUs to compile for")
set(WINDOW_MATMUL_CUDA_OBJECTS)
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

# The runtime, for who links the objects.
if(WINDOW_MATMUL_CUDA_FOUND)
  # nvcc may be a script that lies elsewhere: it says itself where its toolkit is.
  execute_process(COMMAND "${WINDOW_MATMUL_NVCC}" --dryrun -E -x c++ /dev/null ERROR_VARIABLE said OUTPUT_QUIET)
  string(REGEX MATCH "TOP=([^\n]*)" said "${said}")
  find_path(WINDOW_MATMUL_CUDA_INCLUDE cuda_runtime_api.h HINTS "${CMAKE_MATCH_1}" PATH_SUFFIXES include targets/x86_64-linux/include)
  find_library(WINDOW_MATMUL_CUDART cudart_static HINTS "${CMAKE_MATCH_1}" PATH_SUFFIXES lib64 lib targets/x86_64-linux/lib)
endif()

# The objects, and beside each what ptxas said of its kernels. Not part of `all`: whoever links WINDOW_MATMUL_CUDA_OBJECTS depends on the
# target, and adds WINDOW_MATMUL_CUDART. scripts/compile_cuda.py keeps them for other builds of the same sources.
if(WINDOW_MATMUL_CUDA_FOUND)
  set(cuda_flags -std=c++20 -O3 --expt-relaxed-constexpr -Werror all-warnings -Xptxas -v
    -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra,-Werror)
  list(SORT WINDOW_MATMUL_CUDA_ARCHITECTURES COMPARE NATURAL)
  list(GET WINDOW_MATMUL_CUDA_ARCHITECTURES 0 oldest)
  list(JOIN WINDOW_MATMUL_CUDA_ARCHITECTURES "-" all_architectures)
  set(cuda_store "${PROJECT_BINARY_DIR}/cuda/store")
  if(PROJECT_IS_TOP_LEVEL)
    set(cuda_store "${PROJECT_SOURCE_DIR}/build/cuda/sm_${all_architectures}")
  endif()
  foreach(arch IN LISTS WINDOW_MATMUL_CUDA_ARCHITECTURES)
    list(APPEND cuda_flags -gencode "arch=compute_${arch},code=sm_${arch}")
  endforeach()
  list(APPEND cuda_flags -gencode "arch=compute_${oldest},code=compute_${oldest}") # PTX: the driver compiles it for GPUs still to come
  file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/cuda")
  foreach(file IN ITEMS gpu.cpp gpu_f64.cu gpu_f32.cu gpu_tf32.cu gpu_bf16.cu gpu_f16.cu)
    cmake_path(REPLACE_EXTENSION file LAST_ONLY .o OUTPUT_VARIABLE object)
    cmake_path(ABSOLUTE_PATH object BASE_DIRECTORY "${PROJECT_BINARY_DIR}/cuda")
    add_custom_command(OUTPUT "${object}" "${object}.ptxas"
      COMMAND "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/scripts/compile_cuda.py" --object "${object}" --store "${cuda_store}" --
        "${WINDOW_MATMUL_NVCC}" ${cuda_flags} -I "${PROJECT_SOURCE_DIR}/include" -I "${PROJECT_SOURCE_DIR}/src"
        -c "${PROJECT_SOURCE_DIR}/src/cuda/arch/${file}"
      DEPENDS "${PROJECT_SOURCE_DIR}/src/cuda/arch/${file}" "${PROJECT_SOURCE_DIR}/scripts/compile_cuda.py" DEPFILE "${object}.d"
      COMMENT "Compiling ${file} for sm_${WINDOW_MATMUL_CUDA_ARCHITECTURES}" VERBATIM)
    list(APPEND WINDOW_MATMUL_CUDA_OBJECTS "${object}")
  endforeach()
  set_source_files_properties(${WINDOW_MATMUL_CUDA_OBJECTS} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
  add_custom_target(window_matmul_cuda DEPENDS ${WINDOW_MATMUL_CUDA_OBJECTS})
endif()

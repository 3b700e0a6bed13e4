# cmake/cuda_compiler.cmake: nvcc, the GPUs it can compile for, and whether it compiles at all: asked, not concluded from a version.
#
# Sets cuda_known with cuda_translate, the arguments that make code for all of it of PTX; cuda_codes, as in sm_80,compute_80, with cuda_flags,
# those that compile for these; and cuda_why_not, "" where kernels can be compiled.
#
# An environment's variable of the name stands for one that is empty, and is not kept: `make install` names GPUs, `pip install .` in the same
# folder does not.
set(WINDOW_MATMUL_CUDA_ARCHITECTURES "" CACHE STRING
  "GPUs to compile for, as in 80;90; empty: all that this nvcc knows of 80;90;100;120; native: of these what this machine has")
set(cuda_gpus ${WINDOW_MATMUL_CUDA_ARCHITECTURES})
if(NOT cuda_gpus)
  set(cuda_gpus $ENV{WINDOW_MATMUL_CUDA_ARCHITECTURES})
endif()
include(first_error)
set(cuda_known)
set(cuda_codes)
set(cuda_why_not "")

function(window_matmul_find_nvcc)
  file(GLOB places /usr/local/cuda /usr/local/cuda-* /opt/cuda)
  find_program(WINDOW_MATMUL_NVCC nvcc HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS ${places} PATH_SUFFIXES bin)
endfunction()

# The GPUs of `wanted` that nvcc takes.
function(window_matmul_known_architectures wanted result)
  set(known)
  foreach(arch IN LISTS wanted)
    execute_process(COMMAND "${WINDOW_MATMUL_NVCC}" --dryrun -gencode "arch=compute_${arch},code=sm_${arch}" -c -x cu /dev/null
      RESULT_VARIABLE refused OUTPUT_QUIET ERROR_QUIET)
    if(refused EQUAL 0)
      list(APPEND known ${arch})
    endif()
  endforeach()
  set(${result} ${known} PARENT_SCOPE)
endfunction()

# Those of `known` that GPUs of this machine run: the ones of their major version. None where there is no GPU: nothing here could run it.
function(window_matmul_native_architectures known result)
  execute_process(COMMAND nvidia-smi --query-gpu=compute_cap --format=csv,noheader OUTPUT_VARIABLE here RESULT_VARIABLE failed ERROR_QUIET)
  set(native)
  foreach(arch IN LISTS known)
    string(REGEX REPLACE ".$" "" major "${arch}")
    if(failed EQUAL 0 AND here MATCHES "(^|\n)${major}\\.")
      list(APPEND native ${arch})
    endif()
  endforeach()
  set(${result} ${native} PARENT_SCOPE)
endfunction()

# 80 90 compute_80 -> "sm_80,sm_90,compute_80", as nvcc writes it.
function(window_matmul_codes result)
  list(TRANSFORM ARGN PREPEND sm_ REGEX "^[0-9]" OUTPUT_VARIABLE codes)
  list(JOIN codes "," codes)
  set(${result} "${codes}" PARENT_SCOPE)
endfunction()

# A few lines with what the kernels need: C++20, the toolkit's headers, a C++ compiler that this nvcc accepts, every GPU. Why not, or "".
function(window_matmul_try_nvcc result)
  set(try "${PROJECT_BINARY_DIR}/cuda/try")
  file(CONFIGURE OUTPUT "${try}.cu" CONTENT [[
#include <cuda_bf16.h>
#include <concepts>
template <std::integral T>
__global__ void kernel(T* x) { *x = 1; }
template __global__ void kernel(int*);
]])
  set(asked "${WINDOW_MATMUL_NVCC};${cuda_flags}")
  if(NOT WINDOW_MATMUL_CUDA_ASKED STREQUAL asked)
    execute_process(COMMAND "${WINDOW_MATMUL_NVCC}" ${cuda_flags} -c "${try}.cu" -o "${try}.o"
      RESULT_VARIABLE failed OUTPUT_VARIABLE said ERROR_VARIABLE said)
    set(why "")
    if(NOT failed EQUAL 0)
      window_matmul_first_error("${said}" line)
      set(why "nvcc compiles nothing: ${line}")
    endif()
    set(WINDOW_MATMUL_CUDA_ASKED "${asked}" CACHE INTERNAL "what nvcc was asked, and below its answer")
    set(WINDOW_MATMUL_CUDA_ANSWER "${why}" CACHE INTERNAL "")
  endif()
  set(${result} "${WINDOW_MATMUL_CUDA_ANSWER}" PARENT_SCOPE)
endfunction()

window_matmul_find_nvcc()
find_package(Python 3.10 COMPONENTS Interpreter) # runs nvcc and keeps what ptxas says
if(NOT WINDOW_MATMUL_NVCC)
  set(cuda_why_not "no nvcc on the PATH, in CUDA_HOME or under /usr/local")
elseif(NOT Python_FOUND)
  set(cuda_why_not "no Python to run scripts/compile_cuda.py")
else()
  set(wanted 80 90 100 120)
  set(by_name OFF)
  if(cuda_gpus AND NOT cuda_gpus STREQUAL native)
    set(by_name ON)
    set(wanted ${cuda_gpus})
    list(SORT wanted COMPARE NATURAL)
  endif()
  window_matmul_known_architectures("${wanted}" cuda_known)
  set(unknown ${wanted})
  list(REMOVE_ITEM unknown ${cuda_known})
  if(by_name AND unknown)
    message(FATAL_ERROR "WINDOW_MATMUL_CUDA_ARCHITECTURES is ${cuda_gpus}; ${WINDOW_MATMUL_NVCC} does not know ${unknown}: "
      "leave them out, or the whole variable for all that it knows.")
  elseif(NOT cuda_known)
    list(JOIN wanted ", " wanted)
    set(cuda_why_not "nvcc takes none of sm_${wanted}")
  else()
    list(GET cuda_known 0 oldest)
    set(compiled_for ${cuda_known})
    if(cuda_gpus STREQUAL native)
      window_matmul_native_architectures("${cuda_known}" compiled_for)
    endif()
    # No kernel asks for which GPU it is compiled: one PTX, the oldest GPU's, is translated for each of them, and by the driver for GPUs still to
    # come. A PTX of each GPU's own takes nvcc 1.7 times as long for the same instructions.
    window_matmul_codes(cuda_codes ${compiled_for} compute_${oldest})
    window_matmul_codes(known_codes ${cuda_known})
    set(cuda_translate -fatbin -Xptxas -v -gencode "arch=compute_${oldest},code=[${known_codes}]")
    set(cuda_flags -std=c++20 -O3 --expt-relaxed-constexpr -Xptxas -v -Xcompiler -fPIC,-fvisibility=hidden,-Wall,-Wextra
      -gencode "arch=compute_${oldest},code=[${cuda_codes}]")
    # A quarter of the bytes. Drivers read it since CUDA 12.4: every driver that runs what nvcc 13 makes, but not what 12.8 does, which can too.
    execute_process(COMMAND "${WINDOW_MATMUL_NVCC}" --version OUTPUT_VARIABLE said)
    if(said MATCHES "release ([0-9]+)" AND CMAKE_MATCH_1 GREATER_EQUAL 13)
      list(APPEND cuda_flags --compress-mode=size)
    endif()
    window_matmul_try_nvcc(cuda_why_not)
  endif()
endif()

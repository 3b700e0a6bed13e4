# cmake/cuda.cmake: the CUDA kernels: compiled by nvcc where there is one; run by the emulation in the tests everywhere.
#
# WINDOW_MATMUL_CUDA is AUTO (where there is an nvcc that can), ON or OFF. Not CMake's language CUDA: that wants nvcc at configure time of every
# build and links its runtime; here one command makes an object of device and host code.
set(WINDOW_MATMUL_CUDA AUTO CACHE STRING "Compile the CUDA kernels: AUTO (where nvcc can), ON, OFF")
set(cuda_may_fail OFF)
if(SKBUILD AND WINDOW_MATMUL_CUDA STREQUAL AUTO)
  set(cuda_may_fail ON)
endif()
set(WINDOW_MATMUL_CUDA_OBJECTS)
set(WINDOW_MATMUL_CUDA_FOUND OFF)
set(cuda_why_not "WINDOW_MATMUL_CUDA=OFF")

if(WINDOW_MATMUL_CUDA)
  include(cuda_compiler)
endif()
set(cuda_by "")
if(WINDOW_MATMUL_NVCC)
  set(cuda_by " (${WINDOW_MATMUL_NVCC})")
endif()
if(NOT cuda_why_not)
  set(WINDOW_MATMUL_CUDA_FOUND ON)
  message(STATUS "CUDA kernels: ${cuda_codes} by ${WINDOW_MATMUL_NVCC} (target window_matmul_cuda)")
elseif(NOT WINDOW_MATMUL_CUDA OR WINDOW_MATMUL_CUDA STREQUAL AUTO)
  message(STATUS "CUDA kernels: not compiled, ${cuda_why_not}${cuda_by}; the emulation runs them in the tests")
else()
  message(FATAL_ERROR "WINDOW_MATMUL_CUDA is ${WINDOW_MATMUL_CUDA}, and the kernels cannot be compiled: ${cuda_why_not}${cuda_by}. "
    "Install the CUDA toolkit, name its compiler with -DWINDOW_MATMUL_NVCC=<file>, or leave WINDOW_MATMUL_CUDA out.")
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
# target, and adds WINDOW_MATMUL_CUDART. scripts/compile_cuda.py keeps them for other builds of the same sources. Of their PTX
# window_matmul_cuda_check has the code of every GPU, whichever these are compiled for.
if(WINDOW_MATMUL_CUDA_FOUND)
  string(REPLACE "," "-" cuda_kept "${cuda_codes}")
  set(cuda_store "${PROJECT_BINARY_DIR}/cuda/store")
  if(PROJECT_IS_TOP_LEVEL)
    set(cuda_store "${PROJECT_SOURCE_DIR}/build/cuda/${cuda_kept}")
  endif()
  # Where warnings are errors, nvcc's are too. In a wheel, unless the kernels are demanded, what it cannot compile is left out (torch_cuda.cmake).
  set(compile_cuda "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/scripts/compile_cuda.py" --store "${cuda_store}")
  if(CMAKE_COMPILE_WARNING_AS_ERROR)
    list(APPEND compile_cuda --warnings-are-errors)
  endif()
  if(cuda_may_fail)
    list(APPEND compile_cuda --may-fail)
  endif()
  set(all_translated)
  file(MAKE_DIRECTORY "${PROJECT_BINARY_DIR}/cuda")
  file(GLOB cuda_files RELATIVE "${PROJECT_SOURCE_DIR}/src/cuda/arch" CONFIGURE_DEPENDS src/cuda/arch/gpu*.cpp src/cuda/arch/gpu*.cu)
  foreach(file IN LISTS cuda_files)
    cmake_path(REPLACE_EXTENSION file LAST_ONLY .o OUTPUT_VARIABLE object)
    cmake_path(ABSOLUTE_PATH object BASE_DIRECTORY "${PROJECT_BINARY_DIR}/cuda")
    add_custom_command(OUTPUT "${object}" "${object}.ptxas"
      COMMAND ${compile_cuda} --object "${object}" --
        "${WINDOW_MATMUL_NVCC}" ${cuda_flags} -I "${PROJECT_SOURCE_DIR}/include" -I "${PROJECT_SOURCE_DIR}/src"
        -c "${PROJECT_SOURCE_DIR}/src/cuda/arch/${file}"
      DEPENDS "${PROJECT_SOURCE_DIR}/src/cuda/arch/${file}" "${PROJECT_SOURCE_DIR}/scripts/compile_cuda.py" DEPFILE "${object}.d"
      COMMENT "Compiling ${file} for ${cuda_codes}" VERBATIM)
    list(APPEND WINDOW_MATMUL_CUDA_OBJECTS "${object}")
    if(file MATCHES "\\.cu$")
      cmake_path(REPLACE_EXTENSION object LAST_ONLY .fatbin OUTPUT_VARIABLE translated)
      add_custom_command(OUTPUT "${translated}" "${translated}.ptxas"
        COMMAND "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/scripts/translate_cuda.py" --object "${object}" --fat-binary "${translated}" --
          "${WINDOW_MATMUL_NVCC}" ${cuda_translate}
        DEPENDS "${object}" "${PROJECT_SOURCE_DIR}/scripts/translate_cuda.py"
        COMMENT "Translating ${object} for sm_${cuda_known}" VERBATIM)
      list(APPEND all_translated "${translated}")
    endif()
  endforeach()
  set_source_files_properties(${WINDOW_MATMUL_CUDA_OBJECTS} PROPERTIES EXTERNAL_OBJECT ON GENERATED ON)
  add_custom_target(window_matmul_cuda DEPENDS ${WINDOW_MATMUL_CUDA_OBJECTS})
  add_custom_target(window_matmul_cuda_check DEPENDS ${all_translated}
    COMMAND "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/scripts/check_cuda_kernels.py" ${all_translated} VERBATIM)
else()
  add_custom_target(window_matmul_cuda_check COMMAND "${CMAKE_COMMAND}" -E echo "CUDA kernels: not checked, ${cuda_why_not}" VERBATIM)
endif()

# cmake/torch_cuda.cmake: window_matmul_torch_cuda, the second library that torch loads: the CUDA kernels and their binding.
#
# It holds a core of its own and the CUDA runtime, and needs no library of CUDA to be loaded: so it lies in every wheel that was built with
# nvcc, and can be loaded beside any torch. Sets `torch_cuda` to the target or to nothing; the core is told why.
set(torch_cuda "")
set(why_no_cuda "")

if(NOT WINDOW_MATMUL_CUDA)
  set(why_no_cuda "WINDOW_MATMUL_CUDA=OFF")
elseif(NOT WINDOW_MATMUL_CUDA_FOUND)
  set(why_no_cuda "no nvcc when the library was built")
elseif(NOT WINDOW_MATMUL_BUILD_TORCH)
  set(why_no_cuda "only the library for PyTorch has it")
elseif(NOT WINDOW_MATMUL_CUDA_INCLUDE OR NOT WINDOW_MATMUL_CUDART)
  set(why_no_cuda "no cuda_runtime_api.h or libcudart_static.a beside nvcc when the library was built")
endif()
target_compile_definitions(window_matmul_core PRIVATE WINDOW_MATMUL_WHY_NO_CUDA="${why_no_cuda}")

if(why_no_cuda)
  if(WINDOW_MATMUL_BUILD_TORCH)
    message(STATUS "CUDA for PyTorch: not built (${why_no_cuda})")
  endif()
else()
  set(torch_cuda window_matmul_torch_cuda)
  file(GLOB runtime CONFIGURE_DEPENDS src/cuda/runtime/*.cpp python/bindings/torch_cuda*.cpp)
  add_library(${torch_cuda} SHARED ${runtime} ${WINDOW_MATMUL_CUDA_OBJECTS})
  add_dependencies(${torch_cuda} window_matmul_cuda)
  window_matmul_compile_options(${torch_cuda})
  string(REGEX MATCHALL "code=[a-z]+_[0-9]+[af]?" compiled_for "${cuda_flags}")
  list(TRANSFORM compiled_for REPLACE "code=" "")
  list(JOIN compiled_for "," compiled_for)
  target_compile_definitions(${torch_cuda} PRIVATE WINDOW_MATMUL_CUDA_COMPILED_FOR="${compiled_for}")
  target_include_directories(${torch_cuda} PRIVATE src)
  target_include_directories(${torch_cuda} SYSTEM PRIVATE "${WINDOW_MATMUL_CUDA_INCLUDE}")
  target_link_libraries(${torch_cuda} PRIVATE
    window_matmul_core window_matmul_torch_stable "${WINDOW_MATMUL_CUDART}" ${CMAKE_DL_LIBS} Threads::Threads rt
    -Wl,--exclude-libs,ALL) # the runtime's symbols are nobody else's
endif()

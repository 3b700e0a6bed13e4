# cmake/torch_cuda.cmake: window_matmul_torch_cuda, the second library that torch loads: the CUDA kernels and their binding.
#
# It holds a core of its own and the CUDA runtime, and needs no library of CUDA to be loaded: so it lies in every wheel that was built with
# nvcc, and can be loaded beside any torch. Sets `torch_cuda` to the target or to nothing; the core is told why.
set(torch_cuda "")
set(why_no_cuda "")

if(cuda_why_not)
  set(why_no_cuda "${cuda_why_not}")
elseif(NOT WINDOW_MATMUL_BUILD_TORCH)
  set(why_no_cuda "only the library for PyTorch has it")
elseif(NOT WINDOW_MATMUL_CUDA_INCLUDE OR NOT WINDOW_MATMUL_CUDART)
  set(why_no_cuda "no cuda_runtime_api.h or libcudart_static.a beside nvcc")
endif()
set_source_files_properties(src/cuda/cuda.cpp PROPERTIES COMPILE_DEFINITIONS "WINDOW_MATMUL_WHY_NO_CUDA=\"${why_no_cuda}\"")

if(why_no_cuda)
  if(WINDOW_MATMUL_BUILD_TORCH)
    message(STATUS "CUDA for PyTorch: not built (${why_no_cuda})")
  endif()
  return()
endif()

set(torch_cuda window_matmul_torch_cuda)
file(GLOB runtime CONFIGURE_DEPENDS src/cuda/runtime/*.cpp python/bindings/torch_cuda*.cpp)
add_library(${torch_cuda} SHARED ${runtime} ${WINDOW_MATMUL_CUDA_OBJECTS})
add_dependencies(${torch_cuda} window_matmul_cuda)
window_matmul_compile_options(${torch_cuda})
target_compile_definitions(${torch_cuda} PRIVATE WINDOW_MATMUL_CUDA_COMPILED_FOR="${cuda_codes}")
target_include_directories(${torch_cuda} PRIVATE src)
target_include_directories(${torch_cuda} SYSTEM PRIVATE "${WINDOW_MATMUL_CUDA_INCLUDE}")
target_link_libraries(${torch_cuda} PRIVATE
  window_matmul_core window_matmul_torch_stable "${WINDOW_MATMUL_CUDART}" ${CMAKE_DL_LIBS} Threads::Threads rt
  -Wl,--exclude-libs,ALL) # the runtime's symbols are nobody else's

# What nvcc says to a few lines it may not say to the kernels, and a package for the CPU is worth more than none. So `all` compiles the objects,
# each of which may fail (compile_cuda.py), and what is linked of them is made when the wheel is filled, or left out with the reason in its place.
if(cuda_may_fail)
  set(linked ${torch_cuda})
  if(TARGET window_matmul_cuda_conformance)
    list(APPEND linked window_matmul_cuda_conformance)
  endif()
  set_target_properties(${linked} PROPERTIES EXCLUDE_FROM_ALL ON)
  add_custom_target(window_matmul_cuda_objects ALL DEPENDS ${WINDOW_MATMUL_CUDA_OBJECTS} ${conformance_object})
  list(JOIN linked " " linked_words)
  configure_file("${PROJECT_SOURCE_DIR}/cmake/install_cuda.cmake" "${PROJECT_BINARY_DIR}/install_cuda.cmake" @ONLY)
  install(SCRIPT "${PROJECT_BINARY_DIR}/install_cuda.cmake")
endif()

# cmake/torch_cuda.cmake: what the core says of CUDA kernels where it has none.
set(torch_cuda "")
target_compile_definitions(window_matmul_core PRIVATE WINDOW_MATMUL_WHY_NO_CUDA="no library has them yet")

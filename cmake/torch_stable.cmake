# cmake/torch_stable.cmake: window_matmul_torch_stable = the headers of torch's stable ABI, and one NEEDED entry, libtorch_cpu.so.
#
# Only headers of the installed torch are read: one library serves every torch >= 2.10, of CPU and CUDA builds alike. They are looked for in
# WINDOW_MATMUL_TORCH_ROOT (cache or environment), else by scripts/find_torch_headers.py, which knows where pip, uv and build hide them.
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
if(NOT WINDOW_MATMUL_TORCH_ROOT)
  set(WINDOW_MATMUL_TORCH_ROOT "$ENV{WINDOW_MATMUL_TORCH_ROOT}")
endif()
if(NOT WINDOW_MATMUL_TORCH_ROOT)
  execute_process(COMMAND "${Python_EXECUTABLE}" "${PROJECT_SOURCE_DIR}/scripts/find_torch_headers.py"
    RESULT_VARIABLE missing OUTPUT_VARIABLE found OUTPUT_STRIP_TRAILING_WHITESPACE)
  if(missing)
    message(FATAL_ERROR "No headers of PyTorch >= 2.10 found. Install it into the environment that is to have window_matmul, and build again:\n"
      "  pip install 'torch>=2.10' && pip install .\n"
      "  uv pip install 'torch>=2.10' && uv pip install .\n"
      "  pip install build 'torch>=2.10' && python -m build\n"
      "or name the folder of a torch package: WINDOW_MATMUL_TORCH_ROOT=<folder>. It was looked for in:\n${found}")
  endif()
  set(WINDOW_MATMUL_TORCH_ROOT "${found}")
endif()
if(NOT EXISTS "${WINDOW_MATMUL_TORCH_ROOT}/include/torch/csrc/stable/library.h")
  message(FATAL_ERROR "WINDOW_MATMUL_TORCH_ROOT is ${WINDOW_MATMUL_TORCH_ROOT}; it needs to be the folder of the package torch >= 2.10, with "
    "include/torch/csrc/stable/library.h in it.")
endif()
message(STATUS "Headers of torch: ${WINDOW_MATMUL_TORCH_ROOT}/include")

# Linked instead of torch: the same soname and no symbols. Which symbols stay undefined is a test of the wheel (tests/install).
file(CONFIGURE OUTPUT torch_stand_in/empty.cpp CONTENT "")
add_library(window_matmul_torch_stand_in SHARED "${CMAKE_CURRENT_BINARY_DIR}/torch_stand_in/empty.cpp")
set_target_properties(window_matmul_torch_stand_in PROPERTIES
  OUTPUT_NAME torch_cpu LIBRARY_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/torch_stand_in")

# Through a link in the build folder: wherever torch lies, its headers have the same names, and ccache knows the objects again.
set(torch_include "${PROJECT_BINARY_DIR}/torch_include")
file(CREATE_LINK "${WINDOW_MATMUL_TORCH_ROOT}/include" "${torch_include}" SYMBOLIC)
add_library(window_matmul_torch_stable INTERFACE)
target_include_directories(window_matmul_torch_stable SYSTEM INTERFACE "${torch_include}")
target_compile_definitions(window_matmul_torch_stable INTERFACE TORCH_TARGET_VERSION=0x020a000000000000)
# __FILE__ of the headers stands in messages.
target_compile_options(window_matmul_torch_stable INTERFACE "-ffile-prefix-map=${torch_include}/=")
target_link_libraries(window_matmul_torch_stable INTERFACE -Wl,--no-as-needed window_matmul_torch_stand_in -Wl,--as-needed)

# cmake/torch_stable.cmake: window_matmul_torch_stable = the headers of torch's stable ABI, and one NEEDED entry, libtorch_cpu.so.
#
# Only headers of the installed torch are read: one library serves every torch >= 2.10, of CPU and CUDA builds alike. The headers are looked for
# in WINDOW_MATMUL_TORCH_ROOT (cache or environment), where `import torch` finds them, and in the site-packages of the running interpreter:
# pip's isolated builds hide that folder from sys.path, but sysconfig still names it.
find_package(Python 3.10 REQUIRED COMPONENTS Interpreter)
if(NOT WINDOW_MATMUL_TORCH_ROOT)
  set(WINDOW_MATMUL_TORCH_ROOT "$ENV{WINDOW_MATMUL_TORCH_ROOT}")
endif()
if(NOT WINDOW_MATMUL_TORCH_ROOT)
  execute_process(
    COMMAND "${Python_EXECUTABLE}" -c [[
import importlib.util, os, sysconfig
spec = importlib.util.find_spec("torch")
roots = list(spec.submodule_search_locations) if spec else []
roots += [os.path.join(sysconfig.get_path(scheme), "torch") for scheme in ("purelib", "platlib")]
print(next((root for root in roots if os.path.exists(os.path.join(root, "include/torch/csrc/stable/library.h"))), ""))
]]
    OUTPUT_VARIABLE WINDOW_MATMUL_TORCH_ROOT OUTPUT_STRIP_TRAILING_WHITESPACE COMMAND_ERROR_IS_FATAL ANY)
endif()
if(NOT EXISTS "${WINDOW_MATMUL_TORCH_ROOT}/include/torch/csrc/stable/library.h")
  message(FATAL_ERROR "No headers of PyTorch >= 2.10 found. Install torch here and build with `pip install --no-build-isolation .`, "
    "or name the folder of the torch package: `pip install -Ccmake.define.WINDOW_MATMUL_TORCH_ROOT=<folder> .`")
endif()
message(STATUS "Headers of torch: ${WINDOW_MATMUL_TORCH_ROOT}/include")

# Linked instead of torch: the same soname and no symbols. Which symbols stay undefined is a test of the wheel (tests/install).
file(CONFIGURE OUTPUT torch_stand_in/empty.cpp CONTENT "")
add_library(window_matmul_torch_stand_in SHARED "${CMAKE_CURRENT_BINARY_DIR}/torch_stand_in/empty.cpp")
set_target_properties(window_matmul_torch_stand_in PROPERTIES
  OUTPUT_NAME torch_cpu LIBRARY_OUTPUT_DIRECTORY "${CMAKE_CURRENT_BINARY_DIR}/torch_stand_in")

add_library(window_matmul_torch_stable INTERFACE)
target_include_directories(window_matmul_torch_stable SYSTEM INTERFACE "${WINDOW_MATMUL_TORCH_ROOT}/include")
target_compile_definitions(window_matmul_torch_stable INTERFACE TORCH_TARGET_VERSION=0x020a000000000000)
# __FILE__ of the headers stands in messages.
target_compile_options(window_matmul_torch_stable INTERFACE "-ffile-prefix-map=${WINDOW_MATMUL_TORCH_ROOT}/include/=")
target_link_libraries(window_matmul_torch_stable INTERFACE -Wl,--no-as-needed window_matmul_torch_stand_in -Wl,--as-needed)

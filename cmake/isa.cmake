# cmake/isa.cmake: src/cpu/isa/<name>.cpp, compiled with the flags of its instruction set.

# window_matmul_add_isa(name [SOURCE other] [FLAGS flag...]): adds the objects to the core, unless the option WINDOW_MATMUL_<NAME> is OFF. The core's sources
# see WINDOW_MATMUL_HAS_<NAME> as 0 or 1. An object of its own, so that cmake/tests.cmake can look at its symbols.
function(window_matmul_add_isa name)
  cmake_parse_arguments(PARSE_ARGV 1 arg "" SOURCE FLAGS)
  set(source ${name})
  if(arg_SOURCE)
    set(source ${arg_SOURCE})
  endif()
  string(TOUPPER ${name} NAME)
  if(DEFINED WINDOW_MATMUL_${NAME} AND NOT WINDOW_MATMUL_${NAME})
    target_compile_definitions(window_matmul_core PRIVATE WINDOW_MATMUL_HAS_${NAME}=0)
    return()
  endif()
  add_library(window_matmul_isa_${name} OBJECT src/cpu/isa/${source}.cpp)
  window_matmul_compile_options(window_matmul_isa_${name} KERNELS)
  target_compile_options(window_matmul_isa_${name} PRIVATE ${arg_FLAGS})
  target_include_directories(window_matmul_isa_${name} PRIVATE include src)
  target_sources(window_matmul_core PRIVATE $<TARGET_OBJECTS:window_matmul_isa_${name}>)
  target_compile_definitions(window_matmul_core PRIVATE WINDOW_MATMUL_HAS_${NAME}=1)
  set_property(GLOBAL APPEND PROPERTY window_matmul_isas ${name})
endfunction()

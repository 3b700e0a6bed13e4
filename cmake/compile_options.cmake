# cmake/compile_options.cmake: how our own code is compiled.
if(NOT CMAKE_BUILD_TYPE AND NOT CMAKE_CONFIGURATION_TYPES)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "Debug, Release, RelWithDebInfo" FORCE)
endif()

# NOT_SANITIZED: whatever WINDOW_MATMUL_SANITIZE says. KERNELS: what is long to compile.
function(window_matmul_compile_options target)
  target_compile_features(${target} PUBLIC cxx_std_20)
  set_target_properties(${target} PROPERTIES
    CXX_EXTENSIONS OFF CXX_VISIBILITY_PRESET hidden VISIBILITY_INLINES_HIDDEN ON POSITION_INDEPENDENT_CODE ON)
  target_compile_options(${target} PRIVATE
    -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wno-missing-field-initializers # {.left = 2} is meant to leave out the rest
    $<$<CXX_COMPILER_ID:GNU>:-Wno-restrict> # GCC 12 sees overlaps in `"text" + std::string` that are not there
    # No path of the build machine in a binary that is passed on; a debugger needs them.
    "$<$<NOT:$<CONFIG:Debug>>:-ffile-prefix-map=${PROJECT_SOURCE_DIR}/=;-ffile-prefix-map=${PROJECT_BINARY_DIR}/=>")
  if(WINDOW_MATMUL_SANITIZE AND NOT "NOT_SANITIZED" IN_LIST ARGN)
    target_compile_options(${target} PRIVATE -fsanitize=${WINDOW_MATMUL_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer -g1 -O1
      # By -O1 alone GCC leaves out vzeroupper, after which every scalar instruction of others waits: exp takes ten times as long.
      $<$<CXX_COMPILER_ID:GNU>:-fexpensive-optimizations>)
    # Kernels take minutes to compile by -O3, and those of vectors with checks of addresses that are not calls. Elsewhere calls only take time.
    if(WINDOW_MATMUL_SANITIZE MATCHES "address" AND "KERNELS" IN_LIST ARGN)
      set(unchecked null,object-size,pointer-overflow) # what they find is an access that AddressSanitizer finds, or an index that overflows
      if(NOT target STREQUAL window_matmul_isa_scalar)
        string(APPEND unchecked ,alignment) # vectors are read at any address: where single numbers lie, scalar.cpp tells
        target_compile_options(${target} PRIVATE
          $<$<CXX_COMPILER_ID:GNU>:--param=asan-instrumentation-with-call-threshold=0>
          "$<$<CXX_COMPILER_ID:Clang>:SHELL:-mllvm -asan-instrumentation-with-call-threshold=0>")
      endif()
      target_compile_options(${target} PRIVATE -fno-sanitize=${unchecked})
      if(NOT target STREQUAL window_matmul_isa_avx512bf16) # the shortest row, of the same text: it tells of locals used behind their scope
        target_compile_options(${target} PRIVATE -fno-sanitize-address-use-after-scope)
      endif()
    endif()
    target_link_options(${target} PUBLIC -fsanitize=${WINDOW_MATMUL_SANITIZE})
  endif()
endfunction()

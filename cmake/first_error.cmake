# cmake/first_error.cmake: what a compiler said, in one line.

# The first line that names an error, fit to stand in a message and in a string of C++, without the folders of this build.
function(window_matmul_first_error said result)
  string(REGEX MATCH "[^\n]*([Ee]rror|fatal)[^\n]*" line "${said}")
  if(NOT line)
    string(REGEX MATCH "[^\n]+" line "${said}")
  endif()
  get_filename_component(source "${CMAKE_CURRENT_FUNCTION_LIST_DIR}/.." ABSOLUTE)
  foreach(folder IN ITEMS "${PROJECT_BINARY_DIR}" "${source}")
    if(folder)
      string(REPLACE "${folder}/" "" line "${line}")
    endif()
  endforeach()
  string(REGEX REPLACE "[\"\\\\;\t]" " " line "${line}")
  string(SUBSTRING "${line}" 0 200 line)
  string(STRIP "${line}" line)
  set(${result} "${line}" PARENT_SCOPE)
endfunction()

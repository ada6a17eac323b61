# Writes generated/moecheck_version.h: what a record says of the build that made it.
# The commit is read at build time (a commit does not reconfigure), the rest here.
set(MOECHECK_COMPILER "${CMAKE_CXX_COMPILER_ID} ${CMAKE_CXX_COMPILER_VERSION}")
if(MOECHECK_CUDA)
  string(APPEND MOECHECK_COMPILER ", nvcc ${CMAKE_CUDA_COMPILER_VERSION} for sm_${CMAKE_CUDA_ARCHITECTURES}")
elseif(MOECHECK_HIP)
  string(APPEND MOECHECK_COMPILER ", clang ${CMAKE_HIP_COMPILER_VERSION} for ${CMAKE_HIP_ARCHITECTURES}")
endif()
set(MOECHECK_BUILD "${CMAKE_BUILD_TYPE}")
if(MOECHECK_SANITIZE)
  string(APPEND MOECHECK_BUILD "+${MOECHECK_SANITIZE}")
endif()
set(version_args -DSOURCE=${PROJECT_SOURCE_DIR} -DOUTPUT=${PROJECT_BINARY_DIR}/generated/moecheck_version.h
    -DVERSION=${PROJECT_VERSION} "-DCOMPILER=${MOECHECK_COMPILER}" -DBUILD=${MOECHECK_BUILD})
add_custom_target(moecheck_version_header
  COMMAND ${CMAKE_COMMAND} ${version_args} -P ${CMAKE_CURRENT_LIST_DIR}/write_version.cmake
  BYPRODUCTS ${PROJECT_BINARY_DIR}/generated/moecheck_version.h
  COMMENT "" VERBATIM)

# One place for flags. moecheck_target(NAME) applies them to a target of ours.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

function(moecheck_target name)
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
  # References, kernels and judges must round where their source says: no fused multiply-add unless written.
  target_compile_options(${name} PRIVATE -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -ffp-contract=off)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # g++ 12 warns of "literal" + std::string (GCC bug 105651) and of std::optional (80635) when it optimizes.
    target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-Wno-restrict> $<$<CONFIG:Release>:-Wno-maybe-uninitialized>)
  endif()
  if(MOECHECK_WERROR)
    target_compile_options(${name} PRIVATE -Werror)
  endif()
  if(MOECHECK_SANITIZE)
    target_compile_options(${name} PUBLIC -fsanitize=${MOECHECK_SANITIZE} -fno-omit-frame-pointer -g1)
    target_link_options(${name} PUBLIC -fsanitize=${MOECHECK_SANITIZE})
    if(MOECHECK_SANITIZE MATCHES "undefined")
      target_compile_options(${name} PUBLIC -fno-sanitize-recover=undefined)
    endif()
  endif()
endfunction()

# mold links several times faster than GNU ld; use it where it is installed.
find_program(MOLD mold)
if(MOLD AND NOT MOECHECK_SANITIZE)
  add_link_options(-fuse-ld=mold)
endif()

# One place for flags. moecheck_target(NAME) applies them to a target of ours.
set(CMAKE_CXX_STANDARD 20)
set(CMAKE_CXX_STANDARD_REQUIRED ON)
set(CMAKE_CXX_EXTENSIONS OFF)
set(CMAKE_EXPORT_COMPILE_COMMANDS ON)

if(NOT CMAKE_BUILD_TYPE)
  set(CMAKE_BUILD_TYPE Release CACHE STRING "" FORCE)
endif()

# For builds from nothing: the headers nearly every file includes compiled once per target, and several files in one
# compilation, which instantiates what they share once. Off by default: it hides an #include that a file forgot, and one changed
# file compiles eight. The sanitizer presets turn it on; they halve the time of continuous integration with it.
option(MOECHECK_COLD_BUILD "Precompile headers and compile files together" OFF)
set(MOECHECK_PRECOMPILED <algorithm> <array> <chrono> <cmath> <cstdint> <cstring> <filesystem> <fstream> <functional> <map>
    <memory> <numeric> <optional> <random> <set> <span> <sstream> <string> <string_view> <thread> <vector>)

find_program(CCACHE ccache)
if(CCACHE AND NOT CMAKE_CXX_COMPILER_LAUNCHER)
  set(CMAKE_CXX_COMPILER_LAUNCHER ${CCACHE})
endif()

# Further arguments: headers of libraries that most files of the target include.
function(moecheck_target name)
  target_include_directories(${name} PUBLIC ${PROJECT_SOURCE_DIR} ${PROJECT_BINARY_DIR}/generated)
  # References, kernels and judges must round where their source says: no fused multiply-add unless written.
  target_compile_options(${name} PRIVATE -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -ffp-contract=off)
  if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
    # g++ 12 warns of "literal" + std::string (GCC bug 105651), of std::optional (80635) and of searches in
    # strings when it optimizes.
    target_compile_options(${name} PRIVATE $<$<CONFIG:Release>:-Wno-restrict> $<$<CONFIG:Release>:-Wno-maybe-uninitialized>
                           $<$<CONFIG:Release>:-Wno-stringop-overread>)
  endif()
  if(MOECHECK_WERROR)
    target_compile_options(${name} PRIVATE -Werror)
  endif()
  if(MOECHECK_COLD_BUILD)
    target_precompile_headers(${name} PRIVATE ${MOECHECK_PRECOMPILED} ${ARGN})
  endif()
  if(MOECHECK_FUZZERS)
    target_compile_options(${name} PUBLIC -fsanitize=fuzzer-no-link)  # coverage; tests/fuzz brings the main()
  endif()
  if(MOECHECK_SANITIZE)
    target_compile_options(${name} PUBLIC -fsanitize=${MOECHECK_SANITIZE} -fno-omit-frame-pointer -g1)
    target_link_options(${name} PUBLIC -fsanitize=${MOECHECK_SANITIZE})
    if(MOECHECK_SANITIZE MATCHES "thread")
      # ThreadSanitizer does not know std::atomic_thread_fence; Asio's fences only back up its own locks.
      target_compile_definitions(${name} PRIVATE BOOST_ASIO_DISABLE_FENCED_BLOCK=1)
    endif()
    get_target_property(type ${name} TYPE)
    if(MOECHECK_SANITIZE MATCHES "address" AND type STREQUAL "EXECUTABLE")
      # What the sanitizers say of each place in the code are addresses, six million in a program: at fixed ones nothing is left to
      # relocate, and the command, which tests start hundreds of times, starts in a fifth of the time.
      target_link_options(${name} PRIVATE -no-pie)
    endif()
    if(MOECHECK_SANITIZE MATCHES "undefined")
      target_compile_options(${name} PUBLIC -fno-sanitize-recover=undefined)
    endif()
  endif()
endfunction()

# Files compiled together share their anonymous namespaces: a name twice is an error then, and one of the two is renamed. What must
# stay apart has SKIP_UNITY_BUILD_INCLUSION.
function(moecheck_compile_together name)
  set_target_properties(${name} PROPERTIES UNITY_BUILD ${MOECHECK_COLD_BUILD} UNITY_BUILD_BATCH_SIZE 8)
endfunction()

# mold links several times faster than GNU ld; use it where it is installed.
find_program(MOLD mold)
if(MOLD AND NOT MOECHECK_SANITIZE)
  add_link_options(-fuse-ld=mold)
endif()

include(moecheck_gpu_languages)

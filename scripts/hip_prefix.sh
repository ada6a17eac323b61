#!/usr/bin/env bash
# Lays out a directory that looks like a ROCm installation, from Debian's packages, so that clang and CMake's HIP language find
# everything. Compiles and links; running needs an AMD GPU. With a real ROCm it is not needed.
#   apt-get install clang-19 lld-19 clang-tools-19 llvm-19 libamdhip64-dev rocm-device-libs
#   scripts/hip_prefix.sh build/rocm
#   cmake --preset hip -DCMAKE_HIP_COMPILER=clang++-19 -DCMAKE_HIP_COMPILER_ROCM_ROOT=$PWD/build/rocm \
#     -DCMAKE_HIP_FLAGS=--rocm-path=$PWD/build/rocm
# LLVM chooses another version of LLVM (19).
set -euo pipefail
prefix=${1:?usage: hip_prefix.sh DIRECTORY}
llvm=${LLVM:-19}
libraries=/usr/lib/x86_64-linux-gnu
bitcode=$libraries/amdgcn/bitcode
for needed in "llvm-dis-$llvm" "llvm-as-$llvm" "clang-offload-bundler-$llvm"; do
  command -v "$needed" >/dev/null || { echo "$needed is missing: install clang-tools-$llvm and llvm-$llvm" >&2; exit 2; }
done
[ -e "$bitcode/ocml.bc" ] || { echo "$bitcode has no device libraries: install rocm-device-libs" >&2; exit 2; }
[ -e "$libraries/libamdhip64.so" ] || { echo "libamdhip64.so is missing: install libamdhip64-dev" >&2; exit 2; }

rm -rf "$prefix"
mkdir -p "$prefix"/{bin,include,lib/cmake/hip-lang,amdgcn/bitcode,share/hip}
prefix=$(cd "$prefix" && pwd)
ln -s /usr/include/hip /usr/include/hsa "$prefix/include/"
ln -s "$libraries/libamdhip64.so" "$prefix/lib/"
printf 'HIP_VERSION_MAJOR=5\nHIP_VERSION_MINOR=2\nHIP_VERSION_PATCH=21153\n' | tee "$prefix/bin/.hipVersion" >"$prefix/share/hip/version"
ln -s "$bitcode"/*.bc "$prefix/amdgcn/bitcode/"

# The libraries are older than these targets, and differ for them in one number.
clone() { # file, its number, new file, new number
  [ -e "$prefix/amdgcn/bitcode/$3.bc" ] && return
  "llvm-dis-$llvm" -o - "$bitcode/$1.bc" | sed "s/constant i32 $2,/constant i32 $4,/" |
    "llvm-as-$llvm" -o "$prefix/amdgcn/bitcode/$3.bc"
}
clone oclc_abi_version_500 500 oclc_abi_version_600 600
for isa in 941:9401 942:9402 1100:11000 1101:11001 1200:12000 1201:12001; do
  clone oclc_isa_version_940 9400 "oclc_isa_version_${isa%:*}" "${isa#*:}"
done

# CMake looks for this beside the libraries; Debian's own asks for packages that it does not have.
cat >"$prefix/lib/cmake/hip-lang/hip-lang-config.cmake" <<CMAKE
if(NOT TARGET hip-lang::amdhip64)
  add_library(hip-lang::amdhip64 SHARED IMPORTED)
  set_target_properties(hip-lang::amdhip64 PROPERTIES IMPORTED_LOCATION "$libraries/libamdhip64.so"
                        IMPORTED_SONAME libamdhip64.so.5)
  add_library(hip-lang::host INTERFACE IMPORTED)
  target_link_libraries(hip-lang::host INTERFACE hip-lang::amdhip64)
  add_library(hip-lang::device INTERFACE IMPORTED)
  target_link_libraries(hip-lang::device INTERFACE hip-lang::host)
endif()
set(_CMAKE_HIP_DEVICE_RUNTIME_TARGET "hip-lang::device")
CMAKE

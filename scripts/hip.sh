#!/usr/bin/env bash
# Compiles every GPU kernel for AMD devices and counts the instructions that the kernels were written for. Runs nothing: that needs
# an AMD GPU.
#   scripts/hip.sh [DIR]       assembly goes to DIR (build/hip); clang, LLVM and ROCm's device libraries are installed where missing
# KERNELS and TARGETS choose; with SYNTAX=1 no code is generated (seconds instead of minutes).
source "$(dirname "$0")/common.sh"
out=${1:-build/hip}
targets=${TARGETS:-gfx90a gfx942 gfx1100}
kernels=${KERNELS:-$(basename -s .cuh optimized/gpu/*.cuh)}
HIP_PACKAGES="
clang-19: HIP's compiler
lld-19: its linker
clang-tools-19: unpacks its device libraries
llvm-19: the same
libamdhip64-dev: HIP's headers
rocm-device-libs: the device libraries
"
mkdir -p "$out"
if [ -e /opt/rocm/bin/amdclang++ ]; then
  compile=(/opt/rocm/bin/amdclang++)
else
  install_missing "$HIP_PACKAGES"
  [ -e "$out/rocm/bin" ] || scripts/hip_prefix.sh "$out/rocm"
  compile=(clang++-19 --rocm-path="$out/rocm")
fi
compile+=(-x hip -std=c++20 -O2 -I. --cuda-device-only -Wno-pragma-once-outside-header)

if [ -n "${SYNTAX:-}" ]; then
  for kernel in $kernels; do
    for target in $targets; do "${compile[@]}" --offload-arch=$target -fsyntax-only "optimized/gpu/$kernel.cuh"; done
  done
  say "clang accepts $(echo $kernels | wc -w) kernel files for $targets"
  exit
fi

# What the sources count on, by target; a pattern of the instruction's name.
needed() { # kernel file, target
  case $1:$2 in
    experts:gfx90a | mqa_logits:gfx90a) echo v_mfma_f32_16x16x16bf16_1k ;;
    experts:gfx942) echo 'v_mfma_f32_16x16x16_bf16 v_cvt_pk_fp8_f32' ;;
    mqa_logits:gfx942) echo v_mfma_f32_16x16x16_bf16 ;;
    experts:gfx1100 | mqa_logits:gfx1100) echo v_wmma_f32_16x16x16_bf16 ;;
    indexer_cache:gfx942 | mla_prepare:gfx942) echo v_cvt_pk_fp8_f32 ;;
  esac
}
failed=0
printf '%-15s %-8s %8s  %s\n' kernels target seconds instructions
for kernel in $kernels; do
  for target in $targets; do
    started=$SECONDS assembly=$out/$kernel.$target.s
    "${compile[@]}" --offload-arch=$target -S -o "$assembly" "optimized/gpu/$kernel.cuh" || { failed=1; continue; }
    found=$(grep -oE '\bv_(mfma|wmma)_[a-z0-9_]+|\bv_cvt_[a-z0-9_]*(fp8|bf8)[a-z0-9_]*' "$assembly" | sort | uniq -c | awk '{printf "%s x%d  ", $2, $1}' || true)
    printf '%-15s %-8s %8d  %s\n' "$kernel" "$target" $((SECONDS - started)) "$found"
    for instruction in $(needed "$kernel" "$target"); do
      grep -q "$instruction" "$assembly" || { echo "$kernel for $target lacks $instruction" >&2; failed=1; }
    done
  done
done
exit $failed

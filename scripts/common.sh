# Shared by demo.sh and test.sh: says what it does, installs what is missing. Sourced, not run.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

say() { printf '\033[1m== %s\033[0m\n' "$*"; }
[ -t 1 ] || say() { printf '== %s\n' "$*"; }

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo "$@"; else
    echo "This needs root to install packages ($*): run as root, or install sudo." >&2
    exit 2
  fi
}

# package: why. One line each, so that the reasons are read where the list is.
PACKAGES="
g++: the compiler
cmake: the build system
ninja-build: runs the build
pkg-config: finds Highway
git: the commit that records name
ccache: makes the second build short
mold: links fast
libfmt-dev: formatting
nlohmann-json3-dev: JSON records, safetensors headers
libcli11-dev: the command line
libhwy-dev: SIMD of the optimized versions
libcurl4-openssl-dev: the HTTP client of eval and bench serve
libboost-dev: the HTTP server of serve (Asio and Beast, headers alone)
libboost-context-dev: the host executor of GPU kernels: a fiber per GPU thread
"
TEST_PACKAGES="
libgtest-dev: unit tests
librapidcheck-dev: property tests
python3-pytest: tests of the Python package
python3-numpy: the arrays in them
libopenmpi-dev: ranks in several processes (optional: without it they are threads)
openmpi-bin: starts them
"

installed() { dpkg-query -W -f='${Status}' "$1" 2>/dev/null | grep -q 'ok installed'; }

# Installs the packages of the lists given that are missing. Knows Debian and Ubuntu only.
install_missing() {
  command -v dpkg-query >/dev/null || {
    echo "This script installs Debian and Ubuntu packages. Elsewhere install:$(printf '%s' "$*" | sed -n 's/^\([^:]*\):.*/ \1/p' | tr -d '\n')," >&2
    echo "then: cmake --preset release && cmake --build --preset release" >&2
    exit 2
  }
  local missing=() line name
  while IFS= read -r line; do
    name=${line%%:*}
    [ -n "$name" ] || continue
    installed "$name" && continue
    missing+=("$name")
    say "will install $line"
  done <<<"$*"
  if [ ${#missing[@]} = 0 ]; then
    say "all packages are there"
    return
  fi
  export DEBIAN_FRONTEND=noninteractive
  as_root apt-get -o DPkg::Lock::Timeout=300 -qq update
  as_root env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 -qq install -y --no-install-recommends "${missing[@]}" >/dev/null
  say "installed ${missing[*]}"
}

# Accelerators are optional: say what is there, build without what is not.
say_accelerators() {
  if command -v nvcc >/dev/null; then
    say "CUDA toolkit found ($(nvcc --version | sed -n 's/.*release \([0-9.]*\).*/\1/p')): not needed here, see the cuda preset"
  else
    say "no CUDA toolkit: building without it"
  fi
  if command -v hipcc >/dev/null || [ -e /opt/rocm ]; then
    say "HIP found: not needed here, see the hip preset"
  else
    say "no HIP: building without it"
  fi
}

configure_and_build() { # preset, extra cmake arguments
  local preset=$1
  shift
  say "build ($preset)"
  cmake --preset "$preset" "$@" >"/tmp/moecheck-configure.$$" 2>&1 || {
    cat "/tmp/moecheck-configure.$$" >&2
    rm -f "/tmp/moecheck-configure.$$"
    exit 1
  }
  rm -f "/tmp/moecheck-configure.$$"
  cmake --build --preset "$preset"
}

#!/usr/bin/env bash
# perf/build_llama_cpp.sh [--portable] [FOLDER]
# Fetches the llama.cpp that the Python package llama-cpp-python carries and builds the programs that compare_*.py run beside Troupe:
# the same compiler, -O3, this machine's own instruction set. Prints the folder for --llama. FOLDER: build/peers by default.
# --portable: for another machine instead, of the Sapphire Rapids kind (AVX-512 with VNNI, VBMI and BF16, AMX), needing glibc and libm only.
set -euo pipefail
case "${1:-}" in -h|--help) sed -n '2,5s/^# //p' "$0"; exit 0 ;; esac
portable=
if [ "${1:-}" = --portable ]; then portable=1; shift; fi

version=0.3.36
sha256=832db0699007f1be95a7e41ef12e88926b02ba836461e36a36372db2760c1a2e
root=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:-$root/build/peers}
source=$folder/llama_cpp_python-$version
mkdir -p "$folder"

if [ ! -d "$source" ]; then
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --no-binary=llama-cpp-python -d "$folder" "llama-cpp-python==$version"
  echo "$sha256  $source.tar.gz" | sha256sum --check --quiet
  tar -xzf "$source.tar.gz" -C "$folder"
fi
target=(-DGGML_NATIVE=ON)
programs=(llama-bench llama-server llama-completion llama-batched-bench)
if [ -n "$portable" ]; then
  # No -march: a hypervisor may hide what the processor has; AMX is asked for at run time. OpenMP would be one more library to carry.
  target=(-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DBUILD_SHARED_LIBS=OFF)
  for feature in AVX AVX2 FMA F16C BMI2 AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16 AMX_TILE AMX_INT8 AMX_BF16; do target+=("-DGGML_$feature=ON"); done
  target+=(-DCMAKE_C_FLAGS=-mtune=sapphirerapids -DCMAKE_CXX_FLAGS=-mtune=sapphirerapids "-DCMAKE_EXE_LINKER_FLAGS=-static-libstdc++ -static-libgcc -s")
  programs=(llama-bench llama-server llama-completion)
fi
cmake -S "$source/vendor/llama.cpp" -B "$folder/llama.cpp" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=clang-19 -DCMAKE_CXX_COMPILER=clang++-19 \
  "${target[@]}" -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF >&2
ninja -C "$folder/llama.cpp" -j "${JOBS:-$(nproc)}" "${programs[@]}" >&2
echo "$folder/llama.cpp/bin"

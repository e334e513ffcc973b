#!/usr/bin/env bash
# Builds llama.cpp's llama-server from the very sources that llama-cpp-python was built
# from, into the folder given (default: build/llama-server). Prints the binary's path. Needs Python
# (PYTHON, default python3) and a C++17 compiler; cmake is installed in that folder.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(mkdir -p "${1:-build/llama-server}" && cd "${1:-build/llama-server}" && pwd)
version=$(sed -n 's/^llama-cpp-python==//p' constraints.txt)
flags=
if "${CXX:-c++}" --version | grep -q 'Free Software Foundation'; then flags=-fno-dse; fi

"${PYTHON:-python3}" -m venv "$target/venv"
PATH="$target/venv/bin:$PATH"
pip install --quiet cmake >&2
# The sources of this package alone: pip would build cmake from source too, to look at them.
pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$target" \
    "llama-cpp-python==$version" >&2
tar -xzf "$target"/llama_cpp_python-*.tar.gz -C "$target"
cmake -S "$target/llama_cpp_python-$version/vendor/llama.cpp" -B "$target/build" \
    -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS="$flags" -DLLAMA_OPENSSL=OFF \
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_APP=OFF \
    -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF >&2
cmake --build "$target/build" --target llama-server -j "$(getconf _NPROCESSORS_ONLN)" >&2
echo "$target/build/bin/llama-server"

"""``python -m benchmarks.gpu.wheel``: the pinned llama-cpp-python with CUDA, for one architecture.

Needs no GPU and no CUDA on this machine: compiler, headers and libraries come as Python packages,
into an environment beside the build. The wheel does not hold CUDA's own libraries: it finds those
of nvidia-cublas and nvidia-cuda-runtime beside it, or in LD_LIBRARY_PATH. A build that was cut
goes on where it stood.
"""

import argparse
import os
import re
import shlex
import subprocess
import sysconfig
import tarfile
import venv
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

PYPROJECT: Final = Path(__file__).parents[2] / "pyproject.toml"
MIB: Final = 1 << 20
MAX_BYTES: Final = 60 * MIB
# All of them unpack into one folder, which then is a CUDA toolkit but for the names that a linker
# looks for. crt and nvvm must be those of the compiler, and pip would take the newest ones.
TOOLKIT: Final = (
    "nvidia-cublas",
    "nvidia-cuda-cccl",
    "nvidia-cuda-crt",
    "nvidia-cuda-nvcc",
    "nvidia-cuda-runtime",
    "nvidia-nvvm",
)
BUILD_TOOLS: Final = ("cmake>=3.28,<4", "ninja", "scikit-build-core")
NEEDED_LIBRARY: Final = re.compile(r"/lib(?:llama\.so|ggml[^/]*\.so\.0)$")
LIBRARY: Final = "llama_cpp/lib/libggml-cuda.so.0"
LINKED: Final = ("cublas", "cublasLt", "cudart")
RPATH: Final = "$ORIGIN/../../nvidia/cu{major}/lib"
SEARCHED: Final = re.compile(rb"\$ORIGIN/\.\./\.\./nvidia/cu\d+/lib")  # what it is in a library


def main() -> None:
    """Parse the arguments and build."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu.wheel", description=__doc__)
    parser.add_argument("folder", type=Path, help="for the environment, the build and the wheel")
    parser.add_argument("--architecture", default="90", help="of the GPU: 80, 86, 89, 90, 120 …")
    parser.add_argument("--cuda", default="13.0", help="release: not newer than the driver's")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    options = parser.parse_args()
    folder: Path = options.folder.resolve()
    python, toolkit = prepare(folder / "environment", options.cuda)
    source = fetch_source(python, folder / "source", read_pin(PYPROJECT.read_text()))
    flags = choose_flags(options.architecture, options.cuda, toolkit)
    wheel = build(
        python,
        source,
        folder,
        environment=make_environment(
            os.environ, toolkit, python.parent, flags=flags, jobs=options.jobs
        ),
    )
    wheel = slim(wheel, folder)
    check_wheel(wheel)
    print(f"{wheel}: {wheel.stat().st_size / MIB:.1f} MiB")


def read_pin(pyproject: str) -> str:
    """Return the version of llama-cpp-python that embedd depends on."""
    found = re.search(r'"llama-cpp-python==([^"]+)"', pyproject)
    if found is None:
        raise ValueError("pyproject.toml does not pin llama-cpp-python")
    return found[1]


def choose_requirements(cuda: str) -> list[str]:
    """Return what to install for a build with the CUDA release *cuda*, such as ``13.0``."""
    return [*(f"{package}=={cuda}.*" for package in TOOLKIT), *BUILD_TOOLS]


def choose_flags(architecture: str, cuda: str, toolkit: Path) -> list[str]:
    """Return the flags of a build for one *architecture*.

    Instructions of the CPU are limited to AVX2, so that the wheel runs on other machines. Without
    VMM the build needs no library of the driver; llama.cpp then keeps freed memory in lists.
    """
    # The link runs in a shell, which must leave $ORIGIN alone.
    rpath = RPATH.format(major=cuda.partition(".")[0]).replace("$", r"\$")
    return [
        "-DLLAVA_BUILD=OFF",
        "-DGGML_NATIVE=OFF",
        "-DGGML_CUDA=ON",
        "-DGGML_CUDA_NCCL=OFF",
        "-DGGML_CUDA_NO_VMM=ON",
        f"-DCMAKE_CUDA_ARCHITECTURES={architecture}-real",
        "-DCMAKE_CXX_FLAGS=-fno-dse",  # see the Makefile
        f"-DCMAKE_SHARED_LINKER_FLAGS=-Wl,--strip-all,-rpath,{rpath}",
        f"-DCUDAToolkit_ROOT={toolkit}",
    ]


def make_environment(
    environ: Mapping[str, str],
    toolkit: Path,
    tools: Path,
    *,
    flags: Sequence[str],
    jobs: int,
) -> dict[str, str]:
    """Return the environment of the build; the compiler and *tools* come before those installed."""
    return {
        **environ,
        "PATH": f"{tools}:{environ.get('PATH', '')}",
        "CUDACXX": str(toolkit / "bin" / "nvcc"),
        "CMAKE_ARGS": shlex.join(flags),
        "CMAKE_BUILD_PARALLEL_LEVEL": str(jobs),
    }


def prepare(folder: Path, cuda: str) -> tuple[Path, Path]:
    """Install compiler and tools in an environment of their own; return its Python and toolkit."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
    pip(python, "install", *choose_requirements(cuda))
    packages = sysconfig.get_path("purelib", vars={"base": str(folder)})
    toolkit = Path(packages) / "nvidia" / f"cu{cuda.partition('.')[0]}"
    complete(toolkit)
    return python, toolkit


def complete(toolkit: Path) -> None:
    """Add the names that linkers look for: ``lib64``, and libraries without a version."""
    libraries = toolkit / "lib"
    links = {toolkit / "lib64": Path("lib")}
    for name in LINKED:
        [versioned] = libraries.glob(f"lib{name}.so.*")
        links[libraries / f"lib{name}.so"] = Path(versioned.name)
    for link, target in links.items():
        if not link.exists():
            link.symlink_to(target)


def fetch_source(python: Path, folder: Path, version: str) -> Path:
    """Download the source of llama-cpp-python if it is not there; return its folder."""
    source = folder / f"llama_cpp_python-{version}"
    if not source.exists():
        pip(
            python,
            *("download", "--no-deps", "--no-binary", ":all:", "--no-build-isolation"),
            *("--dest", str(folder), f"llama-cpp-python=={version}"),
        )
        with tarfile.open(f"{source}.tar.gz") as archive:
            archive.extractall(folder, filter="data")
    return source


def build(python: Path, source: Path, folder: Path, *, environment: Mapping[str, str]) -> Path:
    """Build the wheel and return it."""
    wheels = folder / "wheel"
    pip(
        python,
        *("wheel", "--verbose", "--no-build-isolation", "--no-deps", "--no-cache-dir"),
        *("--config-settings", f"build-dir={folder / 'build'}"),
        *("--wheel-dir", str(wheels), str(source)),
        environment=environment,
    )
    [wheel] = wheels.glob("llama_cpp_python-*.whl")
    return wheel


def slim(wheel: Path, folder: Path) -> Path:
    """Write the wheel without what the binding does not load, to *folder*; return it.

    Each library is in the wheel six times: links become copies, and all is installed in two places.
    """
    target = folder / wheel.name
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as slimmed,
    ):
        for name in filter(is_needed, source.namelist()):
            content = source.read(name)
            if name.endswith(".dist-info/RECORD"):
                lines = content.decode().splitlines(keepends=True)
                content = "".join(line for line in lines if is_needed(line.split(",")[0])).encode()
            slimmed.writestr(source.getinfo(name), content)
    return target


def is_needed(name: str) -> bool:
    """Whether a file of the wheel is used: libraries by the names that load them."""
    if name.startswith("llama_cpp/lib/"):
        return NEEDED_LIBRARY.search(name) is not None
    return name.startswith(("llama_cpp/", "llama_cpp_python-"))


def pip(python: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
    """Run pip of the environment."""
    subprocess.run([str(python), "-m", "pip", *arguments], env=environment, check=True)


def check_wheel(wheel: Path) -> None:
    """Check that the wheel holds the CUDA backend, finds CUDA and is not larger than it should be.

    Raises:
        ValueError: It is not as expected.
    """
    with zipfile.ZipFile(wheel) as archive:
        fault = find_fault(archive.namelist(), wheel.stat().st_size)
        if fault is None and not SEARCHED.search(archive.read(LIBRARY)):
            fault = f"{LIBRARY} does not look for CUDA's libraries beside itself"
    if fault is not None:
        raise ValueError(f"{wheel}: {fault}")


def find_fault(names: Iterable[str], size: int) -> str | None:
    """Return what is wrong with a wheel of these files and *size*, or None."""
    names = list(names)
    files = [name.rpartition("/")[2] for name in names]
    if LIBRARY not in names:
        return f"{LIBRARY} is missing"
    if bundled := [name for name in files if name.startswith(("libcublas", "libcudart"))]:
        return f"holds CUDA's own libraries: {', '.join(bundled)}"
    if size > MAX_BYTES:
        return f"{size} bytes, the limit is {MAX_BYTES}"
    return None


if __name__ == "__main__":
    main()

"""How ``make install`` gets llama.cpp, and what ``make wheel`` asks of its build."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "deploy.md"
DOCKERFILE = ROOT / "deploy" / "Dockerfile"
# Stands for the interpreter of .venv: notes what it is asked, and finds a wheel if there is one.
PYTHON = """#!/bin/sh
echo "$*" >> calls
for word; do
    case "$before" in --dest | --wheel-dir) mkdir -p "$word" && touch "$word/a.whl" ;; esac
    before="$word"
done
case "$*" in *" download "*) test -e wheels/fits.whl ;; esac
"""


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """The Makefile in a tree of its own, with an interpreter that does nothing."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(PYTHON)
    python.chmod(0o755)
    return tmp_path


def make(tree: Path, *arguments: str) -> list[str]:
    """What pip is asked by ``make``, from the search for llama.cpp on."""
    compiler = tree / "c++"
    compiler.write_text("#!/bin/sh\necho a compiler\n")
    compiler.chmod(0o755)
    words = ("make", *arguments, f"CACHE={tree / 'cache'}", f"CXX={compiler}")
    subprocess.run(words, cwd=tree, env={"PATH": "/usr/bin:/bin"}, check=True, capture_output=True)
    lines = (tree / "calls").read_text().splitlines()
    return [re.sub(r".* (download|wheel|install) .*", r"\1", line) for line in lines]


def test_a_wheel_that_fits_is_taken_instead_of_compiling(tree: Path) -> None:
    (tree / "wheels").mkdir()
    (tree / "wheels" / "fits.whl").touch()
    assert make(tree, "install")[:2] == ["download", "install"]


def test_where_no_wheel_fits_llama_cpp_is_compiled(tree: Path) -> None:
    (tree / "wheels").mkdir()
    assert make(tree, "install")[:3] == ["download", "wheel", "install"]


def test_without_a_folder_of_wheels_llama_cpp_is_compiled(tree: Path) -> None:
    assert make(tree, "install")[:2] == ["wheel", "install"]


def test_flags_of_the_users_own_are_compiled(tree: Path) -> None:
    (tree / "wheels").mkdir()
    (tree / "wheels" / "fits.whl").touch()
    assert make(tree, "install", "CMAKE_ARGS=-DGGML_CUDA=on")[:2] == ["wheel", "install"]


def test_the_next_command_keeps_a_wheel_that_was_named(tree: Path) -> None:
    """``make run`` after ``make install FIND_LINKS=wheels``, on a machine without a compiler."""
    (tree / "wheels").mkdir()
    (tree / "wheels" / "fits.whl").touch()
    make(tree, "install", "FIND_LINKS=wheels")
    assert "wheel" not in make(tree, "install")


def test_without_a_compiler_the_ways_out_are_said(tree: Path) -> None:
    words = ("make", "install", f"CACHE={tree / 'cache'}", f"CXX={tree / 'absent'}")
    done = subprocess.run(words, cwd=tree, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    for way in ("g++", "clang", "wheels/", "make wheel"):
        assert way in done.stdout


def test_pip_needs_nothing_but_the_folder_of_wheels(tree: Path) -> None:
    """As docs/deploy.md has it, for machines to which only that folder is copied."""
    [command] = re.findall(r"^pip install --find-links .*", GUIDE.read_text(), re.MULTILINE)
    [constraints] = re.findall(r"-c (\S+)", command)
    assert constraints == "wheels/constraints.txt"
    requirements = tree / "tests" / "deploy" / "requirements.txt"
    requirements.parent.mkdir(parents=True)
    requirements.touch()
    made = subprocess.run(
        ["make", "--dry-run", "wheel"], cwd=tree, capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert made.index("cp constraints.txt wheels") > made.index("rm -rf wheels build")


def read_flags(tree: Path) -> dict[str, str]:
    """Variables of the portable build, with their values."""
    commands = subprocess.run(
        ["make", "--dry-run", "portable-llama"],
        cwd=tree,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    return dict(re.findall(r"(CMAKE_ARGS|SKBUILD_WHEEL_EXCLUDE)='([^']*)'", commands))


def test_the_portable_library_has_every_variant_and_finds_what_it_needs(tree: Path) -> None:
    flags = read_flags(tree)["CMAKE_ARGS"].split()
    assert {
        "-DGGML_NATIVE=OFF",
        "-DGGML_BACKEND_DL=ON",
        "-DGGML_CPU_ALL_VARIANTS=ON",
        "-DCMAKE_INSTALL_BINDIR=llama_cpp/lib",
        "-DCMAKE_INSTALL_RPATH=$ORIGIN",
    } <= set(flags)


def test_the_portable_wheel_holds_nothing_but_the_package(tree: Path) -> None:
    """What lies beside the package needs OpenSSL, and auditwheel refuses the wheel."""
    assert {"/lib", "/include"} <= set(read_flags(tree)["SKBUILD_WHEEL_EXCLUDE"].split(";"))


def test_the_image_builds_with_targets_and_files_that_exist(tree: Path) -> None:
    text = DOCKERFILE.read_text()
    [target] = re.findall(r"make PIP=\S+ (\S+)", text)
    subprocess.run(["make", "--dry-run", target], cwd=tree, capture_output=True, check=True)
    copied = {
        name
        for line in re.findall(r"^COPY (?!--from)(.*)", text, re.MULTILINE)
        for name in line.split()[:-1]
    }
    assert "constraints.txt" in copied
    listed = DOCKERFILE.with_name("Dockerfile.dockerignore").read_text().split()
    for name in copied - {"wheel[s]"}:
        assert (ROOT / name).exists(), name
        assert f"!{name}" in listed
    assert "!wheels" in listed

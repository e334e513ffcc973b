"""The benchmark of the portable library: what it unpacks, compares and says."""

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from benchmarks.contenders import Contender
from benchmarks.libraries import Matrix
from benchmarks.portable import (
    STRANGE,
    TEXTS,
    Build,
    Speed,
    find_least_cosine,
    make_texts,
    make_workloads,
    read_loaded,
    time_builds,
    unpack,
)
from benchmarks.texts import Workload

MAPS = """7f0 r--p 00000000 fe:00 1 /w/llama_cpp/lib/{0}
7f1 r-xp 00001000 fe:00 1 /w/llama_cpp/lib/{0}
7f2 r--p 00000000 fe:00 2 /w/llama_cpp/lib/libggml-base.so.0
"""


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel with two backends for CPUs."""
    path = tmp_path / "llama.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("libllama.so", "libggml-cpu-haswell.so", "libggml-cpu-zen4.so"):
            archive.writestr(f"llama_cpp/lib/{name}", name)
    return path


def list_libraries(folder: Path) -> set[str]:
    return {path.name for path in (folder / "llama_cpp" / "lib").iterdir()}


def test_a_variant_is_forced_by_removing_the_others(wheel: Path, tmp_path: Path) -> None:
    assert unpack(wheel, tmp_path / "all") == Build(name="the wheel", folder=tmp_path / "all")
    assert len(list_libraries(tmp_path / "all")) == 3
    assert unpack(wheel, tmp_path / "one", "haswell").name == "haswell"
    assert list_libraries(tmp_path / "one") == {"libllama.so", "libggml-cpu-haswell.so"}


def test_a_variant_that_the_wheel_lacks_is_an_error(wheel: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no backend skylake: it has haswell, zen4"):
        unpack(wheel, tmp_path / "one", "skylake")


def test_the_process_of_a_build_searches_its_folder_first(tmp_path: Path) -> None:
    environment = {"HOME": "/h", "PYTHONPATH": "/tree"}
    assert Build(name="here").make_environment(environment) == environment
    made = Build(name="w", folder=tmp_path).make_environment(environment)
    assert made == {"HOME": "/h", "PYTHONPATH": f"{tmp_path}:/tree"}
    assert Build(name="w", folder=tmp_path).make_environment({}) == {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize("name", ["libggml-cpu-zen4.so", "libggml-cpu.so.0.25.3"])
def test_the_backend_of_a_process_is_read_from_its_maps(name: str) -> None:
    assert read_loaded(MAPS.format(name)) == name


def test_a_process_without_a_backend_says_so() -> None:
    assert read_loaded("7f0 r-xp 00000000 fe:00 1 /usr/lib/libc.so.6\n") == "none"


def test_the_least_cosine_is_that_of_the_worst_row() -> None:
    ours = np.array([[1, 0], [1, 0], [3, 4]], np.float32)
    theirs = np.array([[1, 0], [1, 1], [3, 4]], np.float32)
    least, equal = find_least_cosine(ours, theirs)
    assert least == pytest.approx(2**-0.5)
    assert equal == 2


def test_times_are_compared_within_a_round_and_by_the_fastest_of_each_request() -> None:
    """The second round took twice as long for all: that is the machine."""
    speed = Speed(
        workload="some",
        seconds={
            "here": np.array([[0.004, 0.006], [0.008, 0.012], [0.006, 0.006]]),
            "wheel": np.array([[0.005, 0.006], [0.010, 0.012], [0.006, 0.006]]),
        },
    )
    row = speed.to_row("all-minilm", "here", "wheel")
    assert row == "| all-minilm | some | wheel | 12.0 | 12.0 | 1.100 | 1.00–1.10 | 1.100 |"


def test_the_texts_are_many_mixed_and_always_the_same() -> None:
    texts = make_texts()
    assert texts == make_texts()
    assert len(texts) == len(set(texts)) == TEXTS
    assert set(STRANGE) <= set(texts)
    lengths = [len(text.split()) for text in texts]
    assert min(lengths) == 1
    assert max(lengths) > 150


def test_the_workloads_are_a_lone_text_short_texts_and_passages() -> None:
    sizes = [[len(request) for request in one.requests] for one in make_workloads()]
    assert [set(of_requests) for of_requests in sizes] == [{1}, {32}, {64}]


async def test_builds_take_turns_and_none_is_always_first() -> None:
    order: list[str] = []

    def make_contender(name: str) -> Contender:
        async def embed(texts: Sequence[str]) -> Matrix:
            order.append(name)
            return np.zeros((len(texts), 1), np.float32)

        return Contender(
            name=name, embed=embed, parse=lambda raw: np.asarray(raw, np.float32), pid=0
        )

    workload = Workload(name="one", requests=[["a"]], clients=1)
    speed = await time_builds({name: make_contender(name) for name in "ab"}, workload, 2)
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert {name: taken.shape for name, taken in speed.seconds.items()} == {
        "a": (2, 1),
        "b": (2, 1),
    }

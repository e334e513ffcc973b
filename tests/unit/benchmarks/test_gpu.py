"""The run on a GPU: what it decides without one."""

import math
import shlex
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.gpu import child, vectors, wheel
from benchmarks.gpu.checkpoints import Size, write_checkpoint
from benchmarks.gpu.clock import LEAST, Clock
from benchmarks.gpu.report import format_families, format_models, format_speed, to_markdown
from benchmarks.libraries import find_checkpoint
from embedd.convert import WeightType, convert_checkpoint
from embedd.gguf.header import read_header_file
from embedd.types import Pooling
from tests import fakes
from tests.families import FAMILIES
from tests.families.family import read_weights

PYPROJECT = Path(__file__).parents[3] / "pyproject.toml"


def test_the_wheel_is_of_the_version_that_embedd_depends_on() -> None:
    version = wheel.read_pin(PYPROJECT.read_text())
    assert f'"llama-cpp-python=={version}"' in PYPROJECT.read_text()
    with pytest.raises(ValueError, match="pin"):
        wheel.read_pin('"llama-cpp-python>=0.3"')


def test_compiler_and_headers_are_of_one_cuda_release() -> None:
    cuda = [one for one in wheel.choose_requirements("13.0") if one.startswith("nvidia-")]
    assert len(cuda) == len(wheel.TOOLKIT)
    assert all(one.endswith("==13.0.*") for one in cuda)


def test_a_build_is_for_one_architecture_and_finds_cuda_beside_itself(tmp_path: Path) -> None:
    flags = wheel.choose_flags("89", "13.0", tmp_path)
    assert "-DCMAKE_CUDA_ARCHITECTURES=89-real" in flags
    assert any(flag.endswith(r"rpath,\$ORIGIN/../../nvidia/cu13/lib") for flag in flags)
    environment = wheel.make_environment(
        {"PATH": "/bin", "HOME": "/root"}, tmp_path, Path("/tools"), flags=flags, jobs=3
    )
    assert environment["PATH"] == "/tools:/bin"
    assert shlex.split(environment["CMAKE_ARGS"]) == flags
    assert environment["CMAKE_BUILD_PARALLEL_LEVEL"] == "3"
    assert environment["HOME"] == "/root"


def test_a_toolkit_of_packages_gets_the_names_that_a_linker_looks_for(tmp_path: Path) -> None:
    (tmp_path / "lib").mkdir()
    for name in wheel.LINKED:
        (tmp_path / "lib" / f"lib{name}.so.13").write_text(name)
    for _ in range(2):  # a build that was cut begins again
        wheel.complete(tmp_path)
    for name in wheel.LINKED:
        assert (tmp_path / "lib64" / f"lib{name}.so").read_text() == name


@pytest.mark.parametrize(
    ("names", "size", "fault"),
    [
        ([wheel.LIBRARY], 1, None),
        (["llama_cpp/lib/libggml-cpu.so"], 1, "missing"),
        ([wheel.LIBRARY, "lib/libcublas.so.13"], 1, "libcublas.so.13"),
        ([wheel.LIBRARY], wheel.MAX_BYTES + 1, str(wheel.MAX_BYTES)),
    ],
)
def test_a_wheel_is_refused_that_others_could_not_use(
    names: list[str], size: int, fault: str | None
) -> None:
    found = wheel.find_fault(names, size)
    assert found is None if fault is None else fault in (found or "")


@pytest.mark.parametrize(
    ("content", "finds"), [(b"\0$ORIGIN/../../nvidia/cu13/lib\0", True), (b"/../../nvidia", False)]
)
def test_a_wheel_is_refused_that_does_not_find_cuda(
    content: bytes, finds: bool, tmp_path: Path
) -> None:
    with zipfile.ZipFile(tmp_path / "one.whl", "w") as archive:
        archive.writestr(wheel.LIBRARY, content)
    if finds:
        wheel.check_wheel(tmp_path / "one.whl")
        return
    with pytest.raises(ValueError, match="does not look"):
        wheel.check_wheel(tmp_path / "one.whl")


def test_a_wheel_keeps_each_library_once_and_lists_what_it_has(tmp_path: Path) -> None:
    kept = ["llama_cpp/llama.py", "llama_cpp/lib/libllama.so", "llama_cpp/lib/libggml-cuda.so.0"]
    dropped = ["lib/libllama.so", "include/ggml.h", "llama_cpp/lib/libggml-cuda.so.0.25.3"]
    record = "llama_cpp_python-1.dist-info/RECORD"
    fat = tmp_path / "llama_cpp_python-1-py3-none-any.whl"
    with zipfile.ZipFile(fat, "w") as archive:
        for name in kept + dropped:
            archive.writestr(name, name)
        archive.writestr(record, "".join(f"{one},sha256=x,1\n" for one in kept + dropped))
    (tmp_path / "out").mkdir()
    with zipfile.ZipFile(wheel.slim(fat, tmp_path / "out")) as archive:
        assert sorted(archive.namelist()) == sorted([*kept, record])
        assert archive.read(record).decode() == "".join(f"{one},sha256=x,1\n" for one in kept)


def test_a_step_has_what_is_left_of_the_run() -> None:
    hand = fakes.Clock()
    clock = Clock(100.0, hand.time)
    assert clock.limit(60) == 60
    hand.now += 90
    assert (clock.left, clock.limit(60)) == (10, 10)
    hand.now += 20
    assert (clock.left, clock.limit(60)) == (0, LEAST)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ({"distance": 1e-6, "length": 1e-3}, None),
        ({"distance": 1e-3, "length": 1e-3}, "distance 1.0e-03, the limit is 1e-04"),
        ({"distance": math.nan, "length": 0.0}, "distance nan"),
        ({"distance": 0.0, "length": 0.5}, "length"),
        ({"difference": 1e-3}, None),
        ({"difference": 1.0}, "difference"),
        ({"error": "ended with -6"}, "ended with -6"),
    ],
)
def test_vectors_are_wrong_that_are_too_far_from_exact_ones(
    row: dict[str, Any], fault: str | None
) -> None:
    found = vectors.find_fault(row, 1e-4)
    assert found is None if fault is None else fault in (found or "")


def test_on_a_gpu_all_layers_and_half_of_them_are_tried() -> None:
    assert vectors.choose_layers("llama-gpu", 24) == ("all", "12")
    assert vectors.choose_layers("llama", 24) == ("0",)


def test_what_a_child_said_before_it_died_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import os; print('{\"a\": 1}', flush=True); os.abort()"
    monkeypatch.setattr(vectors, "CHILD", [sys.executable, "-c", script])
    rows, error = vectors.run_child(limit=30)
    assert rows == [{"a": 1}]
    assert "ended with -6" in error


def test_a_child_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import time; print('{\"a\": 1}', flush=True); time.sleep(60)"
    monkeypatch.setattr(vectors, "CHILD", [sys.executable, "-c", script])
    rows, error = vectors.run_child(limit=1)
    assert (rows, error) == ([{"a": 1}], "no answer within 1 s")


def test_a_family_is_compared_in_every_company() -> None:
    rows = list(child.check_family(FAMILIES["xlm-roberta"], "llama", ["0"]))
    hows = {(row["pooling"], row["how"]) for row in rows}
    assert {("mean", "alone"), ("mean", "packed"), ("mean", "tokens"), ("rank", "packed")} <= hows
    assert [row for row in rows if vectors.find_fault(row, vectors.FAMILY_DISTANCE)] == []


def test_a_comparison_sees_vectors_in_a_wrong_order(tmp_path: Path) -> None:
    family = FAMILIES["bert"]
    weights = read_weights(family.write(tmp_path / "tiny.gguf", Pooling.MEAN))
    _, expected = child.define(family, weights, Pooling.MEAN)
    right = expected["packed"].astype(np.float32)
    same = child.compare(right, expected["packed"], scores=False)
    assert vectors.find_fault(same, vectors.FAMILY_DISTANCE) is None
    moved = child.compare(np.roll(right, 1, axis=0), expected["packed"], scores=False)
    assert "distance" in (vectors.find_fault(moved, vectors.FAMILY_DISTANCE) or "")


def test_of_token_vectors_that_experts_computed_a_few_may_be_those_of_another_choice() -> None:
    right = np.random.default_rng(0).standard_normal((200, 8))
    found = right.astype(np.float32)
    found[[3, 7]] *= -1
    assert child.compare(found, right, scores=False)["distance"] == pytest.approx(2)
    assert child.compare(found, right, scores=False, spared=1)["distance"] == pytest.approx(2)
    assert child.compare(found, right, scores=False, spared=2)["distance"] < 1e-6
    assert FAMILIES.keys() >= child.ROUTED
    found[:] = math.nan
    facts = child.compare(found, right, scores=False, spared=2)
    assert "distance" in (vectors.find_fault(facts, 1e-4) or "")


def test_a_seeded_checkpoint_is_one_that_is_converted(tmp_path: Path) -> None:
    size = Size(width=64, inner=128, layers=2, heads=4)
    folder = write_checkpoint(tmp_path / "seeded", size, Path(find_checkpoint()))
    convert_checkpoint(folder, tmp_path / "seeded.gguf", weights=WeightType.F16)
    facts = read_header_file(tmp_path / "seeded.gguf")
    assert (facts.pooling, facts.context_length) == (Pooling.MEAN, 512)
    engine = child.open_engine("llama", "0", tmp_path / "seeded.gguf", Pooling.MEAN)
    ids = engine.tokenizer.tokenize(["The river is long.", "A computer is a machine."])
    one, other = engine.encode(ids).astype(np.float64)
    assert one @ other / (np.linalg.norm(one) * np.linalg.norm(other)) < 0.95
    engine.close()
    row = child.check_replicas("llama", "0", str(tmp_path / "seeded.gguf"))
    assert vectors.find_fault(row, vectors.MODEL_DISTANCE) is None


FAMILY_ROWS = [
    {"family": "bert", "layers": "all", "pooling": "mean", "how": "alone", "distance": 1e-7},
    {"family": "bert", "layers": "1", "pooling": "mean", "how": "alone", "distance": 2e-7},
    {"family": "t5", "layers": "all", "pooling": "mean", "how": "packed", "distance": 0.5},
]
MODEL_ROWS = [
    {"model": "m", "weights": "f16", "layers": "all", "how": how, "distance": 1e-6, "fault": None}
    | {"gpu_bytes": 3 << 20}
    for how in ("alone", "packed")
]
SPEED_ROWS = [
    {
        "model": "m",
        "workload": "passages",
        "contender": name,
        "texts_per_second": rate,
        "tokens_per_second": 80 * rate,
        "p50": 0.001,
        "p99": 0.002,
        "cosine": 0.99999,
    }
    for name, rate in (("embedd", 300.0), ("torch", 100.0))
]


def test_the_tables_name_every_fault_and_the_ratio_to_torch() -> None:
    families = [{**row, "fault": vectors.find_fault(row, 1e-4)} for row in FAMILY_ROWS]
    lines = format_families(families)
    assert lines[0] == "1 of 2 families have the right vectors."
    assert "| bert | 1.0e-07 | 2.0e-07 | none |" in lines
    assert any("all, mean, packed: distance" in line for line in lines)
    assert "| m | f16 | all | 1.0e-06 | 1.0e-06 | – | 3 | none |" in format_models(MODEL_ROWS)
    speed = format_speed(SPEED_ROWS)
    assert any("| embedd | 300 | 3.00 |" in line for line in speed)
    text = to_markdown({"GPU": "a card"}, families, MODEL_ROWS, SPEED_ROWS, ["cut short"])
    assert text.startswith("GPU a card.\n\n- cut short\n")

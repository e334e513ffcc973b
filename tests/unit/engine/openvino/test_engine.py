"""The OpenVINO engine's own rules: compilation, precision, agreement with llama.cpp."""

import shutil
import subprocess
import sys
import textwrap
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedd.choices import Precision
from embedd.engine.backends import LLAMA_BACKENDS, OPENVINO_BF16, OPENVINO_F32, Backend
from embedd.engine.ipc.messages import Load
from embedd.engine.llama.engine import LlamaEngine
from embedd.engine.llama.tokenizer import LlamaTokenizer
from embedd.engine.padding import round_length
from embedd.engine.protocol import Engine, UnsuitableError
from embedd.engine.spec import ModelSpec
from embedd.engine.worker.crosscheck import check_agreement, choose_tolerance
from embedd.errors import EngineError, ModelLoadError
from embedd.resolve import Resolver
from embedd.store.store import Store
from embedd.types import Pooling, TokenIds, Vectors
from tests import tolerances
from tests.contract.conftest import make_spec
from tests.needs import require_bf16, require_openvino
from tests.tiny_families import CONTEXT, WIDTH, write_tiny_family
from tests.unit.engine.openvino.test_families import distances, make_sequences

require_openvino()
from embedd.engine.openvino import blocks, engine, library, tensors
from embedd.engine.openvino.engine import OpenVinoEngine, choose_streams


@pytest.fixture
def spec(tmp_path: Path) -> ModelSpec:
    return make_spec(write_tiny_family(tmp_path / "tiny.gguf"), Pooling.MEAN, context=CONTEXT)


def load(spec: ModelSpec, backend: Backend = OPENVINO_F32, **settings: Any) -> OpenVinoEngine:
    return OpenVinoEngine.load(spec, backend, **{"threads": 2, **settings})


@pytest.mark.parametrize(
    ("threads", "replicas", "streams"),
    [(2, 1, {2: 1}), (2, 2, {2: 1, 1: 2}), (8, 2, {8: 1, 4: 2}), (1, 1, {1: 1}), (1, 3, {1: 3})],
)
def test_a_lone_batch_gets_all_threads_and_replicas_share_them(
    threads: int, replicas: int, streams: dict[int, int]
) -> None:
    assert choose_streams(threads, replicas) == streams


def test_the_graph_is_compiled_when_it_is_first_needed(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled: list[tuple[int, int]] = []

    def compile_graph(graph: Any, *, streams: int, threads: int, precision: Precision) -> Any:
        compiled.append((streams, threads))
        return library.compile_graph(graph, streams=streams, threads=threads, precision=precision)

    monkeypatch.setattr(engine, "compile_graph", compile_graph)
    first = load(spec, replicas=2)
    second = first.replicate()
    [ids] = make_sequences([9])
    lone = first.encode([ids])
    assert compiled == [(1, 2)]
    for one in (first, second):
        one.set_threads(1)
        assert distances(one.encode([ids]), lone).max() <= 1e-9
    first.set_threads(2)
    assert distances(first.encode([ids]), lone).max() <= 1e-9
    assert compiled == [(1, 2), (2, 1)]


def test_replicas_compute_side_by_side(spec: ModelSpec) -> None:
    first = load(spec, replicas=2)
    replicas = [first, first.replicate()]
    batches = [make_sequences(range(1, CONTEXT), seed) for seed in range(2)]
    expected = [first.encode(batch) for batch in batches]
    for one in replicas:
        one.set_threads(1)
    with ThreadPoolExecutor(2) as pool:
        for _ in range(5):
            found = pool.map(lambda one, batch: one.encode(batch), replicas, batches)
            for vectors, right in zip(found, expected, strict=True):
                assert distances(vectors, right).max() <= 1e-9


def test_a_batch_is_computed_in_few_shapes(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = load(spec)
    request = one.find_request()
    shapes: list[tuple[int, ...]] = []

    class Watched:
        def infer(self, inputs: Any, **how: Any) -> Any:
            shapes.append(inputs[0].shape)
            return request.infer(inputs, **how)

    monkeypatch.setattr(one, "find_request", Watched)
    one.encode(make_sequences([90, 5, 88, 7, 6]))
    # No row beyond the model's positions, whatever lengths are rounded to.
    assert shapes == [(2, CONTEXT), (3, round_length(7))]
    one.encode(make_sequences([CONTEXT]))
    assert shapes[-1] == (1, CONTEXT)


@pytest.mark.parametrize(
    ("pooling", "message"), [(Pooling.RANK, "not loaded as a reranker"), (None, "sequences")]
)
def test_a_batch_that_cannot_be_computed_is_an_error_with_the_reason(
    spec: ModelSpec, pooling: Pooling | None, message: str
) -> None:
    count = 1 if pooling else engine.MAX_SEQUENCES + 1
    with pytest.raises(EngineError, match=message):
        load(spec).encode(make_sequences([3] * count), pooling)


def test_a_batch_that_gets_no_memory_is_a_memory_error(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Request:
        def infer(self, *_: object, **__: object) -> None:
            raise RuntimeError("[CPU] Transpose node with name 'Transpose_7' can't alloc")

    loaded = load(spec)
    monkeypatch.setattr(loaded, "find_request", Request)
    with pytest.raises(MemoryError):
        loaded.encode(make_sequences([9]))


def shift_positions(monkeypatch: pytest.MonkeyPatch) -> None:
    make_inputs = blocks.make_inputs

    def shifted() -> blocks.GraphInputs:
        inputs = make_inputs()
        further = library.ops.add(inputs.positions, blocks.scalar(1))
        return replace(inputs, positions=further)

    monkeypatch.setattr(blocks, "make_inputs", shifted)


def change_epsilon(monkeypatch: pytest.MonkeyPatch) -> None:
    number = tensors.Gguf.number

    def wrong(gguf: tensors.Gguf, key: str, default: float | None = None) -> float:
        right = number(gguf, key, default)
        return 0.1 if key.endswith("epsilon") else right

    monkeypatch.setattr(tensors.Gguf, "number", wrong)


def plant_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch


@pytest.mark.parametrize("plant", [shift_positions, change_epsilon, plant_nothing])
@pytest.mark.parametrize("tag", ["f32", "q8_0"])
def test_a_graph_that_is_not_llama_cpps_is_refused(
    plant: Callable[[pytest.MonkeyPatch], None],
    tag: str,
    default_store: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    spec = Resolver(Store(default_store)).resolve(f"all-minilm:{tag}").spec
    tolerance = choose_tolerance(spec)
    asked = Load(spec=spec, backend=OPENVINO_F32, crosscheck=True)
    plant(monkeypatch)
    found = load(spec)
    if plant is plant_nothing:
        distance = check_agreement(found, asked)
        assert distance is not None
        assert 0 < distance <= (1e-6 if tag == "f32" else tolerance)
        return
    with pytest.raises(UnsuitableError, match="does not agree with llama"):
        check_agreement(found, asked)


SENTENCES = [
    "Why is the sky blue?",
    "Invoices are due within thirty days; late payment costs 1.5 % a month.",
    "def add(a, b):\n    return a + b",
    "An embedding is a list of numbers that stands for the meaning of a text. " * 9,
    "why",
    "",
]


def encode(loaded: Engine, sequences: list[TokenIds]) -> Vectors:
    try:
        return np.concatenate([loaded.encode([ids]) for ids in sequences])
    finally:
        loaded.close()


@pytest.mark.parametrize("tag", ["latest", "f32"])
def test_f32_gives_llama_cpps_vectors_and_bf16_others_that_are_close(
    tag: str, default_store: Path
) -> None:
    spec = Resolver(Store(default_store)).resolve(f"all-minilm:{tag}").spec
    sequences = LlamaTokenizer.load(spec).tokenize(SENTENCES)
    expected = encode(LlamaEngine.load(spec, LLAMA_BACKENDS[0], threads=1), sequences)
    exact = encode(load(spec), sequences)
    assert distances(exact, expected).max() <= tolerances.F32.exact
    require_bf16()
    rounded = distances(encode(load(spec, OPENVINO_BF16), sequences), expected)
    assert rounded.min() > 1e-6, "computed in f32"
    assert rounded.max() <= tolerances.BF16.exact


def test_a_graph_that_was_compiled_for_f32_instead_of_bf16_is_refused(
    spec: ModelSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenVINO ignores the hint for bf16 without an error where the CPU cannot follow it."""
    core = library.open_core()

    class WithoutBf16:
        def compile_model(self, graph: Any, device: str, settings: dict[str, Any]) -> Any:
            return core.compile_model(
                graph, device, {**settings, "INFERENCE_PRECISION_HINT": "f32"}
            )

    monkeypatch.setattr(library, "open_core", WithoutBf16)
    load(spec).close()
    with pytest.raises(ModelLoadError, match=r"bf16 on this CPU.*EMBEDD_PRECISION"):
        load(spec, OPENVINO_BF16)


def test_brain_floats_are_read_and_half_floats_that_overflow_are_refused(tmp_path: Path) -> None:
    import gguf

    random = np.random.default_rng(0)
    matrix = random.standard_normal((WIDTH, WIDTH)).astype(np.float32)
    for name, kind, factor in (("bf16", "BF16", 1.0), ("q8", "Q8_0", 1e6)):
        path = tmp_path / f"{name}.gguf"
        writer = gguf.GGUFWriter(path, "bert")
        quantization = gguf.GGMLQuantizationType[kind]
        data = gguf.quants.quantize(matrix * np.float32(factor), quantization)
        writer.add_tensor("one", data, raw_dtype=quantization)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
    read = tensors.Gguf([tmp_path / "bf16.gguf"]).read("one", WIDTH, WIDTH)
    assert np.allclose(read, matrix, rtol=2**-8)
    with pytest.raises(UnsuitableError, match="overflow float16"):
        tensors.Gguf([tmp_path / "q8.gguf"]).read("one", WIDTH, WIDTH)


SILENT = """
    import socket, sys
    calls = []
    sys.addaudithook(lambda name, _: calls.append(name) if name in {names} else None)
    from pathlib import Path
    from tests.unit.engine.openvino.test_engine import load, make_sequences, make_spec
    from embedd.types import Pooling
    engine = load(make_spec(Path({path!r}), Pooling.MEAN, context=96))
    engine.encode(make_sequences([5, 50]))
    forbidden = ("openvino.tools", "openvino_telemetry", "ovc")
    modules = {{name for name, module in sys.modules.items() if module is not None}}
    imported = [name for name in modules if name.startswith(forbidden)]
    print(calls, imported, "openvino" in sys.modules)
"""


def run_silently(spec: ModelSpec, *before: str) -> subprocess.CompletedProcess[str]:
    names = {"socket.connect", "socket.sendto", "socket.getaddrinfo", "urllib.Request"}
    script = textwrap.dedent(SILENT.format(names=names, path=str(spec.path)))
    command = [*before, sys.executable, "-c", script]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def test_no_connection_is_made_and_no_telemetry_imported(spec: ModelSpec) -> None:
    done = run_silently(spec)
    assert done.stdout.strip() == "[] [] True", done.stderr


def test_no_system_call_makes_a_connection(spec: ModelSpec) -> None:
    """Hooks of Python do not notice what a C library does."""
    strace = shutil.which("strace")
    if not strace or subprocess.run([strace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs strace and the right to use it")
    done = run_silently(spec, strace, "-f", "-e", "trace=connect,sendto,sendmsg")
    assert done.stdout.strip() == "[] [] True", done.stderr
    assert "AF_INET" not in done.stderr

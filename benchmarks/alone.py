"""embedd's engine in this process, without server and socket: a thread for each replica."""

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt

from embedd.config import read_settings
from embedd.engine.backends import LLAMA_BACKENDS, LLAMA_GPU, OPENVINO, Backend, choose_openvino
from embedd.engine.installation import find_llama_libraries, has_gpu_build
from embedd.engine.ipc.messages import Load
from embedd.engine.protocol import Engine
from embedd.engine.serving.batcher import Batcher, Waiting
from embedd.engine.settings import Tuning
from embedd.engine.spec import ModelSpec
from embedd.engine.worker.load import open_engine
from embedd.machine import read_cpu_features
from embedd.resolve import Resolver
from embedd.runtime import open_store
from embedd.types import TokenIds


class EngineAlone:
    """*model* of the store, loaded as a worker loads it.

    Replicas share the cores; a lone batch gets all of them.
    """

    def __init__(self, model: str, engine: str, tuning: Tuning, cores: int) -> None:
        backends = list_backends(engine)
        backend = next(one for one in backends if tuning.backend in {None, one.name})
        self._threads = [ThreadPoolExecutor(1) for _ in range(tuning.replicas)]
        spec = find_spec(model)
        load = Load(spec=spec, backend=backend, cores=spec.threads or cores, tuning=tuning)
        first: Engine = self._threads[0].submit(open_engine, load, lambda _: None).result()
        self.engines = [first, *(one.submit(first.replicate).result() for one in self._threads[1:])]
        self._cores = cores

    def encode(self, sequences: Sequence[TokenIds]) -> npt.NDArray[np.float32]:
        """Return raw vectors, computed in the batches that the server would choose."""
        batches = self._make_batches(sequences)
        vectors = np.empty((len(sequences), self.engines[0].info.width), np.float32)
        busy = min(len(batches), len(self.engines))
        lock = threading.Lock()

        def work(engine: Engine) -> None:
            engine.set_threads(max(1, self._cores // busy))
            while True:
                with lock:
                    if not batches:
                        return
                    rows = batches.popleft()
                vectors[rows] = engine.encode([sequences[row] for row in rows])

        running = [
            thread.submit(work, engine)
            for thread, engine in zip(self._threads[:busy], self.engines[:busy], strict=True)
        ]
        for one in running:
            one.result()
        return vectors

    def close(self) -> None:
        """Close all engines, replicas first."""
        for thread, engine in reversed([*zip(self._threads, self.engines, strict=True)]):
            thread.submit(engine.close).result()
            thread.shutdown()

    def _make_batches(self, sequences: Sequence[TokenIds]) -> deque[list[int]]:
        info = self.engines[0].info
        batcher: Batcher[Waiting] = Batcher()
        waiting = Waiting(lengths=[len(ids) for ids in sequences], pooling=None)
        batcher.add(waiting, max_tokens=info.max_batch_tokens)
        batches: deque[list[int]] = deque()
        while batcher:
            batch = batcher.take_batch(
                max_tokens=info.max_batch_tokens,
                max_sequences=info.max_sequences,
                padded=info.padded,
            )
            batches.append([row for _, row in batch.items])
        return batches


def list_backends(engine: str) -> Sequence[Backend]:
    """Return the backends of *engine* that embedd uses here, in order of preference."""
    if engine == OPENVINO:
        return [choose_openvino(read_settings().precision, read_cpu_features())]
    gpu = [LLAMA_GPU] if has_gpu_build(find_llama_libraries()) else []
    return [*gpu, *LLAMA_BACKENDS]


def find_spec(model: str) -> ModelSpec:
    """Return what to load for *model* of the store."""
    return Resolver(open_store(read_settings())).resolve(model).spec


def calibrate(model: str, engine: str) -> Tuning:
    """Run ``embedd tune`` for *model* on *engine* and return its choice."""
    with tempfile.TemporaryDirectory() as state:
        environment = {**os.environ, "EMBEDD_STATE": state, "EMBEDD_ENGINE": engine}
        command = [sys.executable, "-m", "embedd", "tune", model]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        return read_chosen(Path(state))


def read_chosen(state: Path) -> Tuning:
    """Return the choice that ``embedd tune`` has kept in *state*."""
    [file] = (state / "calibration").iterdir()
    best = json.loads(file.read_text())["value"]["best"]
    return Tuning(
        replicas=best["replicas"], batch_tokens=best["batch_tokens"], backend=best["backend"]
    )

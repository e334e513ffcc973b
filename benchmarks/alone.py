"""embedd's engine in this process: replicas in threads of their own, nothing between."""

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
from embedd.engine.backends import LLAMA_BACKENDS, OPENVINO_F32
from embedd.engine.ipc.messages import Load
from embedd.engine.protocol import Engine
from embedd.engine.serving.lanes import Lanes, Waiting
from embedd.engine.settings import Tuning
from embedd.engine.spec import ModelSpec
from embedd.engine.worker.load import open_engine
from embedd.resolve import Resolver
from embedd.runtime import open_store
from embedd.types import TokenIds


class EngineAlone:
    """*model* of the store, loaded as a worker would load it.

    Replicas share the cores; where one batch is all there is, it gets all of them.
    """

    def __init__(self, model: str, engine: str, tuning: Tuning, cores: int) -> None:
        backends = [OPENVINO_F32] if engine == "openvino" else LLAMA_BACKENDS
        backend = next(one for one in backends if tuning.backend in {None, one.name})
        self._threads = [ThreadPoolExecutor(1) for _ in range(tuning.replicas)]
        spec = find_spec(model)
        load = Load(spec=spec, backend=backend, cores=spec.threads or cores, tuning=tuning)
        first: Engine = self._threads[0].submit(open_engine, load, lambda _: None).result()
        self.engines = [first, *(one.submit(first.replicate).result() for one in self._threads[1:])]
        self._cores = cores

    def encode(self, sequences: Sequence[TokenIds]) -> npt.NDArray[np.float32]:
        """Vectors, as the engine gives them, from the batches that the server would make."""
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
        """Give everything back, replicas first."""
        for thread, engine in reversed([*zip(self._threads, self.engines, strict=True)]):
            thread.submit(engine.close).result()
            thread.shutdown()

    def _make_batches(self, sequences: Sequence[TokenIds]) -> deque[list[int]]:
        info = self.engines[0].info
        lanes: Lanes[Waiting] = Lanes()
        lanes.add(Waiting(lengths=[len(ids) for ids in sequences], pooling=None))
        batches: deque[list[int]] = deque()
        while lanes:
            batch = lanes.take_batch(
                max_tokens=info.max_batch_tokens,
                max_sequences=info.max_sequences,
                padded=info.padded,
            )
            batches.append([row for _, row in batch.items])
        return batches


def find_spec(model: str) -> ModelSpec:
    """What the store knows of *model*."""
    return Resolver(open_store(read_settings())).resolve(model).spec


def calibrate(model: str, engine: str) -> Tuning:
    """What ``embedd tune`` finds for *model* on *engine*, here and now."""
    with tempfile.TemporaryDirectory() as state:
        environment = {**os.environ, "EMBEDD_STATE": state, "EMBEDD_ENGINE": engine}
        command = [sys.executable, "-m", "embedd", "tune", model]
        subprocess.run(command, env=environment, check=True, stdout=sys.stderr)
        return read_chosen(Path(state))


def read_chosen(state: Path) -> Tuning:
    """What ``embedd tune`` has kept in *state*."""
    [file] = (state / "calibration").iterdir()
    best = json.loads(file.read_text())["value"]["best"]
    return Tuning(
        replicas=best["replicas"], batch_tokens=best["batch_tokens"], backend=best["backend"]
    )

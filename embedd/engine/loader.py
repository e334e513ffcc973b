"""Loads models for the scheduler with settings for this machine, and measures such settings."""

import functools
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path

from embedd.cache import VectorCache
from embedd.choices import EngineChoice, Precision, TokenizerChoice
from embedd.engine.backends import LLAMA_BACKENDS, LLAMA_GPU, OPENVINO, Backend, choose_openvino
from embedd.engine.host.process import WorkerProcess
from embedd.engine.ipc.messages import Load
from embedd.engine.serving.cores import CoreBudget
from embedd.engine.serving.local_tokenizer import LocalTokenizer
from embedd.engine.serving.model import ServedModel
from embedd.engine.settings import Tuning
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tuning.background import BackgroundCalibration
from embedd.engine.tuning.calibrate import (
    Calibration,
    Trial,
    Verdict,
    calibrate,
    start_at_fastest,
)
from embedd.engine.tuning.store import TuningStore
from embedd.engine.vocabularies import Vocabularies
from embedd.errors import InsufficientMemoryError, ModelLoadError
from embedd.gguf.header import read_header_file
from embedd.metrics import Metrics
from embedd.types import Pooling

log = logging.getLogger(__name__)


class Loader:
    """Loads models into worker processes.

    Args:
        environment: Environment variables of worker processes.
        cores: Cores that all models together may use.
        engine: The engine for models that do not name one themselves.
        precision: Precision of OpenVINO's arithmetic, for models that do not name one themselves.
        cpu_features: Features of the CPU, named as in ``/proc/cpuinfo``.
        has_openvino: Whether that engine is installed.
        has_gpu: Whether llama.cpp was built for a GPU.
        gpu_layers: Layers to place on the GPU for models that do not say it; None is all.
        tokenizer: Which tokenizer to use, for models that do not name one themselves.
        flash_attention: False turns it off; None and True leave it to the backend.
        load_timeout: Seconds that a load may make no progress, ``math.inf`` for ever.
        max_wait: See `BatchQueue`.
        estimate: Returns the bytes that a worker with a model takes.
        find_room: Returns the bytes that workers for trials may take now.
        take_worker: Returns a worker that was started before a load asked for one, or None.
    """

    def __init__(
        self,
        *,
        environment: Mapping[str, str],
        cores: int,
        cache: VectorCache,
        calibrations: TuningStore,
        metrics: Metrics,
        engine: EngineChoice = EngineChoice.AUTO,
        precision: Precision = Precision.AUTO,
        tokenizer: TokenizerChoice = TokenizerChoice.AUTO,
        cpu_features: AbstractSet[str] = frozenset(),
        has_openvino: bool = False,
        has_gpu: bool = False,
        gpu_layers: int | None = None,
        flash_attention: bool | None = None,
        load_timeout: float = math.inf,
        max_wait: float = math.inf,
        estimate: Callable[[ModelSpec], int] = lambda _spec: 0,
        find_room: Callable[[], int] = lambda: 0,
        take_worker: Callable[[], WorkerProcess | None] = lambda: None,
    ) -> None:
        self._estimate = estimate
        self._find_room = find_room
        self._environment = environment
        self._take_worker = take_worker
        self._cores = CoreBudget(cores)
        self._cache = cache
        self._metrics = metrics
        self._calibrations = calibrations
        self._engine = engine
        self._precision = precision
        self._tokenizer = tokenizer
        self._cpu_features = cpu_features
        self._has_openvino = has_openvino
        self._has_gpu = has_gpu
        self._gpu_layers = gpu_layers
        self._max_wait = max_wait
        self._load_timeout = None if math.isinf(load_timeout) else load_timeout
        self._backends: Sequence[Backend] = LLAMA_BACKENDS
        if flash_attention is False:
            self._backends = [replace(backend, flash_attention=False) for backend in LLAMA_BACKENDS]
        self._vocabularies = Vocabularies(
            start=self._start,
            backend=LLAMA_BACKENDS[-1],
            store=calibrations,
            load_timeout=self._load_timeout,
        )
        self._background = BackgroundCalibration(
            store=calibrations,
            calibrate=self.calibrate,
            cores=cores,
            is_busy=lambda: self._cores.busy,
        )

    async def _start(self) -> WorkerProcess:
        """Return a worker process that has loaded nothing yet."""
        worker = self._take_worker()
        if worker is not None and worker.death is None:
            return worker
        return await WorkerProcess.start(self._environment)

    async def load(self, spec: ModelSpec) -> ServedModel:
        """Start a worker for *spec*, log it, and have better settings measured in the background.

        Raises:
            ModelLoadError: The model cannot be loaded.
            LoadTimeoutError: The load makes no progress.
        """
        await self.end_trials()
        spec = self._place(spec)
        backends = self.choose_backends(spec)
        tuning = self._background.choose(spec, gpu=backends[0].gpu)
        metrics = self._metrics.of_model(spec.name)
        start = time.perf_counter()
        self._vocabularies.prepare(spec)
        model = await ServedModel.load(
            spec,
            start=self._start,
            cores=self._cores,
            cache=self._cache,
            metrics=metrics,
            tuning=tuning,
            crosscheck=self._needs_crosscheck(spec),
            tokenizer=self._vocabularies.choose_place(spec),
            max_wait=self._max_wait,
            load_timeout=self._load_timeout,
            backends=start_at_fastest(backends, tuning),
        )
        self._keep_verdict(spec, model)
        try:
            await self._vocabularies.attach(spec, model)
        except BaseException:
            await model.close()
            raise
        metrics.load_seconds.observe(time.perf_counter() - start)
        info = model.info
        log.info(
            # A file without a digest is loaded once, and its tokenizer is not asked for.
            "model loaded" if spec.digest else "model can be loaded",
            extra={
                "model": spec.name,
                "engine": info.engine,
                "backend": info.backend,
                **({"tokenizer": info.tokenizer} if spec.digest else {}),
                "pid": model.pid,
                "replicas": info.replicas,
                "batch_tokens": info.max_batch_tokens,
                "cores": self._cores.total,
            },
        )
        # Backends before the one that it runs on have failed: they are not measured.
        names = [backend.name for backend in backends]
        self._background.consider(spec, backends[names.index(info.backend) :])
        return model

    def choose_backends(self, spec: ModelSpec) -> list[Backend]:
        """Backends that may compute *spec*, in order of preference.

        Raises:
            ModelLoadError: The engine that it asks for is not installed, or the CPU cannot
                compute with the precision that it asks for.
        """
        wish = spec.engine or self._engine
        if wish is EngineChoice.OPENVINO:
            if not self._has_openvino:
                raise ModelLoadError(
                    f'model "{spec.name}" is to be computed with OpenVINO, which is not installed: '
                    "pip install 'embedd-server[openvino]', or set the engine to auto"
                )
            return [self._choose_openvino(spec)]
        gpu = [LLAMA_GPU] if self._has_gpu and self._place(spec).gpu_layers != 0 else []
        verdict = self._calibrations.read_verdict(spec)
        refused = verdict is not None and verdict.refusal is not None
        if wish is EngineChoice.LLAMA or not self._has_openvino or refused:
            return [*gpu, *self._backends]
        return [*gpu, self._choose_openvino(spec), *self._backends]

    def _choose_openvino(self, spec: ModelSpec) -> Backend:
        return choose_openvino(spec.precision or self._precision, self._cpu_features)

    def _place(self, spec: ModelSpec) -> ModelSpec:
        """*spec* with the operator's layers on the GPU and tokenizer, unless it says its own."""
        return replace(
            spec,
            gpu_layers=self._gpu_layers if spec.gpu_layers is None else spec.gpu_layers,
            tokenizer=spec.tokenizer or self._tokenizer,
        )

    def _keep_verdict(self, spec: ModelSpec, model: ServedModel) -> None:
        """Store what the load showed of the other engine, so that no later load compares again."""
        info, refusal = model.info, model.refusals.get(OPENVINO)
        if info.distance is not None or refusal is not None:
            verdict = Verdict(distance=info.distance, refusal=refusal)
            self._calibrations.write_verdict(spec, verdict)

    async def calibrate(
        self,
        spec: ModelSpec,
        backends: Sequence[Backend] | None = None,
        report: Callable[[Trial], None] = lambda _trial: None,
    ) -> Calibration:
        """Measure settings in workers of their own, each with all cores.

        Raises:
            EngineError: A worker failed.
            ModelLoadError: The model cannot be loaded.
            InsufficientMemoryError: The memory budget has no room for another worker.
        """
        size, room = self._estimate(spec), self._find_room()
        if size > room:
            raise InsufficientMemoryError(
                f'to measure model "{spec.name}" takes about {size} bytes, {room} are left of the '
                "budget (EMBEDD_MEMORY): raise it or unload other models"
            )
        return await calibrate(
            spec,
            self.choose_backends(spec) if backends is None else backends,
            cores=self._cores.total,
            open_worker=functools.partial(self._open_worker, spec),
            has_room=lambda workers: workers * size <= room,
            report=report,
        )

    async def end_trials(self) -> None:
        """End the workers of trials that run: a load needs their memory."""
        await self._background.end_trials()

    async def verify(self, path: Path, name: str) -> None:
        """Load the GGUF *path*, which is not in a store, run its self-test and unload it.

        Args:
            name: What the model is called in the log.

        Raises:
            ModelLoadError: It cannot be loaded, or its vectors are not usable.
        """
        model = await self.load(_read_spec(path, name))
        await model.close()

    def open_vocabulary(
        self, spec: ModelSpec
    ) -> AbstractAsyncContextManager[LocalTokenizer | WorkerProcess]:
        """The tokenizer of *spec* without its weights; see `Vocabularies.open`."""
        return self._vocabularies.open(self._place(spec))

    def _needs_crosscheck(self, spec: ModelSpec) -> bool:
        """Whether no load has compared another engine with llama.cpp on *spec* yet."""
        return self._calibrations.read_verdict(spec) is None

    async def close(self) -> None:
        """Stop measuring. Loaded models are closed by their owners."""
        await self._background.close()
        self._vocabularies.close()

    async def _open_worker(
        self, spec: ModelSpec, backend: Backend, tuning: Tuning
    ) -> tuple[WorkerProcess, ModelInfo]:
        load = Load(
            spec=spec,
            backend=backend,
            cores=spec.threads or self._cores.total,
            tuning=tuning,
            crosscheck=self._needs_crosscheck(spec),
        )
        worker = await self._start()
        try:
            info = await worker.load(load, timeout=self._load_timeout)
        except BaseException:
            await worker.close()
            raise
        return worker, info


def _read_spec(path: Path, name: str) -> ModelSpec:
    """Return what to load for a GGUF that is not in a store."""
    facts = read_header_file(path)
    return ModelSpec(
        name=name,
        digest="",
        path=path,
        pooling=facts.pooling or Pooling.MEAN,
        context_length=facts.context_length or 0,
        vocabulary=facts.vocabulary_size or 0,
        width=facts.vector_length or 0,
        weights=path.stat().st_size,
    )

"""The composition root: the only place that picks concrete parts."""

import asyncio
import contextlib
import functools
import logging
import platform
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from prometheus_client.metrics_core import Metric

from embedd.cache import VectorCache
from embedd.catalog.catalog import read_catalog
from embedd.config import Settings, worker_environment
from embedd.embedder.embedder import Embedder
from embedd.engine.backends import choose_precision
from embedd.engine.loader import Loader, NothingToLearn
from embedd.engine.spec import ModelSpec
from embedd.engine.tuning.calibrate import Calibration, Trial, TuningStore, Verdict
from embedd.errors import EmbeddError, StoreError
from embedd.gguf.header import read_header_file
from embedd.library import Library
from embedd.library.quantize import FileType, quantize_gguf
from embedd.machine import read_cpu_features
from embedd.metrics import Metrics, describe_cache
from embedd.names import parse_model_name
from embedd.resolve import Resolver
from embedd.scheduler.gauges import describe_models
from embedd.scheduler.memory import estimate_bytes
from embedd.scheduler.scheduler import Scheduler
from embedd.state import StateFolder
from embedd.store.blobs import Report
from embedd.store.store import Store
from embedd.types import EngineChoice, Pooling, Precision

if TYPE_CHECKING:
    from embedd.store.hub import Hub

log = logging.getLogger(__name__)

RECIPES = "recipes"  # folder in the state folder: the user's own recipes
GPU_BACKENDS = ("cuda", "hip", "metal", "musa", "sycl", "vulkan")
MODELS_WITHOUT_GPU = 3  # in memory at a time, where the operator does not say


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The two doors of a running server, and what it counts."""

    embedder: Embedder
    library: Library
    metrics: Metrics


def open_store(settings: Settings) -> Store:
    """The store that the settings name; nothing is written until something is added."""
    return Store(settings.models, prune=not settings.noprune)


def open_library(settings: Settings) -> Library:
    """Door two alone, for commands that need no server."""
    store = open_store(settings)
    return _make_library(settings, store, Resolver(store))


@asynccontextmanager
async def open_runtime(settings: Settings) -> AsyncIterator[Runtime]:
    """Everything a server needs; at the end every worker is gone."""
    store = open_store(settings)
    await asyncio.to_thread(_prune, store)
    resolver = Resolver(store)
    metrics = Metrics()
    vectors = VectorCache(settings.cache_bytes)
    loader = _make_loader(
        settings, open_calibrations(settings), metrics, vectors, lambda: scheduler.room
    )
    scheduler = Scheduler(
        load=loader.load,
        estimate=_make_estimate(settings),
        memory=settings.memory,
        max_models=settings.max_loaded_models or MODELS_WITHOUT_GPU,
        max_queue=settings.max_queue,
        keep_alive=settings.keep_alive,
        metrics=metrics,
    )
    embedder = Embedder(
        resolver=resolver,
        scheduler=scheduler,
        open_vocabulary=loader.open_vocabulary,
        metrics=metrics,
        context_length=settings.context_length,
    )
    metrics.watch(
        functools.partial(_look, scheduler, vectors), functools.partial(is_known, scheduler, store)
    )
    library = _make_library(settings, store, resolver)
    try:
        yield Runtime(embedder=embedder, library=library, metrics=metrics)
    finally:
        await scheduler.close()
        await loader.close()


def _look(scheduler: Scheduler, vectors: VectorCache) -> Iterator[Metric]:
    """Yield the metrics that are read from the server's present state."""
    yield from describe_models(scheduler.statuses(), scheduler.load_waiters)
    yield from describe_cache(
        size=vectors.size, entries=len(vectors), hits=vectors.hits, misses=vectors.misses
    )


def is_known(scheduler: Scheduler, store: Store, name: str) -> bool:
    """Whether a model of this name is in memory or in the store, or nobody can tell."""
    if any(one.spec.name == name for one in scheduler.statuses()):
        return True
    try:
        return store.manifests.find(parse_model_name(name)) is not None
    except EmbeddError:
        return True


def _make_loader(
    settings: Settings,
    calibrations: TuningStore,
    metrics: Metrics | None = None,
    vectors: VectorCache | None = None,
    find_room: Callable[[], int] | None = None,
) -> Loader:
    """A loader for a server, or, without what only a server has, for a command."""
    return Loader(
        environment=worker_environment(),
        cores=settings.threads,
        cache=VectorCache(0) if vectors is None else vectors,
        calibrations=calibrations,
        metrics=metrics or Metrics(),
        engine=settings.engine,
        precision=settings.precision,
        cpu_features=read_cpu_features(),
        has_openvino=has_openvino(),
        has_gpu=has_gpu_build(llama_libraries()),
        gpu_layers=settings.gpu_layers,
        flash_attention=settings.flash_attention,
        load_timeout=settings.load_timeout,
        estimate=_make_estimate(settings),
        find_room=find_room or (lambda: settings.memory),
    )


def _make_estimate(settings: Settings) -> Callable[[ModelSpec], int]:
    """Bytes that a model takes with the engines that are installed here."""
    with_openvino = has_openvino() and settings.engine is not EngineChoice.LLAMA
    return functools.partial(estimate_bytes, with_openvino=with_openvino)


def _prune(store: Store) -> None:
    """Remove what was left behind; a store that cannot be tidied up can still be served."""
    try:
        removed = store.prune()
    except StoreError as error:
        log.warning("store not pruned", extra={"cause": str(error)})
        return
    if removed:
        log.info("store pruned", extra={"files": len(removed)})


def _make_library(settings: Settings, store: Store, resolver: Resolver) -> Library:
    verify = functools.partial(verify_gguf, settings=settings)
    return Library(
        store,
        resolver,
        read_catalog(settings.state / RECIPES),
        verify=verify,
        open_hub=open_hub,
        quantize=functools.partial(_quantize, settings=settings),
    )


def _quantize(
    source: Path, target: Path, file_type: FileType, report: Report, *, settings: Settings
) -> None:
    environment, threads = worker_environment(), settings.threads
    quantize_gguf(
        source, target, file_type, environment=environment, threads=threads, report=report
    )


def open_hub() -> "Hub":
    """A client of the Hugging Face hub; its library is imported by the first pull from it."""
    from embedd.store.hub import Hub  # noqa: PLC0415 - takes 0.4 s, which only a pull needs

    return Hub()


def verify_gguf(path: Path, *, settings: Settings) -> None:
    """Load a converted file in a worker of its own and let it pass the self-test.

    Blocks; not for a thread that runs an event loop.

    Raises:
        ModelLoadError: llama.cpp cannot load it, or its vectors are not usable.
    """
    facts = read_header_file(path)
    spec = ModelSpec(
        name=path.name,
        digest="",
        path=path,
        pooling=facts.pooling or Pooling.MEAN,
        context_length=facts.context_length or 0,
        vocabulary=facts.vocabulary_size or 0,
        width=facts.embedding_length or 0,
        weights=path.stat().st_size,
    )

    async def load_and_close() -> None:
        loader = _make_loader(settings, NothingToLearn())
        model = await loader.load(spec)
        await model.close()
        await loader.close()

    asyncio.run(load_and_close())


async def calibrate_model(
    settings: Settings, name: str, report: Callable[[Trial], None]
) -> Calibration:
    """Measure the stored model *name* now, and keep the outcome for its next load.

    Raises:
        ModelNotFoundError: Not in the store.
        ServiceError: It cannot be loaded, or a worker failed.
    """
    spec = Resolver(open_store(settings)).resolve(name).spec
    calibrations = open_calibrations(settings)
    loader = _make_loader(settings, calibrations)
    found = await loader.calibrate(spec, report=report)
    calibrations.write(spec, found)
    return found


def read_calibration(settings: Settings, name: str) -> Calibration | None:
    """What was measured of the stored model *name* on this machine, or None.

    Raises:
        ModelNotFoundError: Not in the store.
    """
    return open_calibrations(settings).read(Resolver(open_store(settings)).resolve(name).spec)


def open_calibrations(settings: Settings) -> TuningStore:
    """What was learnt about models here."""
    return FolderCalibrations(
        StateFolder(settings.state), settings.threads, settings.engine, settings.precision
    )


class FolderCalibrations:
    """Keeps what calibration found, by model, library build, processor, cores and precision."""

    def __init__(
        self, state: StateFolder, cores: int, engine: EngineChoice, precision: Precision
    ) -> None:
        self._state = state
        self._cores = cores
        self._engine = engine
        self._precision = precision

    def read(self, spec: ModelSpec) -> Calibration | None:
        """What was measured of the model here, or None."""
        value = self._state.read("calibration", self._key(spec))
        try:
            return None if value is None else msgspec.convert(value, Calibration)
        except msgspec.ValidationError:
            return None

    def write(self, spec: ModelSpec, calibration: Calibration) -> None:
        """Keep it."""
        self._state.write("calibration", self._key(spec), msgspec.to_builtins(calibration))

    def read_verdict(self, spec: ModelSpec) -> Verdict | None:
        """What was found of the other engine here, or None."""
        value = self._state.read("agreement", self._key(spec))
        try:
            return None if value is None else msgspec.convert(value, Verdict)
        except msgspec.ValidationError:
            return None

    def write_verdict(self, spec: ModelSpec, verdict: Verdict) -> None:
        """Keep it."""
        self._state.write("agreement", self._key(spec), msgspec.to_builtins(verdict))

    def _key(self, spec: ModelSpec) -> str:
        return " ".join(
            [
                spec.digest,
                spec.engine or self._engine,
                spec.pooling,
                describe_build(),
                f"cores={self._cores}",
                choose_precision(spec.precision or self._precision, read_cpu_features()),
            ]
        )


@functools.cache
def describe_build() -> str:
    """The installed engines and this processor: speed depends on them."""
    library = llama_libraries()
    sizes = sorted(f"{file.name}:{file.stat().st_size}" for file in library.glob("libllama*"))
    processor = platform.processor() or platform.machine()
    with contextlib.suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith("model name")), processor)
    openvino = version("openvino") if has_openvino() else "none"
    return f"{version('llama-cpp-python')} {' '.join(sizes)} openvino={openvino} {processor}"


def llama_libraries() -> Path:
    """Folder of the libraries of llama.cpp."""
    found = find_spec("llama_cpp")
    return Path(found.origin).parent / "lib" if found and found.origin else Path()


def has_gpu_build(libraries: Path) -> bool:
    """Whether the libraries in this folder are for a GPU; they are not loaded for that.

    A worker then asks them whether there is one.
    """
    names = {file.name.partition(".")[0] for file in libraries.glob("*ggml-*")}
    return any(name.removeprefix("lib").removeprefix("ggml-") in GPU_BACKENDS for name in names)


def has_openvino() -> bool:
    """Whether that engine is installed; it is not imported for that."""
    return find_spec("openvino") is not None

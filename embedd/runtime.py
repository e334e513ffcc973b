"""The composition root: the one place that builds the parts from the settings."""

import asyncio
import functools
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import Metric

from embedd.cache import VectorCache
from embedd.catalog.catalog import Catalog, read_catalog
from embedd.catalog.suggestions import Suggestions
from embedd.choices import EngineChoice
from embedd.config import (
    Settings,
    image_worker_environment,
    set_environment,
    worker_environment,
)
from embedd.embedder.embedder import Embedder
from embedd.engine.backends import choose_precision
from embedd.engine.host.process import WorkerProcess
from embedd.engine.image_loader import ImageLoader
from embedd.engine.image_spec import ImageSpec
from embedd.engine.installation import (
    describe_build,
    find_llama_libraries,
    has_diffusion,
    has_gpu_build,
    has_openvino,
)
from embedd.engine.loader import Loader
from embedd.engine.serving.image_model import ServedImageModel
from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.engine.tuning.store import SingleUse, TuningStore
from embedd.engine.vocabularies import find_verdict
from embedd.errors import EmbeddError, ExhaustedError, StoreError, StoreLockedError
from embedd.first_worker import FirstWorker, make_environment
from embedd.library import Library
from embedd.library.quantize import FileType, quantize_gguf
from embedd.machine import read_cpu_features
from embedd.metrics import Metrics, describe_cache
from embedd.names import parse_model_name
from embedd.painter.painter import Painter
from embedd.resolve import Resolver
from embedd.scheduler.gauges import describe_models
from embedd.scheduler.memory import estimate_bytes
from embedd.scheduler.scheduler import Scheduler
from embedd.state import StateFolder
from embedd.store.blobs import Report
from embedd.store.disk import is_read_only
from embedd.store.store import Store
from embedd.tokenizers.environment import library_environment

if TYPE_CHECKING:
    from embedd.store.hub import Hub

log = logging.getLogger(__name__)

RECIPES = "recipes"  # folder in the state folder: the user's own recipes


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """What a server answers requests with."""

    embedder: Embedder
    painter: Painter
    library: Library
    metrics: Metrics


def open_store(settings: Settings) -> Store:
    """Return the store that the settings name; it is created when a model is added."""
    return Store(settings.models, prune=not settings.noprune)


def open_library(settings: Settings) -> Library:
    """Return a library for commands that need no server."""
    store = open_store(settings)
    catalog, suggestions = _open_catalog(settings, store)
    resolver = Resolver(store, suggestions.for_use)
    return _make_library(settings, store, resolver, catalog, suggestions)


def find_spec(settings: Settings, name: str) -> ModelSpec:
    """Return what to load for the stored model *name*.

    Raises:
        ModelNotFoundError: Not in the store.
    """
    store = open_store(settings)
    return Resolver(store, _open_catalog(settings, store)[1].for_use).resolve(name).spec


def _open_catalog(settings: Settings, store: Store) -> tuple[Catalog, Suggestions]:
    catalog = read_catalog(settings.state / RECIPES)
    return catalog, Suggestions(catalog, lambda: (one.display for one in store.manifests.names()))


@asynccontextmanager
async def open_runtime(
    settings: Settings, first: FirstWorker | None = None
) -> AsyncIterator[Runtime]:
    """Open what a server needs; when the block ends all workers have ended.

    Args:
        first: A worker that was started before, for the first load.
    """
    store = open_store(settings)
    await asyncio.to_thread(_prune, store)
    catalog, suggestions = _open_catalog(settings, store)
    resolver = Resolver(store, suggestions.for_use)
    metrics = Metrics()
    vectors = VectorCache(settings.cache_bytes)
    tuning = open_tuning(settings)
    set_environment(library_environment(settings.threads))
    first = first or FirstWorker()
    loader = make_loader(
        settings, tuning, metrics, vectors, lambda: scheduler.room, take_worker=first.take
    )
    image_loader = ImageLoader(
        environment=image_worker_environment(),
        cores=settings.threads,
        metrics=metrics,
        max_waiting=settings.max_waiting_images,
        load_timeout=settings.load_timeout,
    )

    async def load_image(spec: ImageSpec) -> ServedImageModel:
        await loader.end_trials()
        return await image_loader.load(spec)

    scheduler = Scheduler(
        load=loader.load,
        load_image=load_image,
        estimate=_make_estimate(settings, tuning),
        memory=settings.memory,
        max_models=settings.max_loaded_models,
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
        max_answer=settings.max_answer,
    )
    painter = Painter(
        find=resolver.find_image_apart,
        scheduler=scheduler,
        is_installed=has_diffusion(),
        max_pixels=settings.max_pixels,
        metadata=settings.image_metadata,
    )
    metrics.watch(
        functools.partial(_look, scheduler, vectors), functools.partial(_is_known, scheduler, store)
    )
    library = _make_library(settings, store, resolver, catalog, suggestions)
    try:
        yield Runtime(embedder=embedder, painter=painter, library=library, metrics=metrics)
    finally:
        await scheduler.close()
        await loader.close()
        await first.close()


def _look(scheduler: Scheduler, vectors: VectorCache) -> Iterator[Metric]:
    """Yield the metrics that are read from the server's present state."""
    yield from describe_models(scheduler.statuses(), scheduler.load_waiters)
    yield from describe_cache(
        size=vectors.size, entries=len(vectors), hits=vectors.hits, misses=vectors.misses
    )


def _is_known(scheduler: Scheduler, store: Store, name: str) -> bool:
    """Return whether a model of this name is in memory or, as far as it can be read, stored."""
    if any(one.spec.name == name for one in scheduler.statuses()):
        return True
    try:
        return store.manifests.find(parse_model_name(name)) is not None
    except EmbeddError:
        return True


def make_loader(
    settings: Settings,
    calibrations: TuningStore,
    metrics: Metrics | None = None,
    vectors: VectorCache | None = None,
    find_room: Callable[[], int] | None = None,
    *,
    take_worker: Callable[[], WorkerProcess | None] = lambda: None,
) -> Loader:
    """Return a loader for a server; without the optional arguments, for a command."""
    return Loader(
        environment=make_environment(settings),
        cores=settings.threads,
        cache=VectorCache(0) if vectors is None else vectors,
        calibrations=calibrations,
        metrics=metrics or Metrics(),
        engine=settings.engine,
        precision=settings.precision,
        tokenizer=settings.tokenizer,
        cpu_features=read_cpu_features(),
        has_openvino=has_openvino(),
        has_gpu=has_gpu_build(find_llama_libraries()),
        gpu_layers=settings.gpu_layers,
        flash_attention=settings.flash_attention,
        max_wait=settings.max_wait,
        load_timeout=settings.load_timeout,
        estimate=_make_estimate(settings, calibrations),
        find_room=find_room or (lambda: settings.memory),
        take_worker=take_worker,
    )


def _make_estimate(settings: Settings, tuning: TuningStore) -> Callable[[ModelSpec], int]:
    """Return an estimate of the bytes that a model takes with the installed engines."""
    with_openvino = has_openvino() and settings.engine is not EngineChoice.LLAMA
    cpu_features = read_cpu_features()

    def estimate(spec: ModelSpec) -> int:
        placed = replace(spec, tokenizer=spec.tokenizer or settings.tokenizer)
        verdict = find_verdict(tuning, placed)
        precision = choose_precision(spec.precision or settings.precision, cpu_features)
        return estimate_bytes(
            spec, with_openvino=with_openvino, precision=precision, tokenizer=verdict
        )

    return estimate


def _prune(store: Store) -> None:
    """Remove leftovers of interrupted pulls; a failure is logged and does not stop the server."""
    try:
        removed = store.prune()
    except (StoreError, StoreLockedError, ExhaustedError) as error:
        if is_read_only(error):
            log.info("store is read-only", extra={"models": str(store.layout.root)})
        else:
            log.warning("store not pruned", extra={"cause": str(error)})
        return
    if removed:
        log.info("store pruned", extra={"files": len(removed)})


def _make_library(
    settings: Settings,
    store: Store,
    resolver: Resolver,
    catalog: Catalog,
    suggestions: Suggestions,
) -> Library:
    return Library(
        store,
        resolver,
        catalog,
        suggestions=suggestions,
        verify=functools.partial(verify_gguf, settings=settings),
        open_hub=open_hub,
        quantize=functools.partial(_quantize, settings=settings),
        find_tokenizer=functools.partial(_find_tokenizer, settings=settings),
    )


def _find_tokenizer(spec: ModelSpec, *, settings: Settings) -> str | None:
    verdict = find_verdict(open_tuning(settings), spec)
    return verdict.name if verdict else None


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


def verify_gguf(path: Path, name: str, *, settings: Settings) -> None:
    """Run `Loader.verify`; not for a thread that runs an event loop.

    Raises:
        ModelLoadError: It cannot be loaded, or its vectors are not usable.
    """

    async def verify() -> None:
        loader = make_loader(settings, SingleUse())
        try:
            await loader.verify(path, name)
        finally:
            await loader.close()

    asyncio.run(verify())


async def load_once(settings: Settings, spec: ModelSpec) -> ModelInfo:
    """Load the stored model *spec*, which tests it, and unload it; return what computed it.

    Raises:
        EmbeddError: No backend computes it.
    """
    loader = make_loader(settings, open_tuning(settings))
    try:
        model = await loader.load(spec)
        await model.close()
    finally:
        await loader.close()
    return model.info


def open_tuning(settings: Settings) -> TuningStore:
    """Return the store of what was measured of models on this machine."""
    return TuningStore(
        StateFolder(settings.state),
        cores=settings.threads,
        engine=settings.engine,
        precision=settings.precision,
        cpu_features=read_cpu_features(),
        build=describe_build(),
    )

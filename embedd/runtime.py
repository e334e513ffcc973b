"""The composition root: the only place that picks concrete parts."""

import asyncio
import functools
import logging
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from embedd.cache import VectorCache
from embedd.catalog.catalog import read_catalog
from embedd.config import Settings, worker_environment
from embedd.embedder import Embedder
from embedd.engine.base import CPU_LADDER, ModelSpec, Rung
from embedd.engine.cores import CoreShares
from embedd.engine.process import WorkerProcess
from embedd.engine.quantizing import FileType, quantize_gguf
from embedd.engine.served import ServedModel
from embedd.engine.tuning import choose_start
from embedd.gguf_header import read_header_file
from embedd.library import Library
from embedd.resolve import Resolver
from embedd.scheduler.memory import estimate_bytes
from embedd.scheduler.scheduler import Scheduler
from embedd.store.blobs import Report
from embedd.store.remote import Source
from embedd.store.store import Store
from embedd.types import Pooling

log = logging.getLogger(__name__)

RECIPES = "recipes"  # folder in the state folder: the user's own recipes
MODELS_WITHOUT_GPU = 3  # in memory at a time, where the operator does not say
# Tokens that may wait for one model: minutes of work on a small machine, and some 16 MiB.
MAX_WAITING_TOKENS = 4_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """The two doors of a running server."""

    embedder: Embedder
    library: Library


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
    resolver = Resolver(store)
    scheduler = Scheduler(
        load=functools.partial(
            load_model,
            settings=settings,
            cores=CoreShares(settings.threads),
            cache=VectorCache(settings.cache_bytes),
        ),
        estimate=estimate_bytes,
        memory=settings.memory,
        max_models=settings.max_loaded_models or MODELS_WITHOUT_GPU,
        max_queue=settings.max_queue,
        keep_alive=settings.keep_alive,
    )
    embedder = Embedder(
        resolver=resolver, scheduler=scheduler, context_length=settings.context_length
    )
    try:
        yield Runtime(embedder=embedder, library=_make_library(settings, store, resolver))
    finally:
        await scheduler.close()


def _make_library(settings: Settings, store: Store, resolver: Resolver) -> Library:
    verify = functools.partial(verify_gguf, settings=settings)
    return Library(
        store,
        resolver,
        read_catalog(settings.state / RECIPES),
        verify=verify,
        open_source=open_hub,
        quantize=functools.partial(_quantize, settings=settings),
    )


def _quantize(
    source: Path, target: Path, file_type: FileType, report: Report, *, settings: Settings
) -> None:
    environment, threads = worker_environment(), settings.threads
    quantize_gguf(
        source, target, file_type, environment=environment, threads=threads, report=report
    )


def open_hub() -> Source:
    """The Hugging Face hub; its library is imported when the first model is pulled from it."""
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
        cores, cache = CoreShares(settings.threads), VectorCache(0)
        model = await load_model(spec, settings=settings, cores=cores, cache=cache)
        await model.close()

    asyncio.run(load_and_close())


async def load_model(
    spec: ModelSpec, *, settings: Settings, cores: CoreShares, cache: VectorCache
) -> ServedModel:
    """Start a worker for *spec*, with a line in the operator's diary.

    Raises:
        ModelLoadError: It cannot be loaded.
        LoadTimeoutError: It makes no progress.
    """
    environment = worker_environment()
    ladder: Sequence[Rung] = CPU_LADDER
    if settings.flash_attention is False:
        ladder = [replace(rung, flash_attention=False) for rung in CPU_LADDER]
    model = await ServedModel.load(
        spec,
        start=functools.partial(WorkerProcess.start, environment),
        cores=cores,
        cache=cache,
        tuning=choose_start(spec, settings.threads),
        max_waiting_tokens=MAX_WAITING_TOKENS,
        load_timeout=None if math.isinf(settings.load_timeout) else settings.load_timeout,
        ladder=ladder,
    )
    log.info(
        "model loaded",
        extra={
            "model": spec.name,
            "engine": model.info.engine,
            "rung": model.info.rung,
            "pid": model.pid,
            "replicas": model.info.replicas,
            "cores": cores.total,
        },
    )
    return model

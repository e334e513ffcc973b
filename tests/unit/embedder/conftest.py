"""An embedder whose models are fakes in this process."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from embedd.embedder.embedder import Embedder
from embedd.metrics import Metrics
from embedd.resolve import Resolver
from embedd.scheduler.scheduler import Scheduler
from embedd.store.store import Store
from tests.fakes import Clock
from tests.server.serving import Loads
from tests.tiny_models import write_tiny_bert, write_tiny_decoder
from tests.unit.embedder.requests import CONTEXT
from tests.unit.stored import store_model


@pytest.fixture
async def loads() -> Loads:
    return Loads()


@pytest.fixture
async def embedder(tmp_path: Path, loads: Loads) -> AsyncIterator[Embedder]:
    """Over a store with the encoder ``tiny`` and the language model ``talker``."""
    store = Store(tmp_path / "models")
    tiny = write_tiny_bert(tmp_path / "tiny.gguf", context=CONTEXT)
    store_model(store, "tiny", tiny, {"query_prefix": "ask: "})
    store_model(store, "talker", write_tiny_decoder(tmp_path / "talker.gguf"))
    metrics = Metrics()
    scheduler = Scheduler(
        load=loads.load,
        estimate=lambda spec: spec.weights,
        memory=1 << 30,
        max_models=3,
        max_queue=8,
        keep_alive=300,
        metrics=metrics,
        clock=Clock(),
    )
    yield Embedder(
        resolver=Resolver(store),
        scheduler=scheduler,
        open_vocabulary=loads.open_vocabulary,
        metrics=metrics,
        context_length=0,
    )
    await scheduler.close()

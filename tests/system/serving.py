"""A complete server in the test's process, with real workers and sockets, on a free port."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
import numpy.typing as npt
import psutil
import pytest

from embedd.config import Address, Settings, read_settings
from embedd.engine import loader as loading
from embedd.engine.fake import FAKE_BACKENDS
from embedd.runtime import Runtime, open_runtime
from embedd.server.access.origins import OriginPolicy
from embedd.server.app import make_app
from embedd.server.batches.shelf import Shelf
from embedd.server.http.bodies import BodyLimits
from embedd.server.http.listener import open_listener
from embedd.server.serve import bind
from embedd.server.wiring import BATCHES
from embedd.store.store import Store
from tests.exposition import Samples, parse
from tests.tiny_models import write_tiny_bert
from tests.tolerances import Tolerance, find_tolerance
from tests.unit.stored import store_model

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """A running server: its base URL, a client session for it, and its parts."""

    url: str
    session: aiohttp.ClientSession
    runtime: Runtime

    async def send(self, path: str, body: object) -> tuple[int, Any]:
        """Send *body* as JSON by POST; return the status and the JSON of the answer."""
        async with self.session.post(self.url + path, json=body) as response:
            return response.status, await response.json()

    async def embed(self, inputs: object, *, model: str = "all-minilm", **fields: object) -> Any:
        """Return the answer of ``/api/embed``, which must succeed."""
        body = {"model": model, "input": inputs, **fields}
        status, reply = await self.send("/api/embed", body)
        assert status == 200, reply
        return reply

    async def vectors(self, inputs: object, **fields: Any) -> Array:
        """Return the vectors of ``/api/embed``, shape (inputs, dimensions); it must succeed."""
        return np.array((await self.embed(inputs, **fields))["embeddings"])

    async def samples(self) -> Samples:
        """Return the samples of ``/metrics``."""
        async with self.session.get(self.url + "/metrics") as response:
            assert response.status == 200
            return parse(await response.text())

    async def tolerance(self, model: str = "all-minilm") -> Tolerance:
        """How exact the vectors are that the model has now."""
        body = {"model": model, "input": "x"}
        async with self.session.post(self.url + "/api/embed", json=body) as response:
            backend = response.headers["X-Embedd-Model"].partition("backend=")[2].split(";")[0]
            return find_tolerance(backend)

    async def running(self) -> list[Any]:
        """Return the rows of ``/api/ps``."""
        async with self.session.get(self.url + "/api/ps") as response:
            models: list[Any] = (await response.json())["models"]
            return models


@asynccontextmanager
async def open_server(settings: Settings) -> AsyncIterator[Server]:
    """Run a server with *settings*; end it and its workers when the block ends."""
    async with open_runtime(settings) as runtime:
        app = make_app(
            embedder=runtime.embedder,
            painter=runtime.painter,
            library=runtime.library,
            bodies=BodyLimits(
                max_body=settings.max_body, max_in_flight=settings.max_body_in_flight
            ),
            origins=OriginPolicy(check_host=True),
            metrics=runtime.metrics,
            shelf=Shelf(
                settings.state / BATCHES, limit=settings.batch_bytes, max_body=settings.max_body
            ),
        )
        socks = bind(Address(port=0))
        port = socks[0].getsockname()[1]
        async with (
            open_listener(app, socks, grace=20.0),
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
        ):
            yield Server(url=f"http://127.0.0.1:{port}", session=session, runtime=runtime)


@asynccontextmanager
async def open_fake_server(
    folder: Path, names: Sequence[str], patch: pytest.MonkeyPatch, **settings: str
) -> AsyncIterator[Server]:
    """Run a server whose workers compute with `FakeEngine`, in which texts cause faults.

    Args:
        names: Models of its store, each with weights of its own.
        settings: Variables of the environment, without their prefix.
    """
    patch.setattr(loading, "LLAMA_BACKENDS", FAKE_BACKENDS)
    store = Store(folder / "models")
    for seed, name in enumerate(names):
        store_model(store, name, write_tiny_bert(folder / f"{name}.gguf", context=64, seed=seed))
    settings = {
        "MODELS": str(folder / "models"),
        "STATE": str(folder / "state"),
        "THREADS": "1",
        "ENGINE": "llama",
        **settings,
    }
    environment = {f"EMBEDD_{name}": value for name, value in settings.items()}
    async with open_server(read_settings(environment)) as server:
        yield server


async def until(condition: Callable[[], bool]) -> None:
    """Wait until *condition* holds, looking again every 20 ms; fail after 60 s."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.02)


def workers() -> list[psutil.Process]:
    """Return the worker processes of this process."""
    children = psutil.Process().children()
    return [child for child in children if "embedd.engine.worker" in child.cmdline()]

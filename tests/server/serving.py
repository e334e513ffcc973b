"""A server without workers: real HTTP, scheduler, resolver and store; models in this process."""

import asyncio
import contextlib
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestClient, TestServer
from aiohttp.typedefs import Middleware

from embedd.catalog.catalog import read_catalog
from embedd.embedder.embedder import Embedder
from embedd.engine.spec import ModelSpec
from embedd.library import Library
from embedd.metrics import Metrics
from embedd.painter.painter import Painter
from embedd.resolve import Resolver
from embedd.scheduler.scheduler import Scheduler
from embedd.server.access.auth import Keys
from embedd.server.access.origins import OriginPolicy
from embedd.server.app import make_app
from embedd.server.batches.shelf import Shelf
from embedd.server.dialects.base import Policy
from embedd.server.http.answers import AnswersInFlight
from embedd.server.http.bodies import BodyLimits
from embedd.server.http.timeouts import Timeouts
from embedd.server.ops.readiness import Readiness
from embedd.store.store import Store
from tests.fake_images import FakeImageLoads
from tests.fakes import Clock, FakeModel
from tests.image_files import write_klein
from tests.key_watch import check_answer
from tests.tiny_models import write_tiny_bert, write_tiny_decoder
from tests.unit.stored import store_image_model, store_model

CONTEXT = 64
MIB = 1 << 20


@dataclass
class Loads:
    """Loads `FakeModel`s; counts and can hold them back.

    Attributes:
        names: Of every model that was loaded, in order.
        vocabularies: The same of those whose vocabulary alone was opened.
        gate: Where every load waits; open at first.
        error: Raised by the next loads, if set.
    """

    names: list[str] = field(default_factory=list)
    vocabularies: list[str] = field(default_factory=list)
    models: list[FakeModel] = field(default_factory=list)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    error: Exception | None = None

    def __post_init__(self) -> None:
        self.gate.set()

    @asynccontextmanager
    async def open_vocabulary(self, spec: ModelSpec) -> AsyncIterator[FakeModel]:
        self.vocabularies.append(spec.name)
        yield FakeModel(spec)

    async def load(self, spec: ModelSpec) -> FakeModel:
        self.names.append(spec.name)
        await self.gate.wait()
        if self.error is not None:
            raise self.error
        self.models.append(FakeModel(spec))
        return self.models[-1]


async def until(condition: Callable[[], bool]) -> None:
    """Let the sockets work until *condition* holds."""
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


@dataclass(kw_only=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    json: Any


@dataclass(kw_only=True)
class Served:
    """A running server, and what moves behind it."""

    client: TestClient[web.Request, web.Application]
    clock: Clock
    loads: Loads
    images: FakeImageLoads
    store: Store
    scheduler: Scheduler

    @property
    def port(self) -> int:
        port = self.client.port
        assert port is not None
        return port

    async def send(self, method: str, path: str, **arguments: Any) -> Reply:
        """A request as the arguments of aiohttp's client have it."""
        async with self.client.request(method, path, **arguments) as response:
            body = await response.read()
            check_answer(body, response.headers.values())
            is_json = response.content_type == "application/json"
            return Reply(
                status=response.status,
                headers=response.headers,
                body=body,
                json=await response.json() if is_json and body else None,
            )

    async def post(self, path: str, body: object) -> Reply:
        """JSON, or bytes as they are."""
        if isinstance(body, bytes):
            return await self.send("POST", path, data=body)
        return await self.send("POST", path, json=body)

    async def embed(self, **body: object) -> Reply:
        return await self.post("/api/embed", {"model": "tiny", **body})

    def add_image_model(self, name: str, parameters: Mapping[str, object] | None = None) -> None:
        """Store a model whose files have names of tensors alone; it paints 64x64 in 2 steps."""
        with tempfile.TemporaryDirectory() as folder:
            paths = write_klein(Path(folder))
            defaults = {"width": 64, "height": 64, "steps": 2}
            store_image_model(self.store, name, paths, defaults | dict(parameters or {}))

    async def ps(self) -> list[Any]:
        models: list[Any] = (await self.send("GET", "/api/ps")).json["models"]
        return models

    async def loaded(self) -> list[str]:
        return [model["name"] for model in await self.ps()]


class RawClient:
    """A client without a library: what it sends is what the server sees.

    Args:
        address: Its own.
    """

    def __init__(self, port: int, address: str = "127.0.0.1") -> None:
        self._port, self._address = port, address

    async def open(self) -> None:
        """Connect; little more than what is asked for is read."""
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.bind((self._address, 0))
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", self._port))
        self.reader, self.writer = await asyncio.open_connection(sock=sock, limit=4096)

    async def send(self, data: bytes) -> None:
        """Send *data* as it is."""
        self.writer.write(data)
        await self.writer.drain()

    async def post(self, body: bytes, length: int | None = None, path: str = "/api/embed") -> None:
        """Connect and send *body*, with the length *length* in the head."""
        await self.open()
        length = len(body) if length is None else length
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n"
        await self.send(head.encode() + body)

    async def status(self) -> int:
        """Return the status of the answer."""
        return int((await self.reader.readuntil(b"\r\n")).split()[1])

    async def rest(self) -> bytes:
        """Return what comes until the server closes the connection."""
        async with asyncio.timeout(60):
            return await self.reader.read()

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(ConnectionError):
            await self.writer.wait_closed()


OpenServer = Callable[..., Any]


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store to copy.

    ``tiny`` has 64 tokens of context; ``short`` stores a limit of 8; ``prefixed`` has
    prefixes; these three share their weights. ``other`` and ``third`` have their own;
    ``talker`` is a language model without pooling, ``ranker`` a reranker.
    """
    folder = tmp_path_factory.mktemp("tiny")
    store = Store(folder / "models")
    tiny = write_tiny_bert(folder / "tiny.gguf", context=CONTEXT)
    store_model(store, "tiny", tiny)
    store_model(store, "short", tiny, {"num_ctx": 8})
    prefixes = {"query_prefix": "ask: ", "document_prefix": "doc: "}
    store_model(store, "prefixed", tiny, prefixes)
    for seed, name in enumerate(("other", "third"), start=1):
        path = write_tiny_bert(folder / f"{name}.gguf", context=CONTEXT, seed=seed)
        store_model(store, name, path)
    store_model(store, "talker", write_tiny_decoder(folder / "talker.gguf"))
    ranker = write_tiny_bert(folder / "rank.gguf", pooling="rank", head=["yes"])
    store_model(store, "ranker", ranker)
    return folder / "models"


@pytest.fixture
async def open_server(tmp_path: Path, tiny_store: Path) -> AsyncIterator[OpenServer]:
    """Opens servers with limits; they have the models of `tiny_store`, or none."""
    store = Store(tmp_path / "models")
    clients: list[TestClient[web.Request, web.Application]] = []
    schedulers: list[Scheduler] = []

    async def open_one(
        *,
        models: bool = True,
        max_models: int = 3,
        max_queue: int = 512,
        context_length: int = 0,
        bodies: BodyLimits | None = None,
        timeouts: Timeouts | None = None,
        origins: OriginPolicy | None = None,
        policy: Policy | None = None,
        keys: Keys | None = None,
        with_images: bool = True,
        max_waiting_images: int = 16,
        max_answer: int = 1 << 30,
        base_path: str = "",
        observers: Sequence[Middleware] = (),
        readiness: Readiness | None = None,
        batch_bytes: int = 1 << 30,
        max_answers: int | None = None,
    ) -> Served:
        if models:
            shutil.copytree(tiny_store, store.layout.root, dirs_exist_ok=True)
        clock, loads, resolver, metrics = Clock(), Loads(), Resolver(store), Metrics()
        images = FakeImageLoads(metrics, max_waiting=max_waiting_images)
        scheduler = Scheduler(
            load=loads.load,
            load_image=images.load,
            estimate=lambda spec: spec.weights,
            memory=1 << 30,
            max_models=max_models,
            max_queue=max_queue,
            keep_alive=300.0,
            metrics=metrics,
            clock=clock,
        )
        app = make_app(
            embedder=Embedder(
                resolver=resolver,
                scheduler=scheduler,
                open_vocabulary=loads.open_vocabulary,
                metrics=metrics,
                context_length=context_length,
                max_answer=max_answer,
            ),
            painter=Painter(
                find=resolver.find_image_apart,
                scheduler=scheduler,
                is_installed=with_images,
            ),
            library=Library(store, resolver, read_catalog(tmp_path / "recipes")),
            answers=AnswersInFlight(max_answers or max_answer),
            bodies=bodies or BodyLimits(max_body=64 * MIB, max_in_flight=512 * MIB),
            origins=origins or OriginPolicy(check_host=True),
            metrics=metrics,
            policy=policy,
            keys=keys,
            timeouts=timeouts,
            base_path=base_path,
            observers=observers,
            readiness=readiness,
            shelf=Shelf(tmp_path / "state" / "batches", limit=batch_bytes, max_body=64 * MIB),
        )
        client = TestClient(TestServer(app), timeout=aiohttp.ClientTimeout(total=20))
        await client.start_server()
        clients.append(client)
        schedulers.append(scheduler)
        return Served(
            client=client,
            clock=clock,
            loads=loads,
            images=images,
            store=store,
            scheduler=scheduler,
        )

    yield open_one
    for client in clients:
        await client.close()
    for scheduler in schedulers:
        await scheduler.close()


@pytest.fixture
async def served(open_server: OpenServer) -> Served:
    """A server with generous limits."""
    server: Served = await open_server()
    return server

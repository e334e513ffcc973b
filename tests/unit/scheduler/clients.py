"""Clients of a scheduler that hold their lease until the test ends it."""

import asyncio
import math
from pathlib import Path

from embedd.engine.serving.model import ServedModel
from embedd.engine.spec import ModelSpec
from embedd.metrics import Metrics
from embedd.scheduler.scheduler import Scheduler
from embedd.types import Pooling
from tests.fakes import Clock, FakeLoader, FakeModel, settle


def make_spec(name: str, size: int = 10) -> ModelSpec:
    return ModelSpec(
        name=name,
        digest=name,
        path=Path("/models") / name,
        pooling=Pooling.MEAN,
        context_length=512,
        vocabulary=1000,
        width=2,
        weights=size,
    )


class Client:
    """One request: asks for a lease at once, keeps it until `leave` or `vanish`."""

    def __init__(
        self, scheduler: Scheduler, spec: ModelSpec, keep_alive: float | None = None
    ) -> None:
        self.model: ServedModel | None = None
        self._done = asyncio.Event()
        self.task = asyncio.create_task(self._hold(scheduler, spec, keep_alive))
        # An error that no test looks at is not logged when the task is collected.
        self.task.add_done_callback(lambda task: task.cancelled() or task.exception())

    @property
    def error(self) -> BaseException | None:
        """What the request ended with."""
        return self.task.exception() if self.task.done() else None

    async def leave(self) -> None:
        """The request is answered."""
        self._done.set()
        await self.task
        await settle()

    async def vanish(self) -> None:
        """The client closes its connection."""
        self.task.cancel()
        await settle()

    async def _hold(self, scheduler: Scheduler, spec: ModelSpec, keep_alive: float | None) -> None:
        async with scheduler.lease(spec, keep_alive) as model:
            self.model = model
            await self._done.wait()


def fake(client: Client) -> FakeModel:
    """The model that it holds, as the test sees it."""
    assert isinstance(client.model, FakeModel)
    return client.model


class Desk:
    """A scheduler with its loader and its clock, all in the hands of the test."""

    def __init__(
        self,
        *,
        max_models: int = 3,
        memory: int = 100,
        max_queue: int = 512,
        keep_alive: float = 300.0,
    ) -> None:
        self._clients: list[Client] = []  # as a server keeps them: nothing else does
        self.clock = Clock()
        self.loader = FakeLoader()
        self.metrics = Metrics()
        self.scheduler = Scheduler(
            load=self.loader.load,
            estimate=lambda spec: spec.weights,
            memory=memory,
            max_models=max_models,
            max_queue=max_queue,
            keep_alive=keep_alive,
            metrics=self.metrics,
            clock=self.clock,
        )

    async def ask(self, spec: ModelSpec, keep_alive: float | None = None) -> Client:
        """A request comes."""
        client = Client(self.scheduler, spec, keep_alive)
        self._clients.append(client)
        await settle()
        return client

    async def serve(self, spec: ModelSpec, keep_alive: float | None = None) -> Client:
        """A request comes and gets its model, loaded if it was not."""
        client = await self.ask(spec, keep_alive)
        if client.model is None:
            await self.loader.finish(spec.name)
        assert client.model is not None
        return client

    async def keep(self, spec: ModelSpec, keep_alive: float | None = None) -> None:
        """A request comes and goes: the model is loaded and idle."""
        await (await self.serve(spec, keep_alive)).leave()

    async def advance(self, seconds: float) -> None:
        """Time passes."""
        self.clock.advance(seconds)
        await settle()

    @property
    def loaded(self) -> list[str]:
        """Names of the models in memory, in order."""
        return sorted(one.spec.name for one in self.scheduler.statuses() if one.info is not None)

    def expires_in(self, spec: ModelSpec) -> float:
        """Seconds until this model goes, as ``ps`` says."""
        return next(
            (one.expires_in for one in self.scheduler.statuses() if one.spec == spec), math.nan
        )

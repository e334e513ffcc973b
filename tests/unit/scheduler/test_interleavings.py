"""The scheduler under any order of events: what holds always, and at the end."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from embedd.errors import (
    EmbeddError,
    InsufficientMemoryError,
    ModelLoadError,
    OverloadedError,
)
from tests.fakes import FakeModel, settle
from tests.unit.scheduler.clients import Client, Desk, make_spec

MAX_MODELS, MEMORY, MAX_QUEUE = 2, 100, 3
SPECS = [make_spec(name, size) for name, size in zip("abcd", (20, 30, 40, 90), strict=True)]
ANY_SPEC = st.sampled_from(SPECS)
KEEP_ALIVES = st.none() | st.sampled_from([0.0, 5.0, 60.0, float("inf")])
PICK = st.randoms(use_true_random=False)


class Interleavings(RuleBasedStateMachine):
    """Clients come and go, loads end or fail, models close late, time passes."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clients: list[Client] = []
        self.desk = self.run(self.open())

    async def open(self) -> Desk:
        return Desk(max_models=MAX_MODELS, memory=MEMORY, max_queue=MAX_QUEUE)

    def run(self, steps: Coroutine[Any, Any, Any]) -> Any:
        return self.loop.run_until_complete(steps)

    @property
    def open_clients(self) -> list[Client]:
        return [client for client in self.clients if not client.task.done()]

    @property
    def open_models(self) -> list[FakeModel]:
        return [model for model in self.desk.loader.models if not model.closed]

    @rule(spec=ANY_SPEC, keep_alive=KEEP_ALIVES)
    def ask(self, spec: Any, keep_alive: float | None) -> None:
        waits = sum(client.model is None for client in self.open_clients)
        client = self.run(self.desk.ask(spec, keep_alive))
        if isinstance(client.error, OverloadedError):
            assert waits >= MAX_QUEUE, "refused with places left in the queue"
        self.clients.append(client)

    @precondition(lambda self: self.open_clients)
    @rule(pick=PICK)
    def leave_or_vanish(self, pick: Any) -> None:
        client = pick.choice(self.open_clients)
        self.run(client.leave() if client.model is not None else client.vanish())

    @precondition(lambda self: self.desk.loader.loading)
    @rule(
        pick=PICK,
        error=st.sampled_from(
            [None, None, None, ModelLoadError("bad"), InsufficientMemoryError("full"), ValueError()]
        ),
    )
    def end_a_load(self, pick: Any, error: Exception | None) -> None:
        name = pick.choice(self.desk.loader.loading)
        loader = self.desk.loader
        self.run(loader.finish(name) if error is None else loader.fail(name, error))

    @precondition(lambda self: self.open_models)
    @rule(pick=PICK, slow=st.booleans(), broken=st.booleans())
    def change_a_model(self, pick: Any, slow: bool, broken: bool) -> None:
        model = pick.choice(self.open_models)
        model.unhealthy_reason = "died too often" if broken else model.unhealthy_reason
        (model.may_close.clear if slow else model.may_close.set)()
        self.run(settle())

    @rule(seconds=st.sampled_from([1.0, 10.0, 400.0]))
    def wait(self, seconds: float) -> None:
        self.run(self.desk.advance(seconds))

    @rule(spec=ANY_SPEC)
    def unload(self, spec: Any) -> None:
        async def unload_beside() -> None:
            self.unloading = asyncio.create_task(self.desk.scheduler.unload(spec))
            await settle()

        self.run(unload_beside())

    @invariant()
    def the_limits_are_kept(self) -> None:
        """Counted on the models themselves, not in the scheduler's books."""
        names = [model.spec.name for model in self.open_models] + self.desk.loader.loading
        assert len(names) <= MAX_MODELS
        assert len(set(names)) == len(names), "a model is in memory twice"
        assert sum(spec.weights for spec in SPECS if spec.name in names) <= MEMORY

    @invariant()
    def a_leased_model_stays(self) -> None:
        for client in self.open_clients:
            assert client.model is None or not client.model.closed  # type: ignore[attr-defined]  # the model is a fake

    @invariant()
    def no_request_waits_for_nothing(self) -> None:
        """While requests wait, a model loads, or a model in memory is used or being unloaded."""
        if any(client.model is None for client in self.open_clients):
            in_use = any(client.model is not None for client in self.open_clients)
            leaving = any(one.expires_in < 0 for one in self.desk.scheduler.statuses())
            assert self.desk.loader.loading or in_use or leaving

    def teardown(self) -> None:
        self.run(self.drain())
        self.loop.close()

    async def drain(self) -> None:
        """Everybody is served and leaves; then the server stops."""
        for _ in range(2 * len(self.clients)):
            for model in self.open_models:
                model.may_close.set()
            for name in self.desk.loader.loading:
                await self.desk.loader.finish(name)
            served = [client for client in self.open_clients if client.model is not None]
            for client in served:
                await client.leave()
            await settle()
        assert not self.open_clients, "a client waits for ever"
        for client in self.clients:
            assert client.task.cancelled() or isinstance(client.error, EmbeddError | None)
        await self.desk.advance(1e6)
        await self.desk.scheduler.close()
        await settle()
        assert not self.open_models


TestInterleavings = Interleavings.TestCase
TestInterleavings.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)

"""Clients that leave, loads that fail, models that break, the end."""

import asyncio

import pytest

from embedd.errors import (
    EmbeddError,
    InsufficientMemoryError,
    ModelLoadError,
    ShuttingDownError,
)
from tests.fakes import FakeModel, settle
from tests.unit.scheduler.clients import Desk, fake, make_spec

A, B, C = make_spec("a"), make_spec("b"), make_spec("c")


# Clients that leave


async def test_a_client_that_leaves_during_a_load_does_not_stop_it() -> None:
    desk = Desk()
    first, second = await desk.ask(A), await desk.ask(A)
    await first.vanish()
    await desk.loader.finish("a")
    assert second.model is not None
    await second.leave()
    assert desk.expires_in(A) == 300


async def test_a_load_that_has_begun_goes_on_without_clients() -> None:
    desk = Desk()
    await (await desk.ask(A)).vanish()
    assert desk.loader.loading == ["a"]


async def test_a_load_that_has_not_begun_is_dropped_with_its_last_client() -> None:
    desk = Desk(max_models=1)
    busy = await desk.serve(A)
    b, c = await desk.ask(B), await desk.ask(C)
    await b.vanish()
    await busy.leave()
    assert desk.loader.loading == ["c"]
    await desk.loader.finish("c")
    assert c.model is not None


async def test_a_client_that_leaves_as_the_load_ends_leaves_no_lease_behind() -> None:
    """Cancelled after the load was done, before the client ran again."""
    desk = Desk()
    client = await desk.ask(A)
    desk.loader._gates["a"].set_result(None)
    for _ in range(10):
        if desk.loaded:
            break
        await asyncio.sleep(0)
    await client.vanish()
    assert client.task.cancelled()
    assert desk.expires_in(A) == 300
    await desk.advance(301)
    assert desk.loaded == []


async def test_a_lease_ends_with_the_error_of_its_block() -> None:
    desk = Desk()
    await desk.keep(A)
    with pytest.raises(ZeroDivisionError):
        async with desk.scheduler.lease(A, 0):
            raise ZeroDivisionError
    await settle()
    assert desk.loaded == []


# Failures


async def test_a_failed_load_reaches_all_waiting_requests_and_leaves_nothing() -> None:
    desk = Desk()
    clients = [await desk.ask(A) for _ in range(5)]
    error = ModelLoadError("bad file")
    await desk.loader.fail("a", error)
    assert [client.error for client in clients] == [error] * 5
    assert desk.scheduler.statuses() == []
    assert (await desk.serve(A)).model is not None


async def test_a_failed_load_makes_way_for_the_next() -> None:
    desk = Desk(max_models=1)
    await desk.ask(A)
    await desk.ask(B)
    await desk.loader.fail("a", ModelLoadError("bad file"))
    assert desk.loader.loading == ["b"]


async def test_a_bug_in_loading_fails_the_request_and_stops_no_other(
    caplog: pytest.LogCaptureFixture,
) -> None:
    desk = Desk(max_models=1)
    a = await desk.ask(A)
    await desk.ask(B)
    await desk.loader.fail("a", ZeroDivisionError())
    assert isinstance(a.error, EmbeddError)
    assert str(a.error) == "internal error"
    assert "ZeroDivisionError" in caplog.text
    assert desk.loader.loading == ["b"]


async def test_a_failed_load_without_waiting_requests_is_forgotten() -> None:
    desk = Desk()
    await (await desk.ask(A)).vanish()
    await desk.loader.fail("a", ModelLoadError("bad file"))
    assert desk.scheduler.statuses() == []


async def test_out_of_memory_unloads_what_is_idle_and_tries_once_more() -> None:
    desk = Desk()
    await desk.keep(A)
    b = await desk.serve(B)
    c = await desk.ask(C)
    await desk.loader.fail("c", InsufficientMemoryError("full"))
    assert desk.loaded == ["b"]
    await desk.loader.finish("c")
    assert c.model is not None
    assert not fake(b).closed


async def test_out_of_memory_twice_is_an_error() -> None:
    desk = Desk()
    await desk.keep(A)
    client = await desk.ask(B)
    await desk.loader.fail("b", InsufficientMemoryError("full"))
    await desk.loader.fail("b", InsufficientMemoryError("still full"))
    assert str(client.error) == "still full"
    assert desk.loader.started == ["a", "b", "b"]


async def test_out_of_memory_with_nothing_to_unload_is_an_error() -> None:
    desk = Desk()
    client = await desk.ask(A)
    await desk.loader.fail("a", InsufficientMemoryError("full"))
    assert str(client.error) == "full"
    assert desk.loader.started == ["a"]


async def test_an_unhealthy_model_is_replaced_at_the_next_lease() -> None:
    desk = Desk()
    await desk.keep(A)
    desk.loader.models[0].unhealthy_reason = "died too often"
    client = await desk.serve(A)
    assert client.model is desk.loader.models[1]
    assert desk.loader.models[0].closed


async def test_an_unhealthy_model_is_replaced_when_its_requests_have_ended() -> None:
    desk = Desk()
    old = await desk.serve(A)
    fake(old).unhealthy_reason = "died too often"
    new = await desk.ask(A)
    other = await desk.ask(B)
    assert desk.loader.loading == ["b"], "a model with room does not wait"
    await old.leave()
    await desk.loader.finish("a")
    assert new.model is desk.loader.models[-1]
    assert other.model is None


async def test_a_model_that_fails_to_close_frees_its_place(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: FakeModel) -> None:
        raise ZeroDivisionError

    desk = Desk(max_models=1)
    await desk.keep(A)
    monkeypatch.setattr(FakeModel, "close", fail)
    await desk.ask(B)
    assert desk.loader.loading == ["b"]
    assert "model failed to close" in caplog.text


# The end


async def test_close_unloads_everything_and_refuses_what_comes() -> None:
    desk = Desk()
    await desk.keep(A)
    busy = await desk.serve(B)
    await desk.scheduler.close()
    assert [model.closed for model in desk.loader.models] == [True, True]
    assert desk.scheduler.statuses() == []
    assert isinstance((await desk.ask(A)).error, ShuttingDownError)
    await busy.leave()
    await desk.advance(1000)
    await desk.scheduler.close()


async def test_close_ends_loads_and_what_waits_for_them() -> None:
    desk = Desk(max_models=1)
    loading, waiting = await desk.ask(A), await desk.ask(B)
    await desk.scheduler.close()
    await settle()
    assert desk.loader.loading == []
    assert isinstance(loading.error, ShuttingDownError)
    assert isinstance(waiting.error, ShuttingDownError)


async def test_time_is_the_event_loops_unless_a_clock_is_given() -> None:
    desk = Desk(keep_alive=0.001)
    desk.scheduler._clock = None
    await desk.keep(A)
    for _ in range(100):
        if not desk.loaded:
            break
        await asyncio.sleep(0.01)
    assert desk.loader.models[0].closed

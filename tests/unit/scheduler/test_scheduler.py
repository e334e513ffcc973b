"""Leases, loading, keep_alive, eviction, the queue, failures, the end."""

import asyncio
import math

import pytest

from embedd.errors import (
    EmbeddError,
    InsufficientMemoryError,
    ModelLoadError,
    OverloadedError,
    ShuttingDownError,
)
from tests.fakes import FakeModel, settle
from tests.unit.scheduler.clients import Client, Desk, make_spec

A, B, C = make_spec("a"), make_spec("b"), make_spec("c")


def fake(client: Client) -> FakeModel:
    assert isinstance(client.model, FakeModel)
    return client.model


# Loading


async def test_clients_of_one_missing_model_share_one_load() -> None:
    desk = Desk()
    clients = [await desk.ask(A) for _ in range(64)]
    assert desk.loader.started == ["a"]
    await desk.loader.finish("a")
    assert len({id(client.model) for client in clients}) == 1
    assert all(client.model is desk.loader.models[0] for client in clients)


async def test_different_models_load_side_by_side() -> None:
    desk = Desk()
    a, b = await desk.ask(A), await desk.ask(B)
    assert desk.loader.loading == ["a", "b"]
    await desk.loader.finish("b")
    assert b.model is not None
    assert a.model is None


async def test_a_load_does_not_hold_up_a_loaded_model() -> None:
    desk = Desk()
    await desk.keep(A)
    await desk.ask(B)
    assert (await desk.ask(A)).model is not None


async def test_a_second_request_finds_the_model_loaded() -> None:
    desk = Desk()
    await desk.keep(A)
    assert (await desk.ask(A)).model is not None
    assert desk.loader.started == ["a"]


async def test_a_model_that_can_never_fit_is_refused_at_once() -> None:
    desk = Desk(memory=100)
    client = await desk.ask(make_spec("huge", 101))
    assert isinstance(client.error, InsufficientMemoryError)
    assert desk.loader.started == []


# keep_alive


async def test_an_idle_model_goes_when_its_time_is_over() -> None:
    desk = Desk(keep_alive=300)
    await desk.keep(A)
    await desk.advance(299.9)
    assert desk.loaded == ["a"]
    await desk.advance(0.2)
    assert desk.loaded == []
    assert desk.loader.models[0].closed


async def test_the_time_starts_anew_when_the_last_request_ends() -> None:
    desk = Desk(keep_alive=300)
    first, second = await desk.serve(A), await desk.serve(A)
    await desk.advance(1000)
    await first.leave()
    await desk.advance(1000)
    await second.leave()
    await desk.advance(299)
    await desk.keep(A)
    await desk.advance(299)
    assert desk.loaded == ["a"]
    await desk.advance(2)
    assert desk.loaded == []


async def test_keep_alive_is_sticky() -> None:
    desk = Desk(keep_alive=300)
    await desk.keep(A, 600)
    await desk.keep(A)
    assert desk.expires_in(A) == 600
    await desk.keep(A, 20)
    assert desk.expires_in(A) == 20


async def test_keep_alive_of_a_request_that_waits_is_kept() -> None:
    desk = Desk(keep_alive=300)
    clients = [await desk.ask(A, 600), await desk.ask(A)]
    await desk.loader.finish("a")
    for client in clients:
        await client.leave()
    assert desk.expires_in(A) == 600


async def test_keep_alive_zero_unloads_when_the_last_request_ends() -> None:
    desk = Desk()
    first, second = await desk.serve(A, 0), await desk.serve(A)
    await first.leave()
    assert desk.loaded == ["a"]
    await second.leave()
    assert desk.loaded == []
    assert desk.loader.models[0].closed


async def test_keep_alive_for_ever_never_ends() -> None:
    desk = Desk()
    await desk.keep(A, math.inf)
    await desk.advance(1e9)
    assert desk.loaded == ["a"]
    assert desk.expires_in(A) == math.inf


async def test_a_busy_model_outlives_its_time() -> None:
    desk = Desk(keep_alive=1)
    client = await desk.serve(A)
    await desk.advance(1000)
    assert not fake(client).closed
    assert desk.expires_in(A) == 1


async def test_a_model_that_nobody_waits_for_any_more_expires_like_others() -> None:
    desk = Desk(keep_alive=300)
    client = await desk.ask(A)
    await client.vanish()
    await desk.loader.finish("a")
    assert desk.expires_in(A) == 300
    await desk.advance(301)
    assert desk.loaded == []


# Eviction


async def test_the_idle_model_with_the_shortest_keep_alive_makes_room() -> None:
    desk = Desk(max_models=2)
    await desk.keep(A, 600)
    await desk.keep(B, 60)
    await desk.serve(C)
    assert desk.loaded == ["a", "c"]


async def test_equal_keep_alives_are_decided_by_path() -> None:
    desk = Desk(max_models=2)
    await desk.keep(B)
    await desk.keep(A)
    await desk.serve(C)
    assert desk.loaded == ["b", "c"]


async def test_idle_models_go_before_busy_ones() -> None:
    desk = Desk(max_models=2)
    await desk.serve(A, 1)
    await desk.keep(B, math.inf)
    await desk.serve(C)
    assert desk.loaded == ["a", "c"]


async def test_of_busy_models_the_shortest_keep_alive_is_drained() -> None:
    desk = Desk(max_models=2)
    a, b = await desk.serve(A, 60), await desk.serve(B, 600)
    c = await desk.ask(C)
    assert desk.expires_in(A) < 0
    assert not fake(a).closed
    assert desk.loader.loading == []
    await a.leave()
    assert desk.loaded == ["b"]
    await desk.loader.finish("c")
    assert c.model is not None
    assert not fake(b).closed


async def test_a_model_that_drains_takes_no_new_requests() -> None:
    desk = Desk(max_models=1)
    a = await desk.serve(A)
    b = await desk.ask(B)
    late = await desk.ask(A)
    assert late.model is None
    await a.leave()
    await desk.loader.finish("b")
    await b.leave()
    await desk.loader.finish("a")
    assert late.model is not None
    assert desk.loader.started == ["a", "b", "a"]


async def test_a_load_begins_when_its_victim_is_gone() -> None:
    """Not before: both would be in memory at a time."""
    desk = Desk(max_models=1)
    await desk.keep(A)
    desk.loader.models[0].may_close.clear()
    await desk.ask(B)
    assert desk.loader.loading == []
    desk.loader.models[0].may_close.set()
    await settle()
    assert desk.loader.loading == ["b"]


async def test_while_a_victim_goes_no_second_one_is_chosen() -> None:
    desk = Desk(max_models=2)
    await desk.keep(A, 60)
    await desk.keep(B, 600)
    desk.loader.models[0].may_close.clear()
    for _ in range(3):
        await desk.ask(C)
    desk.loader.models[0].may_close.set()
    await settle()
    assert desk.loaded == ["b"]
    assert desk.loader.loading == ["c"]


async def test_the_memory_budget_is_kept() -> None:
    desk = Desk(memory=100, max_models=9)
    big, half, small = make_spec("big", 60), make_spec("half", 50), make_spec("small", 30)
    await desk.keep(big)
    await desk.keep(small, 1)
    await desk.serve(half)
    assert desk.loaded == ["half"]


async def test_no_more_is_evicted_than_needed() -> None:
    desk = Desk(memory=100, max_models=9)
    for name in "abcd":
        await desk.keep(make_spec(name, 25))
    await desk.serve(make_spec("e", 26))
    assert desk.loaded == ["c", "d", "e"]


async def test_a_model_that_waits_for_room_is_not_overtaken() -> None:
    desk = Desk(memory=100, max_models=9)
    busy = await desk.serve(make_spec("busy", 60))
    await desk.ask(make_spec("big", 50))
    await desk.ask(make_spec("small", 10))
    assert desk.loader.loading == []
    await busy.leave()
    assert desk.loader.loading == ["big", "small"]


async def test_models_that_load_are_evicted_for_nobody() -> None:
    desk = Desk(max_models=1)
    a = await desk.ask(A)
    b = await desk.ask(B)
    assert desk.loader.loading == ["a"]
    await desk.loader.finish("a")
    assert a.model is not None
    await a.leave()
    await desk.loader.finish("b")
    assert b.model is not None


# The queue


async def test_of_three_requests_for_a_missing_model_a_queue_of_one_refuses_one() -> None:
    desk = Desk(max_queue=1)
    clients = [await desk.ask(A) for _ in range(3)]
    await desk.loader.finish("a")
    assert [client.model is not None for client in clients] == [True, True, False]
    assert isinstance(clients[2].error, OverloadedError)


async def test_a_queue_of_one_means_the_same_while_room_is_made() -> None:
    desk = Desk(max_queue=1, max_models=1)
    busy = await desk.serve(B)
    clients = [await desk.ask(A) for _ in range(3)]
    await busy.leave()
    await desk.loader.finish("a")
    assert [client.model is not None for client in clients] == [True, True, False]


async def test_requests_for_several_missing_models_share_the_queue() -> None:
    desk = Desk(max_queue=1, max_models=1)
    a, b, c = [await desk.ask(spec) for spec in (A, B, C)]
    assert isinstance(c.error, OverloadedError)
    await desk.loader.finish("a")
    await a.leave()
    await desk.loader.finish("b")
    assert b.model is not None


async def test_the_first_request_for_each_model_that_loads_is_not_counted() -> None:
    desk = Desk(max_queue=0, max_models=3)
    for spec in (A, B, C):
        await desk.ask(spec)
    assert desk.loader.loading == ["a", "b", "c"]
    assert isinstance((await desk.ask(A)).error, OverloadedError)


async def test_without_a_queue_an_idle_model_still_makes_room() -> None:
    desk = Desk(max_queue=0, max_models=1)
    await desk.keep(A)
    client = await desk.serve(B)
    assert client.model is not None


async def test_requests_for_loaded_models_are_not_counted() -> None:
    desk = Desk(max_queue=1)
    await desk.keep(B)
    for _ in range(2):
        await desk.ask(A)
    assert all([(await desk.ask(B)).model is not None for _ in range(10)])


async def test_a_place_in_the_queue_is_free_when_its_client_leaves() -> None:
    desk = Desk(max_queue=1)
    await desk.ask(A)
    second = await desk.ask(A)
    await second.vanish()
    third = await desk.ask(A)
    await desk.loader.finish("a")
    assert third.model is not None


async def test_a_load_whose_clients_left_serves_the_next_one_at_once() -> None:
    desk = Desk(max_queue=0)
    await (await desk.ask(A)).vanish()
    client = await desk.ask(A)
    await desk.loader.finish("a")
    assert client.model is not None
    assert desk.loader.started == ["a"]


# Clients that leave


async def test_a_client_that_leaves_during_a_load_harms_nobody() -> None:
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


async def test_a_failed_load_reaches_all_who_wait_and_leaves_nothing() -> None:
    desk = Desk()
    clients = [await desk.ask(A) for _ in range(5)]
    error = ModelLoadError("bad file")
    await desk.loader.fail("a", error)
    assert [client.error for client in clients] == [error] * 5
    assert desk.scheduler.residents() == []
    assert (await desk.serve(A)).model is not None


async def test_a_failed_load_makes_way_for_the_next() -> None:
    desk = Desk(max_models=1)
    await desk.ask(A)
    await desk.ask(B)
    await desk.loader.fail("a", ModelLoadError("bad file"))
    assert desk.loader.loading == ["b"]


async def test_a_bug_in_loading_is_an_error_of_the_request_and_stops_nobody(
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


async def test_a_failed_load_that_nobody_waits_for_is_forgotten() -> None:
    desk = Desk()
    await (await desk.ask(A)).vanish()
    await desk.loader.fail("a", ModelLoadError("bad file"))
    assert desk.scheduler.residents() == []


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


async def test_a_broken_model_is_replaced_at_the_next_lease() -> None:
    desk = Desk()
    await desk.keep(A)
    desk.loader.models[0].broken = "died too often"
    client = await desk.serve(A)
    assert client.model is desk.loader.models[1]
    assert desk.loader.models[0].closed


async def test_a_broken_model_is_replaced_when_its_requests_have_ended() -> None:
    desk = Desk()
    old = await desk.serve(A)
    fake(old).broken = "died too often"
    new = await desk.ask(A)
    other = await desk.ask(B)
    assert desk.loader.loading == ["b"], "a model with room waits for nobody"
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


# Unloading on demand


async def test_unload_returns_when_an_idle_model_is_gone() -> None:
    desk = Desk()
    await desk.keep(A, math.inf)
    await desk.scheduler.unload(A)
    assert desk.loader.models[0].closed
    assert desk.loaded == []


async def test_unload_lets_running_requests_finish() -> None:
    desk = Desk()
    client = await desk.serve(A, math.inf)
    await asyncio.wait_for(desk.scheduler.unload(A), 1)
    assert not fake(client).closed
    await client.leave()
    assert desk.loaded == []


async def test_unload_of_a_model_that_loads_lets_it_go_after_its_requests() -> None:
    desk = Desk()
    client = await desk.ask(A)
    await desk.scheduler.unload(A)
    await desk.loader.finish("a")
    assert client.model is not None
    await client.leave()
    assert desk.loaded == []


async def test_unload_of_a_model_that_is_not_there_does_nothing() -> None:
    desk = Desk()
    await desk.scheduler.unload(A)
    assert desk.scheduler.residents() == []


# Looking


async def test_residents_lists_what_loads_and_what_leaves() -> None:
    desk = Desk(max_models=2)
    await desk.serve(A, 60)
    await desk.ask(B, 20)
    [a, b] = desk.scheduler.residents()
    assert (a.spec, a.size, a.expires_in) == (A, 10, 60)
    assert (b.spec, b.size, b.expires_in, b.model) == (B, 10, 20, None)
    await desk.ask(C)
    assert len(desk.scheduler.residents()) == 2, "what waits for room is not listed"


async def test_residents_counts_down() -> None:
    desk = Desk(keep_alive=300)
    await desk.keep(A)
    await desk.advance(100)
    assert desk.expires_in(A) == 200


# The end


async def test_close_unloads_everything_and_refuses_what_comes() -> None:
    desk = Desk()
    await desk.keep(A)
    busy = await desk.serve(B)
    await desk.scheduler.close()
    assert all(model.closed for model in desk.loader.models)
    assert desk.scheduler.residents() == []
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

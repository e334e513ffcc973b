"""Room for a model: what is evicted, what waits, what is refused."""

import math

from embedd.errors import OverloadedError
from tests.fakes import settle
from tests.unit.scheduler.clients import Desk, fake, make_spec

A, B, C = make_spec("a"), make_spec("b"), make_spec("c")


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


async def test_models_that_load_are_not_evicted() -> None:
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


async def test_room_is_what_no_loaded_or_loading_model_takes() -> None:
    desk = Desk(memory=100)
    assert desk.scheduler.room == 100
    await desk.keep(A)
    await desk.ask(B)
    assert desk.scheduler.room == 100 - sum(one.size for one in desk.scheduler.statuses())
    assert desk.scheduler.room < 100

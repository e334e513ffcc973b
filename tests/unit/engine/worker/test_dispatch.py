"""What replicas take: everything that fits together, urgent first, with their share of cores."""

import itertools
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.engine.ipc import messages
from embedd.engine.worker.dispatch import Batch, Pending, Work, choose_mergeable
from embedd.types import Pooling

_ids = itertools.count(1)


def make_batch(
    *lengths: int, urgent: bool = True, alone: bool = False, pooling: Pooling | None = None
) -> Batch:
    return messages.Encode(next(_ids), pooling, list(lengths), urgent, alone), b""


def make_pending(replicas: int = 2, cores: int = 2) -> Pending:
    return Pending(replicas=replicas, cores=cores, max_tokens=100, max_sequences=8)


def test_a_lone_batch_gets_all_cores() -> None:
    pending = make_pending(replicas=2, cores=4)
    pending.put(make_batch(10))
    assert pending.take().threads == 4


def test_batches_that_are_to_be_alone_have_no_more_than_their_share() -> None:
    """Trials of replicas would be trials of all cores instead."""
    pending = make_pending(replicas=2, cores=4)
    for _ in range(2):
        pending.put(make_batch(10, alone=True))
        assert pending.take().threads == 2


def test_replicas_share_what_waits_and_the_cores() -> None:
    pending = make_pending(replicas=2, cores=4)
    batches = [make_batch(10) for _ in range(6)]
    for batch in batches:
        pending.put(batch)
    first, second = pending.take(), pending.take()
    assert [work.threads for work in (first, second)] == [2, 2]
    assert first.batches == batches[:3]
    assert second.batches == batches[3:]


def test_a_replica_that_becomes_free_takes_all_that_fits() -> None:
    pending = make_pending()
    for batch in (make_batch(90), make_batch(90)):
        pending.put(batch)
    busy, done = pending.take(), pending.take()
    assert len(busy.batches) == len(done.batches) == 1
    batches = [make_batch(30) for _ in range(4)]
    for batch in batches:
        pending.put(batch)
    pending.give_back(done)
    assert pending.take().batches == batches[:3]


def test_urgent_batches_pass_others_and_stay_among_themselves() -> None:
    pending = make_pending(replicas=1, cores=1)
    bulk, urgent = [make_batch(10, urgent=False) for _ in range(2)], make_batch(10)
    for batch in (*bulk, urgent):
        pending.put(batch)
    works = []
    for _ in range(2):
        works.append(pending.take())
        pending.give_back(works[-1])
    assert [work.batches for work in works] == [[urgent], bulk]


def test_no_more_cores_are_used_than_there_are() -> None:
    """A lone batch has them all: another waits until it is done, rather than stall it."""
    pending = make_pending()
    pending.put(make_batch(10))
    lone = pending.take()
    pending.put(make_batch(10))
    taken = threading.Event()

    def take() -> None:
        pending.take()
        taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.wait(0.1)
    pending.give_back(lone)
    assert taken.wait(60)
    thread.join()


def test_more_cores_let_a_waiting_replica_begin() -> None:
    pending = make_pending(replicas=2, cores=1)
    for _ in range(2):
        pending.put(make_batch(60))
    pending.take()
    taken = threading.Event()

    def take() -> None:
        pending.take()
        taken.set()

    thread = threading.Thread(target=take)
    thread.start()
    assert not taken.wait(0.1)
    pending.set_cores(2)
    assert taken.wait(60)
    thread.join()


def test_the_last_busy_replica_is_taken() -> None:
    """Its threads are awake, its memory is in the caches."""
    pending = make_pending()
    order: list[int] = []
    computed = [threading.Semaphore(0) for _ in range(3)]

    def compute(replica: int) -> None:
        for _ in range(3):
            work = pending.take()
            order.append(replica)
            pending.give_back(work)
            computed[replica].release()

    threads = []
    for replica in range(3):
        threads.append(threading.Thread(target=compute, args=(replica,), daemon=True))
        threads[-1].start()
        while len(pending._idle) <= replica:
            pass
    for _ in range(3):
        pending.put(make_batch(10))
        assert computed[2].acquire(timeout=60)
        while len(pending._idle) < 3 - (len(order) == 3):
            pass
    assert order == [2, 2, 2]


@pytest.mark.parametrize(
    ("waiting", "taken"),
    [
        ([make_batch(500), make_batch(1)], 1),
        ([make_batch(10), make_batch(95), make_batch(10)], 2),
        ([make_batch(1, 1, 1, 1), make_batch(1, 1, 1, 1, 1)], 1),
        ([make_batch(10), make_batch(10, pooling=Pooling.NONE), make_batch(10)], 2),
        ([make_batch(10, alone=True), make_batch(10)], 1),
        ([make_batch(10), make_batch(10, alone=True)], 1),
        ([make_batch(10), make_batch(10, urgent=False)], 1),
    ],
    ids=["large", "passed over", "sequences", "pooling", "alone first", "alone", "urgency"],
)
def test_what_is_computed_together(waiting: list[Batch], taken: int) -> None:
    assert len(choose_mergeable(waiting, max_tokens=100, max_sequences=8)) == taken


BATCHES = st.lists(
    st.builds(
        lambda lengths, urgent, alone: make_batch(*lengths, urgent=urgent, alone=alone),
        st.lists(st.integers(1, 60), min_size=1, max_size=8),
        st.booleans(),
        st.booleans(),
    ),
    max_size=12,
)


@given(BATCHES, st.integers(1, 4))
def test_everything_is_taken_once_and_within_bounds(batches: list[Batch], replicas: int) -> None:
    pending = make_pending(replicas=replicas, cores=replicas)
    for batch in batches:
        pending.put(batch)
    taken: list[Batch] = []
    while len(taken) < len(batches):
        work = pending.take()
        lengths = [length for message, _ in work.batches for length in message.lengths]
        assert len(work.batches) == 1 or (sum(lengths) <= 100 and len(lengths) <= 8)
        taken += work.batches
        pending.give_back(work)
    assert sorted(message.id for message, _ in taken) == [message.id for message, _ in batches]
    urgent = [message.urgent for message, _ in taken]
    assert urgent == sorted(urgent, reverse=True)


def test_batches_of_unlike_length_are_not_padded_together() -> None:
    long, short, alike = make_batch(300), make_batch(20), make_batch(280, 270)
    waiting = [long, short, alike]
    assert choose_mergeable(waiting, max_tokens=1000, max_sequences=8) == waiting
    taken = choose_mergeable(waiting, max_tokens=1000, max_sequences=8, padded=True)
    assert taken == [long, alike]


def test_padding_counts_when_batches_are_put_together() -> None:
    waiting = [make_batch(97), make_batch(93), make_batch(93)]
    taken = choose_mergeable(waiting, max_tokens=300, max_sequences=8, padded=True)
    assert taken == waiting[:2]  # three rows would be 312 tokens


# Aborting


def ids_of(work: Work) -> list[int]:
    return [message.id for message, _ in work.batches]


def test_a_batch_that_waits_is_forgotten() -> None:
    pending = make_pending(replicas=1, cores=1)
    batches = [make_batch(90, urgent=urgent) for urgent in (True, False, True, False)]
    for batch in batches:
        pending.put(batch)
    for batch in batches[:2]:
        pending.abort(batch[0].id)
    taken = []
    for _ in range(2):
        work = pending.take()
        taken += work.batches
        pending.give_back(work)
    assert taken == batches[2:]


def test_batches_computed_together_go_on_while_one_is_not_aborted() -> None:
    pending = make_pending(replicas=1, cores=1)
    first, second, other = make_batch(10), make_batch(10), make_batch(90)
    for batch in (first, second, other):
        pending.put(batch)
    work = pending.take()
    assert work.batches == [first, second]
    pending.abort(first[0].id)
    pending.abort(other[0].id)
    assert not work.stop
    pending.abort(second[0].id)
    assert work.stop


def test_a_batch_that_is_stuck_stops_what_is_computed_with_it_and_no_more() -> None:
    pending = make_pending(replicas=2, cores=2)
    batches = [make_batch(30) for _ in range(4)]
    for batch in batches:
        pending.put(batch)
    works = [pending.take(), pending.take()]
    assert [len(work.batches) for work in works] == [2, 2]
    pending.abort(batches[0][0].id, stuck=True)
    assert [bool(work.stop) for work in works] == [True, False]


def test_an_abort_that_comes_too_late_stops_nothing() -> None:
    pending = make_pending(replicas=1, cores=1)
    pending.put(make_batch(10))
    work = pending.take()
    pending.give_back(work)
    pending.abort(ids_of(work)[0])
    assert not work.stop
    assert not pending._aborted

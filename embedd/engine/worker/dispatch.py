"""Chooses in a worker which waiting batches a replica computes together, with how many cores."""

import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TypeAlias

from embedd.engine.ipc import messages
from embedd.engine.padding import is_alike, measure_cost
from embedd.engine.protocol import Stop

Batch: TypeAlias = tuple[messages.Encode, bytes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Batches to compute as one, with so many threads, until *stop* is set."""

    batches: list[Batch]
    threads: int
    stop: Stop = field(default_factory=Stop)


class Pending:
    """Batches that no replica has begun, and the cores that are free to compute them.

    A batch holds what the server had when the worker had room for one, and may be small: so an
    idle replica takes all that fit together, urgent ones first, otherwise in order of arrival. A
    single batch gets all cores unless it asks to run alone; several replicas share the cores and
    the waiting tokens evenly. Of the idle replicas the one that computed last is taken: its
    threads are awake and its memory is in the caches.

    Args:
        max_tokens, max_sequences: Limits of batches that are computed as one.
        padded: Whether a batch costs its rows times its longest sequence.
    """

    def __init__(
        self,
        *,
        replicas: int,
        cores: int,
        max_tokens: int,
        max_sequences: int,
        padded: bool = False,
    ) -> None:
        self._lock = threading.Lock()
        self._idle: list[threading.Condition] = []
        self._lanes: tuple[deque[Batch], deque[Batch]] = (deque(), deque())
        self._replicas = replicas
        self._cores = cores
        self._used = 0
        self._running: list[Work] = []
        self._aborted: set[int] = set()  # ids of running batches whose callers left
        self._max_tokens = max_tokens
        self._max_sequences = max_sequences
        self._padded = padded

    def put(self, batch: Batch) -> None:
        """Add a batch to those that wait."""
        with self._lock:
            self._lanes[0 if batch[0].urgent else 1].append(batch)
            self._wake()

    def set_cores(self, count: int) -> None:
        """Compute with *count* cores, all replicas together, from the next batch on."""
        with self._lock:
            self._cores = count
            self._wake()

    def take(self) -> Work:
        """Wait for something to compute and return it; `give_back` the cores after it."""
        with self._lock:
            while not self._may_start():
                turn = threading.Condition(self._lock)
                self._idle.append(turn)
                turn.wait()
            work = self._choose()
            self._used += work.threads
            self._running.append(work)
            self._wake()
            return work

    def give_back(self, work: Work) -> None:
        """Free the cores of *work*, which is computed."""
        with self._lock:
            self._used -= work.threads
            self._running.remove(work)
            self._aborted.difference_update(message.id for message, _ in work.batches)
            self._wake()

    def abort(self, id_: int, *, stuck: bool = False) -> None:
        """Drop the batch *id_* if it waits; stop it once all batches of its work are aborted.

        If it is *stuck*, stop its work at once.
        """
        with self._lock:
            for lane in self._lanes:
                for batch in [one for one in lane if one[0].id == id_]:
                    lane.remove(batch)
            for work in self._running:
                ids = {message.id for message, _ in work.batches}
                if id_ in ids:
                    self._aborted.add(id_)
                    if stuck or ids <= self._aborted:
                        work.stop.set()

    def _may_start(self) -> bool:
        return any(self._lanes) and self._used < self._cores

    def _wake(self) -> None:
        if self._idle and self._may_start():
            self._idle.pop().notify()

    def _choose(self) -> Work:
        waiting = [batch for lane in self._lanes for batch in lane]
        if len(waiting) == 1 and not self._used and not waiting[0][0].alone:
            return Work(batches=self._remove(waiting), threads=self._cores)
        tokens = sum(sum(message.lengths) for message, _ in waiting)
        share = tokens if self._used else -(-tokens // self._replicas)
        taken = choose_mergeable(
            waiting,
            max_tokens=min(share, self._max_tokens),
            max_sequences=self._max_sequences,
            padded=self._padded,
        )
        threads = max(1, self._cores // self._replicas)
        return Work(batches=self._remove(taken), threads=threads)

    def _remove(self, batches: list[Batch]) -> list[Batch]:
        for batch in batches:
            self._lanes[0 if batch[0].urgent else 1].remove(batch)
        return batches


def choose_mergeable(
    waiting: Iterable[Batch], *, max_tokens: int, max_sequences: int, padded: bool = False
) -> list[Batch]:
    """The first batch and those after it that can be computed together with it, in order.

    They must have the same pooling and urgency, must not ask to run alone and, if they are
    *padded*, must be of similar length. The first is taken whatever its size.
    """
    taken: list[Batch] = []
    lengths: list[int] = []
    for batch in waiting:
        message = batch[0]
        if taken:
            first = taken[0][0]
            if message.alone or first.alone:
                continue
            if message.pooling != first.pooling or message.urgent != first.urgent:
                continue
            together = [*lengths, *message.lengths]
            if len(together) > max_sequences or measure_cost(together, padded=padded) > max_tokens:
                continue
            longest, shorter = sorted([max(lengths), max(message.lengths)], reverse=True)
            if padded and not is_alike(shorter, longest):
                continue
        taken.append(batch)
        lengths += message.lengths
    return taken

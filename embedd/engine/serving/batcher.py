"""The requests that wait for one model, and the choice of the next batch.

Three places choose what is computed together. Each knows something that the others do not:

- The *batcher* (here, in the server) knows all requests: which came first, which are small, which
  client left. It chooses which sequences go to the worker next. It does not know which
  replica will compute a batch, when, or beside which other batch.
- *Dispatch* (`embedd.engine.worker.dispatch`, in the worker) knows which replicas are idle
  now. It joins batches that wait in the worker into one computation and chooses how many
  cores that gets. It does not know requests and never splits a batch; only urgent batches pass
  others.
- *Grouping by length* (`embedd.engine.padding.group_alike`, in an engine that pads) sees one
  computation. It splits that into runs of similar length, so that little is padding. It never
  adds a sequence and returns the vectors in the order that it was given.

Requests wait in lanes of like size, see `choose_lane`, and within a lane they are computed first
come, first served: of many equal requests half are done after half of the time. The first lane
that waits is served, but a lane that was passed so often as `PATIENCE` says has a turn, so that
none starves. A short query is therefore computed right after the running batch, before the rest
of a large request, and large requests go on all the same. The last lane is for requests that ask to
yield to all others. A batch of the first lane takes from no other: a query of ten tokens would
wait for the hundreds that fill up its batch. The other lanes fill up each other's batches.

For engines that pack a batch, its cost is the sum of its tokens: the sequences of a request are
taken in order. For engines that pad, it is the number of sequences times the longest one: a
request gives its longest sequence first, then those closest in length. No request starves,
because the first one of its lane gives the first sequence of the batch.
"""

from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import numpy as np

from embedd.engine.padding import is_alike, round_length
from embedd.types import Pooling

# Most batches of a request in each lane but the last two, which have no limit.
LANE_BATCHES: Final = (1, 16, 256)
# How often in a row a lane may be passed, by its place among the lanes that wait; the last number
# is that of the last lane. The lanes after the first get 1/4 to 1/32, together less than half.
PATIENCE: Final = (1, 3, 7, 15, 31)
BULK_LANE: Final = len(PATIENCE) - 1
# Requests that are looked at for sequences that fit into the gap of a batch.
LOOK_AHEAD: Final = 256


@dataclass(slots=True, eq=False, kw_only=True)
class Waiting:
    """A request as the batcher sees it.

    Args:
        lengths: Tokens of each of its sequences, of which there is at least one.
        pooling: Only requests of equal pooling share a batch.
        is_bulk: Whether it yields to all others.

    Attributes:
        rows: Sequences that no batch has taken; the next one to take is the last.
        waiting: Tokens that no batch has taken.
        lane: Number of its lane.
    """

    lengths: Sequence[int]
    pooling: Pooling | None
    is_bulk: bool = False
    rows: list[int] = field(init=False)
    waiting: int = field(init=False)
    lane: int = field(init=False, default=0)
    _is_sorted: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.rows = list(range(len(self.lengths)))[::-1]
        self.waiting = sum(self.lengths)
        self._is_sorted = len(self.rows) == 1

    def take(self, at: int) -> int:
        """Remove the *at*-th of `rows` and return it."""
        row = self.rows.pop(at)
        self.waiting -= self.lengths[row]
        return row

    def find_longest(self) -> int:
        """Return where in `rows` the longest sequence is, of equal ones the first to take."""
        if not self._is_sorted:
            rows = np.array(self.rows, np.int32)
            lengths = np.array(self.lengths, np.int32)
            # By NumPy, because a hundred thousand take the event loop's time.
            self.rows = rows[np.argsort(lengths[rows], kind="stable")].tolist()
            self._is_sorted = True
        return len(self.rows) - 1

    def find_alike(self, longest: int) -> int | None:
        """Return where in `rows` the longest sequence of up to *longest* tokens is.

        None if padding it to *longest* would not be worth it.
        """
        self.find_longest()
        if len(self.rows) == 1:
            length = self.lengths[self.rows[0]]
            return 0 if length <= longest and is_alike(length, longest) else None
        at = bisect_right(self.rows, longest, key=self.lengths.__getitem__) - 1
        if at < 0 or not is_alike(self.lengths[self.rows[at]], longest):
            return None
        return at


Request = TypeVar("Request", bound=Waiting)


@dataclass(slots=True, kw_only=True)
class Batch(Generic[Request]):
    """Sequences to compute together, each as a request and its row.

    Args:
        max_tokens: Its limit, padding included if *padded*.
        urgent: They are from the first lane.

    Attributes:
        longest, shortest: Tokens of its longest and of its shortest sequence.
        late: Requests that were removed instead of computed.
    """

    max_tokens: int
    max_sequences: int
    padded: bool
    urgent: bool
    items: list[tuple[Request, int]] = field(default_factory=list)
    tokens: int = 0
    longest: int = 0
    shortest: int = 0
    late: list[Request] = field(default_factory=list)

    @property
    def is_full(self) -> bool:
        """Whether no sequence fits, however short."""
        return len(self.items) >= self.max_sequences or self.tokens >= self.max_tokens

    def find_next(self, request: Request) -> int | None:
        """Return where in the request's rows the next sequence for this batch is, or None."""
        if self.items and self.items[0][0].pooling != request.pooling:
            return None
        at: int | None = len(request.rows) - 1
        if self.padded:
            at = self._find_alike(request) if self.items else request.find_longest()
        if at is None or not self._has_room(request.lengths[request.rows[at]]):
            return None
        return at

    def add(self, request: Request, row: int) -> None:
        """Add the sequence *row* of *request*."""
        length = request.lengths[row]
        self.shortest = min(self.shortest, length) if self.items else length
        self.items.append((request, row))
        self.tokens += length
        self.longest = max(self.longest, length)

    def _find_alike(self, request: Request) -> int | None:
        """Return where in the request's rows a sequence is that may be padded with the others.

        Any length up to the padded one costs the same. The only sequence of a request may be
        longer: which of many single texts came first says nothing about their lengths.
        """
        at = request.find_alike(round_length(self.longest))
        if at is None and len(request.rows) == 1:
            length = request.lengths[request.rows[0]]
            if length > self.longest and is_alike(self.shortest, length):
                return 0
        return at

    def _has_room(self, length: int) -> bool:
        """Return whether a sequence of *length* fits; the first one always does."""
        if not self.items:
            return True
        if self.padded:
            padded = round_length(max(length, self.longest))
            return padded * (len(self.items) + 1) <= self.max_tokens
        return self.tokens + length <= self.max_tokens


def choose_lane(*, tokens: int, sequences: int, is_bulk: bool, max_tokens: int) -> int:
    """Return the number of the lane for a request, given the tokens of a batch."""
    if is_bulk:
        return BULK_LANE
    if sequences == 1:
        return 0
    sizes = (lane for lane, most in enumerate(LANE_BATCHES) if tokens <= most * max_tokens)
    return next(sizes, len(LANE_BATCHES))


@dataclass(slots=True, eq=False, kw_only=True)
class Lane(Generic[Request]):
    """Requests of like size, in the order in which they came.

    Attributes:
        tokens: Those that no batch has taken.
        passed: How often in a row it was passed.
    """

    requests: OrderedDict[Request, None] = field(default_factory=OrderedDict)
    tokens: int = 0
    passed: int = 0

    def remove(self, request: Request) -> None:
        """Remove what still waits of *request*, which is in the lane."""
        del self.requests[request]
        self.tokens -= request.waiting

    def fill(self, batch: Batch[Request], is_late: Callable[[Request], bool]) -> None:
        """Move sequences into *batch* until it is full, those of the first requests first."""
        ended: list[Request] = []
        misses = 0
        for request in self.requests:
            if batch.is_full or misses > LOOK_AHEAD:
                break
            if is_late(request):
                batch.late.append(request)
                continue
            misses += 1
            while not batch.is_full and (at := batch.find_next(request)) is not None:
                row = request.take(at)
                batch.add(request, row)
                self.tokens -= request.lengths[row]
                misses = 0
                if not request.rows:
                    ended.append(request)
                    break
        for request in ended:
            del self.requests[request]
        for request in batch.late:
            if request in self.requests:
                self.remove(request)


def never(_request: Waiting) -> bool:
    """Return False: no request is late."""
    return False


class Batcher(Generic[Request]):
    """The requests that wait for one model."""

    def __init__(self) -> None:
        self._lanes: list[Lane[Request]] = [Lane() for _ in PATIENCE]
        self._count = 0  # of the requests in all of them

    def __len__(self) -> int:
        return self._count

    def __bool__(self) -> bool:
        return self._count > 0

    def __iter__(self) -> Iterator[Request]:
        for lane in self._lanes:
            yield from lane.requests

    @property
    def tokens(self) -> int:
        """Tokens that no batch has taken."""
        return sum([lane.tokens for lane in self._lanes])

    @property
    def is_urgent(self) -> bool:
        """Whether a request waits in the first lane."""
        return bool(self._lanes[0].requests)

    def count_ahead(self, lane: int, max_tokens: int) -> int:
        """Return how many of the waiting tokens are computed before a new request in *lane*.

        Args:
            max_tokens: Tokens of a batch.
        """
        own = self._lanes[lane]
        turns = own.tokens + max_tokens  # in tokens; the last one is its own
        before = after = 0
        for at, one in enumerate(self._lanes):
            if one.tokens and at < lane:
                before += one.tokens
            elif one.tokens and at > lane:
                after += min(one.tokens, turns // self._find_patience(at))
        if before:
            before = min(before, self._find_patience(lane) * turns)
        return own.tokens + before + after

    def add(self, request: Request, *, max_tokens: int) -> None:
        """Append *request* to the lane for its size; *max_tokens* are those of a batch."""
        request.lane = choose_lane(
            tokens=request.waiting,
            sequences=len(request.rows),
            is_bulk=request.is_bulk,
            max_tokens=max_tokens,
        )
        lane = self._lanes[request.lane]
        lane.requests[request] = None
        lane.tokens += request.waiting
        self._count += 1

    def remove(self, request: Request) -> None:
        """Remove what still waits of *request*, if anything does."""
        lane = self._lanes[request.lane]
        if request in lane.requests:
            lane.remove(request)
            self._count -= 1

    def take_batch(
        self,
        *,
        max_tokens: int,
        max_sequences: int,
        padded: bool = False,
        is_late: Callable[[Request], bool] = never,
    ) -> Batch[Request]:
        """Remove and return the next batch; something must wait.

        It has at least one sequence, which is alone if it has more than *max_tokens*; none if
        all requests of its lane were late.

        Args:
            max_tokens: Including padding, if the engine pads.
            padded: Whether the engine pads.
            is_late: Whether a request, which is about to be taken, is to be removed instead.
        """
        chosen = self._choose()
        urgent = chosen is self._lanes[0]
        batch: Batch[Request] = Batch(
            max_tokens=max_tokens, max_sequences=max_sequences, padded=padded, urgent=urgent
        )
        chosen.fill(batch, is_late)
        if not urgent and batch.items:
            for lane in self._lanes[1:]:
                if lane is not chosen:
                    lane.fill(batch, is_late)
        self._count = sum([len(lane.requests) for lane in self._lanes])
        return batch

    def _choose(self) -> Lane[Request]:
        """Return the lane whose turn it is, and count the turn."""
        waiting = [(at, lane) for at, lane in enumerate(self._lanes) if lane.requests]
        if len(waiting) == 1:
            [(_, chosen)] = waiting
            chosen.passed = 0
            return chosen
        due = (lane for at, lane in waiting if lane.passed >= self._find_patience(at))
        chosen = next(due, waiting[0][1])
        for _, lane in waiting:
            lane.passed += 1
        chosen.passed = 0
        return chosen

    def _find_patience(self, lane: int) -> int:
        """Return how often in a row *lane* may be passed now."""
        if lane == BULK_LANE:
            return PATIENCE[BULK_LANE]
        return PATIENCE[sum([bool(one.requests) for one in self._lanes[:lane]])]

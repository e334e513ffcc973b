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

There are two lanes. A request begins in the interactive lane; when as many of its tokens were
taken as one batch holds, the rest moves to the bulk lane. So a short query is computed right
after the running batch, before the rest of a large request, and large requests go on all the
same: every `BULK_TURN`-th batch is of the bulk lane. No batch takes from both lanes: a query of
ten tokens would wait for the hundreds that fill up its batch. Within a lane the requests take
turns, sequence by sequence.

For engines that pack a batch, its cost is the sum of its tokens: the sequences of a request are
taken in order. For engines that pad, it is the number of sequences times the longest one: a
request gives its longest sequence first, then those closest in length. No request starves,
because the one whose turn it is gives the first sequence of the batch.
"""

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from embedd.engine.padding import is_alike, round_length
from embedd.types import Pooling

BULK_TURN = 4


@dataclass(slots=True, eq=False, kw_only=True)
class Waiting:
    """A request as the batcher sees it.

    Args:
        lengths: Tokens of each of its sequences, of which there is at least one.
        pooling: Only requests of equal pooling share a batch.

    Attributes:
        rows: Sequences that no batch has taken; the next one to take is the last.
        taken: Tokens that batches have taken.
        waiting: Tokens that no batch has taken.
    """

    lengths: Sequence[int]
    pooling: Pooling | None
    rows: list[int] = field(init=False)
    taken: int = field(init=False, default=0)
    waiting: int = field(init=False)
    _is_sorted: bool = field(init=False, default=False)

    def __post_init__(self) -> None:
        self.rows = list(range(len(self.lengths)))[::-1]
        self.waiting = sum(self.lengths)

    def take(self, at: int) -> int:
        """Remove the *at*-th of `rows` and return it."""
        row = self.rows.pop(at)
        self.taken += self.lengths[row]
        self.waiting -= self.lengths[row]
        return row

    def find_longest(self) -> int:
        """Return where in `rows` the longest sequence is, of equal ones the first to take."""
        if not self._is_sorted:
            self.rows.sort(key=self.lengths.__getitem__)
            self._is_sorted = True
        return len(self.rows) - 1

    def find_alike(self, longest: int) -> int | None:
        """Return where in `rows` the longest sequence of up to *longest* tokens is.

        None if padding it to *longest* would not be worth it.
        """
        self.find_longest()
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
        urgent: They are from the interactive lane.

    Attributes:
        longest: Tokens of its longest sequence; if *padded*, the first one.
    """

    max_tokens: int
    max_sequences: int
    padded: bool
    urgent: bool
    items: list[tuple[Request, int]] = field(default_factory=list)
    tokens: int = 0
    longest: int = 0

    def find_next(self, request: Request) -> int | None:
        """Return where in the request's rows the next sequence for this batch is, or None."""
        if self.items and self.items[0][0].pooling != request.pooling:
            return None
        at: int | None = len(request.rows) - 1
        if self.padded:
            at = request.find_alike(self.longest) if self.items else request.find_longest()
        if at is None or not self._has_room(request.lengths[request.rows[at]]):
            return None
        return at

    def add(self, request: Request, row: int) -> None:
        """Add the sequence *row* of *request*."""
        length = request.lengths[row]
        self.items.append((request, row))
        self.tokens += length
        self.longest = max(self.longest, length)

    def _has_room(self, length: int) -> bool:
        """Return whether a sequence of *length* fits; the first one always does."""
        if not self.items:
            return True
        if self.padded:
            cost = round_length(self.longest) * (len(self.items) + 1)
            return length <= self.longest and cost <= self.max_tokens
        return self.tokens + length <= self.max_tokens


class Batcher(Generic[Request]):
    """The requests that wait for one model."""

    def __init__(self) -> None:
        self._interactive: OrderedDict[Request, None] = OrderedDict()
        self._bulk: OrderedDict[Request, None] = OrderedDict()
        self._turn = 0
        self._tokens = 0

    def __len__(self) -> int:
        return len(self._interactive) + len(self._bulk)

    def __iter__(self) -> Iterator[Request]:
        yield from self._interactive
        yield from self._bulk

    @property
    def tokens(self) -> int:
        """Tokens that no batch has taken."""
        return self._tokens

    @property
    def is_urgent(self) -> bool:
        """Whether a request waits in the interactive lane."""
        return bool(self._interactive)

    def add(self, request: Request) -> None:
        """Append *request* to the interactive lane."""
        self._interactive[request] = None
        self._tokens += request.waiting

    def remove(self, request: Request) -> None:
        """Remove what still waits of *request*, if anything does."""
        for lane in (self._interactive, self._bulk):
            if request in lane:
                del lane[request]
                self._tokens -= request.waiting

    def take_batch(
        self, *, max_tokens: int, max_sequences: int, padded: bool = False
    ) -> Batch[Request]:
        """Remove and return the next batch; something must wait.

        It has at least one sequence, which is alone if it has more than *max_tokens*.

        Args:
            max_tokens: Including padding, if the engine pads.
            padded: Whether the engine pads.
        """
        self._turn += 1
        urgent = not self._bulk or (bool(self._interactive) and self._turn % BULK_TURN != 0)
        batch: Batch[Request] = Batch(
            max_tokens=max_tokens, max_sequences=max_sequences, padded=padded, urgent=urgent
        )
        self._fill(batch, self._interactive if urgent else self._bulk)
        self._tokens -= batch.tokens
        return batch

    def _fill(self, batch: Batch[Request], lane: OrderedDict[Request, None]) -> None:
        """Move sequences from *lane* into *batch* until none fits.

        Requests that gave some go behind those that gave none: so each request gives the
        first sequence of a batch in turn, whatever fits together.
        """
        turns = deque(lane)
        gave: dict[Request, None] = {}  # in the order of the last sequence of each
        passed = 0  # consecutive requests without a sequence that fits
        while passed < len(turns) and len(batch.items) < batch.max_sequences:
            request = turns[0]
            turns.rotate(-1)
            at = batch.find_next(request)
            if at is None:
                passed += 1
                continue
            passed = 0
            batch.add(request, request.take(at))
            gave.pop(request, None)
            gave[request] = None
            if not self._stays(request, lane, batch.max_tokens):
                turns.pop()
        for request in gave:
            if request in lane:
                lane.move_to_end(request)

    def _stays(self, request: Request, lane: OrderedDict[Request, None], most: int) -> bool:
        """Return whether *request*, which gave a sequence, still waits in *lane*.

        It leaves without further sequences, and moves to the bulk lane when *most* of its
        tokens were taken.
        """
        is_large = lane is self._interactive and request.taken >= most
        if request.rows and not is_large:
            return True
        del lane[request]
        if request.rows:
            self._bulk[request] = None
        return False

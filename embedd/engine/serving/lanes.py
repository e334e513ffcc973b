"""What waits for a model, and the choice of the next batch.

Two lanes. A request begins in the interactive lane; when as many of its tokens are taken
as one batch holds, its tail goes on in the bulk lane. So a short query passes a large
request after the batch that is running, and large requests go on all the same: every
`BULK_TURN`-th batch is of the bulk lane. No batch is of both: a query of ten tokens would
wait for the hundred that filled it up. Within a lane the requests take turns,
sequence by sequence.

Engines that pack a batch pay for its tokens: within a request the order is kept. Those that
pad pay for its rows times its longest: a request gives its longest first, and then those
that come nearest. Nothing starves, because the request whose turn it is gives the first.
"""

from bisect import bisect_right
from collections import OrderedDict, deque
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from embedd.engine.padding import is_alike, round_length

BULK_TURN = 4


class Waiting(Protocol):
    """A request as the choice sees it. ``lengths`` are in tokens."""

    @property
    def lengths(self) -> Sequence[int]:
        """Of all its sequences."""
        ...

    @property
    def kind(self) -> Hashable:
        """Only sequences of requests of one kind make a batch."""
        ...


Request = TypeVar("Request", bound=Waiting)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch(Generic[Request]):
    """Sequences to encode together, each as a request and its row.

    ``urgent``: they were in the interactive lane.
    """

    items: list[tuple[Request, int]]
    urgent: bool
    tokens: int


@dataclass(slots=True, eq=False)
class _Place(Generic[Request]):
    """A request in a lane: rows to take, the last first, tokens taken and still waiting."""

    request: Request
    rows: list[int]
    taken: int
    waiting: int
    is_sorted: bool = False

    def sort(self) -> None:
        """Let the longest be the first to take; a tie keeps the order of the request."""
        if not self.is_sorted:
            self.rows.sort(key=self.request.lengths.__getitem__)
            self.is_sorted = True

    def find_alike(self, longest: int) -> int | None:
        """Where in ``rows`` is the longest that is no longer than this, if it is alike."""
        at = bisect_right(self.rows, longest, key=self.request.lengths.__getitem__) - 1
        if at < 0 or not is_alike(self.request.lengths[self.rows[at]], longest):
            return None
        return at


@dataclass(slots=True, kw_only=True)
class _Load:
    """What a batch holds and may hold; its longest sequence was the first, if it is padded."""

    max_tokens: int
    max_sequences: int
    padded: bool
    tokens: int = 0
    sequences: int = 0
    longest: int = 0

    def has_room(self, length: int) -> bool:
        """Whether a sequence of *length* may join; the first always may."""
        if not self.sequences:
            return True
        if self.padded:
            cost = round_length(self.longest) * (self.sequences + 1)
            return length <= self.longest and cost <= self.max_tokens
        return self.tokens + length <= self.max_tokens

    def add(self, length: int) -> None:
        """A sequence joins."""
        self.tokens += length
        self.sequences += 1
        self.longest = max(self.longest, length)


class Lanes(Generic[Request]):
    """The requests that wait for one model."""

    def __init__(self) -> None:
        self._interactive: OrderedDict[Request, _Place[Request]] = OrderedDict()
        self._bulk: OrderedDict[Request, _Place[Request]] = OrderedDict()
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
        """Whether something waits in the interactive lane."""
        return bool(self._interactive)

    def add(self, request: Request) -> None:
        """Let a request wait that has at least one sequence."""
        waiting = sum(request.lengths)
        rows = list(range(len(request.lengths)))[::-1]
        self._interactive[request] = _Place(request, rows=rows, taken=0, waiting=waiting)
        self._tokens += waiting

    def remove(self, request: Request) -> None:
        """Forget what still waits of *request*, if anything does."""
        for lane in (self._interactive, self._bulk):
            if (place := lane.pop(request, None)) is not None:
                self._tokens -= place.waiting

    def take_batch(
        self, *, max_tokens: int, max_sequences: int, padded: bool = False
    ) -> Batch[Request]:
        """The next batch: at least one sequence, and a longer one than *max_tokens* alone.

        Args:
            max_tokens: With padding, if the engine pads.
        """
        self._turn += 1
        urgent = not self._bulk or (bool(self._interactive) and self._turn % BULK_TURN != 0)
        lane = self._interactive if urgent else self._bulk
        items: list[tuple[Request, int]] = []
        load = _Load(max_tokens=max_tokens, max_sequences=max_sequences, padded=padded)
        self._fill(items, lane, load)
        self._tokens -= load.tokens
        return Batch(items=items, urgent=urgent, tokens=load.tokens)

    def _fill(
        self,
        items: list[tuple[Request, int]],
        lane: OrderedDict[Request, _Place[Request]],
        load: _Load,
    ) -> None:
        """Move sequences from *lane* into *items*, as many as *load* has room for.

        Requests that gave some go behind those that gave nothing: so each has its turn to
        give the first, whatever fits together.
        """
        turns = deque(lane.items())
        gave: dict[Request, None] = {}  # in the order of the last that each gave
        passed = 0  # requests in a row that have nothing that fits
        while passed < len(turns) and load.sequences < load.max_sequences:
            request, place = turns[0]
            turns.rotate(-1)
            at = _choose(place, load)
            fits = at is not None and load.has_room(request.lengths[place.rows[at]])
            if at is None or not fits or (items and items[0][0].kind != request.kind):
                passed += 1
                continue
            passed = 0
            row = place.rows.pop(at)
            items.append((request, row))
            load.add(request.lengths[row])
            gave.pop(request, None)
            gave[request] = None
            if not self._step(place, request.lengths[row], lane, load.max_tokens):
                turns.pop()
        for request in gave:
            if request in lane:
                lane.move_to_end(request)

    def _step(
        self,
        place: _Place[Request],
        length: int,
        lane: OrderedDict[Request, _Place[Request]],
        head_tokens: int,
    ) -> bool:
        """One sequence of the request is taken: does the rest wait in *lane*?"""
        place.taken += length
        place.waiting -= length
        is_demoted = lane is self._interactive and place.taken >= head_tokens
        if place.rows and not is_demoted:
            return True
        del lane[place.request]
        if place.rows:
            self._bulk[place.request] = place
        return False


def _choose(place: _Place[Request], load: _Load) -> int | None:
    """Where in its rows is what a request gives next to a batch, or None."""
    if not load.padded:
        return len(place.rows) - 1
    place.sort()
    return place.find_alike(load.longest) if load.sequences else len(place.rows) - 1

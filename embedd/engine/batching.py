"""What waits for a model, and the choice of the next batch.

Two lanes. A request begins in the interactive lane; when as many of its tokens are taken
as one batch holds, its tail goes on in the bulk lane. So a short query passes a large
request after the batch that is running, and large requests go on all the same: every
`BULK_TURN`-th batch is of the bulk lane. No batch is of both: a query of ten tokens would
wait for the hundred that filled it up. Within a lane the requests take turns,
sequence by sequence; within a request the order is kept.
"""

from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

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
    """A request in a lane: the next row to take, the tokens taken and still waiting."""

    request: Request
    row: int
    taken: int
    waiting: int


class Lanes(Generic[Request]):
    """The requests that wait for one model."""

    def __init__(self) -> None:
        self._interactive: OrderedDict[Request, _Place[Request]] = OrderedDict()
        self._bulk: OrderedDict[Request, _Place[Request]] = OrderedDict()
        self._turn = 0
        self._tokens = 0

    def __bool__(self) -> bool:
        return bool(self._interactive or self._bulk)

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
        self._interactive[request] = _Place(request, row=0, taken=0, waiting=waiting)
        self._tokens += waiting

    def remove(self, request: Request) -> None:
        """Forget what still waits of *request*, if anything does."""
        for lane in (self._interactive, self._bulk):
            if (place := lane.pop(request, None)) is not None:
                self._tokens -= place.waiting

    def take_batch(self, *, max_tokens: int, max_sequences: int) -> Batch[Request]:
        """The next batch: at least one sequence, and a longer one than *max_tokens* alone."""
        self._turn += 1
        urgent = not self._bulk or (bool(self._interactive) and self._turn % BULK_TURN != 0)
        lane = self._interactive if urgent else self._bulk
        items: list[tuple[Request, int]] = []
        tokens = self._fill(items, lane, max_tokens, max_sequences)
        self._tokens -= tokens
        return Batch(items=items, urgent=urgent, tokens=tokens)

    def _fill(
        self,
        items: list[tuple[Request, int]],
        lane: OrderedDict[Request, _Place[Request]],
        max_tokens: int,
        max_sequences: int,
    ) -> int:
        """Move sequences from *lane* into *items*; the tokens that *items* then hold."""
        tokens = 0
        passed = 0  # requests in a row whose next sequence does not fit
        while passed < len(lane) and len(items) < max_sequences:
            request, place = next(iter(lane.items()))
            lane.move_to_end(request)
            length = request.lengths[place.row]
            if items and (tokens + length > max_tokens or items[0][0].kind != request.kind):
                passed += 1
                continue
            passed = 0
            items.append((request, place.row))
            tokens += length
            self._step(place, length, lane, max_tokens)
        return tokens

    def _step(
        self,
        place: _Place[Request],
        length: int,
        lane: OrderedDict[Request, _Place[Request]],
        head_tokens: int,
    ) -> None:
        """One sequence of the request is taken: where does the rest wait?"""
        place.row += 1
        place.taken += length
        place.waiting -= length
        if place.row == len(place.request.lengths):
            del lane[place.request]
        elif lane is self._interactive and place.taken >= head_tokens:
            del lane[place.request]
            self._bulk[place.request] = place

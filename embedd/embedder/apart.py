"""Work on many inputs, or on many token ids, which is done in a thread."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, TypeVar

from embedd.types import ClientIds, Input

P = ParamSpec("P")
T = TypeVar("T")

QUICK_INPUTS: Final = 1000  # on which a loop of Python takes a millisecond
QUICK_IDS: Final = 1 << 18  # in all of them, on which NumPy takes a millisecond


async def apart(
    inputs: Sequence[Input], work: Callable[P, T], *args: P.args, **kwargs: P.kwargs
) -> T:
    """Return ``work(*args, **kwargs)``, in a thread if *inputs* are many or have many ids."""
    if len(inputs) == 1 and isinstance(inputs[0], str):  # most requests
        return work(*args, **kwargs)
    if len(inputs) <= QUICK_INPUTS and sum(map(_count_ids, inputs)) <= QUICK_IDS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)


def list_ids(one: Input) -> Sequence[ClientIds]:
    """Return the token ids in an input that its client sent."""
    parts = one if isinstance(one, tuple) else (one,)
    return [part for part in parts if not isinstance(part, str)]


def _count_ids(one: Input) -> int:
    return 0 if isinstance(one, str) else sum(map(len, list_ids(one)))

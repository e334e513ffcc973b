"""Work on many inputs, which is done in a thread."""

import asyncio
from collections.abc import Callable
from typing import Final, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

QUICK_INPUTS: Final = 1000  # on which a loop of Python takes a millisecond


async def apart(inputs: int, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Return ``work(*args, **kwargs)``, called in a thread if there are many *inputs*."""
    if inputs <= QUICK_INPUTS:
        return work(*args, **kwargs)
    return await asyncio.to_thread(work, *args, **kwargs)

"""What computes vectors, and a pool that shares requests among several of them."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import numpy as np
import numpy.typing as npt

from embedd.embedder.embedder import Embedder
from embedd.errors import OverloadedError, ServiceError, UnavailableError
from embedd.ollama_api import format_served_by
from embedd.types import (
    Arrays,
    Chunking,
    DimensionCheck,
    DType,
    EmbedRequest,
    EmbedResult,
    Priority,
    Prompt,
    Schedule,
    Truncate,
    VectorFormat,
)

Numbers: TypeAlias = npt.NDArray[Any]  # (vectors, numbers or bytes) of the dtype that is wanted

IN_FLIGHT: Final = 2  # requests: one is computed while the next is on its way
REQUEST_TOKENS: Final = 20_000
REQUEST_TEXTS: Final = 2_000  # below the default of EMBEDD_MAX_INPUTS
MAX_CHUNKS: Final = 100_000
TOKENS_PER_CHARACTER: Final = 0.25  # of English; measured from the first answer on
PATIENCE: Final = 120.0  # seconds that servers may be away, from the first request that is lost
BUSY_PATIENCE: Final = 1800.0  # seconds that they may be busy with others
FIRST_DELAY, LAST_DELAY = 0.5, 10.0
DTYPES: Final = {
    "float32": DType.FLOAT,
    "float16": DType.FLOAT,
    "int8": DType.INT8,
    "ubinary": DType.UBINARY,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is computed of a text.

    Args:
        input_type: Name of the prompt that is put before it; None is none.
        cut: Whether a text that is too long is cut; else it fails.
        truncate: Which part of it is removed then: ``start``, ``middle`` or ``end``.
        chunk: Most tokens of a chunk; None embeds texts as wholes.
        dtype: A key of `DTYPES`.
    """

    model: str
    input_type: str | None = "document"
    cut: bool = True
    chunk: int | None = None
    overlap: int = 0
    dimensions: int | None = None
    dtype: str = "float32"
    truncate: str = Truncate.END.value


# Returns vectors of texts, or raises an `EmbeddError` for all of them; an error with an index
# names the text at fault.
Compute: TypeAlias = Callable[[Sequence[str]], Awaitable[Arrays]]


def make_local_compute(embedder: Embedder, wanted: Wanted) -> Compute:
    """Return what computes *wanted* in this process."""
    dtype = DTYPES[wanted.dtype]

    async def compute(texts: Sequence[str]) -> Arrays:
        request = EmbedRequest(
            model=wanted.model,
            inputs=texts,
            truncate=Truncate(wanted.truncate) if wanted.cut else Truncate.ERROR,
            chunk=None
            if wanted.chunk is None
            else Chunking(tokens=wanted.chunk, overlap=wanted.overlap, max_chunks=MAX_CHUNKS),
            dimensions=wanted.dimensions,
            dimension_check=DimensionCheck.STRICT,
            formats=(VectorFormat(dtype=dtype),),
            prompt=None if wanted.input_type is None else Prompt(name=wanted.input_type),
            store=False,
            schedule=Schedule(priority=Priority.BULK),
        )
        result = await embedder.embed(request)
        return Arrays(
            vectors=_take_vectors(result, dtype).astype(numpy_type(wanted.dtype), copy=False),
            tokens=sum(result.tokens),
            cut=len(result.truncated),
            chunks=None if wanted.chunk is None else result.chunks,
            served_by="" if result.served_by is None else format_served_by(result.served_by),
        )

    return compute


def _take_vectors(result: EmbedResult, dtype: DType) -> Numbers:
    numbers: Numbers = result.vectors if dtype is DType.FLOAT else result.quantized[dtype]
    return numbers if result.rows is None else numbers[result.rows]


def numpy_type(dtype: str) -> "np.dtype[Any]":
    """The type of the numbers of vectors of *dtype*."""
    return np.dtype("uint8" if dtype == "ubinary" else dtype)


class MixedBackendsError(ServiceError):
    """Vectors of a job would come from two backends, which round differently."""

    def __init__(self, expected: str, found: str) -> None:
        super().__init__(
            f"the vectors so far are of {expected}, and this answer is of {found}: an index of "
            "both is less exact; --mixed-backends allows it, --restart computes all anew"
        )


class Pool:
    """Shares requests among *computes*, some in flight at each.

    A request that is refused or lost waits as long as the server asks, or a growing time, and
    goes to whichever is free then.

    Args:
        served_by: What computed the parts so far, as `Arrays.served_by`; empty: the first
            answer decides.
        mixed: Whether other backends may go on with the job.
        notify: Called with what to say when a server is away, once until it answers.
        sleep: Waits for seconds.
        clock: Present time in seconds.
    """

    def __init__(
        self,
        computes: Sequence[Compute],
        *,
        served_by: str = "",
        mixed: bool = False,
        in_flight: int = IN_FLIGHT,
        notify: Callable[[str], None] = lambda _: None,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.served_by = served_by
        self.size = len(computes)
        self.waits = 0  # for servers that were busy or away
        self._mixed = mixed
        self._notify = notify
        self._sleep = sleep
        self._clock = clock
        self._away_since: float | None = None
        self._busy_since: float | None = None
        self._free: asyncio.Queue[Compute] = asyncio.Queue()
        self._delays = dict.fromkeys(computes, FIRST_DELAY)
        self._rate = TOKENS_PER_CHARACTER
        self._parked: set[asyncio.Task[None]] = set()
        for _ in range(in_flight):
            for compute in computes:
                self._free.put_nowait(compute)

    def estimate_tokens(self, characters: int) -> float:
        """Return how many tokens a text of so many characters may have."""
        return 1 + characters * self._rate

    async def compute(self, texts: Sequence[str]) -> Arrays:
        """Return the vectors of *texts*.

        Raises:
            MixedBackendsError: Another backend answered than before.
            UnavailableError: No server has answered for too long.
            EmbeddError: As what computes raises it.
        """
        while True:
            compute = await self._free.get()
            delay = 0.0
            try:
                computed = await compute(texts)
            except UnavailableError as error:
                delay = self._choose_delay(compute, error)
            else:
                self._note(compute, texts, computed)
                return computed
            finally:
                self._give_back(compute, delay)

    def _choose_delay(self, compute: Compute, error: UnavailableError) -> float:
        """Return how long to wait for a server after *error*; raise it after too long a time."""
        now = self._clock()
        if isinstance(error, OverloadedError):
            self._away_since = None  # it answers
            self._busy_since = now if self._busy_since is None else self._busy_since
            since, patience = self._busy_since, BUSY_PATIENCE
        else:
            self._away_since = now if self._away_since is None else self._away_since
            since, patience = self._away_since, PATIENCE
        if now - since > patience:
            raise error
        self.waits += 1
        if isinstance(error, OverloadedError):
            return float(error.retry_after)
        delay = self._delays[compute]
        if delay == FIRST_DELAY:
            self._notify(f"{error}; trying again, for {PATIENCE:.0f} s if no server answers")
        self._delays[compute] = min(2 * delay, LAST_DELAY)
        return delay

    def _give_back(self, compute: Compute, delay: float) -> None:
        if not delay:
            self._free.put_nowait(compute)
            return

        async def wait() -> None:
            await self._sleep(delay)
            self._free.put_nowait(compute)

        task = asyncio.ensure_future(wait())
        self._parked.add(task)
        task.add_done_callback(self._parked.discard)

    def _note(self, compute: Compute, texts: Sequence[str], computed: Arrays) -> None:
        self._away_since = self._busy_since = None
        self._delays[compute] = FIRST_DELAY
        self._rate = (computed.tokens + 1) / (sum(map(len, texts)) + 1 / TOKENS_PER_CHARACTER)
        self.check_backend(computed.served_by)

    def check_backend(self, served_by: str) -> None:
        """Remember what computes the job, and check that it is the same as before.

        Raises:
            MixedBackendsError: It is another one.
        """
        if not self.served_by:
            self.served_by = served_by
        elif served_by and served_by != self.served_by and not self._mixed:
            raise MixedBackendsError(self.served_by, served_by)

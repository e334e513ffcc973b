"""A model's own tokenizer in the server process, and how long it is kept there."""

import asyncio
import functools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeAlias, TypeVar

from embedd.engine.spec import ModelInfo, ModelSpec
from embedd.tokenizers.slices import Check, are_short
from embedd.types import Located, Pooling, TokenIds, TokenPiece

if TYPE_CHECKING:
    from embedd.tokenizers.model_tokenizer import ModelTokenizer

INLINE_TOKENS: Final = 1024  # whose text is found on the event loop, in a millisecond
# Texts of so many characters in all take half a second and more: they may not occupy all threads,
# which other requests need for a moment.
LONG: Final = 1 << 20
LONG_AT_A_TIME: Final = 2
KEEP: Final = 300.0  # seconds that a tokenizer is kept after its last use
MAX_IDLE: Final = 4  # tokenizers that are kept though no model or request uses them

_Found = TypeVar("_Found")
# Between slices of long work the check is called: it raises when the caller has left.
Work: TypeAlias = Callable[[Check], _Found]


class LocalTokenizer:
    """A model's own tokenizer, for any number of requests at a time: a `Vocabulary`.

    Long texts are tokenized in a thread, which ends soon after the call is cancelled.

    Args:
        long: Taken by calls with long texts; shared by all tokenizers.
        release: Called once, by `close`.
    """

    def __init__(
        self, tokenizer: "ModelTokenizer", long: asyncio.Semaphore, release: Callable[[], None]
    ) -> None:
        self._tokenizer = tokenizer
        self._long = long
        self._release: Callable[[], None] | None = release

    @property
    def info(self) -> ModelInfo:
        """Facts of the vocabulary; those of the weights are 0."""
        return ModelInfo(
            width=0,
            limit=0,
            pooling=Pooling.NONE,
            special_tokens=self._tokenizer.special_tokens,
            vocabulary=self._tokenizer.vocabulary_size,
            max_batch_tokens=0,
            max_sequences=0,
            engine="",
            backend="",
            pair_template=self._tokenizer.pair_template,
            tokenizer="model",
        )

    async def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        """Return the ids of each text; see `Tokenizer.tokenize`.

        Raises:
            TokenizerError: The library failed.
        """
        tokenize = self._tokenizer.tokenize
        if are_short(texts):
            return tokenize(texts, add_special=add_special, parse_special=parse_special)
        return await self._run(
            texts,
            lambda check: tokenize(
                texts, add_special=add_special, parse_special=parse_special, check=check
            ),
        )

    async def locate(self, texts: Sequence[str], *, parse_special: bool = True) -> list[Located]:
        """Return the ids of each text and their places in it; see `Tokenizer.locate`.

        Raises:
            TokenizerError: The library failed.
        """
        locate = self._tokenizer.locate
        if are_short(texts):
            return locate(texts, parse_special=parse_special)
        return await self._run(
            texts, lambda check: locate(texts, parse_special=parse_special, check=check)
        )

    async def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """Return the text of each sequence; see `Tokenizer.detokenize`."""
        if sum(map(len, sequences)) <= INLINE_TOKENS:
            return self._tokenizer.detokenize(sequences, special=special)
        return await asyncio.to_thread(self._tokenizer.detokenize, sequences, special=special)

    async def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """Return what each token stands for."""
        if len(ids) <= INLINE_TOKENS:
            return self._tokenizer.token_pieces(ids)
        return await asyncio.to_thread(self._tokenizer.token_pieces, ids)

    def close(self) -> None:
        """End this use; further calls have no effect."""
        release, self._release = self._release, None
        if release is not None:
            release()

    async def _run(self, texts: Sequence[str], work: Work[_Found]) -> _Found:
        """What *work* on *texts* returns in a thread."""
        if sum(map(len, texts)) < LONG:
            return await _run_abandonable(work)
        async with self._long:
            return await _run_abandonable(work)


class TokenizerCache:
    """The tokenizers in the server process, by the digest of the model's file.

    Each is built once, in a thread, and kept while it is used and for some minutes after.

    Args:
        build: Builds the tokenizer of a file; blocks.
        keep: Seconds that a tokenizer is kept after its last use.
    """

    def __init__(
        self, *, build: "Callable[[Path], ModelTokenizer] | None" = None, keep: float = KEEP
    ) -> None:
        self._build = build or _build
        self._keep = keep
        self._long = asyncio.Semaphore(LONG_AT_A_TIME)
        self._entries: dict[str, _Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    async def open(self, spec: ModelSpec) -> LocalTokenizer:
        """Return the tokenizer of *spec*, to be closed after its last use.

        Raises:
            TokenizerError: It cannot be built.
            ModelLoadError: The file cannot be read.
        """
        entry = self._entries.get(spec.digest)
        if entry is not None:
            entry.stop_timer()
        if entry is None or entry.has_failed:
            building = asyncio.create_task(asyncio.to_thread(self._build, spec.path))
            building.add_done_callback(_retrieve)
            entry = self._entries[spec.digest] = _Entry(building=building)
        entry.users += 1
        release = functools.partial(self._release, spec.digest, entry)
        try:
            # Others may wait for it too: a caller that leaves must not end it.
            tokenizer = await asyncio.shield(entry.building)
        except BaseException:
            release()
            raise
        return LocalTokenizer(tokenizer, self._long, release)

    def close(self) -> None:
        """Forget all tokenizers; those in use go on working."""
        for entry in self._entries.values():
            entry.stop_timer()
        self._entries.clear()

    def _release(self, digest: str, entry: "_Entry") -> None:
        entry.users -= 1
        if entry.users or self._entries.get(digest) is not entry:
            return
        if entry.has_failed:
            del self._entries[digest]  # the next use tries again
            return
        # Moved to the end: of the idle ones the first was used the longest time ago.
        self._entries[digest] = self._entries.pop(digest)
        entry.timer = asyncio.get_running_loop().call_later(self._keep, self._forget, digest)
        idle = [one for one, other in self._entries.items() if not other.users]
        for one in idle[:-MAX_IDLE]:
            self._forget(one)

    def _forget(self, digest: str) -> None:
        self._entries.pop(digest).stop_timer()


@dataclass(slots=True, eq=False, kw_only=True)
class _Entry:
    """A tokenizer that is being built or was; *timer* forgets one without users."""

    building: "asyncio.Task[ModelTokenizer]"
    users: int = 0
    timer: asyncio.TimerHandle | None = None

    @property
    def has_failed(self) -> bool:
        """Whether it could not be built."""
        task = self.building
        return task.done() and (task.cancelled() or task.exception() is not None)

    def stop_timer(self) -> None:
        """Keep it until it is released again."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class _AbandonedError(Exception):
    """Nothing waits for the result any more."""


async def _run_abandonable(work: Work[_Found]) -> _Found:
    """What *work* returns in a thread; when the caller is cancelled its next check ends it."""
    abandoned = threading.Event()

    def check() -> None:
        if abandoned.is_set():
            raise _AbandonedError

    try:
        return await asyncio.to_thread(work, check)
    except asyncio.CancelledError:
        abandoned.set()
        raise


def _build(path: Path) -> "ModelTokenizer":
    from embedd.tokenizers import model_tokenizer  # noqa: PLC0415 - its library has to be limited

    return model_tokenizer.load_tokenizer(path)[0]


def _retrieve(task: "asyncio.Task[ModelTokenizer]") -> None:
    if not task.cancelled():
        task.exception()  # every caller may have left: then asyncio would log it

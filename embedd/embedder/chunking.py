"""Texts that are cut into chunks before they are embedded, and chunks' vectors pooled again."""

import asyncio
from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from embedd.embedder.inputs import Fitted
from embedd.engine.serving.model import ServedModel
from embedd.errors import (
    EmptyInputError,
    EngineError,
    InputTooLongError,
    InvalidInputError,
)
from embedd.tokenizers.chunks import split_tokens, weigh_chunks
from embedd.tokenizers.truncation import SpecialTokens
from embedd.types import Chunking, ChunkPlace, EmbedRequest, Located, TokenIds, Vectors

FIELD: Final = "chunk"
# Of all chunks of a request: 64 MiB of ids. Without it an overlap would make of a short text
# any number of tokens.
MAX_TOKENS: Final = 1 << 24


class Chunker:
    """The chunks of one request's texts.

    The tokens of a chunk are those that it has in its whole text, with the prompt before it:
    it is not tokenized again.

    Args:
        prefix: The prompt that is put before every chunk.
        limit: Most tokens of a sequence.

    Attributes:
        chunks: In the order of the texts, once they were cut.
        pools: Whether their vectors are to be pooled.

    Raises:
        InvalidInputError: What the request asks for is impossible, whatever its texts.
    """

    def __init__(self, wanted: Chunking, request: EmbedRequest, *, prefix: str, limit: int) -> None:
        self._wanted = wanted
        self._texts = _check(request, wanted, limit)
        self._prefix = prefix
        self._limit = limit
        self.chunks: list[ChunkPlace] = []
        self._weights: list[npt.NDArray[np.float32]] = []  # of the chunks of each text
        self.pools = wanted.pool
        self._left = False  # the client, while a thread cuts
        self._pooled = False

    async def tokenize(self, loaded: ServedModel) -> Fitted:
        """Return the sequences of all chunks, none of them truncated.

        Raises:
            InvalidInputError: There are too many chunks, or the overlap is as long as one.
            InputTooLongError: A sequence has no room for tokens of its text.
        """
        located = await loaded.locate([self._prefix + text for text in self._texts])
        special = loaded.info.special_tokens
        try:
            return await asyncio.to_thread(lambda: [*self._cut(located, special)]), ()
        except asyncio.CancelledError:
            self._left = True
            raise

    def pool(self, vectors: Vectors) -> Vectors:
        """Return the weighted mean of the vectors of each text's chunks, shape (texts, width).

        They are averaged as they would be answered: a client that averages the chunks of an
        answer by their tokens gets the same, as in OpenAI's cookbook (*Embedding texts that
        are longer than the model's maximum context length*).
        """
        self._pooled = True
        counts = [len(weights) for weights in self._weights]
        starts = np.cumsum([0, *counts[:-1]])
        means: Vectors = np.add.reduceat(
            vectors * np.concatenate(self._weights)[:, np.newaxis], starts, axis=0
        )
        return means

    def name_input(self, error: EngineError) -> EngineError:
        """Return *error* with the name of an input where it has that of a chunk."""
        if error.index is None or self._pooled:
            return error
        place = self.chunks[error.index]
        name = f"(input {place.input}, characters {place.start} to {place.end})"
        text = str(error).replace(f"(input {error.index})", name)
        return EngineError(text, index=place.input)

    def _cut(self, located: Sequence[Located], special: SpecialTokens) -> Iterator[TokenIds]:
        prefix, suffix = (np.array(ids, np.int32) for ids in (special.prefix, special.suffix))
        total = 0
        for index, (text, (ids, offsets)) in enumerate(zip(self._texts, located, strict=True)):
            head = _count_prefix(offsets[:, 1], len(self._prefix))
            before = np.concatenate((prefix, ids[:head]))
            own, places = ids[head:], np.maximum(offsets[head:] - len(self._prefix), 0)
            around = len(before) + len(suffix)
            size = self._choose_size(index, own=len(own), around=around)
            windows = []
            for window in split_tokens(text, places, size=size, overlap=self._wanted.overlap):
                total += around + window.tokens
                self._check_going_on(index, total)
                windows.append(window)
                self.chunks.append(
                    ChunkPlace(
                        input=index, start=window.start, end=window.end, tokens=window.tokens
                    )
                )
                yield np.concatenate((before, own[window.first : window.last], suffix))
            self._weights.append(weigh_chunks(windows))

    def _choose_size(self, index: int, *, own: int, around: int) -> int:
        """Most tokens of a chunk, with so many *around* it and *own* ones of its text."""
        if not own and not around:
            raise EmptyInputError("input has no tokens", index=index)
        room = self._limit - around
        if room < min(own, 1):
            raise InputTooLongError(
                index=index, tokens=own + around, limit=self._limit, special=around
            )
        size = max(1, min(self._wanted.tokens or room, room))
        if self._wanted.overlap >= size:
            raise InvalidInputError(
                f"chunk.overlap is {self._wanted.overlap}, and a chunk of input {index} has at "
                f"most {size} tokens: choose a smaller overlap",
                index=index,
                limit=size - 1,
                field=FIELD,
            )
        if own > size * self._wanted.max_chunks:
            raise self._too_many()
        return size

    def _check_going_on(self, index: int, total: int) -> None:
        """Check the next chunk's number, *total* tokens, and that the client is still there."""
        if self._left:
            raise asyncio.CancelledError
        if len(self.chunks) >= self._wanted.max_chunks:
            raise self._too_many()
        if total > MAX_TOKENS:
            raise InvalidInputError(
                f"the chunks have more than {MAX_TOKENS} tokens together at input {index}: send "
                "fewer texts at a time, or choose a smaller overlap",
                limit=MAX_TOKENS,
                field=FIELD,
            )

    def _too_many(self) -> InvalidInputError:
        limit = self._wanted.max_chunks
        return InvalidInputError(
            f"the texts have more than {limit} chunks, the limit of a request: send fewer texts "
            "at a time, or choose larger chunks or a smaller overlap",
            limit=limit,
            field=FIELD,
        )


def _check(request: EmbedRequest, wanted: Chunking, limit: int) -> Sequence[str]:
    """Return the texts of *request* if they can be cut as is *wanted*.

    Raises:
        InvalidInputError: They cannot.
    """
    if request.per_token:
        raise InvalidInputError(
            "chunk gives a vector for each chunk, not for each token: leave one of them out",
            field=FIELD,
        )
    tokens, overlap = wanted.tokens, wanted.overlap
    if tokens is not None and not 1 <= tokens <= limit:
        raise InvalidInputError(
            f"chunk.tokens is {tokens}, it must be between 1 and {limit}, the most that the model "
            "takes: leave it out for the longest chunks",
            limit=limit,
            field=FIELD,
        )
    if overlap < 0 or (tokens is not None and overlap >= tokens):
        most = "" if tokens is None else f" and less than chunk.tokens, which is {tokens}"
        raise InvalidInputError(
            f"chunk.overlap is {overlap}, it must be at least 0{most}", field=FIELD
        )
    texts = [one for one in request.inputs if isinstance(one, str)]
    if len(texts) < len(request.inputs):
        index = next(i for i, one in enumerate(request.inputs) if not isinstance(one, str))
        raise InvalidInputError(
            f"token ids cannot be chunked (input {index}): send text, or leave chunk out",
            index=index,
            field=FIELD,
        )
    return texts


def _count_prefix(ends: npt.NDArray[np.int32], length: int) -> int:
    """How many of the first tokens end within the prompt, which has *length* characters."""
    if not length:
        return 0
    is_beyond = ends > length
    return int(is_beyond.argmax()) if is_beyond.any() else len(ends)

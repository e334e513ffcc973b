"""What an engine is: the protocol that every implementation keeps."""

import ctypes
from collections.abc import Sequence
from typing import Protocol

from embedd.engine.spec import ModelInfo
from embedd.errors import EngineError
from embedd.types import Pooling, TokenIds, TokenPiece, Vectors


class UnsuitableError(EngineError):
    """This engine cannot compute the model, or not as llama.cpp does: another one may."""


class StoppedError(EngineError):
    """The computation was stopped, as it was asked to be."""


class Stop:
    """Set once, by any thread; asked by the one that computes.

    It is a C string, empty until it is set: so a library that polls a function of C can ask
    without Python, whose lock a callback would take a hundred times for each batch.
    """

    __slots__ = ("_text",)

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(2)

    def set(self) -> None:
        """Stop."""
        self._text[0] = b"!"

    def __bool__(self) -> bool:
        return self._text.value != b""

    @property
    def address(self) -> int:
        """Of the string; valid as long as this object."""
        return ctypes.addressof(self._text)


class Tokenizer(Protocol):
    """A model's vocabulary. All calls block; one thread makes them."""

    @property
    def info(self) -> ModelInfo:
        """Facts that do not change; of a vocabulary without weights the numbers are 0."""
        ...

    def tokenize(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = True
    ) -> list[TokenIds]:
        """Token ids of each text, never cut.

        Args:
            add_special: With the special tokens that stand around every text.
            parse_special: A text that spells a special token gets it.
        """
        ...

    def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """The text of each sequence, in UTF-8 as far as its tokens are.

        Args:
            special: Special tokens are spelled; otherwise they are left out.

        Raises:
            EngineError: An id is outside the vocabulary.
        """
        ...

    def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """What each token stands for.

        Raises:
            EngineError: An id is outside the vocabulary.
        """
        ...

    def close(self) -> None:
        """Give everything back. No call may follow."""
        ...


class Engine(Tokenizer, Protocol):
    """Loaded weights that compute. All calls block.

    One thread calls `encode` and `set_threads`; those of `Tokenizer` may run beside it, in
    another. For more threads that encode there are replicas. Implementations are made by a
    class method ``load`` with the arguments of `LlamaEngine.load`.
    """

    def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None = None,
        *,
        stop: Stop | None = None,
    ) -> Vectors:
        """Vectors as the model gives them, not normalised.

        With the model's own pooling (None) or another of `Pooling` but ``none``: shape
        (sequences, width), of ``rank`` (sequences, labels). With ``Pooling.NONE``: one row
        per token, sequence after sequence. A row that is not finite or has norm 0 is
        returned as it is: the worker decides what becomes of it.

        Args:
            stop: Set by another thread, it ends the computation soon, where the engine can.

        Raises:
            StoppedError: *stop* was set.
            EngineError: A sequence is empty, too long, or has an id outside the
                vocabulary; the batch is larger than the engine takes; or computing
                failed. The next call is not affected.
        """
        ...

    def replicate(self) -> "Engine":
        """Another engine on the same weights, for a thread of its own.

        It gives the same vectors, and is closed before this one.
        """
        ...

    def set_threads(self, threads: int) -> None:
        """Compute with so many cores from the next batch on."""
        ...


def check_ids(ids: TokenIds, vocabulary: int) -> None:
    """Refuse ids that are none of *vocabulary*: in a C library they end the process.

    Raises:
        EngineError: There is one.
    """
    if len(ids) and (ids.min() < 0 or ids.max() >= vocabulary):
        raise EngineError(f"a token id is outside 0 … {vocabulary - 1}")

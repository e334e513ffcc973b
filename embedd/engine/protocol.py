"""The protocols of engines and tokenizers, kept by every implementation."""

import ctypes
from collections.abc import Sequence
from typing import Protocol

from embedd.engine.spec import ModelInfo
from embedd.errors import EngineError
from embedd.tokenizers.slices import Check, no_check
from embedd.tokenizers.truncation import PairTemplate, SpecialTokens
from embedd.types import Located, Pooling, TokenIds, TokenPiece, Vectors


class UnsuitableError(EngineError):
    """This engine cannot compute the model, or not as llama.cpp does; another one may."""


class StoppedError(EngineError):
    """The computation ended early because its `Stop` was set."""


class Stop:
    """A flag that any thread sets once, and that the computing thread polls.

    It is a C string, empty until it is set, so that a library can poll it through a function
    of C. A callback in Python would take the interpreter's lock a hundred times a batch.
    """

    __slots__ = ("_text",)

    def __init__(self) -> None:
        self._text = ctypes.create_string_buffer(2)

    def set(self) -> None:
        """Ask the computing thread to stop."""
        self._text[0] = b"!"

    def __bool__(self) -> bool:
        return self._text.value != b""

    @property
    def address(self) -> int:
        """Address of the string; valid as long as this object lives."""
        return ctypes.addressof(self._text)


class Tokenizer(Protocol):
    """The tokenizer of a model. All calls block; one thread at a time makes them.

    Implementations have a class method ``load``, which takes a `ModelSpec` and reads no weights.
    """

    @property
    def special_tokens(self) -> SpecialTokens:
        """The special tokens before and after every text."""
        ...

    @property
    def pair_template(self) -> PairTemplate | None:
        """The tokens around a query and a document; None if the template is not understood."""
        ...

    @property
    def vocabulary_size(self) -> int:
        """Number of token ids; valid ids are ``0 … vocabulary_size - 1``."""
        ...

    def tokenize(
        self,
        texts: Sequence[str],
        *,
        add_special: bool = True,
        parse_special: bool = True,
        check: Check = no_check,
    ) -> list[TokenIds]:
        """Token ids of each text, never truncated.

        Args:
            add_special: Add `special_tokens` to each text.
            parse_special: Turn the name of a special token in a text into that token.
            check: Called between parts of long work; what it raises ends the work.
        """
        ...

    def locate(
        self, texts: Sequence[str], *, parse_special: bool = True, check: Check = no_check
    ) -> list[Located]:
        """Token ids of each text without `special_tokens`, and the characters of each token.

        Args:
            parse_special, check: As in `tokenize`.
        """
        ...

    def detokenize(self, sequences: Sequence[TokenIds], *, special: bool) -> list[bytes]:
        """The text of each sequence, in UTF-8 as far as its tokens are.

        Args:
            special: Include the names of special tokens; otherwise they are left out.

        Raises:
            EngineError: An id is outside the vocabulary.
        """
        ...

    def token_pieces(self, ids: TokenIds) -> list[TokenPiece]:
        """The piece of text that each token stands for.

        Raises:
            EngineError: An id is outside the vocabulary.
        """
        ...


class Engine(Protocol):
    """Loaded weights that compute. All calls block.

    One thread calls `encode` and `set_threads`; another may use the tokenizer meanwhile. Further
    threads that encode have replicas. Implementations have a class method ``load`` with the
    arguments of `LlamaEngine.load`.
    """

    @property
    def info(self) -> ModelInfo:
        """Facts that do not change while the model is loaded."""
        ...

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer of the model, shared by all replicas."""
        ...

    def encode(
        self,
        sequences: Sequence[TokenIds],
        pooling: Pooling | None = None,
        *,
        stop: Stop | None = None,
    ) -> Vectors:
        """Vectors as the model computes them, not normalised.

        Their shape is (sequences, width), for ``Pooling.RANK`` (sequences, labels), for
        ``Pooling.NONE`` (tokens of all sequences, width). A row that is not finite or has
        norm 0 is returned as it is; the worker decides what to do with it.

        Args:
            pooling: None is the model's own.
            stop: Set by another thread, it ends the computation soon, where the engine can.

        Raises:
            StoppedError: *stop* was set.
            EngineError: A sequence is empty, too long, or has an id outside the
                vocabulary; the batch is larger than the engine takes; or computing
                failed. The next call is not affected.
        """
        ...

    def replicate(self) -> "Engine":
        """Another engine on the same weights, for another thread; to be closed before this one."""
        ...

    def set_threads(self, threads: int) -> None:
        """Compute with so many threads from the next batch on."""
        ...

    def close(self) -> None:
        """Free everything. No call may follow."""
        ...


def check_ids(ids: TokenIds, vocabulary: int) -> None:
    """Raise for ids outside the vocabulary, which would end the process in a C library.

    Raises:
        EngineError: An id is outside ``0 … vocabulary - 1``.
    """
    if len(ids) and (ids.min() < 0 or ids.max() >= vocabulary):
        raise EngineError(f"a token id is outside 0 … {vocabulary - 1}")

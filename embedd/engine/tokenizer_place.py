"""Where a model's texts become ids, and what the first load found out about that."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

# Bytes of the largest tokenizer that the server process keeps: all models share that process.
MAX_SERVER_BYTES: Final = 64 << 20


class TokenizerPlace(StrEnum):
    """Which tokenizer a model's texts go to."""

    SERVER = "server"  # its own, in the server process
    WORKER = "worker"  # its own, in the model's worker
    LLAMA = "llama"  # llama.cpp's, in the worker


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenizerVerdict:
    """What is known of a model's own tokenizer.

    Args:
        size: Bytes that it takes, measured; 0 if it was not built.
        reason: Why llama.cpp's is used instead; empty where that was asked for.
    """

    place: TokenizerPlace
    size: int = 0
    reason: str = ""

    @property
    def name(self) -> str:
        """Whose tokenizer it is: ``model`` or ``llama``."""
        return "llama" if self.place is TokenizerPlace.LLAMA else "model"


LLAMA_TOKENIZER: Final = TokenizerVerdict(place=TokenizerPlace.LLAMA)


def choose_place(size: int) -> TokenizerPlace:
    """Return where a tokenizer of *size* bytes lives."""
    return TokenizerPlace.SERVER if size <= MAX_SERVER_BYTES else TokenizerPlace.WORKER


def refuse(cause: Exception) -> TokenizerVerdict:
    """Return the verdict on a tokenizer that ended the process that built it."""
    return TokenizerVerdict(
        place=TokenizerPlace.LLAMA, reason=f"building the model's own tokenizer failed: {cause}"
    )

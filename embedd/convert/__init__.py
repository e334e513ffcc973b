"""Sentence-transformers checkpoints of BERT become GGUF files."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from embedd.convert.checkpoint import read_checkpoint
from embedd.convert.writer import WeightType, write_gguf
from embedd.types import Pooling

__all__ = ["Converted", "WeightType", "convert_checkpoint"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """What the caller records of a conversion.

    Args:
        context_length: The architecture's limit, in tokens.
        max_seq_length: Tokens at which the reference pipeline cuts; None if it does not say.
        labels: Names of a cross-encoder's scores; empty for an embedding model.
        prompts: Name (``query``, ``document``, ``passage`` …) → text before an input.
        size: Bytes of the GGUF.
    """

    architecture: str
    weights: WeightType
    pooling: Pooling
    context_length: int
    max_seq_length: int | None
    embedding_length: int
    labels: tuple[str, ...]
    prompts: Mapping[str, str]
    size: int


def convert_checkpoint(
    source: Path,
    target: Path,
    *,
    weights: WeightType,
    name: str | None = None,
    licence: str | None = None,
    report: Callable[[int, int], None] | None = None,
) -> Converted:
    """Write the checkpoint in folder *source* as GGUF to *target*.

    BERT with WordPiece, as embedding model or cross-encoder, from safetensors. All checks
    are made before *target* is touched, except those of the values themselves. The same
    input gives the same bytes. It is the caller who verifies the result and renames it.

    Args:
        name: For ``general.name``; left out if None.
        licence: For ``general.license``; left out if None.
        report: Gets bytes written and bytes in all, after each tensor; it may raise to
            stop the conversion.

    Raises:
        ConversionError: Anything that is missing, damaged or not understood, with the
            reason. *target* is then absent or incomplete: delete it.
    """
    checkpoint = read_checkpoint(source)
    write_gguf(
        checkpoint,
        target,
        weights=weights,
        name=name,
        licence=licence,
        report=report or _ignore,
    )
    return Converted(
        architecture="bert",
        weights=weights,
        pooling=checkpoint.pooling,
        context_length=checkpoint.config.context_length,
        max_seq_length=checkpoint.max_seq_length,
        embedding_length=checkpoint.config.embedding_length,
        labels=checkpoint.config.labels,
        prompts=checkpoint.prompts,
        size=target.stat().st_size,
    )


def _ignore(_done: int, _total: int) -> None:
    """Report to nobody."""

"""Converts sentence-transformers checkpoints to GGUF files."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from embedd.convert.weight_type import WeightType

if TYPE_CHECKING:
    from embedd.convert.checkpoint import Checkpoint

__all__ = ["WeightType", "convert_checkpoint"]


def convert_checkpoint(
    source: Path,
    target: Path,
    *,
    weights: WeightType,
    name: str | None = None,
    licence: str | None = None,
    report: Callable[[int, int], None] | None = None,
) -> "Checkpoint":
    """Write the checkpoint in folder *source* as GGUF to *target*; returns what was read.

    One of `architectures.ARCHITECTURES`, as embedding model or cross-encoder, from safetensors.
    All checks are made before *target* is touched, except those of the values themselves. The
    same input gives the same bytes. The caller verifies the result and renames it.

    Args:
        name: For ``general.name``; left out if None.
        licence: For ``general.license``; left out if None.
        report: Called after each tensor with the bytes written and the bytes in total; it
            may raise to stop the conversion.

    Raises:
        ConversionError: Something is missing, damaged or not supported; the message says
            what. *target* is then absent or incomplete: delete it.
    """
    from embedd.convert.checkpoint import read_checkpoint  # noqa: PLC0415 - a server starts without
    from embedd.convert.writer import write_gguf  # noqa: PLC0415 - and without the package `gguf`

    checkpoint = read_checkpoint(source)
    write_gguf(
        checkpoint,
        target,
        weights=weights,
        name=name,
        licence=licence,
        report=report or _ignore,
    )
    return checkpoint


def _ignore(_done: int, _total: int) -> None:
    """Do not report."""

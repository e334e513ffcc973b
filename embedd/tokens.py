"""Fitting token sequences to a context length, on ids and never through text."""

from dataclasses import dataclass

import numpy as np

from embedd.errors import InputTooLongError
from embedd.types import TokenIds, Truncate


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """The special tokens that a tokenizer puts before and after every text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prefix) + len(self.suffix)


def fit_text(
    ids: TokenIds, *, frame: Frame, limit: int, truncate: Truncate, index: int
) -> TokenIds:
    """The ids of a tokenized text, cut to *limit* with its special tokens kept.

    Raises:
        InputTooLongError: Longer than *limit* and either truncation is off or *limit*
            leaves no room for a content token.
    """
    if len(ids) <= limit:
        return ids
    refuse_uncuttable(ids, special=len(frame), limit=limit, truncate=truncate, index=index)
    head, tail = len(frame.prefix), len(frame.suffix)
    if truncate is Truncate.START:
        return np.concatenate((ids[:head], ids[len(ids) - (limit - head) :]))
    return np.concatenate((ids[: limit - tail], ids[len(ids) - tail :]))


def fit_ids(ids: TokenIds, *, frame: Frame, limit: int, truncate: Truncate, index: int) -> TokenIds:
    """A caller's own token ids cut to *limit*: the head is kept, and a final EOS or SEP.

    Raises:
        InputTooLongError: As `fit_text`.
    """
    if len(ids) <= limit:
        return ids
    refuse_uncuttable(ids, special=len(frame), limit=limit, truncate=truncate, index=index)
    if truncate is Truncate.START:
        return ids[len(ids) - limit :]
    if int(ids[-1]) in frame.suffix:
        return np.concatenate((ids[: limit - 1], ids[-1:]))
    return ids[:limit]


def refuse_uncuttable(
    ids: TokenIds, *, special: int, limit: int, truncate: Truncate, index: int
) -> None:
    """Raise `InputTooLongError` if over-long *ids* must not or cannot be cut."""
    if truncate is Truncate.ERROR or limit <= special:
        raise InputTooLongError(index=index, tokens=len(ids), limit=limit, special=special)

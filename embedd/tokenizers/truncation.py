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


@dataclass(frozen=True, slots=True, kw_only=True)
class PairFrame:
    """The tokens around a query and a document that are scored together.

    The *leads* are put before the two texts themselves.
    """

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    query_lead: str = ""
    document_lead: str = ""

    def __len__(self) -> int:
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    def join(self, query: TokenIds, document: TokenIds) -> TokenIds:
        """The whole sequence."""
        parts = (self.prefix, query, self.middle, document, self.suffix)
        return np.concatenate([np.asarray(part, np.int32) for part in parts])


def fit_document(
    document: TokenIds,
    *,
    query: TokenIds,
    frame: PairFrame,
    limit: int,
    truncate: Truncate,
    index: int,
) -> TokenIds:
    """The ids of a document, cut so that its pair has at most *limit*; the query never is.

    Raises:
        InputTooLongError: The pair is longer and either truncation is off or the query
            leaves no room for a token of the document.
    """
    special = len(frame) + len(query)
    room = limit - special
    if len(document) <= room:
        return document
    if truncate is Truncate.ERROR or room < 1:
        tokens = special + len(document)
        raise InputTooLongError(index=index, tokens=tokens, limit=limit, special=special)
    return document[-room:] if truncate is Truncate.START else document[:room]


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

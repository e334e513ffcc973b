"""Truncation of token sequences to a limit; on ids, so that no text is tokenized twice."""

from dataclasses import dataclass
from typing import Final

import numpy as np

from embedd.errors import InputTooLongError
from embedd.types import TokenIds, Truncate

BERT_END: Final = "[SEP]"


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecialTokens:
    """The special tokens that a tokenizer puts before and after every text."""

    prefix: tuple[int, ...]
    suffix: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.prefix) + len(self.suffix)


@dataclass(frozen=True, slots=True, kw_only=True)
class PairTemplate:
    """The special tokens around a query and a document that are scored together.

    The two leads are texts, put before the query and the document before tokenizing.
    """

    prefix: tuple[int, ...]
    middle: tuple[int, ...]
    suffix: tuple[int, ...]
    query_lead: str = ""
    document_lead: str = ""

    def __len__(self) -> int:
        return len(self.prefix) + len(self.middle) + len(self.suffix)

    def join(self, query: TokenIds, document: TokenIds) -> TokenIds:
        """Return the sequence of both."""
        parts = (self.prefix, query, self.middle, document, self.suffix)
        return np.concatenate([np.asarray(part, np.int32) for part in parts])


def surround_pair(
    special: SpecialTokens, *, end: str, separator: int | None, add_separator: bool
) -> PairTemplate:
    """Return the special tokens around a pair, for a file without a template of its own.

    BERT's kin have one separator between the two texts, RoBERTa's and XLM-R's one more.

    Args:
        end: Name of the last token after a text, "" if there is none.
        separator: The separator's id; None is the last token after a text.
        add_separator: Whether the file asks for one more separator. Files of ModernBERT may,
            though it ends texts as BERT does.
    """
    middle = special.suffix
    if add_separator and end != BERT_END:
        more = special.suffix[-1:] if separator is None else (separator,)
        middle = (*middle, *more)
    return PairTemplate(prefix=special.prefix, middle=middle, suffix=special.suffix)


def fit_document(
    document: TokenIds,
    *,
    query: TokenIds,
    template: PairTemplate,
    limit: int,
    truncate: Truncate,
    index: int,
) -> TokenIds:
    """Cut the ids of a document so that its pair has at most *limit*; never cut the query.

    Raises:
        InputTooLongError: The pair is longer and either truncation is off or the query
            leaves no room for a token of the document.
    """
    special = len(template) + len(query)
    room = limit - special
    if len(document) <= room:
        return document
    if truncate is Truncate.ERROR or room < 1:
        tokens = special + len(document)
        raise InputTooLongError(index=index, tokens=tokens, limit=limit, special=special)
    return remove_tokens(document, keep=room, part=truncate)


def fit_text(
    ids: TokenIds, *, special: SpecialTokens, limit: int, truncate: Truncate, index: int
) -> TokenIds:
    """Cut the ids of a tokenized text to *limit*, its special tokens kept.

    Raises:
        InputTooLongError: Longer than *limit* and either truncation is off or *limit*
            leaves no room for a content token.
    """
    if len(ids) <= limit:
        return ids
    _check_can_be_cut(ids, special=len(special), limit=limit, truncate=truncate, index=index)
    head, tail = len(special.prefix), len(ids) - len(special.suffix)
    kept = remove_tokens(ids[head:tail], keep=limit - len(special), part=truncate)
    return np.concatenate((ids[:head], kept, ids[tail:]))


def fit_ids(
    ids: TokenIds, *, special: SpecialTokens, limit: int, truncate: Truncate, index: int
) -> TokenIds:
    """Cut token ids that a client sent to *limit*, a final EOS or SEP kept.

    Raises:
        InputTooLongError: As `fit_text`.
    """
    if len(ids) <= limit:
        return ids
    _check_can_be_cut(ids, special=len(special), limit=limit, truncate=truncate, index=index)
    if truncate is Truncate.END and int(ids[-1]) in special.suffix:
        return np.concatenate((remove_tokens(ids[:-1], keep=limit - 1, part=truncate), ids[-1:]))
    return remove_tokens(ids, keep=limit, part=truncate)


def _check_can_be_cut(
    ids: TokenIds, *, special: int, limit: int, truncate: Truncate, index: int
) -> None:
    """Raise `InputTooLongError` if *ids* may not be cut, or *special* tokens leave no room."""
    if truncate is Truncate.ERROR or limit <= special:
        raise InputTooLongError(index=index, tokens=len(ids), limit=limit, special=special)


def remove_tokens(ids: TokenIds, *, keep: int, part: Truncate) -> TokenIds:
    """*keep* of *ids*, or all if there are fewer; the others are removed from one *part*.

    Around a removed middle, the same number is kept on both sides, before it one more if
    *keep* is odd.
    """
    if len(ids) <= keep:
        return ids
    head = {Truncate.START: 0, Truncate.MIDDLE: (keep + 1) // 2, Truncate.END: keep}[part]
    return np.concatenate((ids[:head], ids[len(ids) - (keep - head) :]))

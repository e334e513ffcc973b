"""Inputs of a request on their way to token sequences: checked, tokenized, fitted."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from embedd.errors import EmptyInputError, InvalidInputError, InvalidTokenIdError
from embedd.resolve import ResolvedModel
from embedd.scheduler.records import Vocabulary
from embedd.tokenizers.truncation import Frame, PairFrame, fit_document, fit_ids, fit_text
from embedd.types import (
    ClientIds,
    DimensionRule,
    EmbedRequest,
    Input,
    Mixed,
    TokenIds,
    TokenizeRequest,
    Truncate,
    Truncated,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """Sequences that are ready to encode, and what was cut from them."""

    sequences: Sequence[TokenIds]
    truncated: Sequence[Truncated]


def choose_prefix(request: EmbedRequest | TokenizeRequest, model: ResolvedModel) -> str:
    """What the model has for the prompt that *request* names.

    Raises:
        InvalidInputError: It has prompts, and none of that name.
    """
    parameters = model.parameters
    named = {"query": parameters.query_prefix, "document": parameters.document_prefix}
    if request.prompt is None:
        return named.get(request.role) or ""
    prompts = {name.lower(): text for name, text in parameters.prompts.items()}
    wanted = request.prompt.name.lower()
    if wanted not in prompts and not request.prompt.is_optional and any((*named.values(), prompts)):
        allowed = ", ".join([*named, "passage", *parameters.prompts])
        raise InvalidInputError(
            f'unknown prompt_name "{request.prompt.name}", allowed are: {allowed}',
            field="prompt_name",
        )
    return prompts.get(wanted, "")


def check_dimensions(request: EmbedRequest, model: ResolvedModel) -> list[str]:
    """Warnings of what the request's rule lets pass.

    Raises:
        InvalidInputError: It does not.
    """
    asked, width = request.dimensions, model.spec.width
    if asked is None or request.dimension_rule is DimensionRule.LENIENT:
        return []
    sizes = model.parameters.matryoshka
    if request.dimension_rule is DimensionRule.MATRYOSHKA and not sizes:
        raise InvalidInputError(
            f'dimensions is only supported by matryoshka models, "{request.model}" is not one',
            field="dimensions",
        )
    if not 1 <= asked <= width:
        raise InvalidInputError(
            f"dimensions must be between 1 and {width}, got {asked}", field="dimensions"
        )
    if asked in (*sizes, width):
        return []
    return [f'dimensions={asked} is not a matryoshka size of "{request.model}"']


def check_ids(inputs: Sequence[Input], vocabulary: int) -> None:
    """Refuse token ids that are none of the model's.

    Raises:
        InvalidTokenIdError: There is one; names the first.
    """
    numbered = [(index, ids) for index, one in enumerate(inputs) for ids in _id_parts(one)]
    every = [ids for _, ids in numbered]
    # One look at all: each of ten thousand by itself would take a tenth of a second.
    if not every or not _outside(np.concatenate(every), vocabulary).any():
        return
    for index, ids in numbered:
        bad = _outside(ids, vocabulary)
        if bad.any():
            position = int(bad.argmax())
            raise InvalidTokenIdError(
                f"token id {ids[position]} is out of range (vocabulary size {vocabulary}): "
                "token ids must be the model's own, send text instead",
                index=index,
                position=position,
                value=str(ids[position]),
                vocabulary=vocabulary,
            )


def _id_parts(one: Input) -> Sequence[ClientIds]:
    parts = one.parts if isinstance(one, Mixed) else [one]
    return [part for part in parts if not isinstance(part, str)]


def _outside(ids: ClientIds, vocabulary: int) -> npt.NDArray[np.bool_]:
    return (ids < 0) | (ids >= vocabulary)


async def tokenize(
    vocabulary: Vocabulary,
    inputs: Sequence[Input],
    *,
    prefix: str = "",
    add_special: bool = True,
    parse_special: bool = True,
) -> list[TokenIds]:
    """Ids of each input: of a text with *prefix* before it, of ids themselves.

    *prefix* and special tokens stand only around texts, and the first part of a mix.
    """
    inner = [
        part
        for one in inputs
        if isinstance(one, Mixed)
        for part in one.parts[1:]
        if isinstance(part, str)
    ]
    outer = [prefix + head for one in inputs if isinstance(head := _head(one), str)]
    framed = iter(
        await vocabulary.tokenize(outer, add_special=add_special, parse_special=parse_special)
    )
    bare = iter(
        await vocabulary.tokenize(inner, add_special=False, parse_special=parse_special)
        if inner
        else []
    )
    rows = []
    for one in inputs:
        head = _head(one)
        row = next(framed) if isinstance(head, str) else head.astype(np.int32)
        if isinstance(one, Mixed):
            rest = (next(bare) if isinstance(part, str) else part for part in one.parts[1:])
            row = np.concatenate([row, *rest]).astype(np.int32)
        rows.append(row)
    return rows


def _head(one: Input) -> str | ClientIds:
    return one.parts[0] if isinstance(one, Mixed) else one


def fit(
    inputs: Sequence[Input],
    sequences: Sequence[TokenIds],
    *,
    frame: Frame,
    limit: int,
    truncate: Truncate,
) -> Fitted:
    """The *sequences* of *inputs*, cut to *limit* where that is allowed.

    Raises:
        InvalidInputError: One has no tokens.
        InputTooLongError: One is too long and may not be cut.
    """
    fitted, truncated = [], []
    for index, (sent, ids) in enumerate(zip(inputs, sequences, strict=True)):
        if not len(ids):
            raise EmptyInputError("input has no tokens", index=index)
        kept = ids
        if len(ids) > limit:
            cut = fit_text if isinstance(sent, str) else fit_ids
            kept = cut(ids, frame=frame, limit=limit, truncate=truncate, index=index)
            truncated.append(Truncated(index=index, tokens=len(ids), kept=len(kept)))
        fitted.append(kept)
    return Fitted(sequences=fitted, truncated=truncated)


async def tokenize_pairs(
    vocabulary: Vocabulary,
    query: str,
    documents: Sequence[str],
    *,
    frame: PairFrame,
    limit: int,
    cap: int | None,
    truncate: Truncate,
) -> Fitted:
    """The sequence of *query* with each document, which is cut to *cap* and to what fits.

    Raises:
        InputTooLongError: A pair is too long and its document may not be cut, or not so far.
    """
    texts = [frame.query_lead + query, *(frame.document_lead + text for text in documents)]
    # A document that spells the separator must not end before its end.
    asked, *rows = await vocabulary.tokenize(texts, add_special=False, parse_special=False)
    sequences, truncated = [], []
    for index, ids in enumerate(rows):
        kept = fit_document(
            ids if cap is None else ids[:cap],
            query=asked,
            frame=frame,
            limit=limit,
            truncate=truncate,
            index=index,
        )
        pair = frame.join(asked, kept)
        if len(kept) < len(ids):
            tokens = len(pair) + len(ids) - len(kept)
            truncated.append(Truncated(index=index, tokens=tokens, kept=len(pair)))
        sequences.append(pair)
    return Fitted(sequences=sequences, truncated=truncated)

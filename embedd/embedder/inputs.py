"""Inputs to token sequences: check, tokenize, fit to the model's limit."""

from collections.abc import Iterator, Sequence
from typing import TypeAlias

import numpy as np

from embedd.embedder.apart import QUICK_IDS, QUICK_INPUTS, apart, list_ids
from embedd.errors import EmptyInputError, InvalidInputError, InvalidTokenIdError
from embedd.resolve import ResolvedModel
from embedd.scheduler.records import Vocabulary
from embedd.tokenizers.truncation import (
    PairTemplate,
    SpecialTokens,
    fit_document,
    fit_ids,
    fit_text,
)
from embedd.types import (
    ClientIds,
    DimensionCheck,
    EmbedRequest,
    Input,
    Prompt,
    TokenIds,
    Tokenized,
    TokenizeRequest,
    Truncate,
    Truncated,
)

# Sequences that are ready to compute, and the inputs that were cut for it.
Fitted: TypeAlias = tuple[Sequence[TokenIds], Sequence[Truncated]]


def choose_prefix(prompt: Prompt | None, model: ResolvedModel) -> str:
    """Return the text that *prompt* puts before each input, empty if *model* has none.

    Raises:
        InvalidInputError: The model has prompts but not this one, which is not optional.
    """
    if prompt is None:
        return ""
    parameters = model.parameters
    prefixes = {"query": parameters.query_prefix, "document": parameters.document_prefix}
    name = prompt.name.lower()
    if name in prefixes:
        return prefixes[name]
    prompts = {key.lower(): text for key, text in parameters.prompts.items()}
    if name not in prompts and not prompt.is_optional and any((*prefixes.values(), prompts)):
        allowed = ", ".join([*prefixes, "passage", *parameters.prompts])
        raise InvalidInputError(
            f'unknown prompt_name "{prompt.name}", allowed are: {allowed}', field="prompt_name"
        )
    return prompts.get(name, "")


def check_prompt(request: EmbedRequest) -> list[str]:
    """Return a warning if the request names a prompt and some inputs cannot have one."""
    if request.prompt is None or all(isinstance(one, str) for one in request.inputs):
        return []
    return ["no prompt was put before token arrays"]


def check_dimensions(request: EmbedRequest, model: ResolvedModel) -> list[str]:
    """Check the request's ``dimensions`` as strictly as it asks; return warnings.

    Raises:
        InvalidInputError: The model cannot give vectors of this size.
    """
    asked, width = request.dimensions, model.spec.width
    if asked is None:
        return []
    if request.dimension_check is DimensionCheck.LENIENT:
        if 1 <= asked <= width:
            return []
        return [
            f"dimensions={asked} is not between 1 and {width}: the vectors have {width} numbers"
        ]
    sizes = model.parameters.matryoshka
    if request.dimension_check is DimensionCheck.MATRYOSHKA and not sizes:
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


def is_text_alone(inputs: Sequence[Input]) -> bool:
    """Whether *inputs* are one text, which has no ids to check."""
    return len(inputs) == 1 and isinstance(inputs[0], str)


def check_ids(inputs: Sequence[Input], vocabulary: int) -> None:
    """Check that all token ids are in ``0 … vocabulary - 1``.

    Raises:
        InvalidTokenIdError: One is not; the error names the first.
    """
    numbered = [(index, ids) for index, one in enumerate(inputs) for ids in list_ids(one)]
    # Many at once: ten thousand inputs checked one by one take a tenth of a second.
    for first in range(0, len(numbered), QUICK_INPUTS):
        group = numbered[first : first + QUICK_INPUTS]
        if not _are_valid([ids for _, ids in group], vocabulary):
            for index, ids in group:
                _check_input(index, ids, vocabulary)


def _are_valid(group: Sequence[ClientIds], vocabulary: int) -> bool:
    filled = [ids for ids in group if len(ids)]
    return all(ids.min() >= 0 and ids.max() < vocabulary for ids in _join_short(filled))


def _join_short(group: Sequence[ClientIds]) -> Sequence[ClientIds]:
    """Return *group* as one array, unless a copy would be large."""
    if len(group) > 1 and sum(map(len, group)) <= QUICK_IDS:
        return [np.concatenate(group)]
    return group


def _check_input(index: int, ids: ClientIds, vocabulary: int) -> None:
    bad = (ids < 0) | (ids >= vocabulary)
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


async def tokenize(
    vocabulary: Vocabulary,
    inputs: Sequence[Input],
    *,
    prefix: str = "",
    add_special: bool = True,
    parse_special: bool = True,
) -> list[TokenIds]:
    """Return the token ids of each input; an input of ids is taken as it is.

    *prefix* and special tokens are added to texts, and to a mixed input that begins with one.
    """
    if len(inputs) == 1 and isinstance(inputs[0], str):  # most requests
        return await vocabulary.tokenize(
            [prefix + inputs[0]], add_special=add_special, parse_special=parse_special
        )
    if {*map(type, inputs)} == {str}:  # many, often
        texts = await apart(inputs, _put_before, prefix, inputs)
        return await vocabulary.tokenize(
            texts, add_special=add_special, parse_special=parse_special
        )
    inner = [
        part
        for one in inputs
        if isinstance(one, tuple)
        for part in one[1:]
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
    return await apart(inputs, _to_rows, inputs, framed, bare)


def _put_before(prefix: str, texts: Sequence[Input]) -> list[str]:
    return [prefix + one for one in texts if isinstance(one, str)]


def _to_rows(
    inputs: Sequence[Input], framed: Iterator[TokenIds], bare: Iterator[TokenIds]
) -> list[TokenIds]:
    """Return the ids of *inputs*, given those of their texts: of first parts, and of others."""
    rows = []
    for one in inputs:
        head = _head(one)
        row = next(framed) if isinstance(head, str) else head.astype(np.int32)
        if isinstance(one, tuple):
            rest = (next(bare) if isinstance(part, str) else part for part in one[1:])
            row = np.concatenate([row, *rest]).astype(np.int32)
        rows.append(row)
    return rows


async def locate(
    vocabulary: Vocabulary, request: TokenizeRequest, *, prefix: str
) -> list[Tokenized]:
    """Return the tokens of each text of *request* and their places, *prefix* before each text."""
    texts = [prefix + one for one in request.inputs if isinstance(one, str)]
    located = await vocabulary.locate(texts, parse_special=request.parse_special)
    special = vocabulary.info.special_tokens
    ends = (special.prefix, special.suffix) if request.add_special else ((), ())
    before, after = (np.array(one, np.int32) for one in ends)
    pieces = await vocabulary.token_pieces(np.concatenate((before, after)))
    frame = (pieces[: len(before)], pieces[len(before) :])
    return [
        Tokenized(
            ids=np.concatenate((before, ids, after)), prefix=prefix, offsets=offsets, frame=frame
        )
        for ids, offsets in located
    ]


def _head(one: Input) -> str | ClientIds:
    return one[0] if isinstance(one, tuple) else one


def fit(
    inputs: Sequence[Input],
    sequences: Sequence[TokenIds],
    *,
    special: SpecialTokens,
    limit: int,
    truncate: Truncate,
) -> Fitted:
    """Cut the *sequences* of *inputs* to *limit* tokens where *truncate* allows it.

    Raises:
        InvalidInputError: A sequence has no tokens.
        InputTooLongError: A sequence is too long and may not or cannot be cut.
    """
    fitted, truncated = [], []
    for index, (sent, ids) in enumerate(zip(inputs, sequences, strict=True)):
        if not len(ids):
            raise EmptyInputError("input has no tokens", index=index)
        kept = ids
        if len(ids) > limit:
            cut = fit_text if isinstance(sent, str) else fit_ids
            kept = cut(ids, special=special, limit=limit, truncate=truncate, index=index)
            truncated.append(Truncated(index=index, tokens=len(ids), kept=len(kept)))
        fitted.append(kept)
    return fitted, truncated


async def tokenize_pairs(
    vocabulary: Vocabulary,
    query: str,
    documents: Sequence[str],
    *,
    template: PairTemplate,
    limit: int,
    max_tokens_per_doc: int | None,
    truncate: Truncate,
) -> Fitted:
    """Return the sequence of *query* with each document, cut so that the pair fits *limit*.

    Args:
        max_tokens_per_doc: Tokens of a document that are kept at most, whatever *truncate*.

    Raises:
        InputTooLongError: A pair is too long and its document may not or cannot be cut.
    """
    texts = [template.query_lead + query, *(template.document_lead + text for text in documents)]
    # Special tokens in a document's text are plain text: it must not end its own part.
    asked, *rows = await vocabulary.tokenize(texts, add_special=False, parse_special=False)
    sequences, truncated = [], []
    for index, ids in enumerate(rows):
        kept = fit_document(
            ids if max_tokens_per_doc is None else ids[:max_tokens_per_doc],
            query=asked,
            template=template,
            limit=limit,
            truncate=truncate,
            index=index,
        )
        pair = template.join(asked, kept)
        if len(kept) < len(ids):
            tokens = len(pair) + len(ids) - len(kept)
            truncated.append(Truncated(index=index, tokens=tokens, kept=len(pair)))
        sequences.append(pair)
    return sequences, truncated

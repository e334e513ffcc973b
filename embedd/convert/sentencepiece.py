"""SentencePiece's byte pairs (Gemma's), as ``tokenizer.json`` has them.

llama.cpp merges the pair whose result has the highest score. A ``tokenizer.json`` lists pairs
by rank instead. Scores are made of the ranks, which gives the same tokens if every pair of
tokens that is a token together is listed, and those of one result stand together: both are
checked.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from embedd.convert.byte_pairs import read_merges
from embedd.convert.tokenizer_files import (
    TOKENIZER,
    AddedToken,
    TokenizerFiles,
    invert,
    merge_added,
    read_added,
    read_frame,
    read_ids,
    steps,
)
from embedd.convert.unigram import WORD_START, is_byte
from embedd.convert.words import find_mask, make_vocabulary
from embedd.errors import ConversionError
from embedd.tokenizers.vocabulary import TokenType, Vocabulary

MAX_CHARACTERS: Final = 256  # of a token: each of its parts is looked up
# Of Gemma: its id has no row in the embedding matrix, and no text of an embedding model has it.
IMAGE: Final = "<image_soft_token>"
_MARK_SPACES: Final = {"type": "Replace", "pattern": {"String": " "}, "content": WORD_START}


def is_sentencepiece(files: TokenizerFiles) -> bool:
    """Whether the byte pairs of *files* are SentencePiece's: of characters, not of bytes."""
    return files.model.get("byte_fallback") is True


def read_sentencepiece(files: TokenizerFiles, *, size: int) -> Vocabulary:
    """The vocabulary of *files*, padded to *size* ids.

    Raises:
        ConversionError: A step of the tokenizer is one that llama.cpp does not have, or its
            ranks cannot be said by scores.
    """
    _check_steps(files)
    model = files.model
    pieces = read_ids(model.get("vocab"))
    merges = read_merges(model)
    added = [one for one in read_added(files) if one.text != IMAGE or one.id < size]
    ranks = _rank_results(pieces, merges, added)
    types = {id_: TokenType.BYTE for id_, piece in pieces.items() if is_byte(piece)}
    types |= merge_added(pieces, added, size=size)
    ids = invert(pieces)
    # Spaces are marked before a text is cut: tokens of marks come from merges, as words do.
    types |= {
        one.id: TokenType.NORMAL
        for one in added
        if not one.special and WORD_START in one.text and one.text in ranks
    }
    unk = ids.get(str(model.get("unk_token")))
    if unk is not None:
        types[unk] = TokenType.UNKNOWN
    return make_vocabulary(
        files,
        "llama",
        pieces,
        types,
        size=size,
        frame=read_frame(files),
        unk=unk,
        mask=find_mask(files, added),
        scores=_to_scores(ids, ranks, size, lowest=-float(len(merges))),
    )


def _check_steps(files: TokenizerFiles) -> None:
    normalizer = steps(files.tokenizer.get("normalizer"), "normalizers")
    if normalizer != [_MARK_SPACES]:
        raise ConversionError(
            f"{TOKENIZER} has the normalizer {normalizer!r:.200}: with SentencePiece's byte pairs "
            f"only {_MARK_SPACES} is converted"
        )
    # Without effect: no space is left.
    for step in steps(files.tokenizer.get("pre_tokenizer"), "pretokenizers"):
        if step.get("type") != "Split" or step.get("pattern") != {"String": " "}:
            raise ConversionError(
                f"{TOKENIZER} has the pre_tokenizer {step.get('type')!r}: with SentencePiece's "
                "byte pairs only a Split at spaces is converted"
            )
    if files.model.get("ignore_merges") or files.model.get("dropout"):
        raise ConversionError(
            f"{TOKENIZER} has ignore_merges or dropout: SentencePiece's byte pairs are only "
            "converted without"
        )


def _rank_results(
    pieces: dict[int, str], merges: Sequence[tuple[str, str]], added: Sequence[AddedToken]
) -> dict[str, int]:
    """Result of merges → rank of its first.

    Raises:
        ConversionError: The ranks cannot be said by scores.
    """
    apart = {token.text for token in added if WORD_START not in token.text}
    known = {*pieces.values()}
    ranks: dict[str, int] = {}
    last = ""
    for rank, (first, second) in enumerate(merges):
        result = first + second
        if not {first, second, result} <= known:
            raise ConversionError(
                f"{TOKENIZER} merges {first!r} and {second!r}, which are not tokens"
            )
        if result != last and result in ranks and result not in apart:
            raise ConversionError(
                f"{TOKENIZER} has merges for {result!r} at the ranks {ranks[result]} and {rank}: "
                "llama.cpp has one score for both"
            )
        ranks.setdefault(result, rank)
        last = result
    listed = {*merges}
    for piece in known - apart:
        if is_byte(piece):
            continue
        if len(piece) > MAX_CHARACTERS:
            raise ConversionError(
                f"the token {piece!r:.80} has {len(piece)} characters, at most {MAX_CHARACTERS} "
                "are converted",
                limit=MAX_CHARACTERS,
            )
        for at in range(1, len(piece)):
            pair = piece[:at], piece[at:]
            if pair[0] in known and pair[1] in known and pair not in listed:
                raise ConversionError(
                    f"{TOKENIZER} has no merge of {pair[0]!r} and {pair[1]!r}, which llama.cpp "
                    "would merge"
                )
    return ranks


def _to_scores(
    ids: dict[str, int], ranks: dict[str, int], size: int, *, lowest: float
) -> npt.NDArray[np.float32]:
    """Scores by id: the lower the rank, the higher."""
    scores = np.full(size, lowest, np.float32)
    for result, rank in ranks.items():
        scores[ids[result]] = -float(rank)
    return scores

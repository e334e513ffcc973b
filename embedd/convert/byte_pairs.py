"""Byte-level BPE vocabularies (Qwen's, ModernBERT's, RoBERTa's), as ``tokenizer.json`` has them."""

from typing import Final

from embedd.convert.tokenizer_files import (
    TOKENIZER,
    Object,
    TokenizerFiles,
    merge_added,
    read_added,
    read_frame,
    read_ids,
    steps,
)
from embedd.convert.words import find_mask, make_vocabulary
from embedd.errors import ConversionError
from embedd.tokenizers.pretokenizers import GPT2, PRETOKENIZERS
from embedd.tokenizers.vocabulary import MAX_MERGES, Vocabulary

# As `tokenizers` writes Digits(individual_digits=True)
_DIGITS: Final = {"type": "Digits", "individual_digits": True}


def read_byte_pairs(files: TokenizerFiles, *, size: int) -> Vocabulary:
    """The vocabulary of *files*, padded to *size* ids.

    Raises:
        ConversionError: A step of the tokenizer is one that a GGUF cannot name, or the
            vocabulary is damaged.
    """
    model = files.model
    for key in ("continuing_subword_prefix", "end_of_word_suffix", "dropout", "byte_fallback"):
        if model.get(key):
            raise ConversionError(
                f"{TOKENIZER} has {key} {model[key]!r}: byte pairs are only converted without it"
            )
    pieces = read_ids(model.get("vocab"))
    added = read_added(files)
    types = merge_added(pieces, added, size=size)
    return make_vocabulary(
        files,
        "gpt2",
        pieces,
        types,
        size=size,
        frame=read_frame(files),
        unk=None,
        mask=find_mask(files, added),
        pre=find_pre(files),
        merges=tuple(" ".join(pair) for pair in read_merges(model)),
    )


def read_merges(model: Object) -> list[tuple[str, str]]:
    """The merges in the order of their rank.

    Raises:
        ConversionError: One is not a pair, or there are too many.
    """
    listed = model.get("merges")
    if not isinstance(listed, list) or not listed:
        raise ConversionError(f"{TOKENIZER} has no merges")
    if len(listed) > MAX_MERGES:
        raise ConversionError(
            f"{TOKENIZER} has {len(listed)} merges, at most {MAX_MERGES} are converted",
            limit=MAX_MERGES,
        )
    merges: list[tuple[str, str]] = []
    for merge in listed:
        pair = merge.split(" ") if isinstance(merge, str) else merge
        match pair:
            case [str(first), str(second)] if first and second and " " not in first + second:
                merges.append((first, second))
            case _:
                raise ConversionError(f"{TOKENIZER} has the merge {merge!r:.200}")
    return merges


def find_pre(files: TokenizerFiles) -> str:
    """The name for the way in which texts are normalised and cut into words.

    Raises:
        ConversionError: None of the names that llama.cpp knows means just this.
    """
    normalizer = steps(files.tokenizer.get("normalizer"), "normalizers")
    kinds = [step.get("type") for step in normalizer]
    if kinds not in ([], ["NFC"]):
        raise ConversionError(
            f"{TOKENIZER} has the normalizer {kinds}: with byte pairs only NFC is converted"
        )
    whole = files.model.get("ignore_merges") is True
    expressions = _read_expressions(files.tokenizer)
    for name, rules in PRETOKENIZERS.items():
        if (rules.expressions, rules.nfc, rules.ignore_merges) == (expressions, bool(kinds), whole):
            return name
    raise ConversionError(
        f"{TOKENIZER} cuts words by {expressions} (NFC: {bool(kinds)}, ignore_merges: {whole}): "
        "this pre-tokenizer is not known"
    )


def _read_expressions(tokenizer: Object) -> tuple[str, ...]:
    """The expressions that cut a text into words, one after the other."""
    expressions: list[str] = []
    words = steps(tokenizer.get("pre_tokenizer"), "pretokenizers")
    for step in words[:-1]:
        match step:
            case {"type": "Split", "pattern": {"Regex": str(one)}, "behavior": str(behavior)} if (
                behavior == "Isolated" and step.get("invert") in (False, None)
            ):
                expressions.append(one)
            case _ if step == _DIGITS:
                expressions.append(r"\p{N}")
            case _:
                raise _unknown(step)
    last = words[-1] if words else {}
    if last.get("type") != "ByteLevel" or last.get("add_prefix_space") is not False:
        raise _unknown(last)
    # Older files have no such key, which means that it is used.
    if last.get("use_regex", True):
        expressions += GPT2.expressions
    return tuple(expressions)


def _unknown(step: Object) -> ConversionError:
    return ConversionError(
        f"{TOKENIZER} has {dict(step)!r:.300} in its pre_tokenizer: with byte pairs only Split, "
        "Digits and a last ByteLevel without add_prefix_space are converted"
    )

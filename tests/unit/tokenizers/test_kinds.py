"""Each kind of tokenizer, read back from a GGUF: the ids are those of the original."""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, normalizers, pre_tokenizers

from embedd.tokenizers.model_tokenizer import ModelTokenizer, load_tokenizer
from tests.unit.tokenizers import vocabularies
from tests.unit.tokenizers.vocabularies import (
    BERT_SPECIAL,
    XLM_SPECIAL,
    find_checkpoint,
    find_gguf,
    iterate_code_points,
    mix_scripts,
)

Pair = tuple[ModelTokenizer, Tokenizer]
# Expressions as the checkpoints' own files have them, not put together as in the table
QWEN2 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}"
    r"| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
GPT4O = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+"
    r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
TEKKEN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def split(expression: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(expression), "isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )


def gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


# ``tokenizer.ggml.pre`` → the words of the original, whether it has NFC
ORIGINALS: dict[str, tuple[Callable[[], pre_tokenizers.PreTokenizer], bool]] = {
    "gpt-2": (gpt2, False),
    "modern-bert": (gpt2, True),
    "starcoder": (digits, False),
    "qwen2": (lambda: split(QWEN2), True),
    "qwen35": (lambda: split(QWEN35), True),
    "llama-bpe": (lambda: split(LLAMA3), False),
    "gpt-4o": (lambda: split(GPT4O), False),
    "tekken": (lambda: split(TEKKEN), False),
}
ADDED = ("<tool>", "  ", "   ", "    ")
CHAT = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("vocabularies")


@pytest.fixture(scope="module")
def checkpoint(default_store: Path) -> Pair:
    """The default model: converted by embedd, and its checkpoint's own tokenizer."""
    original = Tokenizer.from_file(str(find_checkpoint()))
    original.no_truncation()
    original.no_padding()
    return load_tokenizer(find_gguf(default_store))[0], original


def make_wordpiece(folder: Path, *, lowercase: bool) -> Pair:
    original = vocabularies.train_wordpiece(lowercase=lowercase)
    path = vocabularies.write_wordpiece(folder / f"bert-{lowercase}.gguf", original)
    return load_tokenizer(path)[0], original


def make_unigram(folder: Path) -> Pair:
    charsmap = vocabularies.compile_nfkc()
    original = vocabularies.train_unigram(charsmap)
    path = vocabularies.write_unigram(folder / "t5.gguf", original, charsmap)
    original.add_special_tokens([AddedToken(one, normalized=False) for one in XLM_SPECIAL])
    return load_tokenizer(path)[0], original


def make_byte_pairs(folder: Path, pre: str) -> Pair:
    words, nfc = ORIGINALS[pre]
    original = vocabularies.train_byte_pairs(words())
    path = vocabularies.write_byte_pairs(
        folder / f"{pre}.gguf", original, pre, special=CHAT, added=ADDED
    )
    if nfc:
        original.normalizer = normalizers.NFC()
    original.add_special_tokens([AddedToken(one, normalized=False) for one in CHAT])
    original.add_tokens([AddedToken(one, normalized=False) for one in ADDED])
    return load_tokenizer(path)[0], original


KINDS: dict[str, Callable[[Path], Pair]] = {
    "uncased": lambda folder: make_wordpiece(folder, lowercase=True),
    "cased": lambda folder: make_wordpiece(folder, lowercase=False),
    "unigram": make_unigram,
    **{pre: partial(make_byte_pairs, pre=pre) for pre in ORIGINALS},
}


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest, folder: Path) -> Pair:
    return KINDS[request.param](folder)


def differing(pair: Pair, texts: Sequence[str]) -> list[str]:
    """The texts whose ids are not those of the original."""
    ours = pair[0].tokenize(texts, add_special=False)
    theirs = pair[1].encode_batch_fast(texts, add_special_tokens=False)
    return [
        text
        for text, one, other in zip(texts, ours, theirs, strict=True)
        if one.tolist() != other.ids
    ]


def contexts(*, step: int = 1) -> Iterable[list[str]]:
    """Every code point but surrogates alone, within a word and around a space."""
    for points in iterate_code_points(step=step):
        yield [
            " ".join(points),
            " ".join(f"a{point}b" for point in points),
            " ".join(f"{point} {point}" for point in points),
            *(points if points[0] < "\u3400" else ()),
        ]


def test_every_code_point_of_the_default_model_has_the_ids_of_its_checkpoint(
    checkpoint: Pair,
) -> None:
    assert [text for texts in contexts() for text in differing(checkpoint, texts)] == []


def test_mixed_texts_in_thirty_scripts_have_the_ids_of_the_checkpoint(checkpoint: Pair) -> None:
    assert differing(checkpoint, mix_scripts(2000, seed=13)) == []


def test_words_and_spaces_that_llama_cpp_reads_otherwise(checkpoint: Pair) -> None:
    ours, _ = checkpoint
    rows = [row.tolist() for row in ours.tokenize(["a" * 101, "a" * 100 + "b", "page\fbreak"])]
    assert rows[:2] == [[101, 100, 102]] * 2
    assert rows[2] == [101, 3931, 23890, 102]
    assert len(ours.tokenize(["a" * 100])[0]) > 3


@pytest.mark.parametrize(
    "texts",
    [("가", "강"), ("나라", "누리"), ("서울", "사을"), ("की", "का")],
    ids=lambda pair: pair[0],
)
def test_texts_that_differ_have_ids_that_differ(texts: tuple[str, str], checkpoint: Pair) -> None:
    first, second = checkpoint[0].tokenize(texts)
    assert not np.array_equal(first, second)


def test_every_code_point_has_the_ids_of_the_original(kind: Pair) -> None:
    assert [text for texts in contexts(step=101) for text in differing(kind, texts)] == []


def test_mixed_texts_have_the_ids_of_the_original(kind: Pair) -> None:
    assert differing(kind, mix_scripts(2000, seed=17)) == []


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=200)
@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_has_the_ids_of_the_original(kind: Pair, text: str) -> None:
    assert differing(kind, [text, text + "  ", f"x{text}'ll"]) == []


def test_names_of_control_tokens_become_them_only_if_asked(kind: Pair) -> None:
    ours, original = kind
    ids = {one: original.token_to_id(one) for one in (*BERT_SPECIAL, *XLM_SPECIAL, *CHAT)}
    names = [name for name, id_ in ids.items() if id_ is not None]
    control = {ids[name] for name in names if name not in {"[UNK]", "<unk>"}}
    assert control
    texts = [f"the {name}fox{name}" for name in names] + names
    assert differing(kind, texts) == []
    for row in ours.tokenize(texts, add_special=False, parse_special=False):
        assert control.isdisjoint(row.tolist())


def test_places_are_those_of_the_original(kind: Pair) -> None:
    ours, original = kind
    texts = ["The quick fox, über 나라! x", *mix_scripts(100, seed=3)]
    for text, (ids, offsets) in zip(texts, ours.locate(texts), strict=True):
        encoding = original.encode(text, add_special_tokens=False)
        assert ids.tolist() == encoding.ids
        assert [tuple(row) for row in offsets.tolist()] == encoding.offsets

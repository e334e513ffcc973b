"""Tokenizers of every kind are read from ``tokenizer.json`` and written as they are, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedd.convert import WeightType, convert_checkpoint
from embedd.convert.vocabulary import read_vocabulary
from embedd.errors import ConversionError
from embedd.tokenizers.vocabulary import TokenType, Vocabulary
from embedd.tokenizers.vocabulary import read_vocabulary as read_back
from embedd.types import Pooling
from tests.checkpoints import IMAGE, SAMPLES, write_sample
from tests.tiny_models import write_json
from tests.unit.tokenizers.vocabularies import MARK

Json = dict[str, Any]
Change = Callable[[Json], object]
DEFAULT_IDS = {"bos", "eos", "unk", "sep"}  # of some kinds, where a file names none
NO_TEXT = {"type": "Lowercase"}


def write_tokenizer(folder: Path, name: str, change: Change = lambda _: None) -> int:
    """The tokenizer of a sample as *change* leaves it; gives the ids that it has."""
    sample = SAMPLES[name]
    tokenizer = sample.tokenizer()
    content = json.loads(tokenizer.to_str())
    change(content)
    write_json(folder / "tokenizer.json", content)
    write_json(folder / "tokenizer_config.json", sample.roles)
    return tokenizer.get_vocab_size()


def read(folder: Path, name: str, change: Change = lambda _: None, *, spare: int = 0) -> Vocabulary:
    return read_vocabulary(folder, size=write_tokenizer(folder, name, change) + spare)


@pytest.mark.parametrize("name", SAMPLES)
def test_what_is_written_is_read_back(name: str, tmp_path: Path) -> None:
    write_sample(tmp_path / "source", SAMPLES[name], Pooling.MEAN)
    target = tmp_path / "out.gguf"
    written = convert_checkpoint(tmp_path / "source", target, weights=WeightType.F16).vocabulary
    found = read_back(target)
    for field in Vocabulary.__slots__:
        one, other = getattr(written, field), getattr(found, field)
        if not (field in DEFAULT_IDS and one is None):
            assert np.array_equal(one, other), field


def test_roles_of_a_decoder_s_tokens_come_from_what_frames_a_text(tmp_path: Path) -> None:
    """The config of Qwen3-Embedding calls another token EOS."""
    vocabulary = read(tmp_path, "qwen3")
    assert vocabulary.eos is not None
    assert vocabulary.tokens[vocabulary.eos] == "<|endoftext|>"
    assert (vocabulary.add_bos, vocabulary.add_eos, vocabulary.add_sep) == (False, True, False)
    assert vocabulary.pre == "qwen2"
    assert vocabulary.types[vocabulary.tokens.index("<tool_call>")] == TokenType.USER_DEFINED


@pytest.mark.parametrize(
    ("name", "pre"), [("roberta", "gpt-2"), ("modernbert", "modern-bert"), ("qwen3", "qwen2")]
)
def test_a_pre_tokenizer_has_the_name_that_llama_cpp_knows(
    name: str, pre: str, tmp_path: Path
) -> None:
    assert read(tmp_path, name).pre == pre


def test_digits_are_an_expression_too(tmp_path: Path) -> None:
    def change(content: Json) -> None:
        digits = {"type": "Digits", "individual_digits": True}
        words = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True}
        content["pre_tokenizer"] = {"type": "Sequence", "pretokenizers": [digits, words]}

    assert read(tmp_path, "roberta", change).pre == "starcoder"


def test_a_mask_is_one_that_takes_the_spaces_before_it(tmp_path: Path) -> None:
    vocabulary = read(tmp_path, "roberta")
    assert vocabulary.mask == vocabulary.tokens.index("<mask>")
    assert vocabulary.add_sep

    def change(content: Json) -> None:
        for token in content["added_tokens"]:
            token["lstrip"] = False

    assert read(tmp_path, "roberta", change).mask is None


def test_a_mask_needs_no_role_where_no_other_token_takes_spaces(tmp_path: Path) -> None:
    size = write_tokenizer(tmp_path, "roberta")
    (tmp_path / "tokenizer_config.json").unlink()
    vocabulary = read_vocabulary(tmp_path, size=size)
    assert vocabulary.mask == vocabulary.tokens.index("<mask>")
    write_tokenizer(tmp_path, "roberta", add_token(lstrip=True))
    (tmp_path / "tokenizer_config.json").unlink()
    with pytest.raises(ConversionError, match="with lstrip, which a GGUF can only say of a mask"):
        read_vocabulary(tmp_path, size=size)


def test_spare_ids_are_unused_and_as_unlikely_as_the_least_likely_token(tmp_path: Path) -> None:
    vocabulary = read(tmp_path, "xlm-roberta", spare=2)
    assert vocabulary.types[-2:].tolist() == [TokenType.UNUSED] * 2
    assert vocabulary.tokens[-1] == f"[PAD{len(vocabulary.tokens) - 1}]"
    assert vocabulary.scores[-1] == vocabulary.scores.min() == vocabulary.scores[5:-2].min()


def test_bytes_of_a_unigram_tokenizer_are_bytes(tmp_path: Path) -> None:
    def change(content: Json) -> None:
        content["model"]["byte_fallback"] = True
        content["model"]["vocab"][7][0] = "<0x41>"

    vocabulary = read(tmp_path, "xlm-roberta", change)
    assert vocabulary.types[7] == TokenType.BYTE
    assert vocabulary.types[3] == TokenType.UNKNOWN


def test_scores_of_sentencepiece_s_pairs_fall_with_their_rank(tmp_path: Path) -> None:
    vocabulary = read(tmp_path, "embeddinggemma")
    tokens = vocabulary.tokens
    spaces = [vocabulary.scores[tokens.index(MARK * size)] for size in (2, 3, 4)]
    assert spaces == [0, -1, -3]
    # Letters, which no merge gives
    assert vocabulary.scores[tokens.index("a")] == vocabulary.scores.min()
    assert vocabulary.types[tokens.index(MARK * 2)] == TokenType.NORMAL
    assert vocabulary.types[tokens.index("<0x0A>")] == TokenType.BYTE
    assert not vocabulary.add_space_prefix


def test_gemma_s_token_of_images_has_no_row(tmp_path: Path) -> None:
    def change(content: Json) -> None:
        size = max(token["id"] for token in content["added_tokens"])
        beyond = max(size, *content["model"]["vocab"].values()) + 1
        image = {**content["added_tokens"][0], "id": beyond, "content": IMAGE}
        content["added_tokens"].append(image)

    vocabulary = read(tmp_path, "embeddinggemma", change)
    assert IMAGE not in vocabulary.tokens


def set_in(*path: str | int, to: object) -> Change:
    def change(content: Json) -> None:
        place: Any = content
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = to

    return change


def drop_merge(content: Json) -> None:
    """One of several that give the same token."""
    merges = content["model"]["merges"]
    merges.remove([MARK, MARK * 2])


def part_merges(content: Json) -> None:
    merges = content["model"]["merges"]
    merges.append(merges.pop(1))


def invent_merge(content: Json) -> None:
    content["model"]["merges"].append(["a", "never"])


def add_token(**options: object) -> Change:
    def change(content: Json) -> None:
        content["added_tokens"][0].update(options)

    return change


METASPACE = {"type": "Metaspace", "replacement": MARK, "prepend_scheme": "always"}
SPLIT = {"type": "Split", "pattern": {"Regex": "x"}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
FRAME: Json = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}],
    "special_tokens": {},
}
A, CLS = {"Sequence": {"id": "A"}}, {"SpecialToken": {"id": "c"}}
TWICE = {**FRAME, "single": [CLS, CLS, A], "special_tokens": {"c": {"ids": [2]}}}
FAR = {"c": {"ids": [99_999]}}
NAMELESS = {**FRAME, "single": [CLS, A]}
TWO_TEXTS = {**FRAME, "single": [A, A]}
REFUSALS: list[tuple[str, Change, str]] = [
    ("xlm-roberta", set_in("normalizer", to=NO_TEXT), "the normalizer 'Lowercase': with a unig"),
    ("xlm-roberta", set_in("normalizer", to=5), "has the step 5, which is not understood"),
    ("xlm-roberta", set_in("normalizer", "normalizers", to=None), "which is not understood"),
    ("xlm-roberta", set_in("normalizer", "normalizers", 0, to=NO_TEXT), "'Lowercase': with a un"),
    (
        "xlm-roberta",
        set_in("normalizer", "normalizers", 0, "precompiled_charsmap", to="§"),
        "charsmap that is not base64",
    ),
    (
        "xlm-roberta",
        set_in("normalizer", "normalizers", 0, "precompiled_charsmap", to="/////w=="),
        "charsmap of 4 bytes that begins with the length 4294967295: it is damaged",
    ),
    ("xlm-roberta", set_in("pre_tokenizer", to=BYTES), "the pre_tokenizer ['ByteLevel']"),
    (
        "xlm-roberta",
        set_in("pre_tokenizer", to={**METASPACE, "prepend_scheme": "first"}),
        f"({MARK!r}, 'first', True): only",
    ),
    ("xlm-roberta", set_in("model", "unk_id", to=None), "has unk_id None for"),
    ("xlm-roberta", set_in("model", "vocab", to=[]), "no vocab of tokens and scores"),
    ("xlm-roberta", set_in("model", "vocab", 9, to=["a", float("nan")]), "as token 9"),
    ("xlm-roberta", set_in("model", "vocab", 9, to=["<s>", 0.0]), "'<s>' twice, as id 0"),
    ("xlm-roberta", add_token(rstrip=True), "looks for '<s>' with rstrip, which a GGUF cannot"),
    ("xlm-roberta", add_token(lstrip=True), "looks for '<s>' with lstrip, which a GGUF can only"),
    ("xlm-roberta", add_token(id=5), "id 5 is both"),
    ("xlm-roberta", add_token(id=5000), "the vocabulary goes up to id 5000, config.json has"),
    ("xlm-roberta", set_in("post_processor", to=TWICE), "ids [2, 2] before and [] after a text"),
    ("xlm-roberta", set_in("post_processor", to=NAMELESS), "frames texts by 'c', which has no id"),
    ("xlm-roberta", set_in("post_processor", to=TWO_TEXTS), "without one place for a text"),
    ("xlm-roberta", set_in("post_processor", "single", 0, to={}), "has {} in its post_processor"),
    ("xlm-roberta", set_in("post_processor", to=NO_TEXT), "post_processor 'Lowercase': only one"),
    (
        "xlm-roberta",
        set_in("post_processor", to={"type": "Sequence", "processors": [TWO_TEXTS, FRAME]}),
        "without one place",
    ),
    ("roberta", set_in("post_processor", "cls", to=None), "a post_processor without cls and sep"),
    (
        "xlm-roberta",
        set_in("post_processor", to={**TWICE, "single": [CLS, A], "special_tokens": FAR}),
        "texts are framed by the id 99999, config.json has vocab_size",
    ),
    ("roberta", set_in("normalizer", to=NO_TEXT), "the normalizer ['Lowercase']: with byte pairs"),
    ("roberta", set_in("pre_tokenizer", "add_prefix_space", to=True), "without add_prefix_space"),
    ("roberta", set_in("pre_tokenizer", to=None), "has {} in its pre_tokenizer"),
    ("roberta", set_in("model", "ignore_merges", to=True), "this pre-tokenizer is not known"),
    ("roberta", set_in("model", "end_of_word_suffix", to="</w>"), "end_of_word_suffix '</w>'"),
    ("roberta", set_in("model", "merges", to=[]), "has no merges"),
    ("roberta", set_in("model", "merges", 0, to=["a", "b", "c"]), "merge ['a', 'b', 'c']"),
    ("roberta", set_in("model", "merges", 0, to="ab"), "the merge 'ab'"),
    ("roberta", set_in("model", "merges", 0, to=["a b", "c"]), "the merge ['a b', 'c']"),
    (
        "qwen3",
        set_in("pre_tokenizer", to={"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}),
        "cuts words by ('x',) (NFC: True, ignore_merges: False): this pre-tokenizer is not known",
    ),
    (
        "qwen3",
        set_in("pre_tokenizer", "pretokenizers", 0, "behavior", to="Removed"),
        "'behavior': 'Removed'",
    ),
    ("embeddinggemma", set_in("normalizer", to=None), "has the normalizer []: with SentencePiece"),
    ("embeddinggemma", set_in("pre_tokenizer", to=METASPACE), "the pre_tokenizer 'Metaspace'"),
    ("embeddinggemma", set_in("model", "ignore_merges", to=True), "ignore_merges or dropout"),
    ("embeddinggemma", drop_merge, f"no merge of {MARK!r} and {MARK * 2!r}, which llama.cpp"),
    ("embeddinggemma", part_merges, f"has merges for {MARK * 3!r} at the ranks 1 and"),
    (
        "embeddinggemma",
        lambda content: content["model"]["vocab"].update({"a" * 257: 1000}),
        "has 257 characters, at most 256",
    ),
    ("embeddinggemma", invent_merge, "merges 'a' and 'never', which are not tokens"),
]


@pytest.mark.parametrize(("name", "change", "reason"), REFUSALS)
def test_a_tokenizer_that_a_gguf_cannot_say_is_refused(
    name: str, change: Change, reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError) as caught:
        read(tmp_path, name, change)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("limit", "reason"),
    [("byte_pairs.MAX_MERGES", "merges, at most 5"), ("words.MAX_TEXT_BYTES", "bytes, at most 5")],
)
def test_vocabularies_beyond_a_limit_are_refused(
    limit: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"embedd.convert.{limit}", 5)
    with pytest.raises(ConversionError, match=reason) as caught:
        read(tmp_path, "roberta")
    assert caught.value.limit == 5

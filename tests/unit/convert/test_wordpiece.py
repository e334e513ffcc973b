"""WordPiece vocabularies are spelt as llama.cpp expects, or refused."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from embedd.convert.vocabulary import read_vocabulary
from embedd.errors import ConversionError
from embedd.tokenizers.vocabulary import TokenType, Vocabulary
from tests.tiny_models import SPECIAL_TOKENS, write_json

TOKENS = (*SPECIAL_TOKENS, "play", "##ing", "[unused1]", "é", "#", "###", "▁x")
NORMAL, CONTROL, UNUSED = TokenType.NORMAL, TokenType.CONTROL, TokenType.UNUSED


def write_vocabulary(folder: Path, tokens: Sequence[str] = TOKENS) -> Path:
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    return folder


def tokenizer_json(tokens: Sequence[str] = TOKENS, **changes: object) -> dict[str, object]:
    """A ``tokenizer.json`` of BERT; keyword ``normalizer`` and others replace parts."""
    return {
        "model": {
            "type": "WordPiece",
            "continuing_subword_prefix": "##",
            "vocab": {token: id_ for id_, token in enumerate(tokens)},
        },
        "normalizer": {"type": "BertNormalizer"},
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        **changes,
    }


def model(**changes: object) -> dict[str, object]:
    base = tokenizer_json()["model"]
    assert isinstance(base, dict)
    return {**base, **changes}


def facts(vocabulary: Vocabulary) -> list[object]:
    """What can be compared."""
    return [
        value.tolist() if isinstance(value, np.ndarray) else value
        for value in map(vocabulary.__getattribute__, Vocabulary.__slots__)
    ]


def test_word_starts_are_marked_continuations_bare_and_special_tokens_as_they_are(
    tmp_path: Path,
) -> None:
    vocabulary = read_vocabulary(write_vocabulary(tmp_path), size=len(TOKENS))
    assert vocabulary.tokens == (
        *SPECIAL_TOKENS,
        "▁play",
        "ing",
        "▁[unused1]",
        "▁é",
        "▁#",
        "#",
        "▁▁x",
    )
    assert vocabulary.types.tolist() == [CONTROL] * 5 + [NORMAL] * 7
    assert (vocabulary.pad, vocabulary.unk, vocabulary.bos) == (0, 1, 2)
    assert (vocabulary.sep, vocabulary.mask) == (3, 4)


def test_missing_ids_are_filled_with_unused_tokens(tmp_path: Path) -> None:
    size = len(TOKENS)
    vocabulary = read_vocabulary(write_vocabulary(tmp_path), size=size + 2)
    assert vocabulary.tokens[size:] == (f"[PAD{size}]", f"[PAD{size + 1}]")
    assert vocabulary.types[size:].tolist() == [UNUSED, UNUSED]


@pytest.mark.parametrize(
    ("config", "normalizer", "lowercase", "strip_accents"),
    [
        ({}, None, True, None),
        ({"do_lower_case": True, "strip_accents": None}, None, True, None),
        ({"do_lower_case": False}, None, False, None),
        ({"do_lower_case": True, "strip_accents": False}, None, True, False),
        ({}, {"lowercase": False}, False, None),
        ({}, {"lowercase": True, "strip_accents": True}, True, True),
        ({"do_lower_case": True}, {"lowercase": False}, True, None),
    ],
)
def test_case_and_accents_follow_the_config_then_the_normalizer(
    tmp_path: Path,
    config: dict[str, object],
    normalizer: dict[str, object] | None,
    lowercase: bool,
    strip_accents: bool | None,
) -> None:
    write_json(write_vocabulary(tmp_path) / "tokenizer_config.json", config)
    if normalizer is not None:
        options = {"type": "BertNormalizer", **normalizer}
        write_json(tmp_path / "tokenizer.json", tokenizer_json(normalizer=options))
    vocabulary = read_vocabulary(tmp_path, size=len(TOKENS))
    assert vocabulary.lowercase is lowercase
    assert vocabulary.strip_accents is strip_accents


def test_tokenizer_json_serves_where_vocab_txt_is_missing(tmp_path: Path) -> None:
    write_vocabulary(tmp_path)
    listed = read_vocabulary(tmp_path, size=len(TOKENS))
    (tmp_path / "vocab.txt").unlink()
    write_json(tmp_path / "tokenizer.json", tokenizer_json())
    assert facts(read_vocabulary(tmp_path, size=len(TOKENS))) == facts(listed)


def test_special_tokens_may_have_other_names(tmp_path: Path) -> None:
    tokens = ["<pad>", "<unk>", "<s>", "</s>", "<mask>", "a", "[CLS]"]
    write_vocabulary(tmp_path, tokens)
    write_json(
        tmp_path / "special_tokens_map.json",
        {"cls_token": {"content": "<s>"}, "sep_token": "</s>", "pad_token": "<nothing>"},
    )
    write_json(
        tmp_path / "tokenizer_config.json",
        {"unk_token": "<unk>", "mask_token": "<mask>", "pad_token": "<pad>"},
    )
    vocabulary = read_vocabulary(tmp_path, size=len(tokens))
    assert vocabulary.tokens == ("<pad>", "<unk>", "<s>", "</s>", "<mask>", "▁a", "▁[CLS]")
    assert (vocabulary.bos, vocabulary.sep, vocabulary.pad) == (2, 3, 0)


def test_added_tokens_flagged_special_are_control_tokens(tmp_path: Path) -> None:
    size = len(TOKENS)
    write_vocabulary(tmp_path)
    added = [
        {"id": size, "content": "[NEW]", "special": True},
        {"id": 5, "content": "play", "special": False},
    ]
    write_json(tmp_path / "tokenizer.json", tokenizer_json(added_tokens=added))
    decoder = {"7": {"content": "[unused1]", "special": True}, "13": None}
    write_json(tmp_path / "tokenizer_config.json", {"added_tokens_decoder": decoder})
    vocabulary = read_vocabulary(tmp_path, size=size + 1)
    assert vocabulary.tokens[size] == "[NEW]"
    assert vocabulary.types[size] == CONTROL
    assert vocabulary.types[5] == NORMAL
    assert vocabulary.tokens[7] == "[unused1]"
    assert vocabulary.types[7] == CONTROL


def added(id_: object, content: object, *, special: bool) -> list[object]:
    return [{"id": id_, "content": content, "special": special}, "no object"]


REFUSALS: dict[str, tuple[dict[str, object], dict[str, object] | None, str]] = {
    "other tokenizer": (
        {"tokenizer_class": "BertJapaneseTokenizer"},
        None,
        "tokenizer_class 'BertJapaneseTokenizer': only BERT's is converted",
    ),
    "whole Chinese words": (
        {"tokenize_chinese_chars": False},
        None,
        "turns tokenize_chinese_chars off",
    ),
    "whole Chinese words, by the normalizer": (
        {},
        tokenizer_json(normalizer={"type": "BertNormalizer", "handle_chinese_chars": False}),
        "turns tokenize_chinese_chars off",
    ),
    "other model": (
        {},
        tokenizer_json(model={"type": "WordLevel"}),
        "model of type 'WordLevel': only WordPiece, Unigram, BPE are converted",
    ),
    "no model": ({}, tokenizer_json(model=None), "model of type None: only WordPiece,"),
    "no tokens": ({}, tokenizer_json([]), "list different tokens"),
    "other normalizer": (
        {},
        tokenizer_json(normalizer={"type": "NFC"}),
        "normalizer 'NFC': only BertNormalizer",
    ),
    "no normalizer": ({}, tokenizer_json(normalizer=None), "normalizer None: only BertNorm"),
    "other pre-tokenizer": (
        {},
        tokenizer_json(pre_tokenizer={"type": "Whitespace"}),
        "pre_tokenizer 'Whitespace': only BertPreTokenizer",
    ),
    "other continuation": (
        {},
        tokenizer_json(model=model(continuing_subword_prefix="@@")),
        "marks continuations by '@@'",
    ),
    "no vocab": ({}, tokenizer_json(model=model(vocab=None)), "no vocab from tokens to ids"),
    "text ids": ({}, tokenizer_json(model=model(vocab={"a": "0"})), "no vocab from tokens"),
    "negative ids": ({}, tokenizer_json(model=model(vocab={"a": -1})), "no vocab from tokens"),
    "id twice": (
        {},
        tokenizer_json(model=model(vocab={"a": 0, "b": 0})),
        "gives two tokens the same id",
    ),
    "other tokens": ({}, tokenizer_json(["a"]), "list different tokens"),
    "added id taken": (
        {},
        tokenizer_json(added_tokens=added(5, "[NEW]", special=True)),
        "id 5 is both 'play' and the added '[NEW]'",
    ),
    "added token not special": (
        {},
        tokenizer_json(added_tokens=added(12, "new", special=False)),
        "adds 'new', which is not special",
    ),
    "added id no number": (
        {},
        tokenizer_json(added_tokens=added("x", "[NEW]", special=True)),
        "adds token '[NEW]' with id 'x'",
    ),
    "added text missing": (
        {},
        tokenizer_json(added_tokens=added(12, None, special=True)),
        "adds token None",
    ),
    "added id negative": (
        {},
        tokenizer_json(added_tokens=added(-1, "[NEW]", special=True)),
        "adds token '[NEW]' with id -1",
    ),
    "added id of 5000 digits": (
        {"added_tokens_decoder": {"9" * 5000: {"content": "[NEW]"}}},
        None,
        "adds token '[NEW]' with id '999",
    ),
    "added id no number, by the config": (
        {"added_tokens_decoder": {"x": {"content": "[NEW]"}, "13": None}},
        None,
        "adds token '[NEW]' with id 'x'",
    ),
    "added beyond vocab_size": (
        {},
        tokenizer_json(added_tokens=added(20, "[NEW]", special=True)),
        "goes up to id 20, config.json has vocab_size 13",
    ),
    "added twice": (
        {},
        tokenizer_json(added_tokens=added(12, "play", special=True)),
        "'play' twice, as id 5 and as id 12",
    ),
    "added token with spaces": (
        {},
        tokenizer_json(
            added_tokens=[{"id": 4, "content": "[MASK]", "special": True, "lstrip": True}]
        ),
        "looks for '[MASK]' with lstrip, which WordPiece cannot say",
    ),
    "added token as a word": (
        {},
        tokenizer_json(
            added_tokens=[{"id": 4, "content": "[MASK]", "special": True, "single_word": True}]
        ),
        "looks for '[MASK]' with single_word, which a GGUF cannot say",
    ),
    "role missing": (
        {"mask_token": "<mask>"},
        None,
        "lacks the special token '<mask>'",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_what_wordpiece_of_llama_cpp_does_not_do_is_refused(case: str, tmp_path: Path) -> None:
    config, tokenizer, reason = REFUSALS[case]
    write_json(write_vocabulary(tmp_path) / "tokenizer_config.json", config)
    if tokenizer is not None:
        write_json(tmp_path / "tokenizer.json", tokenizer)
    with pytest.raises(ConversionError) as caught:
        read_vocabulary(tmp_path, size=13)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [
        (("play",), "'play' twice, as id 5 and as id 12"),
        (("▁y", "##▁▁y"), "'▁▁y' twice, as id 12 and as id 13"),
        (("[PAD14]", "##[PAD15]"), "'[PAD15]' twice, as id 13 and as id 15"),
        (("##[CLS]",), "'[CLS]' twice, as id 2 and as id 12"),
    ],
)
def test_tokens_that_llama_cpp_could_not_distinguish_are_refused(
    tokens: tuple[str, ...], reason: str, tmp_path: Path
) -> None:
    write_vocabulary(tmp_path, (*TOKENS, *tokens))
    with pytest.raises(ConversionError) as caught:
        read_vocabulary(tmp_path, size=16)
    assert reason in str(caught.value)


def test_a_vocabulary_larger_than_the_matrix_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"goes up to id 11, config\.json has vocab_size 11"):
        read_vocabulary(write_vocabulary(tmp_path), size=11)


def test_a_folder_without_a_vocabulary_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"neither tokenizer\.json nor vocab\.txt"):
        read_vocabulary(tmp_path, size=16)
    write_json(tmp_path / "tokenizer.json", tokenizer_json([]))
    with pytest.raises(ConversionError, match=r"neither vocab\.txt nor a vocabulary"):
        read_vocabulary(tmp_path, size=16)


def test_more_tokens_than_a_gguf_may_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="vocab_size 1000001, at most 1000000") as caught:
        read_vocabulary(write_vocabulary(tmp_path), size=1_000_001)
    assert caught.value.limit == 1_000_000


BERT_FRAME: dict[str, object] = {"type": "BertProcessing", "cls": ["[CLS]", 2], "sep": ["[SEP]", 3]}


def test_the_frame_of_bert_is_the_only_one(tmp_path: Path) -> None:
    path = write_vocabulary(tmp_path) / "tokenizer.json"
    write_json(path, tokenizer_json(post_processor=BERT_FRAME))
    assert read_vocabulary(tmp_path, size=16).bos == 2
    write_json(path, tokenizer_json(post_processor={**BERT_FRAME, "cls": ["[MASK]", 4]}))
    with pytest.raises(ConversionError, match=r"ids \[4\] before and \[3\] after a text"):
        read_vocabulary(tmp_path, size=16)


def test_a_vocabulary_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_bytes(b"caf\xe9\n")
    with pytest.raises(ConversionError, match=r"vocab\.txt is not UTF-8"):
        read_vocabulary(tmp_path, size=16)


def test_a_vocabulary_that_cannot_be_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_text(_path: Path, **_options: object) -> str:
        raise PermissionError(13, "Permission denied")

    write_vocabulary(tmp_path)
    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(ConversionError, match=r"vocab\.txt cannot be read: Permission denied"):
        read_vocabulary(tmp_path, size=16)

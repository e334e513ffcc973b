"""Vocabularies of GGUFs: what is read, what is refused, and that nothing else can happen."""

import random
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from embedd.errors import ModelLoadError
from embedd.tokenizers import vocabulary as module
from embedd.tokenizers.builders import decides_lowercase
from embedd.tokenizers.failures import TokenizerError, named_failures
from embedd.tokenizers.model_tokenizer import load_tokenizer
from embedd.tokenizers.vocabulary import TokenType, read_vocabulary
from tests.tiny_models import TINY_VOCABULARY, write_tiny_bert, write_tiny_decoder
from tests.unit.tokenizers import vocabularies
from tests.unit.tokenizers.vocabularies import write_vocabulary

NORMAL, CONTROL, UNKNOWN = TokenType.NORMAL, TokenType.CONTROL, TokenType.UNKNOWN
BERT = ["[UNK]", "[CLS]", "[SEP]", "▁a", "b"]
BERT_TYPES = [CONTROL, CONTROL, CONTROL, NORMAL, NORMAL]
BERT_IDS: dict[str, Any] = {"bos_token_id": 1, "seperator_token_id": 2, "unknown_token_id": 0}


def write_bert(folder: Path, tokens: Sequence[str | bytes] = BERT, **values: Any) -> Path:
    types = [*BERT_TYPES, *[NORMAL] * (len(tokens) - len(BERT_TYPES))][: len(tokens)]
    return write_vocabulary(folder / "a.gguf", "bert", tokens, types, **{**BERT_IDS, **values})


def test_all_values_of_a_tokenizer_are_read(tmp_path: Path) -> None:
    path = write_vocabulary(
        tmp_path / "a.gguf",
        "t5",
        ["<s>", "</s>", "<unk>", "<mask>", "▁a"],
        [CONTROL, CONTROL, UNKNOWN, CONTROL, NORMAL],
        pre="default",
        scores=[0.0, 0.0, 0.0, 0.0, -1.5],
        charsmap=b"\x01\x02\xff",
        template="{query} {document}",
        bos_token_id=0,
        eos_token_id=1,
        unknown_token_id=2,
        mask_token_id=3,
        add_bos_token=True,
        add_eos_token=False,
        normalizer__lowercase=True,
        normalizer__strip_accents=False,
        add_space_prefix=True,
        remove_extra_whitespaces=True,
    )
    found = read_vocabulary(path)
    assert (found.model, found.pre, found.tokens[4]) == ("t5", "default", "▁a")
    assert found.types.tolist() == [3, 3, 2, 3, 1]
    assert found.scores.tolist() == [0, 0, 0, 0, -1.5]
    assert (found.charsmap, found.merges) == (b"\x01\x02\xff", ())
    assert (found.bos, found.eos, found.unk, found.mask, found.sep) == (0, 1, 2, 3, None)
    assert (found.add_bos, found.add_eos, found.add_sep) == (True, False, None)
    assert (found.lowercase, found.strip_accents) == (True, False)
    assert (found.add_space_prefix, found.remove_extra_whitespaces) == (True, True)
    assert found.pair_template == "{query} {document}"


def test_what_a_file_leaves_out_has_llama_cpps_defaults(tmp_path: Path) -> None:
    tokens = [f"t{index}" for index in range(200)]
    found = read_vocabulary(write_vocabulary(tmp_path / "a.gguf", "bert", tokens, None))
    assert (found.bos, found.eos, found.unk, found.sep) == (101, None, 100, 102)
    assert found.ids_of(CONTROL) == [100, 101, 102]
    assert (found.add_space_prefix, found.remove_extra_whitespaces) == (False, False)
    assert not found.scores.any()
    short = read_vocabulary(write_vocabulary(tmp_path / "b.gguf", "bert", tokens[:50], None))
    assert (short.bos, short.unk, short.sep) == (None, None, None)


def test_keys_that_only_look_like_the_tokenizers_are_not_read(tmp_path: Path) -> None:
    path = write_bert(tmp_path)
    data = path.read_bytes()
    key, other = b"tokenizer.ggml.scores", b"general_other..scores"
    with_scores = write_vocabulary(
        tmp_path / "b.gguf", "bert", BERT, BERT_TYPES, scores=[1.0] * 5, **BERT_IDS
    )
    assert key not in data
    with_scores.write_bytes(with_scores.read_bytes().replace(key, other))
    assert not read_vocabulary(with_scores).scores.any()


@pytest.mark.parametrize("id_", [5, 2**32 - 1])
def test_ids_beyond_the_vocabulary_count_as_missing(id_: int, tmp_path: Path) -> None:
    found = read_vocabulary(write_bert(tmp_path, mask_token_id=id_, bos_token_id=id_))
    assert (found.mask, found.bos) == (None, None)
    with pytest.raises(TokenizerError, match="no tokens around a text"):
        load_tokenizer(write_bert(tmp_path, bos_token_id=id_))
    with pytest.raises(TokenizerError, match="unknown words"):
        load_tokenizer(write_bert(tmp_path, unknown_token_id=id_))


def test_token_types_that_are_not_known_are_undefined(tmp_path: Path) -> None:
    types = [3, 3, 3, -1, 77]
    path = write_vocabulary(tmp_path / "a.gguf", "bert", BERT, types, **BERT_IDS)
    assert read_vocabulary(path).types.tolist() == [3, 3, 3, 0, 0]
    assert load_tokenizer(path)[0].tokenize(["ab"])[0].tolist() == [1, 3, 4, 2]


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([*BERT, "▁a"], "'▁a' has the ids 3 and 5"),
        ([*BERT, b"\xff\xfe"], "token 5 is not UTF-8"),
        ([*BERT, "\0 0"], None),
        ([*BERT, "", ""], None),
        ([*BERT, "x" * 100_000], None),
    ],
)
def test_tokens_are_different_and_text(
    tokens: list[str | bytes], message: str | None, tmp_path: Path
) -> None:
    path = write_bert(tmp_path, tokens)
    if message is None:
        ours = load_tokenizer(path)[0]
        assert ours.tokenize(["ab zz"])[0].tolist() == [1, 3, 4, 0, 2]
        assert len(ours.token_pieces(np.arange(ours.vocabulary_size, dtype=np.int32))) == len(
            tokens
        )
    else:
        with pytest.raises(TokenizerError, match=message):
            load_tokenizer(path)


def test_a_token_with_the_name_of_a_placeholder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match="same name"):
        load_tokenizer(write_bert(tmp_path, [*BERT, "▁\0 0"]))


@pytest.mark.parametrize(
    ("name", "limit"), [("MAX_TEXT_BYTES", 10), ("_LIMITS", {"tokens": 4}), ("_TYPES", None)]
)
def test_arrays_beyond_a_limit_are_not_read(
    name: str, limit: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "_TYPES":
        limit = {**module._TYPES, "token_type": ("uint16",)}
    elif isinstance(limit, dict):
        limit = {**module._LIMITS, **limit}
    monkeypatch.setattr(module, name, limit)
    with pytest.raises(TokenizerError, match=r"at most|array of"):
        read_vocabulary(write_bert(tmp_path))


def test_a_million_tokens_are_the_limit() -> None:
    assert module._LIMITS["tokens"] == module._LIMITS["scores"] == 1_000_000
    assert module.MAX_TEXT_BYTES == module._LIMITS["precompiled_charsmap"] == 64 << 20


@pytest.mark.parametrize("kind", ["short scores", "nan", "short types", "no tokens"])
def test_arrays_that_do_not_belong_to_the_tokens_are_refused(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    scores, types = [0.0] * 5, list(BERT_TYPES)
    if kind == "short scores":
        scores.pop()
    elif kind == "nan":
        scores[2] = float("nan")
    elif kind == "short types":
        types.pop()
    write_vocabulary(path, "bert", BERT, types, scores=scores, **BERT_IDS)
    if kind == "no tokens":
        data = path.read_bytes().replace(b"tokenizer.ggml.tokens", b"tokenizer.ggml.nothin")
        path.write_bytes(data)
    with pytest.raises(TokenizerError, match=r"scores|types|no tokens"):
        read_vocabulary(path)


def test_a_file_that_is_no_gguf_is_refused_as_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "a.gguf"
    path.write_bytes(b"GGUF" + bytes(8))
    for wrong in (path, tmp_path / "none"):
        with pytest.raises(ModelLoadError):
            read_vocabulary(wrong)


@pytest.mark.parametrize(
    ("model", "pre", "message"),
    [
        ("llama", "default", "llama.cpp's: only bert, t5, gpt2"),
        ("rwkv", "", "kind 'rwkv'"),
        ("gpt2", "kimi-k2", "pre-tokenizer 'kimi-k2'"),
        ("gpt2", "qwen2", "no merges"),
        ("t5", "", "unknown characters"),
    ],
)
def test_what_cannot_be_built_exactly_is_refused_by_name(
    model: str, pre: str, message: str, tmp_path: Path
) -> None:
    path = write_vocabulary(tmp_path / "a.gguf", model, ["a", "b"], [NORMAL] * 2, pre=pre)
    with pytest.raises(TokenizerError, match=message):
        load_tokenizer(path)


@pytest.mark.parametrize("merges", [["a c"], ["c b"], ["a b", "ab b"], ["ab"], [""]])
def test_merges_of_tokens_that_do_not_exist_are_refused(merges: list[str], tmp_path: Path) -> None:
    path = write_vocabulary(
        tmp_path / "a.gguf", "gpt2", ["a", "b", "ab"], [NORMAL] * 3, pre="qwen2", merges=merges
    )
    with pytest.raises(TokenizerError, match=r"building the gpt2 tokenizer|no two parts"):
        load_tokenizer(path)


@pytest.mark.parametrize(
    "charsmap",
    [b"\x08\0\0\0" + b"\xff" * 8 + b"a\0", b"abc", b"\xff" * 4, struct.pack("<I", 4) + b"\xff" * 9],
)
def test_a_panic_of_the_library_is_an_error_with_a_name(
    charsmap: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = write_vocabulary(
        tmp_path / "a.gguf",
        "t5",
        ["<unk>", "▁", "a"],
        [UNKNOWN, NORMAL, NORMAL],
        charsmap=charsmap,
        unknown_token_id=0,
    )
    with pytest.raises(TokenizerError, match=r"building the t5|tokenizing failed"):
        load_tokenizer(path)[0].tokenize(["some text"] * 3)
    with pytest.raises(TokenizerError, match=r"building the t5|tokenizing failed"):
        load_tokenizer(path)[0].tokenize(["a"])
    capfd.readouterr()


def test_only_failures_of_the_library_are_named() -> None:
    with pytest.raises(KeyboardInterrupt), named_failures("building"):
        raise KeyboardInterrupt
    with pytest.raises(TokenizerError, match=r"^kept$"), named_failures("building"):
        raise TokenizerError("kept")


@pytest.mark.parametrize("kind", ["bert", "decoder", "t5"])
def test_a_file_with_changed_bytes_is_read_or_refused(
    kind: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing else comes out of it, and no process ends."""
    path = tmp_path / "a.gguf"
    if kind == "bert":
        write_tiny_bert(path)
    elif kind == "decoder":
        write_tiny_decoder(path)
    else:
        charsmap = vocabularies.compile_charsmap({"ﬁ": "fi", "\t": " "})
        vocabularies.write_unigram(path, vocabularies.train_unigram(charsmap), charsmap)
    whole = path.read_bytes()
    end = whole.find(b"blk.0") if kind != "t5" else len(whole)
    rng = random.Random(5)
    results = {"built": 0, "refused": 0}
    for _ in range(300):
        changed = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 8))):
            changed[rng.randrange(24, end)] = rng.choice((0, 1, 0x7F, 0xFF, rng.randrange(256)))
        path.write_bytes(changed)
        try:
            ours = load_tokenizer(path)[0]
            ours.tokenize(["why is the sky blue ﬁ 나라", "a\tb"])
        except ModelLoadError:
            results["refused"] += 1
        else:
            results["built"] += 1
    assert min(results.values()) > 0
    capfd.readouterr()


def test_lowercase_is_the_files_or_seen_in_the_vocabulary(tmp_path: Path) -> None:
    for lowercase in (True, False):
        original = vocabularies.train_wordpiece(lowercase=lowercase)
        path = vocabularies.write_wordpiece(tmp_path / "a.gguf", original)
        assert decides_lowercase(read_vocabulary(path)) is lowercase
        path = vocabularies.write_wordpiece(
            tmp_path / "a.gguf", original, normalizer__lowercase=not lowercase
        )
        assert decides_lowercase(read_vocabulary(path)) is not lowercase


@pytest.mark.parametrize("strip", [True, False, None])
@pytest.mark.parametrize("lowercase", [True, False])
def test_accents_go_as_the_file_says_or_with_capitals(
    lowercase: bool, strip: bool | None, tmp_path: Path
) -> None:
    values: dict[str, Any] = {"normalizer__lowercase": lowercase}
    values |= {} if strip is None else {"normalizer__strip_accents": strip}
    tokens = [*BERT, "▁é", "▁e", "▁É", "▁E"]
    ours = load_tokenizer(write_bert(tmp_path, tokens, **values))[0]
    letters = "é" if not (lowercase if strip is None else strip) else "e"
    expected = letters if lowercase else letters.upper()
    assert ours.tokenize(["É"])[0].tolist() == [1, tokens.index(f"▁{expected}"), 2]


def test_the_tiny_models_have_their_own_tokens(tmp_path: Path) -> None:
    ours = load_tokenizer(write_tiny_bert(tmp_path / "a.gguf"))[0]
    ids = [TINY_VOCABULARY.index(one) for one in ("[CLS]", "why", "##ing", "[UNK]", "[SEP]")]
    assert ours.tokenize(["Whying é가"])[0].tolist() == ids
    decoder = load_tokenizer(write_tiny_decoder(tmp_path / "b.gguf", add_eos=True))[0]
    rows = decoder.tokenize(["the inn"])
    assert decoder.detokenize(rows, special=True) == [b"the inn<|endoftext|>"]


def test_a_vocabulary_of_bytes_needs_no_words(tmp_path: Path) -> None:
    original = vocabularies.train_byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=False))
    path = vocabularies.write_byte_pairs(tmp_path / "a.gguf", original, "")
    assert load_tokenizer(path)[0].tokenize(["a"])[0].tolist() == [original.token_to_id("a")]

"""What a model's tokenizer does beside giving the right ids; llama.cpp's is the measure."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from embedd.engine.llama.tokenizer import LlamaTokenizer
from embedd.errors import InvalidTokenIdError
from embedd.tokenizers import slices
from embedd.tokenizers.environment import library_environment
from embedd.tokenizers.failures import TokenizerError
from embedd.tokenizers.model_tokenizer import (
    MAX_ADDED,
    ModelTokenizer,
    load_tokenizer,
)
from embedd.tokenizers.probe import PROBE, find_differences
from embedd.tokenizers.slices import INLINE_CHARACTERS, Slice
from embedd.tokenizers.truncation import PairTemplate, SpecialTokens
from embedd.tokenizers.vocabulary import TokenType
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.unit.tokenizers import vocabularies
from tests.unit.tokenizers.vocabularies import find_gguf, write_vocabulary

NORMAL, CONTROL, UNKNOWN = TokenType.NORMAL, TokenType.CONTROL, TokenType.UNKNOWN
USER_DEFINED, BYTE = TokenType.USER_DEFINED, TokenType.BYTE


def write_wordpiece(folder: Path) -> Path:
    original = vocabularies.train_wordpiece(lowercase=True)
    return vocabularies.write_wordpiece(folder / "bert.gguf", original)


def write_unigram(folder: Path) -> Path:
    charsmap = vocabularies.compile_nfkc()
    original = vocabularies.train_unigram(charsmap)
    return vocabularies.write_unigram(
        folder / "t5.gguf", original, charsmap, add_sep_token=True, mask_token_id=4
    )


def write_byte_pairs(folder: Path, pre: str = "qwen2", **values: object) -> Path:
    original = vocabularies.train_byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=False))
    size = original.get_vocab_size()
    keys = {"bos_token_id": size, "eos_token_id": size + 1, "seperator_token_id": size + 1}
    return vocabularies.write_byte_pairs(
        folder / "gpt2.gguf",
        original,
        pre,
        special=("<|start|>x", "<|im_end|>"),
        added=("<tool>", "  "),
        **{**keys, **values},
    )


FILES: dict[str, Callable[[Path], Path]] = {
    "bert": write_wordpiece,
    "t5": write_unigram,
    "gpt2": write_byte_pairs,
}


@pytest.fixture(scope="module", params=FILES)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return FILES[request.param](tmp_path_factory.mktemp("kind"))


@pytest.fixture(scope="module")
def ours(path: Path) -> ModelTokenizer:
    return load_tokenizer(path)[0]


@pytest.fixture(scope="module")
def theirs(path: Path) -> Iterator[LlamaTokenizer]:
    vocabulary = LlamaTokenizer.load(make_spec(path, Pooling.MEAN))
    yield vocabulary
    vocabulary._model.close()


def open_llama(path: Path) -> LlamaTokenizer:
    return LlamaTokenizer.load(make_spec(path, Pooling.RANK))


def test_plain_texts_have_llama_cpps_ids(ours: ModelTokenizer, theirs: LlamaTokenizer) -> None:
    assert find_differences(ours.tokenize(PROBE), theirs.tokenize(PROBE)) == []


def test_plain_texts_of_the_default_model_have_llama_cpps_ids(default_store: Path) -> None:
    path = find_gguf(default_store)
    theirs = open_llama(path)
    ours = load_tokenizer(path)[0]
    assert find_differences(ours.tokenize(PROBE), theirs.tokenize(PROBE)) == []
    assert (ours.special_tokens, ours.pair_template) == (
        theirs.special_tokens,
        theirs.pair_template,
    )
    assert find_differences(ours.tokenize(["가"]), theirs.tokenize(["가"])) == [0]
    theirs._model.close()


def test_what_surrounds_texts_and_pairs_is_as_in_llama_cpp(
    ours: ModelTokenizer, theirs: LlamaTokenizer
) -> None:
    assert (ours.special_tokens, ours.pair_template) == (
        theirs.special_tokens,
        theirs.pair_template,
    )
    assert ours.vocabulary_size == theirs.vocabulary_size


@pytest.mark.parametrize("pre", ["gpt-2", "roberta-bpe", "llama-bpe", "tekken", "qwen2"])
@pytest.mark.parametrize("add_eos", [True, False, None])
@pytest.mark.parametrize("add_bos", [True, False, None])
def test_flags_of_byte_pairs_mean_what_they_mean_to_llama_cpp(
    pre: str, add_bos: bool | None, add_eos: bool | None, tmp_path: Path
) -> None:
    values = {"add_bos_token": add_bos, "add_eos_token": add_eos}
    kept = {key: value for key, value in values.items() if value is not None}
    path = write_byte_pairs(tmp_path, pre, **kept)
    theirs = open_llama(path)
    ours = load_tokenizer(path)[0]
    assert (ours.special_tokens, ours.pair_template) == (
        theirs.special_tokens,
        theirs.pair_template,
    )
    theirs._model.close()


def test_a_template_of_the_file_says_what_surrounds_a_pair(tmp_path: Path) -> None:
    template = "<|start|>xquery: {query}\ntext: {document}<|im_end|>"
    path = write_byte_pairs(tmp_path, template=template)
    theirs = open_llama(path)
    ours = load_tokenizer(path)[0]
    assert ours.pair_template == theirs.pair_template
    assert ours.pair_template is not None
    assert (ours.pair_template.query_lead, ours.pair_template.document_lead) == (" ", " ")
    theirs._model.close()
    path = write_byte_pairs(tmp_path, template="{document} {query}")
    assert load_tokenizer(path)[0].pair_template is None


def test_every_token_stands_for_what_it_is_in_llama_cpp(
    ours: ModelTokenizer, theirs: LlamaTokenizer
) -> None:
    ids = np.arange(ours.vocabulary_size, dtype=np.int32)
    assert ours.token_pieces(ids) == theirs.token_pieces(ids)


@pytest.mark.parametrize("special", [True, False])
def test_texts_come_back_as_from_llama_cpp(
    special: bool, ours: ModelTokenizer, theirs: LlamaTokenizer, path: Path
) -> None:
    texts = [text for text in PROBE if path.stem != "gpt2" or " ." not in text]
    rows = ours.tokenize(texts)
    expected = theirs.detokenize(rows, special=special)
    if path.stem == "t5":  # llama.cpp leaves the first space if a token without text is before it
        expected = [text.removeprefix(b" ") for text in expected]
    assert ours.detokenize(rows, special=special) == expected


def test_byte_pairs_come_back_byte_by_byte(tmp_path: Path) -> None:
    ours = load_tokenizer(write_byte_pairs(tmp_path))[0]
    texts = ["it 's  a . test !\n\n 나라", "\x00\x7f é ' x"]
    rows = ours.tokenize(texts)
    assert [text.decode() for text in ours.detokenize(rows, special=False)] == texts
    assert ours.detokenize([ours.tokenize(["가"])[0][:1]], special=False) == [b"\xea"]


@pytest.mark.parametrize("wrong", [-1, 10_000])
def test_ids_beyond_the_vocabulary_are_refused(wrong: int, ours: ModelTokenizer) -> None:
    ids = np.array([0, wrong], np.int32)
    for call in (ours.token_pieces, lambda ids: ours.detokenize([ids], special=True)):
        with pytest.raises(InvalidTokenIdError) as caught:
            call(ids)
        assert (caught.value.position, caught.value.vocabulary) == (1, ours.vocabulary_size)


def test_lone_surrogates_are_replacement_characters(ours: ModelTokenizer) -> None:
    for text in ("\ud800", "a\udfffb", "x \ud83d y"):
        replaced = "".join("\ufffd" if "\ud800" <= one <= "\udfff" else one for one in text)
        for parse_special in (True, False):
            ids = ours.tokenize([text, replaced], parse_special=parse_special)
            assert np.array_equal(ids[0], ids[1])
        assert ours.locate([text])[0][1].max(initial=0) <= len(text)


def test_nothing_has_the_ids_of_its_frame_alone(ours: ModelTokenizer) -> None:
    framed = [*ours.special_tokens.prefix, *ours.special_tokens.suffix]
    assert [row.tolist() for row in ours.tokenize(["", ""])] == [framed, framed]
    assert ours.tokenize([]) == []
    ids, offsets = ours.locate([""])[0]
    assert (ids.shape, offsets.shape) == ((0,), (0, 2))
    assert ids.dtype == offsets.dtype == np.int32


WORDS = ["the", "fox", "나라", "über", "x1", "don't", "의", "की", "\n", "  ", "…", "<tool>"]
WORDS += ["字", "漢字", ".", "(", "_", "[SEP]", "\u0301", ".\n", "。\n", "\t"]


@given(words=st.lists(st.sampled_from(WORDS), max_size=60), joint=st.sampled_from([" ", "", "  "]))
def test_slices_change_no_token_and_no_place(
    words: list[str], joint: str, ours: ModelTokenizer
) -> None:
    text = joint.join(words)
    whole = ours.tokenize([text]), ours.locate([text])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(slices, "SLICE_CHARACTERS", 4)
        patch.setattr(slices, "CALL_CHARACTERS", 9)
        patch.setattr("embedd.tokenizers.slices.INLINE_CHARACTERS", -1)
        sliced = ours.tokenize([text]), ours.locate([text])
    assert np.array_equal(whole[0][0], sliced[0][0])
    for one, other in zip(whole[1][0], sliced[1][0], strict=True):
        assert np.array_equal(one, other)


def test_a_stretch_without_a_place_to_cut_is_cut_anyway(
    ours: ModelTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a client sends, one call of the library has little to remember."""
    monkeypatch.setattr(slices, "SLICE_CHARACTERS", 1000)
    monkeypatch.setattr(slices, "LONGEST_SLICE", 2000)
    monkeypatch.setattr(slices, "CALL_CHARACTERS", 2000)
    lengths: list[int] = []
    group = slices.group_slices

    def watch(texts: Sequence[str], *, cuts: re.Pattern[str] | None) -> Iterator[list[Slice]]:
        for call in group(texts, cuts=cuts):
            lengths.append(sum(len(part) for _, _, part in call))
            yield call

    monkeypatch.setattr("embedd.tokenizers.model_tokenizer.group_slices", watch)
    for letter in ("x", ".", "…", "字", "가", "\u0301", "😀", "\n", "a…", "é_"):
        text = letter * (20_000 // len(letter))
        lengths.clear()
        [(ids, offsets)] = ours.locate([text])
        assert sum(lengths) == len(text)
        assert max(lengths) <= 3000
        assert len(ids) == len(offsets)
        assert (np.diff(offsets[:, 0]) >= 0).all()
        assert offsets.max(initial=0) <= len(text)


def test_long_work_can_be_ended_between_two_calls(ours: ModelTokenizer) -> None:
    text = "the lazy dog sees the fox " * (2 * slices.CALL_CHARACTERS // 25)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise TimeoutError

    with pytest.raises(TimeoutError):
        ours.tokenize([text], check=check)
    assert calls == 2


def test_long_and_short_texts_have_the_same_ids_together_as_alone(ours: ModelTokenizer) -> None:
    texts = ["fox", "the dog " * INLINE_CHARACTERS, "", "나라"]
    together = ours.tokenize(texts, add_special=False)
    for text, ids, (located, offsets) in zip(texts, together, ours.locate(texts), strict=True):
        assert np.array_equal(ids, ours.tokenize([text], add_special=False)[0])
        assert np.array_equal(ids, located)
        assert len(offsets) == len(ids)


def test_a_mask_takes_the_space_before_it(tmp_path: Path) -> None:
    original = vocabularies.train_byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=False))
    size = original.get_vocab_size()
    path = vocabularies.write_byte_pairs(
        tmp_path / "a.gguf", original, "jina-v2-de", special=("<mask>",), mask_token_id=size
    )
    ours = load_tokenizer(path)[0]
    alone, spaced = ours.tokenize(["the<mask>", "the <mask>"])
    assert np.array_equal(alone, spaced)
    theirs = open_llama(path)
    assert find_differences([spaced], theirs.tokenize(["the <mask>"])) == []
    theirs._model.close()


SPACES = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "b", "▁a", "▁▁", "a▁b", "\n", "c"]


def write_spaces(folder: Path, *, prefix: bool, remove: bool) -> Path:
    return write_vocabulary(
        folder / "a.gguf",
        "t5",
        SPACES,
        [CONTROL, CONTROL, CONTROL, UNKNOWN, *[NORMAL] * 8],
        scores=[0, 0, 0, 0, -3, -4, -4, -5, -5, -6, -5, -7],
        bos_token_id=0,
        eos_token_id=2,
        unknown_token_id=3,
        add_space_prefix=prefix,
        remove_extra_whitespaces=remove,
    )


@pytest.mark.parametrize(("prefix", "remove"), [(True, True), (True, False), (False, False)])
def test_spaces_of_unigram_texts_are_as_in_llama_cpp(
    prefix: bool, remove: bool, tmp_path: Path
) -> None:
    path = write_spaces(tmp_path, prefix=prefix, remove=remove)
    texts = ["a", "a b", "a  b", "b   a", "ca b a b", "zz a", " a", "a ", "  a  ", "", "a\n b"]
    theirs = open_llama(path)
    ours = load_tokenizer(path)[0].tokenize(texts)
    assert find_differences(ours, theirs.tokenize(texts)) == []
    theirs._model.close()


def test_unigram_texts_without_a_first_space_have_single_spaces_between_words(
    tmp_path: Path,
) -> None:
    """As in SentencePiece; llama.cpp puts a space before the first word all the same."""
    ours = load_tokenizer(write_spaces(tmp_path, prefix=False, remove=True))[0]
    rows = ours.tokenize(["a", "a b", "  a   b ", "c  a", " "])
    a, ab, c, mark_a, end = 5, 9, 11, 7, 2
    expected = [[a, end], [ab, end], [ab, end], [c, mark_a, end], [end]]
    assert [row.tolist() for row in rows] == expected


@pytest.mark.parametrize(("prefix", "remove"), [(True, True), (True, False), (False, True)])
def test_texts_whose_words_have_tokens_in_common_are_not_cut(
    prefix: bool, remove: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = load_tokenizer(write_spaces(tmp_path, prefix=prefix, remove=remove))[0]
    text = "c" + " a b" * 40
    whole = ours.tokenize([text])[0]
    monkeypatch.setattr(slices, "SLICE_CHARACTERS", 3)
    monkeypatch.setattr("embedd.tokenizers.slices.INLINE_CHARACTERS", -1)
    assert np.array_equal(ours.tokenize([text])[0], whole)


def test_unknown_characters_become_bytes_where_the_vocabulary_has_them(tmp_path: Path) -> None:
    names = [f"<0x{byte:02X}>" for byte in range(256)]
    path = write_vocabulary(
        tmp_path / "a.gguf",
        "t5",
        ["<unk>", *names, "▁", "a"],
        [UNKNOWN, *[BYTE] * 256, NORMAL, NORMAL],
        scores=[0.0, *[-9.0] * 256, -1.0, -2.0],
        unknown_token_id=0,
        add_eos_token=False,
        add_space_prefix=True,
        remove_extra_whitespaces=True,
    )
    ours = load_tokenizer(path)[0]
    ids = ours.tokenize(["a가"])[0]
    assert ids.tolist() == [257, 258, *(1 + byte for byte in "가".encode())]
    assert ours.detokenize([ids], special=False) == ["a가".encode()]
    assert [piece.text for piece in ours.token_pieces(ids[2:3])] == ["가".encode()[:1]]


def test_user_defined_tokens_are_found_whether_special_ones_are_or_not(tmp_path: Path) -> None:
    ours = load_tokenizer(write_byte_pairs(tmp_path))[0]
    tool, spaces = ours.vocabulary_size - 2, ours.vocabulary_size - 1
    for parse_special in (True, False):
        row = ours.tokenize(["x<tool>  y<|im_end|>"], parse_special=parse_special)[0].tolist()
        assert {tool, spaces} <= {*row}
        assert (spaces - 2 in row) is parse_special is (tool - 1 in row)


def test_a_token_with_two_meanings_is_refused(tmp_path: Path) -> None:
    path = write_vocabulary(
        tmp_path / "a.gguf",
        "bert",
        ["[UNK]", "[CLS]", "[SEP]", "fox", "▁fox"],
        [CONTROL, CONTROL, CONTROL, CONTROL, NORMAL],
        bos_token_id=1,
        seperator_token_id=2,
        unknown_token_id=0,
    )
    with pytest.raises(TokenizerError, match="second meaning"):
        load_tokenizer(path)


def test_too_many_tokens_with_a_role_are_refused(tmp_path: Path) -> None:
    count = MAX_ADDED + 1
    path = write_vocabulary(
        tmp_path / "a.gguf",
        "bert",
        [f"[{index}]" for index in range(count)],
        [CONTROL] * count,
    )
    with pytest.raises(TokenizerError, match="at most"):
        load_tokenizer(path)


def test_its_memory_is_measured(path: Path) -> None:
    assert 0 <= load_tokenizer(path)[1] < 64 << 20


def test_threads_of_the_library_are_limited_by_variables() -> None:
    assert library_environment(1)["TOKENIZERS_PARALLELISM"] == "false"
    assert library_environment(3) == {
        "RAYON_NUM_THREADS": "3",
        "TOKENIZERS_PARALLELISM": "true",
        "RUST_BACKTRACE": "0",
    }


@pytest.mark.parametrize(
    ("values", "middle"),
    [
        ({"add_sep_token": True}, (2, 2)),
        ({"add_sep_token": False}, (2,)),
        ({}, (2, 2)),  # as XLM-R has it, in files from before 2025
    ],
)
def test_a_pair_has_one_more_separator_unless_the_file_says_no(
    tmp_path: Path, values: dict[str, bool], middle: tuple[int, ...]
) -> None:
    charsmap = vocabularies.compile_nfkc()
    original = vocabularies.train_unigram(charsmap)
    path = vocabularies.write_unigram(tmp_path / "t5.gguf", original, charsmap, **values)
    ours, theirs = load_tokenizer(path)[0], open_llama(path)
    assert ours.special_tokens == SpecialTokens(prefix=(0,), suffix=(2,))
    assert ours.pair_template == PairTemplate(prefix=(0,), middle=middle, suffix=(2,))
    assert theirs.pair_template == ours.pair_template
    theirs._model.close()


def test_t5_has_no_separator_besides_the_end_of_a_text(tmp_path: Path) -> None:
    charsmap = vocabularies.compile_nfkc()
    original = vocabularies.train_unigram(charsmap)
    path = vocabularies.write_unigram(tmp_path / "t5.gguf", original, charsmap, add_bos_token=False)
    ours, theirs = load_tokenizer(path)[0], open_llama(path)
    assert ours.pair_template == PairTemplate(prefix=(), middle=(2,), suffix=(2,))
    assert theirs.pair_template == ours.pair_template
    theirs._model.close()


def test_modernberts_pairs_have_one_separator_whatever_their_file_says(tmp_path: Path) -> None:
    original = vocabularies.train_byte_pairs(pre_tokenizers.ByteLevel(add_prefix_space=False))
    size = original.get_vocab_size()
    path = vocabularies.write_byte_pairs(
        tmp_path / "gpt2.gguf",
        original,
        "jina-v2-code",
        special=("[CLS]", "[SEP]"),
        bos_token_id=size,
        eos_token_id=size + 1,
        seperator_token_id=size + 1,
        add_bos_token=True,
        add_eos_token=True,
        add_sep_token=True,
    )
    ours, theirs = load_tokenizer(path)[0], open_llama(path)
    end = (size + 1,)
    assert ours.pair_template == PairTemplate(prefix=(size,), middle=end, suffix=end)
    assert theirs.pair_template == ours.pair_template
    theirs._model.close()

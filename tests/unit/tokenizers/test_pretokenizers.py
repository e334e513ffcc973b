"""The table of pre-tokenizers: every row cuts plain texts as llama.cpp does."""

from pathlib import Path

import numpy as np
import pytest
from tokenizers import pre_tokenizers

from embedd.engine.llama.tokenizer import LlamaTokenizer
from embedd.tokenizers import slices
from embedd.tokenizers.model_tokenizer import load_tokenizer
from embedd.tokenizers.pretokenizers import PRETOKENIZERS
from embedd.tokenizers.probe import PROBE, find_differences
from embedd.types import Pooling
from tests.contract.conftest import make_spec
from tests.unit.tokenizers import vocabularies

# Merges of more than that decide where words end: digits, capitals, spaces, punctuation
TEXTS = (
    *PROBE,
    "1 12 123 1234 12345 3.14 x1y22z333",
    "don't DON'T Don'T we'll WE'LL 's'S",
    "HTMLParser camelCaseWord ABCdef ABC",
    "a  b   c    d\n\n\ne \n f\t\tg  ",
    "Äpfel über-Übung naïve's",
    "one\ntwo three.\nfour,\nfive!\n\nsix\nseven one\ntwo three.\nfour",
    "...!!! ?!?! (((a))) $$x$$ a/b//c <<>> ==",
)
# llama.cpp's engine has no unions of categories: it takes a capital beyond ASCII for a small
# letter, so that the checkpoint's one word is two.
WITH_CASES = {"gpt-4o", "granite-embed-multi-97m", "tekken"}


@pytest.fixture(scope="module")
def names(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A GGUF of the same byte pairs for each name; their merges reach over all that is cut."""
    whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer = vocabularies.train_byte_pairs(whole, texts=[*TEXTS, "ÄPFEL"], size=3000)
    folder = tmp_path_factory.mktemp("names")
    return {
        name: vocabularies.write_byte_pairs(folder / f"{name or 'none'}.gguf", tokenizer, name)
        for name in PRETOKENIZERS
    }


@pytest.mark.parametrize("name", PRETOKENIZERS)
def test_a_row_cuts_plain_texts_as_llama_cpp_does(name: str, names: dict[str, Path]) -> None:
    ours = load_tokenizer(names[name])[0]
    theirs = LlamaTokenizer.load(make_spec(names[name], Pooling.MEAN))
    texts = [*TEXTS, "ÄPFEL"]
    try:
        found = find_differences(ours.tokenize(texts), theirs.tokenize(texts))
    finally:
        theirs._model.close()
    assert [texts[index] for index in found] == (["ÄPFEL"] if name in WITH_CASES else [])


@pytest.mark.parametrize("name", PRETOKENIZERS)
def test_a_row_cuts_slices_as_it_cuts_whole_texts(
    name: str, names: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = load_tokenizer(names[name])[0]
    lines = [text.strip() for text in PROBE]
    text = "\n".join([*TEXTS, "天空。", *lines, "x\n\ny z \nÄ", "a/\nb", "don\n't"])
    whole = ours.tokenize([text])[0]
    monkeypatch.setattr("embedd.tokenizers.slices.INLINE_CHARACTERS", -1)
    monkeypatch.setattr(slices, "SLICE_CHARACTERS", 1)
    monkeypatch.setattr(slices, "LONGEST_SLICE", len(text))
    assert np.array_equal(ours.tokenize([text])[0], whole)


def test_rows_differ_where_their_checkpoints_do(names: dict[str, Path]) -> None:
    rows = {}
    for name in ("gpt-2", "qwen2", "llama-bpe", "gpt-4o", "tekken", "starcoder", "default"):
        ids = load_tokenizer(names[name])[0].tokenize(TEXTS, add_special=False)
        rows[name] = [row.tolist() for row in ids]
    assert len({str(row) for row in rows.values()}) == len(rows)

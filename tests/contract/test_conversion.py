"""Converted checkpoints have the tokens of their tokenizers and the vectors of their definition."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from embedd.convert import WeightType, convert_checkpoint
from embedd.engine.backends import LLAMA_BACKENDS
from embedd.engine.protocol import Engine
from embedd.tokenizers.failures import TokenizerError
from embedd.tokenizers.model_tokenizer import load_tokenizer
from embedd.types import Pooling, TokenIds
from tests.checkpoints import SAMPLES, Sample, unigram, write_sample
from tests.contract.conftest import find_engine, make_spec
from tests.families import FAMILIES
from tests.families.family import Weights, read_weights
from tests.unit.tokenizers.vocabularies import CORPUS, mix_scripts

COSINE = 0.9999
SCORE = 2e-3  # as in test_families
TEXTS = [
    *CORPUS,
    "",
    " ",
    "a  b",
    "\tx\n\ny",
    "the <mask> [MASK] fox",
    *mix_scripts(300, seed=11),
]
POOLINGS = {"qwen3": Pooling.LAST, "roberta": Pooling.CLS}
SCORERS = [name for name, sample in SAMPLES.items() if sample.scorer]
FRAMED = {"qwen3": (0, 1)}  # tokens before and after a text; others have one each


def convert(folder: Path, sample: Sample, pooling: Pooling) -> tuple[Path, Weights]:
    weights = write_sample(folder / "source", sample, pooling)
    convert_checkpoint(folder / "source", folder / "out.gguf", weights=WeightType.F32)
    return folder / "out.gguf", weights


def open_llama(path: Path, sample: Sample, pooling: Pooling) -> Engine:
    spec = make_spec(path, pooling, context=FAMILIES[sample.family].context)
    opened: Engine = find_engine("llama").load(spec, LLAMA_BACKENDS[0], threads=1)
    return opened


def read_original(folder: Path) -> Tokenizer:
    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def differing(original: Tokenizer, found: Sequence[TokenIds], texts: Sequence[str]) -> list[str]:
    rows = original.encode_batch_fast(list(texts))
    return [
        text for text, ids, row in zip(texts, found, rows, strict=True) if ids.tolist() != row.ids
    ]


def test_the_families_that_are_said_to_be_converted_have_a_sample() -> None:
    said = {name for name, family in FAMILIES.items() if family.conversion}
    assert said == {sample.family for sample in SAMPLES.values() if FAMILIES[sample.family].listed}


@pytest.mark.parametrize("name", SAMPLES)
def test_texts_have_the_tokens_of_the_checkpoint_s_tokenizer(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    pooling = POOLINGS.get(name, Pooling.MEAN)
    path, _ = convert(tmp_path, sample, pooling)
    original = read_original(tmp_path / "source")
    spare = f"the [PAD{original.get_vocab_size()}] fox"  # the name of an id that no text has
    texts = [*TEXTS, spare]
    try:
        found = load_tokenizer(path)[0].tokenize(texts)
    except TokenizerError:
        assert FAMILIES[sample.family].tokenizer == "llama"
        engine = open_llama(path, sample, pooling)
        found = engine.tokenizer.tokenize(texts)
        engine.close()
    assert differing(original, found, texts) == []
    assert original.encode("").ids == found[len(CORPUS)].tolist()
    assert len(found[len(CORPUS)]) == sum(FRAMED.get(name, (1, 1)))


def test_spaces_at_the_end_are_no_token_whatever_the_steps_of_a_unigram_tokenizer(
    tmp_path: Path,
) -> None:
    sample = replace(SAMPLES["xlm-roberta"], tokenizer=lambda: unigram(variant="kept"))
    path, _ = convert(tmp_path, sample, Pooling.MEAN)
    original, ours = read_original(tmp_path / "source"), load_tokenizer(path)[0]
    trimmed = [text.strip() for text in TEXTS]
    assert differing(original, ours.tokenize(trimmed), trimmed) == []
    assert differing(original, ours.tokenize(["a "]), ["a "]) == ["a "]
    assert ours.tokenize(["a "])[0].tolist() == original.encode("a").ids


@pytest.mark.parametrize(("dtype", "error"), [("F32", 1e-6), ("F16", 1e-3), ("BF16", 8e-3)])
@pytest.mark.parametrize("name", SAMPLES)
def test_every_value_of_each_type_is_in_its_place(
    name: str, dtype: str, error: float, tmp_path: Path
) -> None:
    pooling = Pooling.RANK if name in SCORERS else Pooling.MEAN
    weights = write_sample(tmp_path / "in", SAMPLES[name], pooling, dtype=dtype, shards=3)
    convert_checkpoint(tmp_path / "in", tmp_path / "out.gguf", weights=WeightType.F32)
    found = read_weights(tmp_path / "out.gguf")
    assert found.keys() == weights.keys()
    for tensor, values in weights.items():
        np.testing.assert_allclose(found[tensor], values, rtol=error, atol=error, err_msg=tensor)


@pytest.mark.parametrize("name", SAMPLES)
def test_texts_have_the_vectors_of_the_definition(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    family, pooling = FAMILIES[sample.family], POOLINGS.get(name, Pooling.MEAN)
    path, weights = convert(tmp_path, sample, pooling)
    original = read_original(tmp_path / "source")
    texts = [row.ids[: family.context] for row in original.encode_batch_fast(TEXTS[:32])]
    expected = [family.embed(weights, family.forward(weights, ids), pooling) for ids in texts]
    engine = open_llama(path, sample, pooling)
    try:
        found = engine.encode([np.array(ids, np.int32) for ids in texts])
    finally:
        engine.close()
    for vector, wanted in zip(found, expected, strict=True):
        norms = np.linalg.norm(vector), np.linalg.norm(wanted)
        assert vector @ wanted / (norms[0] * norms[1]) >= COSINE
        assert norms[0] == pytest.approx(norms[1], rel=0.01)


@pytest.mark.parametrize("name", SCORERS)
def test_pairs_have_the_scores_of_the_definition(name: str, tmp_path: Path) -> None:
    sample = SAMPLES[name]
    family = FAMILIES[sample.family]
    path, weights = convert(tmp_path, sample, Pooling.RANK)
    original = read_original(tmp_path / "source")
    template = load_tokenizer(path)[0].pair_template
    assert template is not None
    pair = original.encode("the quick fox", "a lazy dog")
    first, second = (
        original.encode(text, add_special_tokens=False).ids
        for text in ("the quick fox", "a lazy dog")
    )
    ids = [*template.prefix, *first, *template.middle, *second, *template.suffix]
    assert ids == pair.ids
    engine = open_llama(path, sample, Pooling.RANK)
    try:
        found = engine.encode([np.array(ids, np.int32)])[0]
    finally:
        engine.close()
    wanted = family.embed(weights, family.forward(weights, ids), Pooling.RANK)
    assert np.abs(found - wanted).max() <= SCORE

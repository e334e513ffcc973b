"""A checkpoint folder is understood as a whole, or refused with the reason."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embedd.convert.checkpoint import LENGTHS, read_checkpoint
from embedd.errors import ConversionError
from embedd.types import Pooling
from tests.tiny_models import (
    TINY_VOCABULARY,
    change_json,
    checkpoint_tensors,
    write_json,
    write_safetensors,
    write_tiny_checkpoint,
)


def tensors_of(*, labels: int = 0) -> dict[str, np.ndarray]:
    return checkpoint_tensors(
        width=32, layers=1, context=64, vocabulary=len(TINY_VOCABULARY), labels=labels
    )


def rewrite(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    tensors = tensors_of()
    change(tensors)
    write_safetensors(folder / "model.safetensors", tensors)


def test_sizes_pooling_and_lengths(tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_tiny_checkpoint(tmp_path, layers=2, heads=4))
    graph = checkpoint.graph
    assert (graph.embedding_length, graph.values["feed_forward_length"]) == (32, 64)
    assert (graph.values["block_count"], graph.values["attention.head_count"]) == (2, 4)
    assert (graph.context_length, graph.vocabulary_size) == (64, len(TINY_VOCABULARY))
    assert (graph.architecture, graph.token_types) == ("bert", 2)
    assert graph.values["attention.layer_norm_epsilon"] == 1e-12
    assert graph.labels == ()
    assert checkpoint.pooling is Pooling.MEAN
    assert checkpoint.max_seq_length == 32
    assert checkpoint.prompts == {}


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_each_pooling_by_its_flag(pooling: str, tmp_path: Path) -> None:
    checkpoint = read_checkpoint(write_tiny_checkpoint(tmp_path, pooling=pooling))
    assert checkpoint.pooling == pooling


@pytest.mark.parametrize(
    ("mode", "pooling"), [("mean", "mean"), ("cls", "cls"), ("lasttoken", "last")]
)
def test_each_pooling_by_its_name(mode: str, pooling: str, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    write_json(tmp_path / "1_Pooling/config.json", {"pooling_mode": mode, "include_prompt": True})
    assert read_checkpoint(tmp_path).pooling == pooling


def test_a_cross_encoder_has_rank_pooling_and_labels_in_order(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, labels=[f"label {index}" for index in range(11)])
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.pooling is Pooling.RANK
    assert checkpoint.graph.labels == tuple(f"label {index}" for index in range(11))
    assert checkpoint.max_seq_length is None


def test_the_transformer_may_lie_in_a_folder_of_its_own(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    inner = tmp_path / "0_Transformer"
    inner.mkdir()
    for path in list(tmp_path.glob("*.*")):
        if path.name != "modules.json":
            path.rename(inner / path.name)
    modules = json.loads((tmp_path / "modules.json").read_text())
    modules[0]["path"] = "0_Transformer"
    write_json(tmp_path / "modules.json", modules)
    assert read_checkpoint(tmp_path).max_seq_length == 32


def test_prompts_are_those_that_say_something(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    prompts = {"query": "query: ", "document": "", "passage": None}
    write_json(tmp_path / "config_sentence_transformers.json", {"prompts": prompts})
    assert read_checkpoint(tmp_path).prompts == {"query": "query: "}


@pytest.mark.parametrize("name", LENGTHS)
def test_the_length_comes_from_the_file_of_whatever_release(name: str, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    (tmp_path / "sentence_bert_config.json").unlink()
    write_json(tmp_path / name, {"max_seq_length": 7})
    assert read_checkpoint(tmp_path).max_seq_length == 7


def test_matryoshka_sizes_are_those_that_the_model_has(tmp_path: Path) -> None:
    config = write_tiny_checkpoint(tmp_path) / "config.json"
    assert read_checkpoint(tmp_path).matryoshka == ()
    change_json(config, matryoshka_dimensions=[64, 32, 16, 16])
    assert read_checkpoint(tmp_path).matryoshka == (16, 32)


@pytest.mark.parametrize("sizes", [16, [0], ["16"]])
def test_matryoshka_sizes_that_are_not_sizes_are_refused(sizes: object, tmp_path: Path) -> None:
    change_json(write_tiny_checkpoint(tmp_path) / "config.json", matryoshka_dimensions=sizes)
    with pytest.raises(ConversionError, match="has matryoshka_dimensions"):
        read_checkpoint(tmp_path)


def test_max_seq_length_is_never_above_the_architecture_s_limit(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": 512})
    assert read_checkpoint(tmp_path).max_seq_length == 64


def test_optional_files_and_defaults_may_be_missing(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    (tmp_path / "sentence_bert_config.json").unlink()
    (tmp_path / "tokenizer_config.json").unlink()
    change_json(
        tmp_path / "config.json",
        layer_norm_eps=None,
        type_vocab_size=None,
        hidden_act=None,
        position_embedding_type=None,
        architectures=None,
    )
    checkpoint = read_checkpoint(tmp_path)
    assert checkpoint.max_seq_length is None
    assert checkpoint.graph.values["attention.layer_norm_epsilon"] == 1e-12
    assert checkpoint.graph.token_types == 2


def test_old_names_prefixes_and_pre_training_heads_are_understood(tmp_path: Path) -> None:
    def change(tensors: dict[str, np.ndarray]) -> None:
        old = {
            f"bert.{name}".replace("LayerNorm.weight", "LayerNorm.gamma").replace(
                "LayerNorm.bias", "LayerNorm.beta"
            ): array
            for name, array in tensors.items()
        }
        tensors.clear()
        tensors.update(old)
        tensors["cls.predictions.bias"] = np.zeros(3, np.float32)

    rewrite(write_tiny_checkpoint(tmp_path), change)
    names = {tensor.name: tensor.source.name for tensor in read_checkpoint(tmp_path).tensors}
    assert names["token_embd_norm.weight"] == "bert.embeddings.LayerNorm.gamma"
    assert names["token_embd_norm.bias"] == "bert.embeddings.LayerNorm.beta"
    assert not any("pooler" in source or "cls" in source for source in names.values())


CONFIG_REFUSALS: list[tuple[dict[str, object], str]] = [
    (
        {"model_type": "mpnet"},
        "model_type 'mpnet' (llama.cpp has no relative positions of this kind): only bert,",
    ),
    ({"model_type": "t5"}, "gemma3_text are converted; pull a GGUF of the model instead"),
    ({"model_type": None}, "model_type None: only bert,"),
    ({"auto_map": {"AutoModel": "x.Y"}}, "has auto_map: a bert with code of its own is not"),
    ({"quantization_config": {"bits": 4}}, "a bert with quantised weights is not converted"),
    ({"lora_adaptations": ["a"]}, "lora_adaptations ['a']: only a model without it is converted"),
    ({"hidden_act": "relu"}, "hidden_act 'relu': only 'gelu' is converted"),
    ({"hidden_act": "gelu_new"}, "hidden_act 'gelu_new': only 'gelu' is converted"),
    (
        {"position_embedding_type": "relative_key"},
        "position_embedding_type 'relative_key': only 'absolute' is converted",
    ),
    ({"is_decoder": True}, "is_decoder True: only False is converted"),
    ({"add_cross_attention": True}, "add_cross_attention True: only False is converted"),
    ({"num_attention_heads": 3}, "hidden_size 32 is not a multiple of 3 heads"),
    ({"num_attention_heads": 0}, "num_attention_heads 0: it must be a positive integer"),
    ({"hidden_size": "32"}, "hidden_size '32': it must be a positive integer"),
    ({"num_hidden_layers": True}, "num_hidden_layers True: it must be a positive integer"),
    ({"intermediate_size": None}, "intermediate_size None: it must be a positive integer"),
    ({"vocab_size": 2**31}, "vocab_size 2147483648: it must be a positive integer"),
    ({"layer_norm_eps": 0.0}, "layer_norm_eps 0.0: it must be positive"),
    ({"layer_norm_eps": float("inf")}, "layer_norm_eps inf: it must be positive"),
    ({"layer_norm_eps": "small"}, "layer_norm_eps 'small': it must be positive"),
    ({"num_hidden_layers": 2**30}, "has no tensor 'encoder.layer.1.attention.self.query.weight'"),
    (
        {"max_position_embeddings": 65},
        "'embeddings.position_embeddings.weight' has shape [64, 32], by config.json it must",
    ),
]


@pytest.mark.parametrize(("changes", "reason"), CONFIG_REFUSALS)
def test_a_config_that_is_not_understood_is_refused(
    changes: dict[str, object], reason: str, tmp_path: Path
) -> None:
    change_json(write_tiny_checkpoint(tmp_path) / "config.json", **changes)
    with pytest.raises(ConversionError) as caught:
        read_checkpoint(tmp_path)
    assert reason in str(caught.value)


@pytest.mark.parametrize("labels", [{}, {"0": 1}, {"1": "a"}, ["a"]])
def test_a_cross_encoder_without_labels_is_refused(labels: object, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, labels=["a"])
    change_json(tmp_path / "config.json", id2label=labels)
    with pytest.raises(ConversionError, match="needs a label for each score"):
        read_checkpoint(tmp_path)


def test_a_cross_encoder_without_pooler_is_refused(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path, labels=["a"])
    tensors = tensors_of(labels=1)
    del tensors["bert.pooler.dense.weight"]
    write_safetensors(tmp_path / "model.safetensors", tensors)
    with pytest.raises(ConversionError, match=r"no tensor 'pooler\.dense\.weight'"):
        read_checkpoint(tmp_path)


def remove_bias(tensors: dict[str, np.ndarray]) -> None:
    del tensors["encoder.layer.0.output.dense.bias"]


def transpose(tensors: dict[str, np.ndarray]) -> None:
    name = "encoder.layer.0.output.dense.weight"
    tensors[name] = tensors[name].T.copy()


def add_adapter(tensors: dict[str, np.ndarray]) -> None:
    tensors["encoder.layer.0.adapter.weight"] = np.zeros(1, np.float32)


def add_layer(tensors: dict[str, np.ndarray]) -> None:
    tensors["encoder.layer.1.output.dense.bias"] = np.zeros(32, np.float32)


def add_classifier(tensors: dict[str, np.ndarray]) -> None:
    tensors["classifier.weight"] = np.zeros((1, 32), np.float32)


def repeat(tensors: dict[str, np.ndarray]) -> None:
    tensors["bert.embeddings.LayerNorm.gamma"] = tensors["embeddings.LayerNorm.weight"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (remove_bias, "has no tensor 'encoder.layer.0.output.dense.bias'"),
        (transpose, "has shape [64, 32], by config.json it must have [32, 64]"),
        (add_adapter, "'encoder.layer.0.adapter.weight' is not computed by BERT"),
        (add_layer, "'encoder.layer.1.output.dense.bias' is not computed by BERT"),
        (add_classifier, "'classifier.weight' is not computed by BERT"),
        (
            repeat,
            "tensors 'embeddings.LayerNorm.weight' and 'bert.embeddings.LayerNorm.gamma' are both",
        ),
    ],
)
def test_tensors_that_do_not_fit_the_config_are_refused(
    change: Callable[[dict[str, np.ndarray]], object], reason: str, tmp_path: Path
) -> None:
    rewrite(write_tiny_checkpoint(tmp_path), change)
    with pytest.raises(ConversionError) as caught:
        read_checkpoint(tmp_path)
    assert reason in str(caught.value)


def module(kind: str, path: str = "x") -> dict[str, object]:
    return {"idx": 0, "name": "0", "path": path, "type": f"sentence_transformers.models.{kind}"}


TRANSFORMER, POOLING = module("Transformer", ""), module("Pooling", "1_Pooling")


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        (
            [TRANSFORMER, POOLING, module("Dense")],
            "has the Dense module 'x', which llama.cpp does not compute after a bert",
        ),
        ([TRANSFORMER, POOLING, module("LSTM")], "'sentence_transformers.models.LSTM', which"),
        ([TRANSFORMER, POOLING, {"type": "own.Normalize", "path": ""}], "'own.Normalize', which"),
        ([POOLING, TRANSFORMER], "modules Pooling, Transformer: only the order Transformer,"),
        ([TRANSFORMER, POOLING, POOLING], "has two Pooling modules"),
        ([TRANSFORMER], "modules.json names no Pooling module"),
        ([TRANSFORMER, module("Pooling", "../1_Pooling")], "'../1_Pooling' outside the checkpoint"),
        ([TRANSFORMER, module("Pooling", "/etc")], "'/etc' outside the checkpoint"),
        ([{"type": "Transformer"}], "has the entry {'type': 'Transformer'}"),
        ({}, "must hold a JSON list"),
    ],
)
def test_modules_that_cannot_be_converted_are_refused(
    modules: object, reason: str, tmp_path: Path
) -> None:
    write_json(write_tiny_checkpoint(tmp_path) / "modules.json", modules)
    with pytest.raises(ConversionError) as caught:
        read_checkpoint(tmp_path)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (
            {"pooling_mode_mean_tokens": True, "pooling_mode_cls_token": True},
            "mean_tokens + cls_tok",
        ),
        ({"pooling_mode_mean_tokens": True, "pooling_mode": "cls"}, "mean_tokens + cls"),
        ({"pooling_mode_max_tokens": True}, "pooling 'max_tokens'"),
        ({"pooling_mode": "weightedmean"}, "pooling 'weightedmean'"),
        ({"pooling_mode": ["mean", "cls"]}, "pooling 'nothing'"),
        ({"pooling_mode_mean_tokens": False}, "pooling 'nothing'"),
        (
            {"pooling_mode_mean_tokens": True, "word_embedding_dimension": 64},
            "dimension 64, config",
        ),
        ({"pooling_mode_mean_tokens": True, "include_prompt": False}, "leaves prompts out"),
    ],
)
def test_a_pooling_that_is_not_one_of_three_is_refused(
    options: dict[str, object], reason: str, tmp_path: Path
) -> None:
    write_tiny_checkpoint(tmp_path)
    write_json(tmp_path / "1_Pooling/config.json", options)
    with pytest.raises(ConversionError) as caught:
        read_checkpoint(tmp_path)
    assert reason in str(caught.value)


def test_a_plain_transformer_without_pooling_is_refused(tmp_path: Path) -> None:
    (write_tiny_checkpoint(tmp_path) / "modules.json").unlink()
    with pytest.raises(ConversionError, match=r"\['BertModel'\], .* the pooling is unknown"):
        read_checkpoint(tmp_path)


def test_a_path_that_is_not_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="none is not a folder"):
        read_checkpoint(tmp_path / "none")


@pytest.mark.parametrize("length", [0, -1, "256", True])
def test_a_length_that_is_not_a_positive_integer_is_refused(length: object, tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    write_json(tmp_path / "sentence_bert_config.json", {"max_seq_length": length})
    with pytest.raises(ConversionError, match=f"max_seq_length {length!r}"):
        read_checkpoint(tmp_path)


def test_lower_casing_before_a_cased_tokenizer_is_refused(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path)
    write_json(tmp_path / "sentence_bert_config.json", {"do_lower_case": True})
    assert read_checkpoint(tmp_path).vocabulary.lowercase
    write_json(tmp_path / "tokenizer_config.json", {"do_lower_case": False})
    with pytest.raises(ConversionError, match="lower-cases texts for a cased tokenizer"):
        read_checkpoint(tmp_path)

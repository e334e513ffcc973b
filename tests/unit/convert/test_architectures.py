"""What llama.cpp's graphs do not compute is refused, by the name of the value that asks for it."""

from pathlib import Path
from typing import Any

import pytest

from embedd.convert.architectures import ARCHITECTURES, make_graph
from embedd.convert.modules import Modules
from embedd.errors import ConversionError
from tests.checkpoints import SAMPLES
from tests.tiny_models import write_json

SIZE = {"vocab_size": 100}
DENSE = {
    "in_features": 32,
    "out_features": 96,
    "bias": False,
    "activation_function": "torch.nn.modules.linear.Identity",
}
SCALED = {"rope_type": "yarn", "factor": 4.0}
REFUSALS: list[tuple[str, dict[str, object], str]] = [
    ("xlm-roberta", {"pad_token_id": 0}, "pad_token_id 0: it must be a positive integer"),
    ("xlm-roberta", {"max_position_embeddings": 2}, "max_position_embeddings 0: it must be"),
    ("xlm-roberta", {"lora_adaptations": ["x"]}, "lora_adaptations ['x']: only a model without"),
    ("nomic", {"moe_every_n_layers": 2}, "llama.cpp leaves out the bias that this model adds"),
    ("nomic", {"activation_function": "gelu"}, "activation_function 'gelu': only 'swiglu'"),
    ("nomic", {"qkv_proj_bias": True}, "qkv_proj_bias True: only False is converted"),
    ("nomic", {"rotary_emb_fraction": 0.5}, "rotary_emb_fraction 0.5: only 1.0 or 1 is converted"),
    ("nomic", {"n_head": 5}, "n_embd 32 is not a multiple of 5 heads"),
    ("modernbert", {"hidden_activation": "relu"}, "hidden_activation 'relu': only 'gelu' or 'sil"),
    ("modernbert", {"norm_bias": True}, "norm_bias True: only False is converted"),
    ("modernbert", {"layer_types": ["full_attention"]}, "not a list of 4 names"),
    ("modernbert", {"layer_types": ["full_attention"] * 4}, "'full_attention' as type of layer 1"),
    ("modernbert", {"rope_parameters": ["x"]}, "rotary positions ['x'], which are not known"),
    ("modernbert", {"rope_parameters": {"sliding_attention": SCALED}}, "positions by 'yarn'"),
    ("qwen3", {"hidden_act": "gelu"}, "hidden_act 'gelu': only 'silu' is converted"),
    ("qwen3", {"attention_bias": True}, "attention_bias True: only False is converted"),
    ("qwen3", {"use_sliding_window": True}, "use_sliding_window True: only False"),
    ("qwen3", {"is_causal": False}, "is_causal False: only True is converted"),
    ("qwen3", {"rope_scaling": SCALED}, "scales rotary positions by 'yarn': only plain ones"),
    ("qwen3", {"rope_scaling": {"type": "linear", "factor": 2}}, "positions by 'linear'"),
    ("qwen3", {"partial_rotary_factor": 0.5}, "partial_rotary_factor 0.5: only whole heads"),
    ("qwen3", {"rope_theta": "x"}, "rope_theta 'x': it must be positive"),
    ("qwen3", {"rope_theta": True}, "rope_theta True: it must be positive"),
    ("qwen3", {"layer_types": ["full_attention", "sliding_attention"]}, "type of layer 1: only"),
    ("embeddinggemma", {"use_bidirectional_attention": False}, "False: only True is converted"),
    ("embeddinggemma", {"query_pre_attn_scalar": 256}, "256: only 16 or 16.0 is converted"),
    ("embeddinggemma", {"attn_logit_softcapping": 50.0}, "50.0: only a model without it"),
    ("embeddinggemma", {"sliding_window": None}, "sliding_window None: it must be a positive"),
    ("embeddinggemma", {"_sliding_window_pattern": 3}, "'sliding_attention' as type of layer 2"),
]


def modules(folder: Path, *, pooling: bool = True, dense: tuple[str, ...] = ()) -> Modules:
    return Modules(
        source=folder,
        transformer=folder,
        pooling=folder / "1_Pooling" if pooling else None,
        dense=dense,
        normalizes=True,
    )


def config_of(name: str, **changes: object) -> dict[str, Any]:
    return {**SAMPLES[name].config, **SIZE, **changes}


@pytest.mark.parametrize(("name", "changes", "reason"), REFUSALS)
def test_what_a_graph_does_not_compute_is_refused(
    name: str, changes: dict[str, object], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError) as caught:
        make_graph(config_of(name, **changes), modules(tmp_path))
    assert reason in str(caught.value)


def test_every_architecture_has_a_sample() -> None:
    assert {sample.config["model_type"] for sample in SAMPLES.values()} == {*ARCHITECTURES}


@pytest.mark.parametrize("kind", ["mpnet", "t5", "jina_embeddings_v5", ["bert"], None])
def test_another_architecture_is_refused_with_the_way_out(kind: object, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match="converted; pull a GGUF of the model instead"):
        make_graph({"model_type": kind}, modules(tmp_path))


@pytest.mark.parametrize("name", ["nomic", "qwen3", "embeddinggemma"])
def test_without_pooling_an_architecture_without_cross_encoders_is_refused(
    name: str, tmp_path: Path
) -> None:
    with pytest.raises(ConversionError, match="the pooling is unknown"):
        make_graph(config_of(name, architectures=None), modules(tmp_path, pooling=False))


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("bert", ["cls.predictions.bias", "bert.pooler.dense.weight"]),
        ("xlm-roberta", ["lm_head.bias", "roberta.embeddings.position_ids"]),
        ("nomic", ["cls.predictions.decoder.bias", "pooler.dense.bias"]),
        ("modernbert", ["decoder.bias", "head.dense.weight"]),
        ("qwen3", ["lm_head.weight"]),
    ],
)
def test_heads_of_other_tasks_are_left_out(name: str, dropped: list[str], tmp_path: Path) -> None:
    graph = make_graph(config_of(name), modules(tmp_path))
    assert [graph.rename(one) for one in dropped] == [None] * len(dropped)


def test_a_rotary_base_comes_from_its_place_in_each_release(tmp_path: Path) -> None:
    def bases(**changes: object) -> tuple[object, object]:
        graph = make_graph(config_of("embeddinggemma", **changes), modules(tmp_path))
        return graph.values["rope.freq_base"], graph.values["rope.freq_base_swa"]

    assert bases(rope_theta=5e5, rope_local_base_freq=7) == (5e5, 7.0)
    own = {"full_attention": {"rope_theta": 1e5}, "sliding_attention": {"rope_theta": 3}}
    assert bases(rope_parameters=own) == (1e5, 3.0)
    # A base without kinds of layers is that of the global ones.
    assert bases(rope_parameters={"rope_theta": 2e5, "rope_type": "default"}) == (2e5, 1e4)


def test_positions_that_the_reference_would_scale_are_not_served(tmp_path: Path) -> None:
    """Nomic BERT was trained with 2,048 positions and says 8,192."""
    config = config_of("nomic", n_positions=8192, max_trained_positions=2048)
    assert make_graph(config, modules(tmp_path)).context_length == 2048
    del config["max_trained_positions"]
    assert make_graph(config, modules(tmp_path)).context_length == 8192


@pytest.mark.parametrize(
    ("sizes", "reason"),
    [
        ([(32, 96)], "has 1 Dense modules: llama.cpp computes none or two"),
        ([(32, 96)] * 3, "has 3 Dense modules"),
        ([(32, 96), (64, 32)], "map 32 to 96 and 64 to 32: they must follow each other"),
        ([(32, 96), (96, 64)], "begin and end at hidden_size 32"),
        ([(16, 96), (96, 32)], "map 16 to 96"),
    ],
)
def test_dense_modules_that_do_not_fit_are_refused(
    sizes: list[tuple[int, int]], reason: str, tmp_path: Path
) -> None:
    names = []
    for at, (inputs, outputs) in enumerate(sizes):
        names.append(f"{at}_Dense")
        config = {**DENSE, "in_features": inputs, "out_features": outputs}
        write_json(tmp_path / names[-1] / "config.json", config)
    with pytest.raises(ConversionError) as caught:
        make_graph(config_of("embeddinggemma"), modules(tmp_path, dense=tuple(names)))
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bias": True}, "has bias True and activation_function"),
        ({"bias": None}, "has bias None"),
        ({"activation_function": "torch.nn.modules.activation.Tanh"}, "activation.Tanh': only a"),
        ({"in_features": 0}, "in_features and out_features [0, 96]"),
        ({"out_features": "96"}, "in_features and out_features [32, '96']"),
    ],
)
def test_a_dense_module_that_is_more_than_a_matrix_is_refused(
    changes: dict[str, object], reason: str, tmp_path: Path
) -> None:
    write_json(tmp_path / "2_Dense/config.json", DENSE | changes)
    with pytest.raises(ConversionError) as caught:
        make_graph(config_of("embeddinggemma"), modules(tmp_path, dense=("2_Dense",)))
    assert reason in str(caught.value)


def test_a_gemma_without_dense_modules_has_no_keys_of_them(tmp_path: Path) -> None:
    graph = make_graph(config_of("embeddinggemma"), modules(tmp_path))
    assert not any(key.startswith("dense") for key in graph.values)
    assert not any(one.target.startswith("dense") for one in graph.expected())

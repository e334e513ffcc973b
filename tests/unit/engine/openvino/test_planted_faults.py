"""Models with grouped heads, experts or score heads: a graph that is not llama.cpp's is refused."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedd.engine.backends import LLAMA_BACKENDS, OPENVINO_BF16, OPENVINO_F32, Backend
from embedd.engine.ipc.messages import Load
from embedd.engine.llama.engine import LlamaEngine
from embedd.engine.protocol import UnsuitableError
from embedd.engine.spec import ModelSpec
from embedd.engine.worker.crosscheck import EXACT_TOLERANCE, check_agreement
from embedd.types import Pooling, Vectors
from tests.contract.conftest import make_spec
from tests.families import FAMILIES
from tests.families.decoder_parts import CONTEXT, WIDTH, make_decoder, make_keys
from tests.families.family import read_weights, write_gguf
from tests.families.vocabularies import BYTE_PAIRS_SIZE, byte_pairs
from tests.needs import require_bf16, require_openvino
from tests.requantize import requantize
from tests.unit.engine.openvino.test_families import TOLERANCE, distances, make_sequences

require_openvino()
from embedd.engine.openvino import attention, decoders, experts, heads, masks
from embedd.engine.openvino.engine import OpenVinoEngine
from embedd.engine.openvino.families import build_graph
from embedd.engine.openvino.library import ops
from embedd.engine.openvino.tensors import Gguf

Plant = Callable[[pytest.MonkeyPatch], None]


def write_spec(name: str, folder: Path, pooling: Pooling | None = None) -> ModelSpec:
    family = FAMILIES[name]
    chosen = pooling or family.poolings[0]
    path = family.write(folder / "tiny.gguf", chosen)
    return replace(make_spec(path, chosen, context=family.context), exact=True)


def mix_heads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the heads that share one of keys from all over instead of one after another."""
    project = attention._project

    def wrong(x: Any, gguf: Any, block: str, config: Any) -> list[Any]:
        queries, *others = project(x, gguf, block, config)
        order = np.arange(config.heads).reshape(config.key_heads, -1).T.ravel()
        mixed = ops.gather(queries, ops.constant(order), ops.constant(np.int64(2)))
        return [mixed, *others]

    monkeypatch.setattr(attention, "_project", wrong)


def omit_head_norms(monkeypatch: pytest.MonkeyPatch) -> None:
    norm_heads = attention._norm_heads

    def wrong(queries: Any, keys: Any, gguf: Any, block: str, config: Any) -> Any:
        norm_heads(queries, keys, gguf, block, config)  # so that its tensors count as used
        return queries, keys

    monkeypatch.setattr(attention, "_norm_heads", wrong)


def omit_dense_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    project = heads._project

    def wrong(hidden: Any, pooled: Any, gguf: Any, config: Any) -> Any:
        project(hidden, pooled, gguf, config)
        return hidden, pooled

    monkeypatch.setattr(heads, "_project", wrong)


def see_all_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(inputs: Any, window: int | None = None) -> Any:
        del window
        return symmetric_window_mask(inputs, 1000)

    symmetric_window_mask = masks.symmetric_window_mask
    monkeypatch.setattr(masks, "causal_mask", wrong)
    monkeypatch.setattr(masks, "symmetric_window_mask", wrong)


def widen_window(monkeypatch: pytest.MonkeyPatch) -> None:
    window_mask = decoders._window_mask
    monkeypatch.setattr(
        decoders, "_window_mask", lambda inputs, config, n: window_mask(inputs, config, n + 2)
    )


def omit_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("embedd.engine.openvino.decoders.math.sqrt", lambda _width: 1.0)


def take_one_expert(monkeypatch: pytest.MonkeyPatch) -> None:
    route = experts._route
    monkeypatch.setattr(experts, "_route", lambda tokens, router, _used: route(tokens, router, 1))


def swap_experts(monkeypatch: pytest.MonkeyPatch) -> None:
    route = experts._route
    monkeypatch.setattr(
        experts, "_route", lambda tokens, router, used: route(tokens, router[::-1].copy(), used)
    )


def plant_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    del monkeypatch


PLANTS: dict[str, list[Plant]] = {
    "qwen2": [mix_heads, see_all_tokens],
    "qwen3": [mix_heads, omit_head_norms, see_all_tokens],
    "eurobert": [mix_heads],
    "nomic-bert-moe": [take_one_expert, swap_experts],
    "gemma3": [mix_heads, omit_head_norms, see_all_tokens, widen_window, omit_scale],
    "gemma-embedding": [
        omit_head_norms,
        omit_dense_layers,
        see_all_tokens,
        widen_window,
        omit_scale,
    ],
}


@pytest.mark.parametrize(
    ("name", "plant"),
    [(name, plant) for name, plants in PLANTS.items() for plant in (plant_nothing, *plants)],
)
def test_a_graph_that_is_not_llama_cpps_is_refused(
    name: str, plant: Plant, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(name, tmp_path)
    asked = Load(spec=spec, backend=OPENVINO_F32, crosscheck=True)
    plant(monkeypatch)
    found = OpenVinoEngine.load(spec, OPENVINO_F32, threads=1)
    if plant is plant_nothing:
        distance = check_agreement(found, asked)
        assert distance is not None
        assert 0 < distance <= EXACT_TOLERANCE / 10
        return
    with pytest.raises(UnsuitableError, match="does not agree with llama"):
        check_agreement(found, asked)


# Scores of tiny models without a pooler are small differences of large numbers: bf16 would not do.
RERANKERS = [
    name for name, family in FAMILIES.items() if family.rerank and family.openvino and family.listed
]


@pytest.mark.parametrize("backend", [OPENVINO_F32, OPENVINO_BF16], ids=lambda one: one.name)
@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker_is_served_in_every_precision(
    name: str, backend: Backend, tmp_path: Path
) -> None:
    if backend is OPENVINO_BF16:
        require_bf16()
    spec = write_spec(name, tmp_path, Pooling.RANK)
    found = OpenVinoEngine.load(spec, backend, threads=1)
    assert check_agreement(found, Load(spec=spec, backend=backend, crosscheck=True)) is not None


@pytest.mark.parametrize("name", RERANKERS)
def test_a_reranker_that_scores_another_token_is_refused(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = write_spec(name, tmp_path, Pooling.RANK)
    other = Pooling.CLS if name == "qwen3" else Pooling.LAST
    read = heads._read_head_pooling
    monkeypatch.setattr(heads, "_read_head_pooling", lambda *of: (read(*of), other)[1])
    wrong = OpenVinoEngine.load(spec, OPENVINO_F32, threads=1)
    with pytest.raises(UnsuitableError, match="does not agree with llama"):
        check_agreement(wrong, Load(spec=spec, backend=OPENVINO_F32, crosscheck=True))


@pytest.mark.parametrize("name", PLANTS)
def test_half_precision_weights_give_the_vectors_of_llama_cpp(name: str, tmp_path: Path) -> None:
    spec = write_spec(name, tmp_path)
    half = replace(spec, path=requantize(spec.path, tmp_path / "half.gguf", "F16", pure=True))
    ours = OpenVinoEngine.load(half, OPENVINO_F32, threads=1)
    theirs = LlamaEngine.load(half, LLAMA_BACKENDS[-1], threads=1)
    try:
        size = len(read_weights(half.path)["token_embd.weight"])
        sequences = [ids % size for ids in make_sequences([1, 2, 7, 33, FAMILIES[name].context])]
        there = np.concatenate([theirs.encode([ids]) for ids in sequences])
        assert distances(ours.encode(sequences), there).max() <= TOLERANCE["f16"]
    finally:
        ours.close()
        theirs.close()


def write_qwen3(path: Path, *, keys: dict[str, Any] | None = None, **tensors: Any) -> Path:
    """Write a tiny Qwen3 with further keys and tensors."""
    return write_gguf(
        path,
        "qwen3",
        keys=make_keys() | (keys or {}),
        pooling=Pooling.LAST,
        add_tokenizer=byte_pairs("qwen2", end=True),
        tensors=make_decoder(BYTE_PAIRS_SIZE, norms=True) | tensors,
    )


def test_the_output_layer_of_a_language_model_takes_no_part(tmp_path: Path) -> None:
    path = write_qwen3(tmp_path / "tiny.gguf")
    [ids] = make_sequences([20])
    layer = np.ones((BYTE_PAIRS_SIZE, WIDTH), np.float32)

    def compute() -> Vectors:
        spec = make_spec(path, Pooling.LAST, context=CONTEXT)
        return OpenVinoEngine.load(spec, OPENVINO_F32, threads=1).encode([ids])

    without = compute()
    extra: dict[str, Any] = {"output.weight": layer}
    write_qwen3(path, **extra)
    assert np.array_equal(compute(), without)


UNKNOWN: dict[str, dict[str, Any]] = {
    "a scale of weights": {"blk.0.attn_q.scale": np.ones(1, np.float32)},
    "factors of a rotation": {"rope_freqs.weight": np.ones(8, np.float32)},
    "heads of keys that do not divide": {"keys": {"attention.head_count_kv": 3}},
    "no heads of keys": {"keys": {"attention.head_count_kv": 0}},
    "values of another width": {"keys": {"attention.value_length": 8}},
    "a direction that is not a truth value": {"keys": {"attention.causal": 1}},
    "a rotation of part of a head": {"keys": {"rope.dimension_count": 8}},
    "a kind of scaling that is not a text": {"keys": {"rope.scaling.type": 1}},
    "another scaling": {"keys": {"rope.scaling.type": "longrope"}},
    "a setting of YaRN": {"keys": {"rope.scaling.yarn_beta_fast": 16.0}},
}


@pytest.mark.parametrize("case", UNKNOWN)
def test_an_unsupported_key_or_tensor_is_refused(case: str, tmp_path: Path) -> None:
    path = write_qwen3(tmp_path / "tiny.gguf", **UNKNOWN[case])
    with pytest.raises(UnsuitableError):
        build_graph(Gguf([path]), Pooling.LAST)


@pytest.mark.parametrize("used", [0, 5])
def test_a_number_of_experts_that_cannot_be_is_refused(used: int, tmp_path: Path) -> None:
    gguf = Gguf([write_spec("nomic-bert-moe", tmp_path).path])
    count = {"nomic-bert-moe.expert_used_count": used}
    gguf.facts = replace(gguf.facts, metadata={**gguf.facts.metadata, **count})
    with pytest.raises(UnsuitableError, match=f"{used} of 4 experts"):
        build_graph(gguf, Pooling.MEAN)


def test_the_size_of_gemma_with_scores_of_its_own_is_refused(tmp_path: Path) -> None:
    spec = write_spec("gemma3", tmp_path)
    gguf = Gguf([spec.path])
    layers = {"gemma3.block_count": decoders.LAYERS_OF_27B}
    gguf.facts = replace(gguf.facts, metadata={**gguf.facts.metadata, **layers})
    with pytest.raises(UnsuitableError, match="62 layers"):
        build_graph(gguf, Pooling.LAST)

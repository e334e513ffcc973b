"""nomic-bert (Nussbaum et al. 2024) and nomic-bert-moe (Nussbaum and Duderstadt 2025).

BERT with rotary positions. The first has a gate (SwiGLU) and no biases; the second has biases,
and a mixture of experts in each second layer, weighted by a softmax over all of them that is not
normalised again over the chosen ones.
"""

from pathlib import Path

import numpy as np

from embedd.types import Pooling
from tests.families import layers, vocabularies
from tests.families.family import Array, Family, Ids, Weights, write_gguf
from tests.families.random import Tensors, TensorSource

WIDTH, HEADS, LAYERS, INNER, CONTEXT = 32, 4, 2, 64, 96
EXPERTS, CHOSEN = 4, 2
EPSILON, BASE, MOE_BASE = 1e-6, 1000.0, 10000.0

KEYS = {
    "block_count": LAYERS,
    "context_length": CONTEXT,
    "embedding_length": WIDTH,
    "feed_forward_length": INNER,
    "attention.head_count": HEADS,
    "attention.layer_norm_epsilon": EPSILON,
    "attention.causal": False,
}


def make_shared_tensors(
    source: TensorSource, vocabulary: int, *, types: int, bias: bool
) -> Tensors:
    tensors = {
        "token_embd.weight": source.matrix(vocabulary, WIDTH, WIDTH**0.5),
        "token_types.weight": source.matrix(types, WIDTH, WIDTH**0.5),
        **source.norm("token_embd_norm", WIDTH, bias=True),
    }
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors |= source.dense(f"{block}.attn_qkv", 3 * WIDTH, WIDTH, bias=bias, scale=1.5)
        tensors |= source.dense(f"{block}.attn_output", WIDTH, WIDTH, bias=bias)
        tensors |= source.norm(f"{block}.attn_output_norm", WIDTH, bias=True)
        tensors |= source.norm(f"{block}.layer_output_norm", WIDTH, bias=True)
    return tensors


def write(path: Path, pooling: Pooling | None) -> Path:
    source = TensorSource(2)
    tensors = make_shared_tensors(source, vocabularies.WORDPIECE_SIZE, types=2, bias=False)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        tensors |= source.dense(f"{block}.ffn_up", INNER, WIDTH)
        tensors |= source.dense(f"{block}.ffn_gate", INNER, WIDTH)
        tensors |= source.dense(f"{block}.ffn_down", WIDTH, INNER)
    return write_gguf(
        path,
        "nomic-bert",
        keys={**KEYS, "rope.freq_base": BASE},
        pooling=pooling,
        add_tokenizer=vocabularies.add_wordpiece,
        tensors=tensors,
    )


def write_moe(path: Path, pooling: Pooling | None) -> Path:
    # With this seed no token of the tests is near a tie of experts, which rounding would decide:
    # the chosen ones are 0.005 ahead. Three of the four are chosen often.
    source = TensorSource(330)
    tensors = make_shared_tensors(source, vocabularies.UNIGRAM_SIZE, types=1, bias=True)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        if layer % 2 == 0:
            tensors |= source.dense(f"{block}.ffn_up", INNER, WIDTH, bias=True)
            tensors |= source.dense(f"{block}.ffn_down", WIDTH, INNER, bias=True)
            continue
        tensors |= source.dense(f"{block}.ffn_gate_inp", EXPERTS, WIDTH)
        for name, rows, columns in (("ffn_up_exps", INNER, WIDTH), ("ffn_down_exps", WIDTH, INNER)):
            experts = source.matrix(EXPERTS * rows, columns, 2.0)
            tensors[f"{block}.{name}.weight"] = experts.reshape(EXPERTS, rows, columns)
    return write_gguf(
        path,
        "nomic-bert-moe",
        keys={
            **KEYS,
            "rope.freq_base": MOE_BASE,
            "moe_every_n_layers": 2,
            "expert_count": EXPERTS,
            "expert_used_count": CHOSEN,
        },
        pooling=pooling,
        add_tokenizer=vocabularies.add_unigram,
        tensors=tensors,
    )


def gated(weights: Weights, block: str, x: Array) -> Array:
    gate = layers.silu(layers.dense(weights, f"{block}.ffn_gate", x))
    up = layers.dense(weights, f"{block}.ffn_up", x)
    return layers.dense(weights, f"{block}.ffn_down", gate * up)


def dense_or_experts(weights: Weights, block: str, x: Array) -> Array:
    if f"{block}.ffn_gate_inp.weight" not in weights:
        inner = layers.gelu(layers.dense(weights, f"{block}.ffn_up", x))
        return layers.dense(weights, f"{block}.ffn_down", inner)
    shares = layers.softmax(layers.dense(weights, f"{block}.ffn_gate_inp", x))
    up, down = (weights[f"{block}.ffn_{part}_exps.weight"] for part in ("up", "down"))
    rows = []
    for token, share in zip(x, shares, strict=True):
        chosen = np.argsort(share)[-CHOSEN:]
        outputs = [share[one] * (down[one] @ layers.gelu(up[one] @ token)) for one in chosen]
        rows.append(np.sum(outputs, axis=0))
    return np.array(rows)


def compute(weights: Weights, ids: Ids, *, base: float) -> Array:
    x = weights["token_embd.weight"][ids] + weights["token_types.weight"][0]
    x = layers.layer_norm(weights, "token_embd_norm", x, EPSILON)
    for layer in range(LAYERS):
        block = f"blk.{layer}"
        parts = np.split(layers.dense(weights, f"{block}.attn_qkv", x), 3, axis=-1)
        query, key, value = (layers.split_heads(part, HEADS) for part in parts)
        query, key = layers.rotate(query, base), layers.rotate(key, base)
        attended = layers.join_heads(layers.attend(query, key, value))
        x = x + layers.dense(weights, f"{block}.attn_output", attended)
        x = layers.layer_norm(weights, f"{block}.attn_output_norm", x, EPSILON)
        feed_forward = dense_or_experts if f"{block}.ffn_gate.weight" not in weights else gated
        x = x + feed_forward(weights, block, x)
        x = layers.layer_norm(weights, f"{block}.layer_output_norm", x, EPSILON)
    return x


def forward(weights: Weights, ids: Ids) -> Array:
    return compute(weights, ids, base=BASE)


def forward_moe(weights: Weights, ids: Ids) -> Array:
    return compute(weights, ids, base=MOE_BASE)


FAMILIES = (
    Family(
        name="nomic-bert",
        architecture="nomic-bert",
        tokenizer="bert",
        context=CONTEXT,
        openvino=True,
        conversion="yes",
        write=write,
        forward=forward,
    ),
    Family(
        name="nomic-bert-moe",
        architecture="nomic-bert-moe",
        tokenizer="t5",
        context=CONTEXT,
        openvino=True,
        write=write_moe,
        forward=forward_moe,
        note="the bias that is common to all experts is not in the GGUF",
    ),
)

"""Graphs of models with RMS norms and grouped heads: Qwen, EuroBERT and Gemma.

They follow llama.cpp's own definitions: ``src/models/qwen2.cpp``, ``qwen3.cpp``, ``eurobert.cpp``,
``gemma3.cpp`` and ``gemma-embedding.cpp``.
"""

import math
from typing import Final

import numpy as np

from embedd.engine.openvino import blocks, masks
from embedd.engine.openvino.attention import attention
from embedd.engine.openvino.blocks import GraphInputs, Node
from embedd.engine.openvino.config import GraphConfig
from embedd.engine.openvino.library import ops as op
from embedd.engine.openvino.rotary import BASE, plain_rotary, read_rotary
from embedd.engine.openvino.tensors import Gguf
from embedd.engine.protocol import UnsuitableError

EVERY: Final = 6  # each so many-th layer of Gemma 3 sees all tokens, the others a window
LAYERS_OF_27B: Final = 62  # this size alone scales its scores by another width


def build_qwen(gguf: Gguf, inputs: GraphInputs, config: GraphConfig) -> Node:
    """Build Qwen2, Qwen3 or EuroBERT: norms before attention and before the gated network."""
    rotary = read_rotary(gguf, inputs, config)
    mask, kept = _whole_mask(inputs, config), None
    x = blocks.embed_tokens(gguf, inputs, config)
    for layer in range(config.layers):
        if layer == config.layers - 1 and inputs.kept is not None:
            mask, kept = _whole_mask(inputs, config, inputs.kept), inputs.kept
        block = f"blk.{layer}"
        y = blocks.norm(x, gguf, f"{block}.attn_norm", config)
        y = attention(y, gguf, block, config, mask=mask, rotary=rotary, kept=kept)
        x = op.add(blocks.take(x, kept), y)
        y = blocks.norm(x, gguf, f"{block}.ffn_norm", config)
        x = op.add(x, blocks.gated(y, gguf, block, config, op.swish))
    return blocks.norm(x, gguf, "output_norm", config)


def build_gemma(gguf: Gguf, inputs: GraphInputs, config: GraphConfig) -> Node:
    """Build Gemma 3 or EmbeddingGemma: norms before and after each part, windows."""
    if config.causal and config.layers == LAYERS_OF_27B:
        raise UnsuitableError(f"gemma3 of {config.layers} layers is not supported by this engine")
    whole = _whole_mask(inputs, config), read_rotary(gguf, inputs, config)
    windowed, every = whole, EVERY
    if window := gguf.integer("attention.sliding_window", 0):
        every = gguf.integer("attention.sliding_window_pattern", EVERY)
        rotary = plain_rotary(inputs, config, gguf.number("rope.freq_base_swa", BASE))
        windowed = masks.repeat_rows(_window_mask(inputs, config, window), config), rotary
    x = blocks.embed_tokens(gguf, inputs, config)
    x = op.multiply(x, op.constant(np.float32(math.sqrt(config.width))))
    for layer in range(config.layers):
        block = f"blk.{layer}"
        is_whole = every > 0 and layer % every == every - 1
        mask, rotary = whole if is_whole else windowed
        y = blocks.norm(x, gguf, f"{block}.attn_norm", config)
        y = attention(y, gguf, block, config, mask=mask, rotary=rotary)
        x = op.add(x, blocks.norm(y, gguf, f"{block}.post_attention_norm", config))
        y = blocks.norm(x, gguf, f"{block}.ffn_norm", config)
        y = blocks.gated(y, gguf, block, config, blocks.gelu)
        x = op.add(x, blocks.norm(y, gguf, f"{block}.post_ffw_norm", config))
    return blocks.norm(x, gguf, "output_norm", config)


def _whole_mask(inputs: GraphInputs, config: GraphConfig, kept: Node | None = None) -> Node:
    if not config.causal:
        return masks.padding_mask(inputs)
    mask = masks.causal_mask(inputs)
    return masks.repeat_rows(mask if kept is None else masks.take_rows(mask, kept), config)


def _window_mask(inputs: GraphInputs, config: GraphConfig, window: int) -> Node:
    if config.causal:
        return masks.causal_mask(inputs, window)
    return masks.symmetric_window_mask(inputs, window)

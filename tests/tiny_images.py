"""A tiny seeded image model that stable-diffusion.cpp loads: the shape of FLUX.2-klein.

Its pictures show nothing, but follow from prompt, seed, size, steps and guidance. The vocabulary
is whole, because the library has Qwen's tokenizer compiled in. Sizes that the library reads from
the file are as small as it takes them.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import numpy.typing as npt

from embedd.images import ImagePart

Tensors = Mapping[str, npt.NDArray[np.float32]]

HIDDEN = 128  # of the transformer: one head
TEXT = 64  # of the text encoder
FEED_FORWARD = 128
VOCABULARY = 151_936
LATENT = 128  # channels after the patches of 2 x 2
CHANNELS = (128, 128, 64, 32)  # of the decoder, from the small picture to the large one

PREFIXES = {
    ImagePart.DIFFUSION: "model.diffusion_model.",
    ImagePart.LLM: "text_encoders.llm.",
    ImagePart.VAE: "first_stage_model.",
}


class _Drawer:
    """Draws tensors one after the other, so that equal seeds give equal models."""

    def __init__(self, seed: int) -> None:
        self._random = np.random.default_rng(seed)

    def matrix(self, *shape: int) -> npt.NDArray[np.float32]:
        """Numbers whose products with a vector keep its length."""
        fan_in = int(np.prod(shape[1:]))
        return self._random.standard_normal(shape, np.float32) / np.float32(np.sqrt(fan_in))


def ones(size: int) -> npt.NDArray[np.float32]:
    return np.ones(size, np.float32)


def zeros(size: int) -> npt.NDArray[np.float32]:
    return np.zeros(size, np.float32)


def draw_diffusion(draw: _Drawer) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    h = HIDDEN
    yield "img_in.weight", draw.matrix(h, LATENT)
    yield "txt_in.weight", draw.matrix(h, TEXT)
    yield "time_in.in_layer.weight", draw.matrix(h, 256)
    yield "time_in.out_layer.weight", draw.matrix(h, h)
    yield "double_stream_modulation_img.lin.weight", draw.matrix(6 * h, h)
    yield "double_stream_modulation_txt.lin.weight", draw.matrix(6 * h, h)
    yield "single_stream_modulation.lin.weight", draw.matrix(3 * h, h)
    for side in ("img", "txt"):
        block = f"double_blocks.0.{side}_"
        yield f"{block}attn.qkv.weight", draw.matrix(3 * h, h)
        yield f"{block}attn.proj.weight", draw.matrix(h, h)
        yield f"{block}attn.norm.query_norm.scale", ones(128)
        yield f"{block}attn.norm.key_norm.scale", ones(128)
        yield f"{block}mlp.0.weight", draw.matrix(6 * h, h)
        yield f"{block}mlp.2.weight", draw.matrix(h, 3 * h)
    yield "single_blocks.0.linear1.weight", draw.matrix(9 * h, h)
    yield "single_blocks.0.linear2.weight", draw.matrix(h, 4 * h)
    yield "single_blocks.0.norm.query_norm.scale", ones(128)
    yield "single_blocks.0.norm.key_norm.scale", ones(128)
    yield "final_layer.linear.weight", draw.matrix(LATENT, h)
    yield "final_layer.adaLN_modulation.1.weight", draw.matrix(2 * h, h)


def draw_text_encoder(draw: _Drawer) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    layer = "model.layers.0."
    yield "model.embed_tokens.weight", draw.matrix(VOCABULARY, TEXT)
    yield f"{layer}self_attn.q_proj.weight", draw.matrix(4096, TEXT)
    yield f"{layer}self_attn.k_proj.weight", draw.matrix(1024, TEXT)
    yield f"{layer}self_attn.v_proj.weight", draw.matrix(1024, TEXT)
    yield f"{layer}self_attn.o_proj.weight", draw.matrix(TEXT, 4096)
    yield f"{layer}self_attn.q_norm.weight", ones(128)
    yield f"{layer}self_attn.k_norm.weight", ones(128)
    yield f"{layer}mlp.gate_proj.weight", draw.matrix(FEED_FORWARD, TEXT)
    yield f"{layer}mlp.up_proj.weight", draw.matrix(FEED_FORWARD, TEXT)
    yield f"{layer}mlp.down_proj.weight", draw.matrix(TEXT, FEED_FORWARD)
    yield f"{layer}input_layernorm.weight", ones(TEXT)
    yield f"{layer}post_attention_layernorm.weight", ones(TEXT)
    yield "model.norm.weight", ones(TEXT)


def draw_decoder(draw: _Drawer) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    def convolution(
        name: str, outputs: int, inputs: int, size: int = 3
    ) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        yield f"{name}.weight", draw.matrix(outputs, inputs, size, size)
        yield f"{name}.bias", zeros(outputs)

    def norm(name: str, channels: int) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        yield f"{name}.weight", ones(channels)
        yield f"{name}.bias", zeros(channels)

    def block(
        name: str, inputs: int, outputs: int
    ) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
        yield from norm(f"{name}.norm1", inputs)
        yield from convolution(f"{name}.conv1", outputs, inputs)
        yield from norm(f"{name}.norm2", outputs)
        yield from convolution(f"{name}.conv2", outputs, outputs)
        if inputs != outputs:
            yield from convolution(f"{name}.nin_shortcut", outputs, inputs, 1)

    first = CHANNELS[0]
    yield from convolution("post_quant_conv", 32, 32, 1)
    yield from convolution("decoder.conv_in", first, 32)
    yield from block("decoder.mid.block_1", first, first)
    yield from norm("decoder.mid.attn_1.norm", first)
    for name in ("q", "k", "v", "proj_out"):
        yield from convolution(f"decoder.mid.attn_1.{name}", first, first, 1)
    yield from block("decoder.mid.block_2", first, first)
    inputs = first
    for level, outputs in zip((3, 2, 1, 0), CHANNELS, strict=True):
        for number in range(3):
            yield from block(f"decoder.up.{level}.block.{number}", inputs, outputs)
            inputs = outputs
        if level:
            yield from convolution(f"decoder.up.{level}.upsample.conv", outputs, outputs)
    yield from norm("decoder.norm_out", inputs)
    yield from convolution("decoder.conv_out", 3, inputs)


@functools.cache
def draw_tensors(seed: int) -> Mapping[ImagePart, Tensors]:
    draw = _Drawer(seed)
    return {
        ImagePart.DIFFUSION: dict(draw_diffusion(draw)),
        ImagePart.LLM: dict(draw_text_encoder(draw)),
        ImagePart.VAE: dict(draw_decoder(draw)),
    }


def write_tiny_klein(path: Path, *, seed: int = 0, without: str = "") -> Path:
    """A model in a single file; *without* leaves the tensor of this name out."""
    writer = gguf.GGUFWriter(path, "flux")
    for part, tensors in draw_tensors(seed).items():
        for name, tensor in tensors.items():
            if PREFIXES[part] + name != without:
                _add(writer, PREFIXES[part] + name, tensor)
    return _write(writer, path)


def write_tiny_klein_parts(folder: Path, *, seed: int = 0) -> Mapping[ImagePart, Path]:
    """The same model with a file for each part."""
    paths = {}
    for part, tensors in draw_tensors(seed).items():
        paths[part] = folder / f"{part}.gguf"
        writer = gguf.GGUFWriter(paths[part], "qwen3" if part is ImagePart.LLM else "flux")
        for name, tensor in tensors.items():
            _add(writer, name, tensor)
        _write(writer, paths[part])
    return paths


def _add(writer: gguf.GGUFWriter, name: str, tensor: npt.NDArray[Any]) -> None:
    if name.endswith("embed_tokens.weight"):
        kind = gguf.GGMLQuantizationType.Q4_0
        writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
    else:
        # Norms and biases stay exact, as in published files.
        writer.add_tensor(name, tensor.astype(np.float16) if tensor.ndim > 1 else tensor)


def _write(writer: gguf.GGUFWriter, path: Path) -> Path:
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path

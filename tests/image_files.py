"""Files with the tensors by which image models are recognised, and next to no weights.

A tensor is its name and its shape as in the file: row length first.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
from gguf import GGUFWriter

Shape: TypeAlias = tuple[int, ...]

CHECKPOINT: Final = "model.diffusion_model."
_KLEIN: Final[Mapping[str, Shape]] = {
    "img_in.weight": (128, 4),
    "double_stream_modulation_img.lin.weight": (4, 4),
    "double_blocks.0.img_attn.qkv.weight": (4, 4),
}
_LLM: Final[Mapping[str, Shape]] = {
    "model.embed_tokens.weight": (4, 8),
    "model.layers.0.self_attn.q_proj.weight": (4, 4),
}
_VAE: Final[Mapping[str, Shape]] = {"decoder.conv_in.weight": (3, 3, 4, 4)}

# A diffusion model with the components that it needs, each for a file of its own.
KLEIN: Final = {"diffusion": _KLEIN, "llm": _LLM, "vae": _VAE}
TAESD: Final[Mapping[str, Shape]] = {"decoder.layers.0.weight": (3, 3, 4, 4)}
CLIP_L: Final[Mapping[str, Shape]] = {"text_model.embeddings.token_embedding.weight": (768, 1)}
CLIP_G: Final[Mapping[str, Shape]] = {"text_model.embeddings.token_embedding.weight": (1280, 1)}
T5XXL: Final[Mapping[str, Shape]] = {"encoder.block.0.layer.0.SelfAttention.q.weight": (4, 4)}


def klein_in_one_file() -> dict[str, Shape]:
    """The tensors of a checkpoint with everything in it."""
    return {
        **{f"{CHECKPOINT}{name}": shape for name, shape in _KLEIN.items()},
        **{f"text_encoders.llm.{name}": shape for name, shape in _LLM.items()},
        **{f"first_stage_model.{name}": shape for name, shape in _VAE.items()},
    }


def write_gguf(
    path: Path, tensors: Mapping[str, Shape], *, architecture: str = "", seed: int = 0
) -> Path:
    """Write a GGUF; without an *architecture* as stable-diffusion.cpp does."""
    writer = GGUFWriter(path, architecture or "none")
    if not architecture:
        writer.kv_data[0].clear()
    numbers = np.random.default_rng(seed)
    for name, shape in tensors.items():
        writer.add_tensor(name, numbers.random(tuple(reversed(shape))).astype(np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_safetensors(path: Path, tensors: Mapping[str, Shape], *, seed: int = 0) -> Path:
    """Write a safetensors file of float16."""
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in tensors.items():
        size = 2 * int(np.prod(shape))
        entries[name] = {
            "dtype": "F16", "shape": [*reversed(shape)], "data_offsets": [at, at + size]
        }  # fmt: skip
        at += size
    header = json.dumps(entries).encode()
    data = np.random.default_rng(seed).integers(0, 30, at, np.uint8).tobytes()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data)
    return path


def write_klein(folder: Path, *, seed: int = 0) -> dict[str, Path]:
    """The three files of a model of FLUX.2 klein: component → file."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        "diffusion": write_gguf(folder / "klein.gguf", KLEIN["diffusion"], seed=seed),
        "llm": write_gguf(folder / "llm.gguf", KLEIN["llm"], seed=seed),
        "vae": write_safetensors(folder / "vae.safetensors", KLEIN["vae"], seed=seed),
    }

"""Families and components are recognised by the names of tensors, in either format."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from embedd.components.recognition import Recognised, recognise
from embedd.components.tensor_file import read_tensor_file
from embedd.errors import UnsupportedError
from embedd.images import ImageFamily, ImagePart
from tests.image_files import (
    CHECKPOINT,
    CLIP_G,
    CLIP_L,
    KLEIN,
    T5XXL,
    TAESD,
    Shape,
    klein_in_one_file,
    write_gguf,
    write_safetensors,
)

Write = Callable[[Path, Mapping[str, Shape]], Path]

DOUBLE = "double_blocks.0.img_attn.qkv.weight"
UNET: Mapping[str, Shape] = {"input_blocks.0.0.weight": (3, 3, 4, 4)}
CROSS = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
TOKENS = "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight"

DIFFUSION: dict[str, tuple[Mapping[str, Shape], ImageFamily]] = {
    "FLUX.1 dev": (
        {DOUBLE: (1, 1), "img_in.weight": (64, 1), "guidance_in.in_layer.weight": (1, 1)},
        ImageFamily.FLUX1_DEV,
    ),
    "FLUX.1 schnell": ({DOUBLE: (1, 1), "img_in.weight": (64, 1)}, ImageFamily.FLUX1_SCHNELL),
    "Chroma": (
        {DOUBLE: (1, 1), "distilled_guidance_layer.in_proj.weight": (1, 1)},
        ImageFamily.CHROMA,
    ),
    "FLUX.2 klein": (KLEIN["diffusion"], ImageFamily.FLUX2_KLEIN),
    "FLUX.2 dev": (
        {**KLEIN["diffusion"], "single_blocks.47.linear1.weight": (1, 1)},
        ImageFamily.FLUX2,
    ),
    "SD3": ({"joint_blocks.0.x_block.attn.qkv.weight": (1, 1)}, ImageFamily.SD3),
    "Qwen-Image": ({"transformer_blocks.0.img_mod.1.weight": (1, 1)}, ImageFamily.QWEN_IMAGE),
    "Z-Image": ({"cap_embedder.0.weight": (1,)}, ImageFamily.Z_IMAGE),
    "SD1": ({**UNET, CROSS: (768, 1)}, ImageFamily.SD1),
    "SD2": ({**UNET, CROSS: (1024, 1)}, ImageFamily.SD2),
    "SDXL": ({**UNET, CROSS: (2048, 1)}, ImageFamily.SDXL),
}


@pytest.mark.parametrize("write", [write_gguf, write_safetensors])
@pytest.mark.parametrize("prefix", ["", CHECKPOINT])
@pytest.mark.parametrize(("tensors", "family"), DIFFUSION.values(), ids=DIFFUSION)
def test_a_diffusion_model_is_recognised_by_its_tensors(
    tensors: Mapping[str, Shape], family: ImageFamily, prefix: str, write: Write, tmp_path: Path
) -> None:
    named = {f"{prefix}{name}": shape for name, shape in tensors.items()}
    file = read_tensor_file(write(tmp_path / "a", named))
    assert recognise(file) == Recognised(part=ImagePart.DIFFUSION, family=family)


CHECKPOINTS: dict[str, tuple[Mapping[str, Shape], ImageFamily, set[ImagePart]]] = {
    "SD1": (
        {TOKENS: (768, 1)},
        ImageFamily.SD1,
        {ImagePart.CLIP_L, ImagePart.VAE},
    ),
    "SD2": ({"cond_stage_model.model.token_embedding.weight": (1024, 1)}, ImageFamily.SD2,
            {ImagePart.VAE}),
    "SDXL": (
        {"conditioner.embedders.1.model.ln_final.weight": (1,)},
        ImageFamily.SDXL,
        {ImagePart.CLIP_L, ImagePart.CLIP_G, ImagePart.VAE},
    ),
}  # fmt: skip


@pytest.mark.parametrize(("encoder", "family", "contains"), CHECKPOINTS.values(), ids=CHECKPOINTS)
def test_a_checkpoint_of_a_unet_is_recognised_by_its_text_encoder(
    encoder: Mapping[str, Shape], family: ImageFamily, contains: set[ImagePart], tmp_path: Path
) -> None:
    tensors = {
        f"{CHECKPOINT}input_blocks.0.0.weight": (3, 3, 4, 4),
        "first_stage_model.decoder.conv_in.weight": (3, 3, 4, 4),
        **encoder,
    }
    file = read_tensor_file(write_safetensors(tmp_path / "a", tensors))
    wanted = Recognised(part=ImagePart.MODEL, family=family, contains=frozenset(contains))
    assert recognise(file) == wanted


def test_a_checkpoint_says_which_components_it_has(tmp_path: Path) -> None:
    file = read_tensor_file(write_gguf(tmp_path / "a", klein_in_one_file()))
    assert recognise(file) == Recognised(
        part=ImagePart.MODEL,
        family=ImageFamily.FLUX2_KLEIN,
        contains=frozenset({ImagePart.LLM, ImagePart.VAE}),
    )


COMPONENTS: dict[str, tuple[Mapping[str, Shape], ImagePart]] = {
    "llm": (KLEIN["llm"], ImagePart.LLM),
    "llm as llama.cpp names it": (
        {"blk.0.attn_q.weight": (1, 1), "output_norm.weight": (1,)}, ImagePart.LLM
    ),
    "vae": (KLEIN["vae"], ImagePart.VAE),
    "vae of a checkpoint": (
        {"first_stage_model.decoder.conv_in.weight": (1, 1, 1, 1)}, ImagePart.VAE
    ),
    "vae of Qwen-Image": ({"decoder.conv1.weight": (1, 1)}, ImagePart.VAE),
    "taesd": (TAESD, ImagePart.TAESD),
    "clip_l": (CLIP_L, ImagePart.CLIP_L),
    "clip_g": (CLIP_G, ImagePart.CLIP_G),
    "t5xxl": (T5XXL, ImagePart.T5XXL),
    "t5xxl as llama.cpp names it": ({"enc.blk.0.attn_q.weight": (1, 1)}, ImagePart.T5XXL),
}  # fmt: skip


@pytest.mark.parametrize(("tensors", "part"), COMPONENTS.values(), ids=COMPONENTS)
def test_a_component_is_recognised_by_its_tensors(
    tensors: Mapping[str, Shape], part: ImagePart, tmp_path: Path
) -> None:
    file = read_tensor_file(write_safetensors(tmp_path / "a", tensors))
    assert recognise(file) == Recognised(part=part)


UNKNOWN: list[Mapping[str, Shape]] = [
    {"some.weight": (1, 1)},
    {"text_model.embeddings.token_embedding.weight": (512, 1)},
    {"embeddings.word_embeddings.weight": (4, 4)},
    {"blk.0.attn_q.weight": (1, 1), "token_embd_norm.weight": (1,)},
    {**UNET, CROSS: (640, 1)},
    UNET,
]


@pytest.mark.parametrize("tensors", UNKNOWN)
def test_other_files_are_not_recognised(tensors: Mapping[str, Shape], tmp_path: Path) -> None:
    assert recognise(read_tensor_file(write_gguf(tmp_path / "a", tensors))) is None


REFUSED: dict[str, tuple[Mapping[str, Shape], str]] = {
    "a video model": ({"blocks.0.cross_attn.norm_k.weight": (1,)}, "Wan, which makes videos"),
    "FLUX.1 Fill": ({DOUBLE: (1, 1), "img_in.weight": (384, 1)}, "384 input channels"),
    "an inpainting U-Net": ({"input_blocks.0.0.weight": (3, 3, 9, 4)}, "9 input channels"),
    "Chroma Radiance": ({DOUBLE: (1, 1), "nerf_final_layer_conv.norm.scale": (1,)}, "Radiance"),
}


@pytest.mark.parametrize(("tensors", "reason"), REFUSED.values(), ids=REFUSED)
def test_models_that_do_not_paint_from_text_alone_are_refused_by_name(
    tensors: Mapping[str, Shape], reason: str, tmp_path: Path
) -> None:
    file = read_tensor_file(write_gguf(tmp_path / "a", tensors))
    with pytest.raises(UnsupportedError, match=reason):
        recognise(file)

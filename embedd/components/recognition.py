"""Recognition of an image model's files by the names of their tensors.

The rules are those by which stable-diffusion.cpp recognises a model (its ``get_sd_version``),
for names with and without the prefix of a checkpoint.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from embedd.components.tensor_file import TensorFile
from embedd.errors import UnsupportedError
from embedd.images import FAMILIES, ImageFamily, ImagePart

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]  # row length first

_PREFIXES: Final = ("model.diffusion_model.", "unet.")
# Beginnings of the names of further components in a checkpoint.
_VAES: Final = ("first_stage_model.", "vae.")
_ENCODERS: Final = ("cond_stage_model.", "conditioner.embedders.", "text_encoders.", "te.")
_SD3_ENCODERS: Final = {
    "text_encoders.clip_l.": ImagePart.CLIP_L,
    "text_encoders.clip_g.": ImagePart.CLIP_G,
    "text_encoders.t5xxl.": ImagePart.T5XXL,
    "text_encoders.llm.": ImagePart.LLM,
}
# Name of a tensor → the family.
_MARKS: Final = {
    "transformer_blocks.0.img_mod.1.weight": ImageFamily.QWEN_IMAGE,
    "cap_embedder.0.weight": ImageFamily.Z_IMAGE,
}
_FLUX2: Final = "double_stream_modulation_img.lin.weight"
# Tensors of models that are painted with in ways that embedd does not offer.
_UNSUPPORTED: Final = {
    "nerf_final_layer_conv.": "Chroma Radiance",
    "llm_adapter.blocks.0.cross_attn.q_proj.weight": "Anima",
    "double_blocks.0.img_mlp.gate_proj.weight": "Ovis-Image",
    "layers.0.adaLN_sa_ln.weight": "ERNIE-Image",
    "blocks.0.cross_attn.norm_k.weight": "Wan, which makes videos",
    "input_blocks.8.0.time_mixer.mix_factor": "Stable Video Diffusion",
}
_LARGE_FLUX2: Final = "single_blocks.47.linear1.weight"
_TOKEN_TABLES: Final = (
    "cond_stage_model.transformer.text_model.embeddings.token_embedding.weight",
    "cond_stage_model.model.token_embedding.weight",
    "conditioner.embedders.0.transformer.text_model.embeddings.token_embedding.weight",
    "te.text_model.embeddings.token_embedding.weight",
)
_SECOND_ENCODERS: Final = ("conditioner.embedders.1", "cond_stage_model.1", "te.1")
_CROSS_ATTENTION: Final = "input_blocks.4.1.transformer_blocks.0.attn2.to_k.weight"
_BY_WIDTH: Final = {768: ImageFamily.SD1, 1024: ImageFamily.SD2, 2048: ImageFamily.SDXL}
_QWEN: Final = "model.layers.0.self_attn.q_proj.weight"
_CLIPS: Final = {768: ImagePart.CLIP_L, 1280: ImagePart.CLIP_G}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recognised:
    """What a file is.

    Args:
        family: Of a checkpoint or diffusion model; None for other components.
        contains: Components in the file besides the one that `part` names.
    """

    part: ImagePart
    family: ImageFamily | None = None
    contains: frozenset[ImagePart] = frozenset()


def recognise(file: TensorFile) -> Recognised | None:
    """What the file is; None if it is not a part of an image model.

    Raises:
        UnsupportedError: It is a diffusion model that embedd cannot paint with.
    """
    shapes = file.shapes
    own = _strip_prefix(shapes)
    family = _family_of(shapes, own)
    if family is not None:
        contains = frozenset(_contained(shapes, family))
        return Recognised(
            part=ImagePart.MODEL if contains else ImagePart.DIFFUSION,
            family=family,
            contains=contains,
        )
    part = _component_of(shapes)
    return None if part is None else Recognised(part=part)


def _strip_prefix(shapes: Shapes) -> Shapes:
    """The tensors of the diffusion model, by their names without the prefix of a checkpoint."""
    for prefix in _PREFIXES:
        own = {name[len(prefix) :]: s for name, s in shapes.items() if name.startswith(prefix)}
        if own:
            return own
    return shapes


def _family_of(shapes: Shapes, own: Shapes) -> ImageFamily | None:
    for mark, what in _UNSUPPORTED.items():
        if any(name.startswith(mark) for name in own):
            raise UnsupportedError(f"the file is a model of {what}: embedd cannot paint with it")
    for mark, family in _MARKS.items():
        if mark in own:
            return family
    if _FLUX2 in own:
        return ImageFamily.FLUX2 if _LARGE_FLUX2 in own else ImageFamily.FLUX2_KLEIN
    if any(name.startswith("joint_blocks.") for name in own):
        return ImageFamily.SD3
    if any(name.startswith("double_blocks.") for name in own):
        return _flux_of(own)
    if any(name.startswith(("input_blocks.", "down_blocks.")) for name in own):
        return _unet_of(shapes, own)
    return None


def _flux_of(own: Shapes) -> ImageFamily:
    channels = own.get("img_in.weight", (0,))[0]
    if channels in {384, 128, 196}:
        raise UnsupportedError(
            f"the file is a model of FLUX.1 for editing ({channels} input channels): "
            "embedd paints from text alone"
        )
    if any(name.startswith("distilled_guidance_layer.") for name in own):
        return ImageFamily.CHROMA
    is_guided = any(name.startswith("guidance_in.") for name in own)
    return ImageFamily.FLUX1_DEV if is_guided else ImageFamily.FLUX1_SCHNELL


def _unet_of(shapes: Shapes, own: Shapes) -> ImageFamily | None:
    first = own.get("input_blocks.0.0.weight") or own.get("conv_in.weight") or ()
    if len(first) == 4 and first[2] in {8, 9}:
        raise UnsupportedError(
            f"the file is a U-Net for editing ({first[2]} input channels): "
            "embedd paints from text alone"
        )
    if any(name.startswith(_SECOND_ENCODERS) for name in shapes):
        return ImageFamily.SDXL
    table = next((shapes[name] for name in _TOKEN_TABLES if name in shapes), None)
    table = table or own.get(_CROSS_ATTENTION)
    return _BY_WIDTH.get(table[0]) if table else None


def _contained(shapes: Shapes, family: ImageFamily) -> set[ImagePart]:
    found = set()
    if any(name.startswith(_VAES) for name in shapes):
        found.add(ImagePart.VAE)
    named = {
        part
        for start, part in _SD3_ENCODERS.items()
        if any(name.startswith(start) for name in shapes)
    }
    # The text encoders of a U-Net's checkpoint are one or two, and never apart.
    if not named and any(name.startswith(_ENCODERS) for name in shapes):
        named = set(FAMILIES[family].companions) - {ImagePart.VAE}
    return found | named


def _component_of(shapes: Shapes) -> ImagePart | None:
    names = {name.removeprefix("first_stage_model.").removeprefix("vae.") for name in shapes}
    if names & {"decoder.conv_in.weight", "decoder.conv1.weight"}:
        return ImagePart.VAE
    if names & {"decoder.layers.0.weight", "decoder.1.weight"}:
        return ImagePart.TAESD
    if names & {"enc.blk.0.attn_q.weight", "encoder.block.0.layer.0.SelfAttention.q.weight"}:
        return ImagePart.T5XXL
    for name in ("text_model.embeddings.token_embedding.weight", "token_embedding.weight"):
        if name in shapes:
            return _CLIPS.get(shapes[name][0])
    inner = {name.removeprefix("text_encoders.llm.") for name in shapes}
    # Encoders have no norm after the last layer.
    is_decoder = {"blk.0.attn_q.weight", "output_norm.weight"} <= inner
    return ImagePart.LLM if is_decoder or _QWEN in inner else None

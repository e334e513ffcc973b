"""Types of image generation: requests, events, results, and what is known of each family.

The checks of a request are in `embedd.painter.limits`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final, TypeAlias

import numpy as np
import numpy.typing as npt

from embedd.types import ServedBy

Pixels: TypeAlias = npt.NDArray[np.uint8]  # (height, width, 3): red, green, blue


class ImagePart(StrEnum):
    """What a file of an image model holds; also the name of its layer in the manifest."""

    MODEL = "model"  # everything, in a single file
    DIFFUSION = "diffusion"
    LLM = "llm"
    CLIP_L = "clip_l"
    CLIP_G = "clip_g"
    T5XXL = "t5xxl"
    VAE = "vae"
    TAESD = "taesd"


class ImageFamily(StrEnum):
    """Families of image models, recognised by the names of their tensors."""

    SD1 = "sd1"
    SD2 = "sd2"
    SDXL = "sdxl"
    SD3 = "sd3"
    FLUX1_DEV = "flux1-dev"
    FLUX1_SCHNELL = "flux1-schnell"
    FLUX2 = "flux2"
    FLUX2_KLEIN = "flux2-klein"
    CHROMA = "chroma"
    QWEN_IMAGE = "qwen-image"
    Z_IMAGE = "z-image"


@dataclass(frozen=True, slots=True, kw_only=True)
class FamilyFacts:
    """What holds for every model of a family, unless its parameters say otherwise.

    Args:
        multiple: Pixels: the engine paints only sizes that are multiples of it, and rounds
            others up without a word.
        steps, guidance: Where neither the request nor the model has them.
        size: Width and height, likewise.
        is_distilled: Whether the guidance of a request is one that the model was trained with
            (``distilled_guidance``), so that the engine's own stays 1.
        companions: Components that the model needs besides the diffusion: in the same file,
            or in files of their own. None is known that has the text encoder of SD2 alone.
    """

    multiple: int
    steps: int
    guidance: float
    size: int = 512
    is_distilled: bool = False
    companions: tuple[ImagePart, ...] = ()

    def round_up(self, side: int) -> int:
        """Return the side of the smallest picture to paint of which *side* can be cut out."""
        return -(-side // self.multiple) * self.multiple


FAMILIES: Final[Mapping[ImageFamily, FamilyFacts]] = MappingProxyType(
    {
        ImageFamily.SD1: FamilyFacts(
            multiple=64, steps=20, guidance=7.0, companions=(ImagePart.CLIP_L, ImagePart.VAE)
        ),
        ImageFamily.SD2: FamilyFacts(
            multiple=64, steps=20, guidance=7.0, companions=(ImagePart.VAE,)
        ),
        ImageFamily.SDXL: FamilyFacts(
            multiple=64,
            steps=20,
            guidance=7.0,
            size=1024,
            companions=(ImagePart.CLIP_L, ImagePart.CLIP_G, ImagePart.VAE),
        ),
        ImageFamily.SD3: FamilyFacts(
            multiple=8,
            steps=28,
            guidance=4.5,
            size=1024,
            companions=(ImagePart.CLIP_L, ImagePart.CLIP_G, ImagePart.T5XXL, ImagePart.VAE),
        ),
        ImageFamily.FLUX1_DEV: FamilyFacts(
            multiple=8,
            steps=20,
            guidance=3.5,
            size=1024,
            is_distilled=True,
            companions=(ImagePart.CLIP_L, ImagePart.T5XXL, ImagePart.VAE),
        ),
        ImageFamily.FLUX1_SCHNELL: FamilyFacts(
            multiple=8,
            steps=4,
            guidance=1.0,
            size=1024,
            companions=(ImagePart.CLIP_L, ImagePart.T5XXL, ImagePart.VAE),
        ),
        ImageFamily.FLUX2: FamilyFacts(
            multiple=16,
            steps=20,
            guidance=4.0,
            size=1024,
            companions=(ImagePart.LLM, ImagePart.VAE),
        ),
        ImageFamily.FLUX2_KLEIN: FamilyFacts(
            multiple=16, steps=4, guidance=1.0, companions=(ImagePart.LLM, ImagePart.VAE)
        ),
        ImageFamily.CHROMA: FamilyFacts(
            multiple=8,
            steps=20,
            guidance=4.0,
            size=1024,
            companions=(ImagePart.T5XXL, ImagePart.VAE),
        ),
        ImageFamily.QWEN_IMAGE: FamilyFacts(
            multiple=8,
            steps=20,
            guidance=2.5,
            size=1024,
            companions=(ImagePart.LLM, ImagePart.VAE),
        ),
        ImageFamily.Z_IMAGE: FamilyFacts(
            multiple=8, steps=8, guidance=1.0, companions=(ImagePart.LLM, ImagePart.VAE)
        ),
    }
)


class ImageFormat(StrEnum):
    """File format of a picture."""

    PNG = "png"
    JPEG = "jpeg"
    WEBP = "webp"


class Phase(StrEnum):
    """What is being done for a picture."""

    LOADING = "loading"  # the model, or a new worker for it
    QUEUED = "queued"  # other pictures come first
    SAMPLING = "sampling"
    DECODING = "decoding"  # and encoding the file


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintRequest:
    """Pictures to paint from a prompt, in the terms of no dialect.

    What is None is the model's own, else that of its family.

    Args:
        guidance: How strictly the picture follows the prompt; at 1 a negative prompt has no
            effect.
        seed: Of the first picture, further ones have the next numbers; None is random.
        n: How many pictures.
        quality: 0 … 100 of JPEG and WebP; None is 95.
        metadata: Whether prompt and settings are written into the file; None leaves it to
            the operator.
        previews: How many previews to send of each picture, evenly over its steps.
        keep_alive: Seconds, ``math.inf`` for ever; None leaves the model's as it is.
        owner: Who asks, such as the digest of a key: `Painter.cancel` ends only their pictures.
    """

    model: str
    prompt: str
    negative: str = ""
    width: int | None = None
    height: int | None = None
    steps: int | None = None
    guidance: float | None = None
    seed: int | None = None
    n: int = 1
    format: ImageFormat = ImageFormat.PNG
    quality: int | None = None
    metadata: bool | None = None
    previews: int = 0
    keep_alive: float | None = None
    owner: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """How a picture looks while it is painted: a file of the size and format asked for.

    Args:
        number: 0-based, of the previews of this picture.
    """

    number: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintProgress:
    """An event of a request that is being painted.

    Args:
        index: 0-based number of the picture in its request.
        step: Steps that are done, ``0 … steps``; each is reported once and in order.
        position: Pictures that come before this one, while it is `Phase.QUEUED`.
        preview: Sent with the step that it shows.
    """

    index: int = 0
    phase: Phase
    step: int = 0
    steps: int
    position: int = 0
    preview: Preview | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintTimings:
    """Where the time of a picture, or of a request, went, in seconds.

    ``load`` is 0.0 when the model was ready; ``decode`` includes encoding the file.
    """

    load: float = 0.0
    queue: float = 0.0
    sample: float = 0.0
    decode: float = 0.0
    total: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A picture as a file."""

    index: int
    data: bytes
    width: int
    height: int
    seed: int
    timings: PaintTimings


@dataclass(frozen=True, slots=True, kw_only=True)
class PaintResult:
    """The last event of a request: all its pictures, and the settings they were painted with."""

    pictures: Sequence[Picture]
    format: ImageFormat
    steps: int
    guidance: float
    sampler: str
    timings: PaintTimings
    served_by: ServedBy
    warnings: Sequence[str] = ()


PaintEvent: TypeAlias = PaintProgress | PaintResult

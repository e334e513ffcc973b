"""What to load and how for an image model, and the facts of a loaded one."""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from embedd.images import FAMILIES, FamilyFacts, ImageFamily, ImagePart

# Pixels up to which a picture is decoded in one piece, and attention takes the matrices that are
# fastest on a CPU: for larger ones both would take gigabytes.
SMALL_PIXELS = 512 * 512


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageSpec:
    """An image model to load and how.

    Args:
        name: Shortest name of the model, for messages only.
        digest: ``sha256:<64 hex>`` of the file with the diffusion.
        parts: Its files; one of them is `ImagePart.MODEL` or `ImagePart.DIFFUSION`.
        weights: Bytes of all files.
        pixels: Of the largest picture that it is to paint: decides the memory that it needs.
        threads: Cores that it may compute with; None leaves it to the server.
    """

    name: str
    digest: str
    family: ImageFamily
    parts: Mapping[ImagePart, Path]
    weights: int
    pixels: int = SMALL_PIXELS
    threads: int | None = None
    use_mmap: bool = True

    @property
    def key(self) -> Hashable:
        """Identity in memory: names with equal keys share one loaded model."""
        return (self.family, self.files, self.pixels)

    @property
    def files(self) -> Hashable:
        """Identity on disk: whatever the size of the pictures."""
        return tuple(sorted(self.parts.items()))

    @property
    def path(self) -> Path:
        """The file with the diffusion."""
        whole = self.parts.get(ImagePart.MODEL)
        return self.parts[ImagePart.DIFFUSION] if whole is None else whole

    @property
    def facts(self) -> FamilyFacts:
        """Facts of its family."""
        return FAMILIES[self.family]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageModel:
    """A stored image model: what to load, and what a request gets that does not say it.

    The defaults are the model's own parameters, else those of its family.
    """

    spec: ImageSpec
    steps: int
    guidance: float
    width: int
    height: int

    @property
    def own_spec(self) -> ImageSpec:
        """What to load for pictures of its own size."""
        width, height = map(self.spec.facts.round_up, (self.width, self.height))
        return replace(self.spec, pixels=max(1, width * height))


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """Facts of a loaded image model that do not change.

    Args:
        sampler: Name of the method that it samples with.
        backend: Name of the backend that computes it: ``diffusion``, or ``diffusion-flash``
            with flash attention, which large pictures take; their bits differ.
        library: Name and version of the library that computes it.
        gpu_bytes: Memory taken on a GPU.
    """

    sampler: str
    engine: str
    backend: str
    library: str = ""
    gpu_bytes: int = 0

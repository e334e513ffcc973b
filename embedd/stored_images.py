"""Image models as they are stored: from manifest, files and parameters to what to load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final

import msgspec

from embedd.components.recognition import recognise
from embedd.components.tensor_file import TensorFile, read_tensor_file, weight_type
from embedd.engine.image_spec import ImageModel, ImageSpec
from embedd.errors import InvalidInputError
from embedd.gguf.header import format_parameter_count
from embedd.images import FAMILIES, ImageFamily, ImagePart
from embedd.names import ModelName
from embedd.ollama_api import Details
from embedd.store.manifests import MODEL, ConfigBlob, Layer, StoredManifest

_WHOLE: Final = (ImagePart.MODEL, ImagePart.DIFFUSION)


class ImageParameters(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of a Modelfile that image models have; None is that of the family.

    Their limits are checked with each request, as those of its own values.
    """

    steps: Annotated[int, msgspec.Meta(ge=1)] | None = None
    guidance: Annotated[float, msgspec.Meta(ge=0)] | None = None
    width: Annotated[int, msgspec.Meta(ge=1)] | None = None
    height: Annotated[int, msgspec.Meta(ge=1)] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """The files of an image model, which are complete.

    Args:
        family: As the tensors of the diffusion model show.
        files: By component.
    """

    family: ImageFamily
    files: Mapping[ImagePart, TensorFile]

    def make_config(self, made_from: str = "") -> ConfigBlob:
        """Return the config of a model with these files."""
        details = self.details
        return ConfigBlob(
            model_format=details.format,
            model_family=details.family,
            model_families=details.families,
            model_type=details.parameter_size,
            file_type=details.quantization_level,
            architecture="amd64",
            os="linux",
            rootfs={"type": "layers", "diff_ids": []},
            made_from=made_from,
        )

    @property
    def details(self) -> Details:
        """Format and type of the diffusion model, size of all components."""
        whole = next(self.files[part] for part in _WHOLE if part in self.files)
        return Details(
            format=whole.format,
            family=self.family,
            families=[self.family],
            parameter_size=format_parameter_count(self.parameter_count),
            quantization_level=weight_type([whole]) or "unknown",
        )

    @property
    def parameter_count(self) -> int:
        """Number of elements in the tensors of all files."""
        return sum(file.parameter_count for file in self.files.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredImageModel:
    """A stored image model: what to load, and what is known before loading it.

    Args:
        parameters: As they are stored.
        manifest_digest: sha256 of the manifest, 64 hex digits.
        size: Bytes of all layers and the config.
        modified_at: Seconds since the epoch.
    """

    name: ModelName
    model: ImageModel
    files: ImageFiles
    parameters: Mapping[str, object] = field(default_factory=dict)
    manifest_digest: str
    size: int
    modified_at: float

    @property
    def spec(self) -> ImageSpec:
        """What to load."""
        return self.model.spec

    @property
    def capabilities(self) -> tuple[str, ...]:
        """What the model can do, in Ollama's word."""
        return ("image",)

    @property
    def details(self) -> Details:
        """Format, family, size and type."""
        return self.files.details


def make_stored_image(
    stored: StoredManifest,
    paths: Mapping[ImagePart, Path],
    files: ImageFiles,
    parameters: Mapping[str, object],
) -> StoredImageModel:
    """Return the image model of a manifest.

    Raises:
        InvalidInputError: A parameter has the wrong type.
    """
    layers = stored.manifest.of_type(MODEL)
    own, facts = parse_image_parameters(parameters), FAMILIES[files.family]
    spec = ImageSpec(
        name=stored.name.display,
        digest=layers[0].digest,
        family=files.family,
        parts=dict(paths),
        weights=sum(layer.size for layer in layers),
    )
    return StoredImageModel(
        name=stored.name,
        model=ImageModel(
            spec=spec,
            steps=facts.steps if own.steps is None else own.steps,
            guidance=facts.guidance if own.guidance is None else own.guidance,
            width=own.width or facts.size,
            height=own.height or facts.size,
        ),
        files=files,
        parameters=parameters,
        manifest_digest=stored.digest,
        size=stored.manifest.size,
        modified_at=stored.modified_at,
    )


def parse_image_parameters(raw: Mapping[str, object]) -> ImageParameters:
    """Check the types of an image model's parameters; others are left out.

    Raises:
        InvalidInputError: A parameter has the wrong type.
    """
    try:
        return msgspec.convert(dict(raw), ImageParameters)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"a parameter of the image model is wrong: {error}") from None


def parts_of_layers(layers: Sequence[Layer]) -> dict[ImagePart, Layer]:
    """The layers of a manifest by the component that each names; empty if one names none."""
    known = {part.value: part for part in ImagePart}
    named = {known[layer.name]: layer for layer in layers if layer.name in known}
    return named if len(named) == len(layers) else {}


def read_image_files(first: Path, components: Mapping[ImagePart, Path]) -> ImageFiles | None:
    """Read and check the files of a model; None if *first* is not a file of an image model.

    Args:
        first: The file that FROM names.
        components: Those that COMPONENT names.

    Raises:
        ModelLoadError: A file is damaged.
        UnsupportedError: The model cannot be painted with.
        InvalidInputError: A file is not the component that it is given as, or one is missing.
    """
    read = {part: read_tensor_file(path) for part, path in components.items()}
    return check_image_files(read_tensor_file(first), read)


def check_image_files(
    first: TensorFile, components: Mapping[ImagePart, TensorFile]
) -> ImageFiles | None:
    """As `read_image_files`, of files whose headers were read."""
    found = recognise(first)
    # Language models and T5 are also models of their own, which read texts.
    if not components and (found is None or found.part in {ImagePart.LLM, ImagePart.T5XXL}):
        return None
    if found is None or found.family is None:
        what = (
            "not of a family that embedd knows"
            if found is None
            else f"the component {found.part} alone"
        )
        raise InvalidInputError(
            f"the file is {what}: FROM must name the diffusion model or the checkpoint of an "
            "image model, COMPONENT its other files"
        )
    for part, file in components.items():
        other = recognise(file)
        if other is None or other.part is not part:
            what = (
                "not a file of an image model" if other is None else f"the component {other.part}"
            )
            raise InvalidInputError(f"the file of COMPONENT {part} is {what}")
    missing = set(FAMILIES[found.family].companions) - found.contains - components.keys()
    if missing:
        raise InvalidInputError(_describe_missing(found.family, missing))
    return ImageFiles(family=found.family, files={found.part: first, **components})


def _describe_missing(family: ImageFamily, missing: set[ImagePart]) -> str:
    needed = [part for part in FAMILIES[family].companions if part in missing]
    lines = ", ".join(f"COMPONENT {part} <file>" for part in needed)
    return (
        f"the file is the diffusion model of {family} without {', '.join(needed)}: create the "
        f"model from a Modelfile that names those files too ({lines})"
    )

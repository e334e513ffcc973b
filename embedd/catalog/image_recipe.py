"""A recipe of an image model: where each of its files comes from, and how it paints."""

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import Meta

from embedd.catalog.recipe import RelativePath, Sha256
from embedd.errors import InvalidModelNameError
from embedd.names import ModelName, parse_model_name

Part: TypeAlias = Literal["llm", "clip_l", "clip_g", "t5xxl", "vae", "taesd"]
Count: TypeAlias = Annotated[int, Meta(ge=1)]


class HubFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A file in a repository of the Hugging Face hub.

    Args:
        repository: ``owner/name``.
        file: Its path.
        revision: Commit, branch or tag.
        sha256: Of the file; None accepts the hub's.
    """

    repository: Annotated[str, Meta(pattern=r"^\w[\w.-]*/\w[\w.-]*$")]
    file: RelativePath
    revision: str = "main"
    sha256: Sha256 | None = None


class ImageRecipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One image model of the catalogue.

    Args:
        kind: Distinguishes it from the recipe of an encoder.
        name: Short name without tag.
        terms: What is shown before a download, if the licence restricts the use; else empty.
        aliases: Other names → the tag of this recipe that they stand for.
        steps, guidance, width, height: Parameters to store with the model; None is that of
            the family.
        components: Files that all tags share, besides the one of the tag.
        tags: Tag → checkpoint or diffusion model.
    """

    kind: Literal["image"]
    name: str
    description: str
    license: str
    terms: str = ""
    steps: Count | None = None
    guidance: Annotated[float, Meta(ge=0)] | None = None
    width: Count | None = None
    height: Count | None = None
    aliases: dict[str, str] = {}
    components: dict[Part, HubFile] = {}
    tags: dict[str, HubFile]

    def __post_init__(self) -> None:
        """Check what types cannot express; msgspec reports a `ValueError` as invalid."""
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

    @property
    def parameters(self) -> dict[str, object]:
        """Parameters to store with the model."""
        given = {
            "steps": self.steps,
            "guidance": self.guidance,
            "width": self.width,
            "height": self.height,
        }
        return {name: value for name, value in given.items() if value is not None}

"""All recipes by name: those that embedd ships, and the user's own, which override them."""

import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final, TypeAlias

import msgspec

from embedd.catalog.image_recipe import HubFile, ImageRecipe
from embedd.catalog.recipe import HubSource, PackageSource, Recipe
from embedd.errors import ConfigError
from embedd.names import ModelName, parse_model_name

SHIPPED: Final = "embedd.models"


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """The entry of a name in the catalogue: a recipe, one of its tags, the tag's source."""

    recipe: Recipe
    tag: str
    source: PackageSource | HubSource


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageOffer:
    """The entry of an image model's name in the catalogue."""

    recipe: ImageRecipe
    tag: str
    source: HubFile


AnyRecipe: TypeAlias = Recipe | ImageRecipe


class Catalog:
    """Finds offers by name. Of two recipes or aliases with the same name the later is used."""

    def __init__(self, recipes: Iterable[Recipe], images: Iterable[ImageRecipe] = ()) -> None:
        by_name: dict[tuple[str, ...], Recipe] = {}
        for recipe in recipes:
            by_name[recipe.parsed_name.key] = recipe
        self._recipes = sorted(by_name.values(), key=lambda recipe: recipe.name)
        self._offers: dict[tuple[str, ...], Offer] = {}
        # Names are added after aliases, so that an alias never hides a recipe.
        for recipe in by_name.values():
            for alias, tag in recipe.aliases.items():
                self._add(parse_model_name(alias), recipe, tag)
        for recipe in by_name.values():
            for tag in recipe.tags:
                base = recipe.parsed_name
                named = ModelName(namespace=base.namespace, model=base.model, tag=tag)
                self._add(named, recipe, tag)

        self._image_recipes = sorted(
            {recipe.parsed_name.key: recipe for recipe in images}.values(),
            key=lambda recipe: recipe.name,
        )
        self._images = {
            name.key: ImageOffer(recipe=recipe, tag=tag, source=recipe.tags[tag])
            for recipe in self._image_recipes
            for name, tag in _names_of(recipe)
        }

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """All recipes of models that read texts, by name."""
        return tuple(self._recipes)

    @property
    def image_recipes(self) -> tuple[ImageRecipe, ...]:
        """All recipes of image models, by name."""
        return tuple(self._image_recipes)

    def find(self, name: ModelName) -> Offer | None:
        """The offer for *name*, in any letter case."""
        return self._offers.get(name.key)

    def find_image(self, name: ModelName) -> ImageOffer | None:
        """The offer of an image model for *name*, in any letter case."""
        return self._images.get(name.key)

    def search(self, word: str) -> list[AnyRecipe]:
        """The recipes with *word* in a name, an alias or the description, in any letter case."""
        wanted = word.strip().lower()
        recipes: list[AnyRecipe] = [*self._recipes, *self._image_recipes]
        recipes.sort(key=lambda recipe: recipe.name)
        return [
            recipe
            for recipe in recipes
            if any(
                wanted in text.lower()
                for text in (recipe.name, recipe.description, *recipe.aliases)
            )
        ]

    def _add(self, name: ModelName, recipe: Recipe, tag: str) -> None:
        self._offers[name.key] = Offer(recipe=recipe, tag=tag, source=recipe.tags[tag])


def read_catalog(user_folder: Path | None = None) -> Catalog:
    """The shipped recipes and those in *user_folder*, which need not exist.

    Raises:
        ConfigError: A recipe cannot be read; names the file.
    """
    folders: list[Traversable] = [resources.files(SHIPPED)]
    if user_folder is not None and user_folder.is_dir():
        folders.append(user_folder)
    return Catalog(
        [recipe for folder in folders for recipe in read_recipes(folder)],
        [recipe for folder in folders for recipe in read_image_recipes(folder)],
    )


def read_recipes(folder: Traversable) -> list[Recipe]:
    """The recipes ``*.toml`` in *folder*, but for image models, in the order of their names.

    Raises:
        ConfigError: A recipe cannot be read; names the file.
    """
    return [recipe for recipe in _read_all(folder) if isinstance(recipe, Recipe)]


def read_image_recipes(folder: Traversable) -> list[ImageRecipe]:
    """The recipes of image models in *folder*; as `read_recipes`."""
    return [recipe for recipe in _read_all(folder) if isinstance(recipe, ImageRecipe)]


def _read_all(folder: Traversable) -> list[AnyRecipe]:
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return [_read_recipe(file) for file in files if file.name.endswith(".toml")]


def _names_of(recipe: ImageRecipe) -> Iterator[tuple[ModelName, str]]:
    """Every name of the recipe with the tag that it stands for; aliases come first."""
    for alias, tag in recipe.aliases.items():
        yield parse_model_name(alias), tag
    for tag in recipe.tags:
        base = recipe.parsed_name
        yield ModelName(namespace=base.namespace, model=base.model, tag=tag), tag


def _read_recipe(file: Traversable) -> AnyRecipe:
    try:
        table = tomllib.loads(file.read_text("utf-8"))
        if "kind" in table:
            return msgspec.convert(table, ImageRecipe)
        return msgspec.convert(table, Recipe)
    except (OSError, ValueError) as error:
        raise ConfigError(f"recipe {file} cannot be read: {error}") from error

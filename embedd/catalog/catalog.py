"""All recipes by name: those that embedd ships, and the user's own, which override them."""

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Final

import msgspec

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


class Catalog:
    """Finds offers by name. Of two recipes or aliases with the same name the later is used."""

    def __init__(self, recipes: Iterable[Recipe]) -> None:
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

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """All recipes, by name."""
        return tuple(self._recipes)

    def find(self, name: ModelName) -> Offer | None:
        """The offer for *name*, in any letter case."""
        return self._offers.get(name.key)

    def search(self, word: str) -> list[Recipe]:
        """The recipes with *word* in a name, an alias or the description, in any letter case."""
        wanted = word.strip().lower()
        return [
            recipe
            for recipe in self._recipes
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
    recipes = read_recipes(resources.files(SHIPPED))
    if user_folder is not None and user_folder.is_dir():
        recipes += read_recipes(user_folder)
    return Catalog(recipes)


def read_recipes(folder: Traversable) -> list[Recipe]:
    """The recipes ``*.toml`` in *folder*, in the order of their names.

    Raises:
        ConfigError: A recipe cannot be read; names the file.
    """
    files = sorted(folder.iterdir(), key=lambda file: file.name)
    return [_read_recipe(file) for file in files if file.name.endswith(".toml")]


def _read_recipe(file: Traversable) -> Recipe:
    try:
        return msgspec.convert(tomllib.loads(file.read_text("utf-8")), Recipe)
    except (OSError, ValueError) as error:
        raise ConfigError(f"recipe {file} cannot be read: {error}") from error

"""Recipes of image models: what they may say, and that the shipped ones are complete."""

from pathlib import Path

import msgspec
import pytest

from embedd.catalog.catalog import Catalog, read_catalog, read_image_recipes, read_recipes
from embedd.catalog.image_recipe import ImageRecipe
from embedd.errors import ConfigError
from embedd.images import FAMILIES, ImageFamily
from embedd.library.pull_images import describe_terms
from embedd.names import parse_model_name

SHIPPED = Path(__file__).parents[3] / "models"
RECIPES = read_image_recipes(SHIPPED)
CATALOG = Catalog(read_recipes(SHIPPED), RECIPES)
# The family of each recipe, which its files show once they are there.
SHIPPED_FAMILIES = {
    "flux2-klein": ImageFamily.FLUX2_KLEIN,
    "sd-turbo": ImageFamily.SD2,
    "sdxl-turbo": ImageFamily.SDXL,
    "z-image-turbo": ImageFamily.Z_IMAGE,
}
IN_ONE_FILE = {"sd-turbo", "sdxl-turbo"}


def content(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "kind": "image", "name": "tiny", "description": "Tiny", "license": "MIT",
        "tags": {"latest": {"repository": "acme/tiny", "file": "tiny.gguf"}},
    }  # fmt: skip
    return base | changes


def test_recipes_are_shipped_for_small_fast_models() -> None:
    assert {recipe.name for recipe in RECIPES} == SHIPPED_FAMILIES.keys()


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda recipe: recipe.name)
def test_a_shipped_recipe_is_found_by_all_its_names_and_has_all_components(
    recipe: ImageRecipe,
) -> None:
    for name in (*(f"{recipe.name}:{tag}" for tag in recipe.tags), *recipe.aliases):
        offer = CATALOG.find_image(parse_model_name(name.upper()))
        assert offer is not None
        assert offer.recipe == recipe
        assert CATALOG.find(parse_model_name(name)) is None
    needed = set(FAMILIES[SHIPPED_FAMILIES[recipe.name]].companions)
    assert set(recipe.components) == (set() if recipe.name in IN_ONE_FILE else needed)
    assert recipe.guidance == 1  # every step is computed once
    # A licence that restricts the use is shown before the download.
    assert bool(recipe.terms) == bool(describe_terms(recipe.license))


def test_search_finds_recipes_of_both_kinds_in_the_order_of_their_names() -> None:
    names = [recipe.name for recipe in CATALOG.search("")]
    assert names == sorted(names)
    assert {"all-minilm", "sd-turbo"} <= set(names)
    assert [recipe.name for recipe in CATALOG.search("tongyi")] == ["z-image-turbo"]


def test_the_users_recipe_overrides_a_shipped_one(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(
        'kind = "image"\nname = "sd-turbo"\ndescription = "mine"\nlicense = "MIT"\n'
        'tags = {latest = {repository = "me/mine", file = "mine.gguf"}}\n'
    )
    offer = read_catalog(tmp_path).find_image(parse_model_name("sd-turbo"))
    assert offer is not None
    assert offer.source.repository == "me/mine"
    assert read_recipes(tmp_path) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "video"},
        {"tags": {"f16": {"repository": "a/b", "file": "c"}}},
        {"aliases": {"other": "nope"}},
        {"aliases": {"a b": "latest"}},
        {"components": {"unet": {"repository": "a/b", "file": "c"}}},
        {"steps": 0},
        {"guidance": -1},
        {"pooling": "mean"},
        {"tags": {"latest": {"repository": "a/b", "file": "../c"}}},
    ],
)
def test_a_recipe_that_cannot_be_true_is_refused(changes: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(content(**changes), ImageRecipe)


def test_a_recipe_of_an_unknown_kind_is_an_error_that_names_its_file(tmp_path: Path) -> None:
    (tmp_path / "odd.toml").write_text('kind = "sound"\nname = "a"\n')
    with pytest.raises(ConfigError, match=r"odd\.toml"):
        read_catalog(tmp_path)


def test_parameters_are_those_that_the_recipe_says() -> None:
    recipe = msgspec.convert(content(steps=4, guidance=1), ImageRecipe)
    assert recipe.parameters == {"steps": 4, "guidance": 1.0}
    assert Catalog([], [recipe]).image_recipes == (recipe,)


@pytest.mark.parametrize(
    ("name", "restricts"),
    [
        ("apache-2.0", False),
        ("sai-nc-community", True),
        ("flux-1-dev-non-commercial-license", True),
        ("cc-by-nc-4.0", True),
        ("FLUX Non-Commercial License", True),
        ("openrail++", False),
        ("ncsa", False),
        ("", False),
    ],
)
def test_the_name_of_a_licence_says_whether_it_is_for_non_commercial_use(
    name: str, restricts: bool
) -> None:
    assert bool(describe_terms(name)) == restricts

"""The catalogue: what a recipe may say, and who wins a name."""

import json
import re
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import msgspec
import pytest

from embedd.catalog.catalog import (
    AnyRecipe,
    Catalog,
    read_catalog,
    read_image_recipes,
    read_recipes,
)
from embedd.catalog.recipe import HubSource, PackageSource, Recipe
from embedd.errors import ConfigError
from embedd.names import parse_model_name
from embedd.types import Pooling

SHIPPED = Path(__file__).parents[3] / "models"
PACKAGE = {
    "source": "package", "package": "some_package", "distribution": "some-package",
    "folder": "model", "weights": "f16", "sha256": "0" * 64,
}  # fmt: skip
HUB = {"source": "hub", "repository": "acme/tiny-GGUF", "file": "q/tiny-Q8_0.gguf"}


def content(**changes: object) -> dict[str, object]:
    base: dict[str, object] = {
        "name": "tiny", "description": "Tiny", "license": "MIT", "pooling": "cls",
        "context_length": 512, "dimensions": 384, "tags": {"latest": HUB},
    }  # fmt: skip
    return {key: value for key, value in (base | changes).items() if value is not None}


def to_toml(table: Mapping[str, object]) -> str:
    return "".join(f"{key} = {to_toml_value(value)}\n" for key, value in table.items())


def to_toml_value(value: object) -> str:
    if isinstance(value, Mapping):
        pairs = [f"{json.dumps(key)} = {to_toml_value(item)}" for key, item in value.items()]
        return "{" + ", ".join(pairs) + "}"
    return json.dumps(value)


def make_recipe(**changes: object) -> Recipe:
    return msgspec.convert(content(**changes), Recipe)


def test_every_shipped_recipe_can_be_read_and_its_names_be_found() -> None:
    catalog = Catalog(read_recipes(SHIPPED), read_image_recipes(SHIPPED))
    names = {recipe.name for recipe in catalog.recipes}
    names |= {recipe.name for recipe in catalog.image_recipes}
    assert names == {path.stem for path in SHIPPED.glob("*.toml")}
    assert catalog.recipes
    for recipe in catalog.recipes:
        assert recipe.tags
        for tag, source in recipe.tags.items():
            offer = catalog.find(parse_model_name(f"{recipe.name}:{tag}"))
            assert offer is not None
            assert (offer.recipe, offer.source) == (recipe, source)
        for alias in recipe.aliases:
            assert catalog.find(parse_model_name(alias)) is not None


# Ollama's library of embedding models and their tags, but for snowflake-arctic-embed:110m-m-fp16,
# of which no GGUF in F16 could be verified.
OLLAMA_TAGS = {
    "all-minilm": (
        "latest", "22m", "33m", "l6", "l12", "l6-v2", "l12-v2", "v2", "22m-l6-v2-fp16",
        "33m-l12-v2-fp16",
    ),
    "bge-large": ("latest", "335m", "335m-en-v1.5-fp16"),
    "bge-m3": ("latest", "567m", "567m-fp16"),
    "embeddinggemma": ("latest", "300m", "300m-bf16", "300m-qat-q4_0", "300m-qat-q8_0"),
    "granite-embedding": ("latest", "30m", "278m", "30m-en", "30m-en-fp16", "278m-fp16"),
    "mxbai-embed-large": ("latest", "335m", "v1", "335m-v1-fp16"),
    "nomic-embed-text": ("latest", "v1.5", "137m-v1.5-fp16"),
    "nomic-embed-text-v2-moe": ("latest",),
    "paraphrase-multilingual": ("latest", "278m", "278m-mpnet-base-v2-fp16"),
    "qwen3-embedding": (
        "latest", "0.6b", "4b", "8b", "0.6b-q8_0", "0.6b-fp16", "4b-q4_K_M", "4b-q8_0", "4b-fp16",
        "8b-q4_K_M", "8b-q8_0", "8b-fp16",
    ),
    "snowflake-arctic-embed": (
        "latest", "22m", "33m", "110m", "137m", "335m", "xs", "s", "m", "m-long", "l",
        "22m-xs-fp16", "33m-s-fp16", "137m-m-long-fp16", "335m-l-fp16",
    ),
    "snowflake-arctic-embed2": ("latest", "568m", "568m-l-fp16"),
}  # fmt: skip
OLLAMA_NAMES = [f"{model}:{tag}" for model, tags in OLLAMA_TAGS.items() for tag in tags]
SHIPPED_RECIPES = read_recipes(SHIPPED)


@pytest.mark.parametrize("name", [*OLLAMA_NAMES, "chroma/all-minilm-l6-v2-f32"])
def test_the_names_of_ollamas_library_are_offered(name: str) -> None:
    assert Catalog(SHIPPED_RECIPES).find(parse_model_name(name))


WEIGHT_TYPE = re.compile("[.-](b?f16|q[48]_0|q4_k_m)$")
TYPED_NAMES = [
    (name, match[1])
    for name in OLLAMA_NAMES
    if (match := WEIGHT_TYPE.search(name.lower().replace("fp16", "f16")))
]


@pytest.mark.parametrize(("name", "weights"), TYPED_NAMES)
def test_a_name_that_says_a_type_of_weights_offers_that_type(name: str, weights: str) -> None:
    offer = Catalog(SHIPPED_RECIPES).find(parse_model_name(name))
    assert offer is not None
    if isinstance(offer.source, PackageSource):
        assert offer.source.weights == weights
    else:
        stem = offer.source.file.lower().removesuffix(".gguf").replace("fp16", "f16")
        match = WEIGHT_TYPE.search(stem)
        assert match
        assert match[1] == weights


def test_no_two_recipes_offer_the_same_name() -> None:
    """In any letter case, tags and aliases together: of two the second would never be found."""
    recipes: list[AnyRecipe] = [*SHIPPED_RECIPES, *read_image_recipes(SHIPPED)]
    names = Counter(
        parse_model_name(name).key
        for recipe in recipes
        for name in (*(f"{recipe.name}:{tag}" for tag in recipe.tags), *recipe.aliases)
    )
    assert [key for key, count in names.items() if count > 1] == []


def test_the_largest_of_qwen3_embedding_is_its_latest() -> None:
    offer = Catalog(SHIPPED_RECIPES).find(parse_model_name("qwen3-embedding"))
    assert offer is not None
    assert (offer.source.dimensions or offer.recipe.dimensions) == 4096


@pytest.mark.parametrize("recipe", SHIPPED_RECIPES, ids=lambda recipe: recipe.name)
def test_a_shipped_recipe_says_what_can_be_true(recipe: Recipe) -> None:
    assert recipe.description
    assert recipe.license
    assert (recipe.num_ctx or 1) <= recipe.context_length
    assert list(recipe.matryoshka) == sorted(recipe.matryoshka, reverse=True)
    assert not recipe.matryoshka or recipe.matryoshka[0] == recipe.dimensions
    for text in recipe.prompts.values():
        # A prompt without its blank or colon at the end is another prompt.
        assert text.endswith((": ", "Query:"))
    for source in recipe.tags.values():
        if isinstance(source, HubSource):
            assert source.file.lower().endswith(".gguf")
            assert "-of-0" not in source.file
    # Of two spellings of one name only one would ever be found.
    lower = [tag.lower() for tag in recipe.tags]
    assert len(set(lower)) == len(lower)


def test_searching_looks_at_names_aliases_and_descriptions() -> None:
    catalog = Catalog([make_recipe(name="b", aliases={"short": "latest"}), make_recipe(name="a")])
    assert [recipe.name for recipe in catalog.search("")] == ["a", "b"]
    assert [recipe.name for recipe in catalog.search(" SHORT ")] == ["b"]
    assert [recipe.name for recipe in catalog.search("tiny")] == ["a", "b"]
    assert catalog.search("huge") == []


def test_the_shipped_recipes_are_found_as_package_data() -> None:
    assert read_catalog().find(parse_model_name("all-minilm"))


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("all-minilm", "f16"),
        ("All-MiniLM:F32", "f32"),
        ("all-minilm:q8_0", "q8_0"),
        ("registry.ollama.ai/library/all-minilm:latest", "f16"),
        ("chroma/all-minilm-l6-v2-f32", "f32"),
        ("all-minilm:f8", None),
        ("other/all-minilm", None),
        ("hf.co/library/all-minilm", None),
    ],
)
def test_all_minilm_is_offered_under_its_names(name: str, weights: str | None) -> None:
    offer = Catalog(read_recipes(SHIPPED)).find(parse_model_name(name))
    source = offer.source if offer else None
    assert (source.weights if isinstance(source, PackageSource) else None) == weights


def test_a_recipe_says_how_a_model_is_used() -> None:
    recipe = make_recipe(
        num_ctx=256,
        matryoshka=[64, 128],
        prompts={"query": "q: ", "clustering": "c: "},
        tags={"latest": PACKAGE, "small": {**HUB, "num_ctx": 128, "dimensions": 64}},
    )
    assert recipe.pooling is Pooling.CLS
    assert recipe.normalize
    assert recipe.matryoshka == (64, 128)
    assert [recipe.num_ctx_of(source) for source in recipe.tags.values()] == [256, 128]
    assert isinstance(recipe.tags["latest"], PackageSource)
    assert isinstance(recipe.tags["small"], HubSource)
    assert make_recipe().num_ctx_of(make_recipe().tags["latest"]) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"surprise": 1}, "unknown field"),
        ({"license": None}, "license"),
        ({"pooling": "max"}, "pooling"),
        ({"pooling": "none"}, "pooling other than none"),
        ({"context_length": 0}, "context_length"),
        ({"name": "../x"}, "model name"),
        ({"name": "a:b", "tags": {"latest": {**HUB, "surprise": 1}}}, "unknown field"),
        ({"tags": {"q8_0": HUB}}, "tag latest"),
        ({"tags": {"latest": HUB, "a/b": HUB}}, "model name"),
        ({"tags": {"latest": {**HUB, "source": "web"}}}, "web"),
        ({"tags": {"latest": {**HUB, "file": "../../x.gguf"}}}, "file"),
        ({"tags": {"latest": {**HUB, "file": "/x.gguf"}}}, "file"),
        ({"tags": {"latest": {**HUB, "repository": "acme"}}}, "repository"),
        ({"tags": {"latest": {**PACKAGE, "package": "a.b"}}}, "package"),
        ({"tags": {"latest": {**PACKAGE, "folder": ".."}}}, "folder"),
        ({"tags": {"latest": {**PACKAGE, "sha256": "0"}}}, "sha256"),
        ({"tags": {"latest": {**PACKAGE, "weights": "q4_K_M"}}}, "weights"),
        ({"aliases": {"x": "q8_0"}}, "unknown tag: q8_0"),
        ({"aliases": {"bad name!": "latest"}}, "model name"),
    ],
)
def test_a_wrong_recipe_is_refused_with_its_file(
    tmp_path: Path, changes: dict[str, object], message: str
) -> None:
    file = tmp_path / "tiny.toml"
    file.write_text(to_toml(content(**changes)))
    with pytest.raises(ConfigError, match=message) as caught:
        read_recipes(tmp_path)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("data", [b"name = ", b"\xff"])
def test_invalid_toml_is_refused_with_its_file(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "tiny.toml").write_bytes(data)
    with pytest.raises(ConfigError, match=r"tiny\.toml cannot be read"):
        read_recipes(tmp_path)


def test_other_files_are_no_recipes(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("x")
    assert read_recipes(tmp_path) == []


def test_the_later_recipe_wins_and_no_alias_hides_a_recipe() -> None:
    shipped, users = make_recipe(), make_recipe(name="TINY", license="mine")
    other = make_recipe(name="other", aliases={"tiny": "latest", "short": "latest"})
    catalog = Catalog([shipped, users, other])
    assert catalog.recipes == (users, other)
    for name, recipe in [("tiny", users), ("other", other), ("short", other)]:
        offer = catalog.find(parse_model_name(name))
        assert offer is not None
        assert offer.recipe == recipe


def test_users_recipes_win_over_the_shipped_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped, mine = tmp_path / "shipped_recipes", tmp_path / "mine"
    for folder, text in [(shipped, "theirs"), (mine, "mine")]:
        folder.mkdir()
        (folder / "tiny.toml").write_text(to_toml(content(license=text)))
    (shipped / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("embedd.catalog.catalog.SHIPPED", "shipped_recipes")
    assert [recipe.license for recipe in read_catalog().recipes] == ["theirs"]
    assert [recipe.license for recipe in read_catalog(tmp_path / "none").recipes] == ["theirs"]
    assert [recipe.license for recipe in read_catalog(mine).recipes] == ["mine"]


def test_a_package_is_located_without_importing_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = msgspec.convert(PACKAGE, PackageSource)
    assert source.locate() is None
    (tmp_path / "some_package").mkdir()
    (tmp_path / "some_package" / "__init__.py").write_text("raise SystemExit")
    monkeypatch.syspath_prepend(tmp_path)
    assert source.locate() is None
    (tmp_path / "some_package" / "model").mkdir()
    assert source.locate() == tmp_path / "some_package" / "model"
    assert "some_package" not in sys.modules


def test_a_single_module_holds_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "some_package.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    assert msgspec.convert(PACKAGE, PackageSource).locate() is None

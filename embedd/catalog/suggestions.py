"""Suggestions for names that do not exist: like names of recipes and of stored models."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import Final

from embedd.catalog.catalog import Catalog
from embedd.errors import EmbeddError
from embedd.names import HUB_HOSTS, parse_model_name

WAYS: Final = (
    "`embedd search` lists the names that can be pulled, hf.co/USER/REPOSITORY names a repository "
    "of the hub"
)
_MOST: Final = 3  # names in one suggestion
_MOST_TAGS: Final = 12
_LONGEST: Final = 100  # characters of a name that is compared
_LIKE: Final = 0.75  # least ratio of two names that are alike
_MOST_REMEMBERED: Final = 256


class Suggestions:
    """Finds names like one that does not exist.

    Args:
        stored: Returns the display names of the stored models.
    """

    def __init__(self, catalog: Catalog, stored: Callable[[], Iterable[str]]) -> None:
        self._catalog = catalog
        self._stored = stored
        # Names come from clients: each takes milliseconds to compare, and the memory is bounded.
        self._find_recipes = lru_cache(_MOST_REMEMBERED)(self._compare_recipes)

    def for_use(self, text: str) -> str:
        """Return what may be meant by *text*, which is not stored; "" if nothing is like it."""
        stored = _find_like(text, self._stored_names())[:_MOST]
        if stored:
            return f"did you mean {_join(stored)}?"
        if self._is_recipe(text):
            return f"run `embedd pull {text}`"
        recipes = self._find_recipes(text)
        return f"did you mean {_join(recipes)}, after `embedd pull`?" if recipes else ""

    def for_pull(self, text: str) -> str:
        """Return what may be meant by *text*, which has no source, and where names are listed."""
        host, _, rest = text.rpartition("://")[2].partition("/")
        if rest and host.lower() in HUB_HOSTS:
            return f'no repository or file of the name "{text}": it is misspelt, or private'
        if self._is_recipe(text):
            return f'the source of "{text}" has been moved or removed'
        tags = self._tags(text)
        if tags:
            base = text.rpartition(":")[0]
            return f'"{text}" is not known: the tags of {base} are {", ".join(tags)}'
        recipes = self._find_recipes(text)
        found = [*recipes, *([f"hf.co/{text}"] if text.count("/") == 1 else [])]
        what = f'"{text}" is not a known name'
        return f"{what}: did you mean {_join(found)}?" if found else f"{what}: {WAYS}"

    def _compare_recipes(self, text: str) -> tuple[str, ...]:
        recipes = self._catalog.search("")
        by_name = {name: one.name for one in recipes for name in (one.name, *one.aliases)}
        # An alias stands for its recipe: both would be the same suggestion.
        found = dict.fromkeys(by_name[name] for name in _find_like(text, by_name))
        return tuple(found)[:_MOST]

    def _is_recipe(self, text: str) -> bool:
        try:
            name = parse_model_name(text)
        except EmbeddError:
            return False
        return bool(self._catalog.find(name) or self._catalog.find_image(name))

    def _tags(self, text: str) -> list[str]:
        """Return the tags of the recipe that *text* names without its own tag."""
        base = text.rpartition(":")[0].lower()
        recipes = self._catalog.search("")
        found = (list(one.tags)[:_MOST_TAGS] for one in recipes if one.name.lower() == base)
        return next(found, [])

    def _stored_names(self) -> list[str]:
        try:
            return [name.removesuffix(":latest") for name in self._stored()]
        except EmbeddError:  # a store that cannot be read: its error is another's to report
            return []


def _find_like(text: str, names: Iterable[str]) -> Sequence[str]:
    """Return the *names* that are like *text* in the strictest of four ways that finds any."""
    wanted = text.strip().lower()[:_LONGEST]
    bare = _bare(wanted)
    names = sorted(names)
    if not bare:
        return []
    return (
        [name for name in names if _bare(name.lower()) == bare]
        or [name for name in names if len(bare) > 2 and name.lower().startswith(bare)]
        or _find_near(bare, names)
        or [name for name in names if len(bare) > 3 and bare in name.lower()]
    )


def _find_near(bare: str, names: Iterable[str]) -> list[str]:
    by_text: dict[str, str] = {}
    for name in names:
        by_text.setdefault(_bare(name.lower()), name)
    return [by_text[one] for one in difflib.get_close_matches(bare, by_text, _MOST, _LIKE)]


def _bare(name: str) -> str:
    """Return the model's part of a name: without host, namespace, tag and a GGUF's suffix."""
    model = name.rpartition("/")[2].partition(":")[0]
    return model.removesuffix("-gguf")


def _join(names: Iterable[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last

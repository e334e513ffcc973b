"""Model names, as Ollama parses them: ``[scheme://][host/][namespace/]model[:tag]``.

The address of a file on the hub, ``hf.co/user/repository/folder/file.gguf`` or that of its page,
is a name too: its tag is the path of the file, with ``--`` for the slashes.
"""

import functools
import re
from dataclasses import dataclass
from typing import Final

from embedd.errors import InvalidModelNameError

DEFAULT_HOST: Final = "registry.ollama.ai"
DEFAULT_NAMESPACE: Final = "library"
DEFAULT_TAG: Final = "latest"
DEFAULT_SCHEME: Final = "https"
HUB_HOSTS: Final = frozenset({"hf.co", "huggingface.co"})
FOLDER_MARK: Final = "--"  # stands for a slash in a tag that is a path

# No part can be empty, begin with a dot or contain a slash, so that the path of a name is
# always inside the store.
_HOST: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:-]{0,349}")
_NAMESPACE: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_-]{0,79}")
_MODEL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}")
# The hub has names of up to 96 characters, and files whose names are longer still.
_HUB_MODEL: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,95}")
_HUB_TAG: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,199}")
_HUB_PAGE: Final = re.compile(r"(?:(?:blob|resolve|raw)/(?P<revision>[^/]+)/)?(?P<path>.+)")
_HUB_FOLDER: Final = re.compile(r"tree/(?P<revision>[^/]+)/?")
_HUB_FILES: Final = (".gguf", ".safetensors")
_SCHEMES: Final = ("http", "https")
_LOCAL: Final = "local"
_REMEMBERED: Final = 1024  # names of at most so many characters, and so many of them
_CLOUD: Final = "cloud"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelName:
    """A complete and valid model name, with one place in a store.

    Letter case is kept; two names mean the same model if their `key` is equal.

    Args:
        scheme: Of the host's URL; not part of the identity.

    Raises:
        InvalidModelNameError: A part is not valid.
    """

    host: str = DEFAULT_HOST
    namespace: str = DEFAULT_NAMESPACE
    model: str
    tag: str = DEFAULT_TAG
    scheme: str = DEFAULT_SCHEME

    def __post_init__(self) -> None:
        is_on_hub = self.host.lower() in HUB_HOSTS
        parts_are_valid = (
            _HOST.fullmatch(self.host)
            and _NAMESPACE.fullmatch(self.namespace)
            and (_HUB_MODEL if is_on_hub else _MODEL).fullmatch(self.model)
            and (_HUB_TAG if is_on_hub else _MODEL).fullmatch(self.tag)
            # A name with the tag "local" could not be parsed again: that suffix is stripped.
            and self.tag.lower() != _LOCAL
            and self.scheme in _SCHEMES
        )
        if not parts_are_valid:
            raise InvalidModelNameError(self.display)

    def __str__(self) -> str:
        """The shortest text that `parse_model_name` parses to this name."""
        if self.scheme == DEFAULT_SCHEME:
            return self.display
        return f"{self.scheme}://{self.host}/{self.namespace}/{self.model}:{self.tag}"

    @property
    def display(self) -> str:
        """The name for people: without defaults and scheme, always with the tag."""
        short = f"{self.model}:{self.tag}"
        if self.host != DEFAULT_HOST:
            return f"{self.host}/{self.namespace}/{short}"
        if self.namespace != DEFAULT_NAMESPACE:
            return f"{self.namespace}/{short}"
        return short

    @property
    def path(self) -> tuple[str, str, str, str]:
        """Parts of the manifest's path in the folder ``manifests``."""
        return (self.host, self.namespace, self.model, self.tag)

    @property
    def key(self) -> tuple[str, ...]:
        """The identity: the path in lower case."""
        return tuple(part.lower() for part in self.path)


def parse_model_name(text: str) -> ModelName:
    """Parse a name from the right: tag, model, namespace; the rest is the host.

    A suffix ``:local`` is removed: all models are local here.

    Raises:
        InvalidModelNameError: *text* is not a valid name.
    """
    return _parse_remembered(text) if len(text) <= _REMEMBERED else _parse(text)


def is_same_model(one: str, other: str) -> bool:
    """Whether two names mean the same model.

    Raises:
        InvalidModelNameError: One is not a valid name.
    """
    return one == other or parse_model_name(one).key == parse_model_name(other).key


def _parse(text: str) -> ModelName:
    bare = text.strip()
    rest, tag = _split_tag(_strip_local(_shorten_address(bare)))
    scheme, host, namespace, model = _split_path(rest)
    # Defaults are recognised in any letter case, so that a model has one display name.
    if host.lower() == DEFAULT_HOST:
        host = DEFAULT_HOST
        if namespace.lower() == DEFAULT_NAMESPACE:
            namespace = DEFAULT_NAMESPACE
    try:
        return ModelName(host=host, namespace=namespace, model=model, tag=tag, scheme=scheme)
    except InvalidModelNameError:
        raise InvalidModelNameError(text) from None


_parse_remembered = functools.lru_cache(_REMEMBERED)(_parse)


def _shorten_address(text: str) -> str:
    """Return the name in the address of a file or folder on the hub; any other text as it is.

    Raises:
        InvalidModelNameError: The address names another revision than the main branch.
    """
    scheme, separator, rest = text.rpartition("://")
    host, *parts = rest.split("/", 3)
    if host.lower() not in HUB_HOSTS or len(parts) < 3:
        return text
    user, repository, page = parts
    page = page.partition("?")[0].partition("#")[0]
    base = f"{scheme}{separator}{host}/{user}/{repository}"
    found = _HUB_FOLDER.fullmatch(page) or _HUB_PAGE.fullmatch(page)
    if not page or found is None:
        return base
    revision = found["revision"]
    if revision not in {None, "main"}:
        reason = f'"{text}" names the revision "{revision}": only the main branch can be pulled'
        raise InvalidModelNameError(text, reason)
    path = found.groupdict().get("path")
    if path is None:
        return base
    if not path.lower().endswith(_HUB_FILES):
        reason = f'"{text}" is not a model file: give one that ends in {" or ".join(_HUB_FILES)}'
        raise InvalidModelNameError(text, reason)
    return f"{base}:{path.replace('/', FOLDER_MARK)}"


def _strip_local(text: str) -> str:
    rest, colon, source = text.rpartition(":")
    if not colon or source.lower() not in (_LOCAL, _CLOUD):
        return text
    inner = rest.rpartition(":")[2].lower() if ":" in rest else ""
    has_two_sources = inner in (_LOCAL, _CLOUD) or (
        inner.endswith(f"-{_CLOUD}") and "/" not in inner
    )
    if has_two_sources:
        reason = f'use either :local or :cloud, not both: "{text}"'
        raise InvalidModelNameError(text, reason)
    return rest if source.lower() == _LOCAL else text


def _split_tag(text: str) -> tuple[str, str]:
    if text.rfind(":") <= text.rfind("/"):
        return text, DEFAULT_TAG
    rest, _, tag = text.rpartition(":")
    return rest, tag


def _split_path(text: str) -> tuple[str, str, str, str]:
    """Return scheme, host, namespace and model, not yet checked."""
    rest, slash, model = text.rpartition("/")
    if not slash:
        return DEFAULT_SCHEME, DEFAULT_HOST, DEFAULT_NAMESPACE, model
    rest, slash, namespace = rest.rpartition("/")
    if not slash:
        return DEFAULT_SCHEME, DEFAULT_HOST, namespace, model
    scheme, separator, host = rest.rpartition("://")
    return (scheme.lower() if separator else DEFAULT_SCHEME), host, namespace, model

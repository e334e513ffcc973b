"""Who has a key: which one a route takes, and whether the request brings it."""

import hmac
import logging
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from aiohttp import web

from embedd.config import parse_keys
from embedd.errors import ConfigError, UnauthorizedError
from embedd.ollama_api import MANAGEMENT_PATHS
from embedd.server.dialects.base import Endpoint

log = logging.getLogger(__name__)

OPEN_PATHS: Final = ("/", "/api/version", "/health", "/v1/health", "/ping")


class Access(Enum):
    """What a route takes: nothing, an API key, or an admin key."""

    OPEN = "open"
    USE = "use"
    MANAGE = "manage"


def choose_access(method: str, path: str) -> Access:
    """What the route at *path*, as dialects write it, takes."""
    if method in ("GET", "HEAD") and path in OPEN_PATHS:
        return Access.OPEN
    return Access.MANAGE if path.startswith(MANAGEMENT_PATHS) else Access.USE


class KeyFile:
    """The keys in a file, read again when it changes.

    Args:
        path: Keys in it are separated by commas or line breaks.

    Raises:
        ConfigError: It cannot be read, or holds no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: object = None
        self._keys: tuple[str, ...] = ()
        try:
            self._look()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the API keys in {path}: {error}") from error
        if not self._keys:
            raise ConfigError(f"no API key in {path}: write one a line")

    def read(self) -> Sequence[str]:
        """The keys of now; those of before while the file cannot be read."""
        try:
            self._look()
        except (OSError, UnicodeDecodeError) as error:
            facts = {"path": self._path, "reason": type(error).__name__}
            log.warning("API keys not read, the old ones stay", extra=facts)
        return self._keys

    def _look(self) -> None:
        status = self._path.stat()
        seen = (status.st_mtime_ns, status.st_size, status.st_ino)
        if seen != self._seen:
            self._keys = parse_keys(self._path.read_text("utf-8"))
            self._seen = seen


class Keys:
    """The keys that open the server; without any everybody may come in.

    Args:
        listed: API keys.
        file: More of them.
        admin: Keys for managing models; none = the API keys.
    """

    def __init__(
        self, *, listed: Sequence[str] = (), file: KeyFile | None = None, admin: Sequence[str] = ()
    ) -> None:
        self._listed = tuple(listed)
        self._file = file
        self._admin = tuple(admin)

    def admit(self, access: Access, headers: Mapping[str, str]) -> bool:
        """Whether a request with *headers* may use a route of *access*."""
        is_locked = bool(self._listed) or self._file is not None
        if access is Access.MANAGE and self._admin:
            return _is_any(headers, self._admin)
        if access is Access.OPEN or not is_locked:
            return True
        return _is_any(headers, (*self._listed, *(self._file.read() if self._file else ())))


KEYS = web.AppKey("keys", Keys)


def require_key(endpoint: Endpoint, access: Access) -> Endpoint:
    """*endpoint* for those with a key; others get `UnauthorizedError` before a body is read."""

    async def answer(request: web.Request) -> web.StreamResponse:
        if not request.app[KEYS].admit(access, request.headers):
            raise UnauthorizedError("invalid API key")
        return await endpoint(request)

    return answer


def _is_any(headers: Mapping[str, str], keys: Sequence[str]) -> bool:
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    sent = [headers.get("X-Api-Key", "").strip()]
    if scheme.lower() == "bearer":
        sent.append(bearer.strip())
    # Every pair is compared, always whole: the time tells nothing about a key.
    same = [hmac.compare_digest(_to_bytes(one), _to_bytes(key)) for one in sent for key in keys]
    return any(same)


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

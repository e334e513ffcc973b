"""Authentication by API key: the access level of each route, and the check of a request."""

import base64
import hashlib
import hmac
import logging
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

from aiohttp import web

from embedd.config import parse_keys
from embedd.errors import ConfigError, ForbiddenError, RequestError, UnauthorizedError
from embedd.ollama_api import MANAGEMENT_PATHS
from embedd.server.access.secret_files import warn_if_readable
from embedd.server.http.paths import served_path

log = logging.getLogger(__name__)

# Of A1111's API, which alone has Basic authentication too.
A1111_PATHS: Final = "/sdapi/"
A1111_MANAGED: Final = ("/sdapi/v1/options", "/sdapi/v1/interrupt")

KEY_HEADERS: Final = ("X-Api-Key", "Api-Key")  # the second is Azure's
HOW_TO_SEND: Final = "send the header `Authorization: Bearer KEY` (or X-Api-Key, or Api-Key)"
# Documentation and page say nothing of the models; they send the key that is typed into them.
PUBLIC_PATHS: Final = (
    "/",
    "/api/version",
    "/health",
    "/v1/health",
    "/ping",
    "/ready",
    "/docs",
    "/docs/{file}",
    "/openapi.json",
    "/favicon.ico",
    "/ui",
    "/ui/{file}",
)


class Access(Enum):
    """What a route requires: nothing, an API key, or an admin key."""

    PUBLIC = "public"
    USE = "use"
    MANAGE = "manage"


def choose_access(method: str, path: str) -> Access:
    """Return what a route requires; *path* is a pattern, as in `Route`."""
    if method in ("GET", "HEAD") and path in PUBLIC_PATHS:
        return Access.PUBLIC
    if method == "POST" and path in A1111_MANAGED:
        return Access.MANAGE
    return Access.MANAGE if path.startswith(MANAGEMENT_PATHS) else Access.USE


class KeyFile:
    """A file of API keys that is read again when it changes.

    Args:
        path: A file of keys separated by commas or line breaks.

    Raises:
        ConfigError: The file cannot be read or has no key.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp: object = None
        self._keys: tuple[str, ...] = ()
        try:
            self._refresh()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the API keys in {path}: {error}") from error
        if not self._keys:
            raise ConfigError(f"no API key in {path}: write one per line")
        warn_if_readable(path, "API keys")

    def read(self) -> Sequence[str]:
        """Return the keys; those read last if the file cannot be read now."""
        try:
            self._refresh()
        except (OSError, UnicodeDecodeError) as error:
            facts = {"path": self._path, "reason": type(error).__name__}
            log.warning("API keys not read, the previous ones stay valid", extra=facts)
        return self._keys

    def reload(self) -> None:
        """Read the file even if it looks unchanged, as on a file system without exact times."""
        self._stamp = None
        keys = self.read()
        if self._stamp is not None:
            log.info("API keys read again", extra={"path": self._path, "keys": len(keys)})

    def _refresh(self) -> None:
        status = self._path.stat()
        stamp = (status.st_mtime_ns, status.st_size, status.st_ino)
        if stamp != self._stamp:
            self._keys = parse_keys(self._path.read_text("utf-8"))
            self._stamp = stamp


class Keys:
    """The keys that clients must send. Without keys, access is unrestricted.

    Args:
        listed: API keys.
        file: Further API keys.
        admin: Keys for managing models; empty: the API keys.
    """

    def __init__(
        self, *, listed: Sequence[str] = (), file: KeyFile | None = None, admin: Sequence[str] = ()
    ) -> None:
        self._listed = tuple(listed)
        self._file = file
        self._admin = tuple(admin)

    def guards(self, access: Access) -> bool:
        """Whether routes of *access* require a key."""
        if access is Access.MANAGE and self._admin:
            return True
        return access is not Access.PUBLIC and (bool(self._listed) or self._file is not None)

    def admit(self, access: Access, headers: Mapping[str, str]) -> bool:
        """Whether *headers* have a key for routes of *access*, if those require one."""
        if not self.guards(access):
            return True
        if access is Access.MANAGE and self._admin:
            return _has_key(headers, self._admin)
        return _has_key(headers, self._api_keys())

    def explain_refusal(self, access: Access, headers: Mapping[str, str]) -> RequestError:
        """Return the error of a request that `admit` refused."""
        if access is Access.MANAGE and _has_key(headers, self._api_keys()):
            return ForbiddenError(
                "this API key may not manage models: send an admin key (EMBEDD_ADMIN_KEY)"
            )
        setting = (
            "EMBEDD_ADMIN_KEY" if access is Access.MANAGE and self._admin else "EMBEDD_API_KEY"
        )
        none = "" if any(_sent_keys(headers)) else " (none was sent)"
        return UnauthorizedError(
            f"invalid API key{none}: {HOW_TO_SEND}; the server's operator sets it ({setting})"
        )

    def describe(self) -> str:
        """Where keys are needed: ``on`` is everywhere, ``admin`` where models are managed."""
        if self.guards(Access.USE):
            return "on"
        return "admin" if self.guards(Access.MANAGE) else "off"

    def reload(self) -> None:
        """Read the file of keys again, if there is one."""
        if self._file is not None:
            self._file.reload()

    def _api_keys(self) -> Sequence[str]:
        return (*self._listed, *(self._file.read() if self._file else ()))

    def owner(self, headers: Mapping[str, str]) -> str:
        """The digest of the key in *headers*; empty where access is unrestricted."""
        if not (self._listed or self._file or self._admin):
            return ""
        sent = "\n".join(_sent_keys(headers))
        return hashlib.sha256(_to_bytes(sent)).hexdigest()


KEYS = web.AppKey("keys", Keys)


def check_key(keys: Keys, access: Access, request: web.Request) -> None:
    """Check that *request* has a key for *access*.

    Raises:
        UnauthorizedError: It has no valid key.
        ForbiddenError: It has one that does not suffice.
    """
    if keys.guards(access):
        credentials = _credentials(request)
        if not keys.admit(access, credentials):
            raise keys.explain_refusal(access, credentials)


def may_manage(request: web.Request) -> bool:
    """Whether the key of *request*, or the lack of one, lets it manage models."""
    return request.app[KEYS].admit(Access.MANAGE, _credentials(request))


def find_owner(request: web.Request) -> str:
    """Who sends *request*, for what belongs to the holder of a key: see `Keys.owner`."""
    return request.app[KEYS].owner(_credentials(request))


def _credentials(request: web.Request) -> Mapping[str, str]:
    """The headers with the client's key; on A1111's paths the password of Basic is one."""
    scheme, _, encoded = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic" or not served_path(request).startswith(A1111_PATHS):
        return request.headers
    try:
        text = base64.b64decode(encoded, validate=True).decode("utf-8", "surrogateescape")
    except ValueError:
        return request.headers
    return {"X-Api-Key": text.partition(":")[2]}


def _has_key(headers: Mapping[str, str], keys: Sequence[str]) -> bool:
    sent = _sent_keys(headers)
    # Every pair is compared in constant time, so that timing reveals nothing about a key.
    matches = [hmac.compare_digest(_to_bytes(one), _to_bytes(key)) for one in sent for key in keys]
    return any(matches)


def _sent_keys(headers: Mapping[str, str]) -> list[str]:
    scheme, _, bearer = headers.get("Authorization", "").partition(" ")
    sent = [headers.get(name, "").strip() for name in KEY_HEADERS]
    if scheme.lower() == "bearer":
        sent.append(bearer.strip())
    return sent


def _to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")

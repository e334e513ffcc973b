"""Who may call: the host check against DNS rebinding, and origins of browsers."""

import ipaddress
import logging
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from urllib.parse import urlsplit

import psutil
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

log = logging.getLogger(__name__)

CORS = web.RequestKey("cors", dict[str, str])

LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
LOCAL_ORIGIN_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104 - compared, not bound
LOCAL_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
ALLOWED_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
ALLOWED_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,OpenAI-Beta,"
    "X-Api-Key,X-Request-Id,x-stainless-arch,x-stainless-async,x-stainless-custom-poll-interval,"
    "x-stainless-helper-method,x-stainless-lang,x-stainless-os,x-stainless-package-version,"
    "x-stainless-poll-helper,x-stainless-retry-count,x-stainless-runtime,"
    "x-stainless-runtime-version,x-stainless-timeout"
)
EXPOSED_HEADERS = (
    "Retry-After,Server-Timing,X-Embedd-Model,X-Embedd-Quantization,X-Embedd-Truncated,"
    "X-Embedd-Warning,X-Request-Id,x-should-retry"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Doors:
    """Hosts and origins that may come in.

    ``check_host``: the server listens on loopback only, so any other ``Host`` is a page
    in somebody's browser that made its name point here.
    """

    check_host: bool
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()

    def admits_host(self, header: str) -> bool:
        """Whether ``Host: header`` may be this machine."""
        return not self.check_host or is_local_host(_host_of(header)) or self._listed(header)

    def admits_origin(self, origin: str, host: str) -> bool:
        """Whether a page from *origin* may call the server that it calls *host*."""
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme in LOCAL_SCHEMES:
            return True
        known = parts.netloc == host or parts.hostname in LOCAL_ORIGIN_HOSTS
        if parts.scheme in ("http", "https") and known:
            return True
        return any(_matches(origin, pattern) for pattern in self.origins)

    def _listed(self, header: str) -> bool:
        return _host_of(header) in {host.lower() for host in self.hosts}


def make_guard(doors: Doors) -> Middleware:
    """The outermost middleware: 403 with an empty body for whom `Doors` keeps out."""

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        origin = request.headers.get("Origin") or None
        foreign = origin is not None and not doors.admits_origin(origin, host)
        if foreign or not doors.admits_host(host):
            log.info("caller kept out", extra={"host": host, "origin": origin, "status": 403})
            return web.Response(status=403)
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=_preflight_headers(doors, origin))
        if origin is not None:
            # On the request, because a streamed answer sends its headers before it returns.
            request[CORS] = _origin_headers(doors, origin)
        return await handler(request)

    return guard


async def add_cors_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Signal ``on_response_prepare``: an allowed page may read the answer."""
    response.headers.update(request.get(CORS, {}))


@lru_cache(maxsize=256)
def is_local_host(host: str) -> bool:
    """Whether *host*, without port, names this machine or its private network."""
    if host in ("", "localhost", socket.gethostname().lower()) or host.endswith(LOCAL_SUFFIXES):
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    if address.is_loopback or address.is_private or address.is_unspecified:
        return True
    return host in {
        one.address for interface in psutil.net_if_addrs().values() for one in interface
    }


def _matches(origin: str, pattern: str) -> bool:
    """Whether *origin* is *pattern*, in which one ``*`` stands for anything."""
    head, star, tail = pattern.partition("*")
    if not star:
        return origin == pattern
    long_enough = len(origin) >= len(head) + len(tail)
    return long_enough and origin.startswith(head) and origin.endswith(tail)


def _host_of(header: str) -> str:
    try:
        return (urlsplit(f"//{header}").hostname or "").rstrip(".")
    except ValueError:
        return header


def _origin_headers(doors: Doors, origin: str) -> dict[str, str]:
    everybody = "*" in doors.origins
    headers = {"Access-Control-Expose-Headers": EXPOSED_HEADERS}
    if everybody:
        return {**headers, "Access-Control-Allow-Origin": "*"}
    return {**headers, "Access-Control-Allow-Origin": origin, "Vary": "Origin"}


def _preflight_headers(doors: Doors, origin: str | None) -> dict[str, str]:
    return {
        **(_origin_headers(doors, origin) if origin is not None else {}),
        "Access-Control-Allow-Methods": ALLOWED_METHODS,
        "Access-Control-Allow-Headers": ALLOWED_HEADERS,
        "Access-Control-Max-Age": "43200",
    }

"""The origin policy: CORS, and the check of the Host header against DNS rebinding."""

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

FOREIGN_HOST = "request rejected: host not allowed (see EMBEDD_ALLOWED_HOSTS)"
FOREIGN_ORIGIN = "request rejected: origin not allowed (see EMBEDD_ORIGINS)"
LOCAL_SUFFIXES = (".localhost", ".local", ".internal")
LOCAL_ORIGIN_HOSTS = ("localhost", "127.0.0.1", "0.0.0.0")  # noqa: S104 - compared, not bound
LOCAL_SCHEMES = ("app", "file", "tauri", "vscode-webview", "vscode-file")
ALLOWED_METHODS = "GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS"
ALLOWED_HEADERS = (
    "Authorization,Content-Type,User-Agent,Accept,X-Requested-With,OpenAI-Beta,"
    "X-Api-Key,X-Embedd-Priority,X-Request-Id,X-Request-Timeout,x-stainless-arch,x-stainless-async,x-stainless-custom-poll-interval,"
    "x-stainless-helper-method,x-stainless-lang,x-stainless-os,x-stainless-package-version,"
    "x-stainless-poll-helper,x-stainless-retry-count,x-stainless-runtime,"
    "x-stainless-runtime-version,x-stainless-timeout"
)
EXPOSED_HEADERS = (
    "Retry-After,Server-Timing,X-Embedd-Ignored,X-Embedd-Model,X-Embedd-Quantization,"
    "X-Embedd-Seed,X-Embedd-Truncated,X-Embedd-Warning,X-Request-Id,x-should-retry"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class OriginPolicy:
    """Hosts and origins whose requests are accepted.

    Args:
        check_host: Accept only local names and *hosts* in the ``Host`` header. To a server
            that listens on loopback, another name comes from a web page that changed its DNS
            entry to this machine's address.
        hosts: Further accepted names (``EMBEDD_ALLOWED_HOSTS``).
        origins: Further accepted origins, ``*`` stands for anything (``EMBEDD_ORIGINS``).
    """

    check_host: bool
    hosts: Sequence[str] = ()
    origins: Sequence[str] = ()

    def allows_host(self, header: str) -> bool:
        """Whether requests with ``Host: header`` are accepted."""
        return not self.check_host or is_local_host(_host_of(header)) or self._is_listed(header)

    def allows_origin(self, origin: str, host: str) -> bool:
        """Whether a page from *origin* may call this server under the name *host*."""
        try:
            parts = urlsplit(origin)
        except ValueError:
            return False
        if parts.scheme in LOCAL_SCHEMES:
            return True
        is_local = parts.netloc == host or parts.hostname in LOCAL_ORIGIN_HOSTS
        if parts.scheme in ("http", "https") and is_local:
            return True
        return any(_matches(origin, pattern) for pattern in self.origins)

    def _is_listed(self, header: str) -> bool:
        return _host_of(header) in {host.lower() for host in self.hosts}


def make_origin_check(policy: OriginPolicy) -> Middleware:
    """Make the middleware that answers preflight requests and rejects what is not allowed.

    A rejected request gets 403 with an empty body, before its key or body is looked at.
    """

    @web.middleware
    async def check_origin(request: web.Request, handler: Handler) -> web.StreamResponse:
        host = request.headers.get("Host", "")
        origin = request.headers.get("Origin") or None
        if not policy.allows_host(host):
            return _reject(FOREIGN_HOST, host, origin)
        if origin is not None and not policy.allows_origin(origin, host):
            return _reject(FOREIGN_ORIGIN, host, origin)
        if request.method == "OPTIONS":
            return web.Response(status=204, headers=_preflight_headers(policy, origin))
        if origin is not None:
            # On the request, because a streamed answer sends its headers before it returns.
            request[CORS] = _origin_headers(policy, origin)
        return await handler(request)

    return check_origin


def _reject(message: str, host: str, origin: str | None) -> web.Response:
    log.info(message, extra={"host": host, "origin": origin, "status": 403})
    return web.Response(status=403)


async def add_cors_headers(request: web.Request, response: web.StreamResponse) -> None:
    """Add the headers with which an allowed page may read the answer (a response signal)."""
    response.headers.update(request.get(CORS, {}))


@lru_cache(maxsize=256)
def is_local_host(host: str) -> bool:
    """Whether *host*, without a port, is a name of this machine or its private network."""
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
    """Whether *origin* matches *pattern*, in which one ``*`` stands for anything."""
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


def _origin_headers(policy: OriginPolicy, origin: str) -> dict[str, str]:
    headers = {"Access-Control-Expose-Headers": EXPOSED_HEADERS}
    if "*" in policy.origins:
        return {**headers, "Access-Control-Allow-Origin": "*"}
    return {**headers, "Access-Control-Allow-Origin": origin, "Vary": "Origin"}


def _preflight_headers(policy: OriginPolicy, origin: str | None) -> dict[str, str]:
    return {
        **(_origin_headers(policy, origin) if origin is not None else {}),
        "Access-Control-Allow-Methods": ALLOWED_METHODS,
        "Access-Control-Allow-Headers": ALLOWED_HEADERS,
        "Access-Control-Max-Age": "43200",
    }

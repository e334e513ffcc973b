"""The origin policy: CORS, and the check of the Host header against DNS rebinding."""

import ipaddress
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import urlsplit

import psutil
from aiohttp import web

from embedd.errors import ForbiddenError

# Headers with which an allowed page may read the answer.
CORS = web.RequestKey("cors", dict[str, str])

LONGEST_VALUE: Final = 200  # characters of a host or origin in an error
# Names of headers, as many as a page may ask for at once.
_NAMES: Final = re.compile(r"[\w!#$%&'*+.^`|~-]+(?:[ \t]*,[ \t]*[\w!#$%&'*+.^`|~-]+)*", re.ASCII)
LONGEST_NAMES: Final = 4096
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


def check_origin(policy: OriginPolicy, request: web.Request) -> web.Response | None:
    """Check host and origin of *request*; return the answer to a preflight request, else None.

    It comes before the key or the body of a request is looked at.

    Raises:
        ForbiddenError: The host or the origin is not allowed.
    """
    host = request.headers.get("Host", "")
    origin = request.headers.get("Origin") or None
    if not policy.allows_host(host):
        raise ForbiddenError(
            f"host {host[:LONGEST_VALUE]!r} is not allowed: add its name to "
            "EMBEDD_ALLOWED_HOSTS of the server"
        )
    if origin is not None and not policy.allows_origin(origin, host):
        raise ForbiddenError(
            f"origin {origin[:LONGEST_VALUE]!r} is not allowed: add it to EMBEDD_ORIGINS of "
            "the server"
        )
    if request.method == "OPTIONS":
        headers = _preflight_headers(policy, origin, request.headers)
        return web.Response(status=204, headers=headers)
    if origin is not None:
        # On the request, because a streamed answer sends its headers before it returns.
        request[CORS] = _origin_headers(policy, origin)
    return None


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


@lru_cache(maxsize=64)
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


def _preflight_headers(
    policy: OriginPolicy, origin: str | None, asked: Mapping[str, str]
) -> dict[str, str]:
    """Return the headers of the answer to a preflight request with the headers *asked*.

    An allowed page may send all headers that it asks for: clients add their own, for traces,
    caches and versions, and none of them has a meaning here that another one has not.
    """
    names = asked.get("Access-Control-Request-Headers", "").strip()
    is_list = len(names) <= LONGEST_NAMES and _NAMES.fullmatch(names)
    headers = {
        **(_origin_headers(policy, origin) if origin is not None else {}),
        "Access-Control-Allow-Methods": ALLOWED_METHODS,
        "Access-Control-Allow-Headers": names if is_list else ALLOWED_HEADERS,
        "Access-Control-Max-Age": "43200",
    }
    varies = [headers.get("Vary", ""), "Access-Control-Request-Headers"]
    if asked.get("Access-Control-Request-Private-Network", "").lower() == "true":
        headers["Access-Control-Allow-Private-Network"] = "true"
    return {**headers, "Vary": ", ".join(filter(None, varies))}

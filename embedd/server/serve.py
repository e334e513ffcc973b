"""Runs the server: binds, announces itself, stops in order."""

import asyncio
import contextlib
import errno
import http.client
import logging
import os
import signal
import socket
import ssl
import stat
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import psutil
import uvloop
from aiohttp import web

from embedd import __version__
from embedd.config import Address, Settings
from embedd.embedder.embedder import Embedder
from embedd.errors import ConfigError, EmbeddError
from embedd.logs import set_up_logs
from embedd.runtime import open_runtime
from embedd.server.access.auth import KeyFile, Keys
from embedd.server.access.origins import Doors
from embedd.server.app import make_app
from embedd.server.dialects.base import Policy
from embedd.server.http.bodies import BodyLimits
from embedd.server.http.tls import open_tls
from embedd.types import EmbedRequest

log = logging.getLogger(__name__)

BACKLOG = 1024  # connections that the kernel holds while the event loop is busy
FOREVER = 365 * 86400.0  # seconds; running requests finish, unless a second signal comes
PROBE_TIMEOUT = 1.0


def run(
    settings: Settings, preload: Sequence[str] = (), tls: tuple[Path, Path | None] | None = None
) -> None:
    """Serve until a signal comes.

    Args:
        preload: Models to load at once.
        tls: Files of the certificate and its key; None is plain HTTP.

    Raises:
        ConfigError: The address cannot be bound, and by whom it is taken; the certificate
            or the file of keys cannot be used.
    """
    set_up_logs(settings.debug)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, preload, open_tls(*tls) if tls else None))


async def serve(
    settings: Settings, preload: Sequence[str] = (), tls: ssl.SSLContext | None = None
) -> None:
    """See `run`; for a running event loop."""
    stop = _stop_on_signals()
    keys = choose_keys(settings)
    sock = bind(settings.host)
    async with open_runtime(settings) as runtime:
        app = make_app(
            embedder=runtime.embedder,
            library=runtime.library,
            bodies=BodyLimits(one=settings.max_body, all_=settings.max_body_in_flight),
            doors=choose_doors(settings),
            keys=keys,
            metrics=runtime.metrics,
            policy=Policy(
                max_inputs=settings.max_inputs,
                token_ids=settings.token_ids,
                default_model=settings.default_model,
                default_rerank_model=settings.default_rerank_model,
            ),
        )
        async with _listen(app, sock, tls):
            log.info(
                "embedd is listening",
                extra={
                    "address": _address_of(sock, settings.host, tls),
                    "version": __version__,
                    "models": settings.models,
                    "threads": settings.threads,
                },
            )
            loading = asyncio.create_task(_preload(runtime.embedder, preload))
            await stop.wait()
            log.info("stopping: running requests finish, a second signal does not wait")
            loading.cancel()
    log.info("stopped")


def choose_doors(settings: Settings) -> Doors:
    """On loopback only local names may be meant; elsewhere those that are listed, if any."""
    address = settings.host
    loopback = address.socket is None and _is_loopback(address.host)
    return Doors(
        check_host=loopback or bool(settings.allowed_hosts),
        hosts=settings.allowed_hosts,
        origins=settings.origins,
    )


def choose_keys(settings: Settings) -> Keys:
    """The keys that the settings name; warns if all who reach the server may use it.

    Raises:
        ConfigError: The file of keys cannot be read, or is empty.
    """
    file = settings.api_key_file and KeyFile(settings.api_key_file)
    is_open = file is None and not settings.api_key
    if is_open and settings.host.socket is None and not _is_loopback(settings.host.host):
        log.warning("anybody who reaches this address may use the server: set EMBEDD_API_KEY")
    return Keys(listed=settings.api_key, file=file or None, admin=settings.admin_key)


def bind(address: Address) -> socket.socket:
    """A listening socket on *address*.

    Raises:
        ConfigError: It cannot be bound.
    """
    if address.socket is not None:
        return _bind_unix(address.socket)
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(_explain_bind(address, error)) from error
    return sock


def _bind_unix(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    try:
        if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
            with contextlib.suppress(OSError):
                sock.connect(str(path))
                raise ConfigError(f"{path} is in use by another server: stop it or choose another")
            path.unlink()  # left behind by a server that was killed
            sock = socket.socket(socket.AF_UNIX)
        sock.bind(str(path))
        sock.listen(BACKLOG)
    except OSError as error:
        raise ConfigError(f"cannot listen on {path}: {error.strerror}") from error
    return sock


def _explain_bind(address: Address, error: OSError) -> str:
    where = f"{address.host}:{address.port}"
    if error.errno != errno.EADDRINUSE:
        return f"cannot listen on {where}: {error.strerror or error}"
    return (
        f"{where} is in use by {describe_listener(address)}: stop it, "
        "or choose another port with --port"
    )


def describe_listener(address: Address) -> str:
    """Who answers on *address*: embedd, Ollama, a process, or something unknown."""
    client = address.to_client()
    with contextlib.suppress(OSError, http.client.HTTPException):
        connection = http.client.HTTPConnection(client.host, client.port, timeout=PROBE_TIMEOUT)
        with contextlib.closing(connection):
            connection.request("GET", "/")
            reply = connection.getresponse()
            if (reply.getheader("Server") or "").startswith("embedd/"):
                return "another embedd"
            if reply.read(64).startswith(b"Ollama is running"):
                return "Ollama"
    with contextlib.suppress(psutil.Error, OSError):
        for one in psutil.net_connections("tcp"):
            listens = one.status == psutil.CONN_LISTEN
            if listens and getattr(one.laddr, "port", None) == address.port and one.pid:
                return f"{psutil.Process(one.pid).name()} (process {one.pid})"
    return "another program"


@asynccontextmanager
async def _listen(
    app: web.Application, sock: socket.socket, tls: ssl.SSLContext | None
) -> AsyncIterator[None]:
    runner = web.AppRunner(
        app, access_log=None, handler_cancellation=True, shutdown_timeout=FOREVER
    )
    await runner.setup()
    try:
        await web.SockSite(runner, sock, ssl_context=tls).start()
        yield
    finally:
        await runner.cleanup()


def _stop_on_signals() -> asyncio.Event:
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            # Workers end with us: they watch our end of their socket.
            os._exit(130)
        stop.set()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    return stop


async def _preload(embedder: Embedder, names: Sequence[str]) -> None:
    for name in names:
        try:
            await embedder.embed(EmbedRequest(model=name, inputs=()))
        except EmbeddError as error:
            log.error("model not loaded", extra={"model": name, "reason": str(error)})  # noqa: TRY400 - said whole


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"


def _address_of(sock: socket.socket, address: Address, tls: ssl.SSLContext | None) -> str:
    if address.socket is not None:
        return address.url
    return f"{'https' if tls else 'http'}://{address.host}:{sock.getsockname()[1]}"

"""The server process: bind the address, serve, stop in order."""

import asyncio
import contextlib
import errno
import gc
import http.client
import logging
import math
import os
import signal
import socket
import ssl
import threading
from collections.abc import Sequence
from dataclasses import replace
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import uvloop

from embedd import __version__
from embedd.config import Address, ServiceManager, Settings
from embedd.errors import (
    ConfigError,
    EmbeddError,
    InvalidModelNameError,
    ModelNotFoundError,
    NotAnImageModelError,
)
from embedd.first_worker import FirstWorker
from embedd.server.access.secret_files import warn_if_readable
from embedd.server.http.tls import Certificate
from embedd.server.http.unix_socket import BACKLOG, bind_unix, remove_at_the_end
from embedd.server.ops.readiness import Readiness
from embedd.server.service_manager import find_address, inherit_listeners, notify
from embedd.types import EmbedRequest

if TYPE_CHECKING:
    from embedd.runtime import Runtime
    from embedd.server.access.auth import Keys

log = logging.getLogger(__name__)

PROBE_TIMEOUT = 1.0
COLLECT_AFTER = 10_000  # objects, of which all requests in flight make fewer
LOOPBACK = ("127.0.0.1", "::1")
_NO_FAMILY = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # the machine has no IPv6


def run(
    settings: Settings,
    preload: Sequence[str] = (),
    tls: tuple[Path, Path | None] | None = None,
    manager: ServiceManager = ServiceManager(),  # noqa: B008 - it cannot change
    first: FirstWorker | None = None,
) -> None:
    """Serve until SIGINT or SIGTERM.

    Args:
        preload: Models to load at the start.
        tls: Files of the certificate and its key; None is plain HTTP.
        manager: What to tell the service manager, and the sockets that it opened; they are
            used instead of the address in *settings*.
        first: A worker that was started before, for the first load.

    Raises:
        ConfigError: The address cannot be bound (the error names the program that uses it),
            a model of *preload* does not exist, or the certificate or the file of keys cannot
            be used.
    """
    if tls:
        warn_if_readable(tls[1] or tls[0], "key of TLS")
    gc.disable()  # until all modules are imported: they stay
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(serve(settings, preload, Certificate(*tls) if tls else None, manager, first))


async def serve(
    settings: Settings,
    preload: Sequence[str] = (),
    tls: Certificate | None = None,
    manager: ServiceManager = ServiceManager(),  # noqa: B008 - it cannot change
    first: FirstWorker | None = None,
) -> None:
    """Serve as `run` does, in the running event loop."""
    stop = _stop_on_signals(settings.shutdown_grace)
    socks = inherit_listeners(manager.listeners)
    if socks:
        settings = replace(settings, host=find_address(socks[0]))
    # A socket that the service manager opened stays its own.
    own_socket = None if socks else settings.host.socket
    socks = socks or bind(settings.host, socket_mode=settings.socket_mode)
    readiness = Readiness(preload)
    first = first or FirstWorker()
    await first.adopt()
    from embedd.runtime import open_runtime  # noqa: PLC0415 - while the first worker starts

    async with remove_at_the_end(own_socket), open_runtime(settings, first) as runtime:
        await _check_names(runtime, preload, first)
        loading = asyncio.create_task(_preload(runtime, preload, readiness, first))
        try:
            # In a thread: models load while this process imports what speaks HTTP.
            await asyncio.to_thread(_import_wiring)
            from embedd.server.wiring import choose_keys, open_site  # noqa: PLC0415 - imported now

            gc.freeze()
            gc.enable()
            keys = choose_keys(settings)
            _reload_on_signal(keys, tls)
            async with open_site(settings, runtime, socks, keys=keys, readiness=readiness, tls=tls):
                _log_start(settings, _address_of(socks[0], settings.host, tls), keys)
                _collect_less()
                notify(manager.notify, "READY=1")
                await stop.wait()
                notify(manager.notify, "STOPPING=1")
                log.info("stopping after running requests; a second signal stops at once")
                loading.cancel()
        finally:
            loading.cancel()
    log.info("stopped")


def _log_start(settings: Settings, address: Address, keys: "Keys") -> None:
    """Log where the server is, whether it needs keys, and what a browser opens."""
    log.info(
        "embedd is listening",
        extra={
            "address": address.url,
            "version": __version__,
            "models": settings.models,
            "threads": settings.threads,
            "keys": keys.describe(),
        },
    )
    if settings.ui and address.socket is None:
        page = f"{address.to_client().url}{settings.base_path}/ui"
        log.info("open the page in a browser", extra={"page": page})


def _import_wiring() -> None:
    """Import what speaks HTTP.

    aiohttp makes contexts of TLS for a client. The server has none, and reading the certificates
    of all authorities would take a twentieth of its start: that context gets none of them.
    """
    original = ssl.create_default_context
    setattr(ssl, original.__name__, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT))
    try:
        import_module("embedd.server.wiring")
    finally:
        setattr(ssl, original.__name__, original)


def _collect_less() -> None:
    """Collect garbage less often, and never look again at what the server is made of.

    A request makes some hundred objects and hardly a cycle: looking for those was 5 % of its time.
    """
    gc.freeze()
    gc.set_threshold(COLLECT_AFTER)


def bind(address: Address, *, socket_mode: int = 0o600) -> list[socket.socket]:
    """Return listening sockets on *address*: two for ``localhost``, one of each family.

    A Unix socket gets the permissions *socket_mode*.

    Raises:
        ConfigError: The address cannot be bound.
    """
    if address.socket is not None:
        return [bind_unix(address.socket, mode=socket_mode, backlog=BACKLOG)]
    hosts = LOOPBACK if address.host == "localhost" else (address.host,)
    socks: list[socket.socket] = []
    try:
        for host in hosts:
            # A port that the system chose for the first is the second's too.
            port = socks[0].getsockname()[1] if socks else address.port
            try:
                socks.append(_bind_tcp(host, port))
            except OSError as error:
                if error.errno not in _NO_FAMILY or host != LOOPBACK[-1] or not socks:
                    raise
    except OSError as error:
        for sock in socks:
            sock.close()
        raise ConfigError(_explain_bind(address, error)) from error
    return socks


def _bind_tcp(host: str, port: int) -> socket.socket:
    """Return a listening socket; ``::`` takes IPv4 too, and is IPv4 alone without IPv6."""
    try:
        family, kind, protocol, _, where = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        sock = socket.socket(family, kind, protocol)
    except OSError:
        if host != "::":
            raise
        return _bind_tcp("0.0.0.0", port)  # noqa: S104 - what the operator asked for
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if host == "::":
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        sock.bind(where)
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if host == "::" and error.errno in _NO_FAMILY:
            return _bind_tcp("0.0.0.0", port)  # noqa: S104 - what the operator asked for
        raise
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
    """Name the program that listens on *address*: embedd, Ollama, or a process, if known."""
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
        for listener in psutil.net_connections("tcp"):
            listens = listener.status == psutil.CONN_LISTEN
            port = getattr(listener.laddr, "port", None)
            if listens and port == address.port and listener.pid:
                return f"{psutil.Process(listener.pid).name()} (process {listener.pid})"
    return "another program"


def _stop_on_signals(grace: float) -> asyncio.Event:
    """Return an event that SIGINT and SIGTERM set; *grace* seconds later the process ends."""
    stop = asyncio.Event()

    def on_signal() -> None:
        if stop.is_set():
            # Workers end too: they see that the other end of their socket is closed.
            os._exit(130)
        stop.set()
        if grace < math.inf:
            end = threading.Timer(grace, _end_process)
            end.daemon = True
            end.start()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, on_signal)
    # A terminal that closes sends it, also before there is something to read again.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    return stop


def _reload_on_signal(keys: "Keys", tls: Certificate | None) -> None:
    """Read the files of keys and certificates again on SIGHUP."""

    def on_signal() -> None:
        keys.reload()
        if tls is not None:
            tls.reload()

    asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, on_signal)


def _end_process() -> None:
    """End what hangs although all clients are gone: a thread, a file system."""
    log.warning("stopped before all had ended: EMBEDD_SHUTDOWN_GRACE is over")
    os._exit(0)


async def _check_names(runtime: "Runtime", names: Sequence[str], first: FirstWorker) -> None:
    """Check that the models *names* exist: one that is misspelt will not be there later either.

    Raises:
        ConfigError: One of them is not in the store, or is not a name.
    """
    for name in names:
        try:
            await runtime.embedder.find_any_apart(name)
        except (ModelNotFoundError, InvalidModelNameError) as error:
            await first.close()
            hint = getattr(error, "hint", "") or "`embedd list` shows the models in the store"
            raise ConfigError(f'--load: model "{name}" not found: {hint}') from error
        except EmbeddError:  # a load may succeed later, and its error is logged
            pass


async def _preload(
    runtime: "Runtime", names: Sequence[str], readiness: Readiness, first: FirstWorker
) -> None:
    for name in names:
        try:
            await _load(runtime, name)
            readiness.mark_loaded(name)
        except EmbeddError as error:
            readiness.mark_failed(name)
            log.error("model not loaded", extra={"model": name, "reason": str(error)})  # noqa: TRY400 - the message is complete
    await first.close()


async def _load(runtime: "Runtime", name: str) -> None:
    try:
        await runtime.painter.find(name)
    except NotAnImageModelError:
        await runtime.embedder.embed(EmbedRequest(model=name, inputs=()))
    else:
        await runtime.painter.load(name)


def _address_of(sock: socket.socket, address: Address, tls: Certificate | None) -> Address:
    if address.socket is not None:
        return address
    scheme, port = "https" if tls else "http", sock.getsockname()[1]
    return replace(address, scheme=scheme, port=port, path="")

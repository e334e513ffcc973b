"""The HTTP server put together: settings and a runtime become an application that listens.

Imported by a running event loop, which meanwhile loads models: it takes a quarter of a second.
"""

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from socket import socket

from embedd.config import Settings
from embedd.runtime import Runtime
from embedd.server.access.auth import KeyFile, Keys
from embedd.server.access.origins import OriginPolicy
from embedd.server.app import make_app
from embedd.server.batches.shelf import Shelf
from embedd.server.dialects.base import Policy
from embedd.server.http.answers import AnswersInFlight
from embedd.server.http.bodies import BodyLimits
from embedd.server.http.listener import open_listener
from embedd.server.http.timeouts import Timeouts
from embedd.server.http.tls import Certificate
from embedd.server.ops.observer import make_observer
from embedd.server.ops.readiness import Readiness
from embedd.server.ops.request_log import log_request
from embedd.server.ops.tracing import open_tracing

log = logging.getLogger(__name__)

CLOSING = 4.0  # seconds of the grace for last answers and the end of the workers
BATCHES = "batches"  # folder in the state folder


@asynccontextmanager
async def open_site(
    settings: Settings,
    runtime: Runtime,
    socks: Sequence[socket],
    *,
    keys: Keys,
    readiness: Readiness,
    tls: Certificate | None,
) -> AsyncIterator[None]:
    """Answer requests on *socks* until the block ends; running ones get their time after it."""
    requests = max(settings.shutdown_grace - CLOSING, settings.shutdown_grace / 2)
    async with open_tracing(settings.otlp_endpoint, settings.base_path) as tracing:
        app = make_app(
            embedder=runtime.embedder,
            painter=runtime.painter,
            library=runtime.library,
            bodies=BodyLimits(
                max_body=settings.max_body, max_in_flight=settings.max_body_in_flight
            ),
            answers=AnswersInFlight(settings.max_answer),
            origins=choose_origin_policy(settings),
            keys=keys,
            base_path=settings.base_path,
            metrics=runtime.metrics,
            readiness=readiness,
            observers=[make_observer(log_request), *tracing] if settings.log_requests else tracing,
            policy=_make_policy(settings),
            shelf=Shelf(
                settings.state / BATCHES, limit=settings.batch_bytes, max_body=settings.max_body
            ),
            timeouts=Timeouts(
                head=settings.head_timeout,
                body=settings.body_timeout,
                write=settings.write_timeout,
            ),
        )
        async with open_listener(app, socks, tls.context if tls else None, grace=requests):
            yield


def _make_policy(settings: Settings) -> Policy:
    return Policy(
        request_timeout=settings.request_timeout,
        max_inputs=settings.max_inputs,
        max_queue=settings.max_queue,
        max_ollama_inputs=settings.max_ollama_inputs,
        token_ids=settings.token_ids,
        default_model=settings.default_model,
        default_rerank_model=settings.default_rerank_model,
        ui=settings.ui,
    )


def choose_origin_policy(settings: Settings) -> OriginPolicy:
    """Return the policy: hosts are checked on loopback, and where some are configured."""
    address = settings.host
    on_loopback = address.socket is None and _is_loopback(address.host)
    return OriginPolicy(
        check_host=on_loopback or bool(settings.allowed_hosts),
        hosts=settings.allowed_hosts,
        origins=settings.origins,
    )


def choose_keys(settings: Settings) -> Keys:
    """Return the keys of *settings*; log a warning if other machines need none.

    Raises:
        ConfigError: The file of keys cannot be read, or is empty.
    """
    file = settings.api_key_file and KeyFile(settings.api_key_file)
    has_key = file is not None or bool(settings.api_key)
    is_remote = settings.host.socket is None and not _is_loopback(settings.host.host)
    if is_remote and not has_key:
        log.warning("the server is reachable from other machines without a key; set EMBEDD_API_KEY")
    return Keys(listed=settings.api_key, file=file or None, admin=settings.admin_key)


def _is_loopback(host: str) -> bool:
    return host == "localhost" or host.startswith("127.") or host == "::1"

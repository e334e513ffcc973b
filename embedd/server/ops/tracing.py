"""Traces of requests for OpenTelemetry: a span for each, and for each part of its time."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from aiohttp import web
from aiohttp.typedefs import Middleware

from embedd import __version__
from embedd.errors import ConfigError
from embedd.server.dialects.base import COMPUTED, Computed
from embedd.server.http.request_id import request_id
from embedd.server.ops.metrics import name_route
from embedd.server.ops.observer import make_observer
from embedd.types import Timings

if TYPE_CHECKING:
    from opentelemetry.sdk.trace.export import SpanExporter

EXPORT_TIMEOUT: Final = 5.0  # seconds; also how long the collector may delay the end of the server
NANOSECONDS: Final = 1_000_000_000
HEADERS: Final = ("traceparent", "tracestate")


@asynccontextmanager
async def open_tracing(endpoint: str, base_path: str = "") -> AsyncIterator[list[Middleware]]:
    """Yield the middleware that sends traces to the collector at *endpoint*; "" yields none.

    What is not sent yet is sent when the block ends.

    Args:
        endpoint: URL of an OTLP collector (HTTP), without ``/v1/traces``.
        base_path: A prefix of paths, which is not part of a route's name.

    Raises:
        ConfigError: OpenTelemetry is not installed.
    """
    if not endpoint:
        yield []
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # noqa: PLC0415 - of an extra
            OTLPSpanExporter,
        )
    except ImportError as error:
        raise ConfigError(
            "EMBEDD_OTLP_ENDPOINT needs OpenTelemetry: pip install 'embedd-server[otel]'"
        ) from error
    # It warns when the collector cannot be reached: in the server's log, in its format.
    exporting = logging.getLogger("opentelemetry")
    exporting.handlers[:] = logging.getLogger("embedd").handlers
    exporting.propagate = False
    url = f"{endpoint}/v1/traces"
    traces = Traces(OTLPSpanExporter(endpoint=url, timeout=EXPORT_TIMEOUT), base_path)
    try:
        yield [make_observer(traces.record)]
    finally:
        await asyncio.to_thread(traces.close)


class Traces:
    """Makes the spans of requests when they are answered, and hands them to *exporter*.

    A span has the context of the header ``traceparent``, if there is one. It never has texts.
    """

    def __init__(self, exporter: "SpanExporter", base_path: str = "") -> None:
        from opentelemetry.sdk.resources import (  # noqa: PLC0415 - of an extra
            OTELResourceDetector,
            Resource,
        )
        from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415 - likewise
        from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415 - likewise
        from opentelemetry.trace.propagation.tracecontext import (  # noqa: PLC0415 - likewise
            TraceContextTextMapPropagator,
        )

        own = Resource({"service.name": "embedd", "service.version": __version__})
        # What the operator sets (OTEL_SERVICE_NAME, OTEL_RESOURCE_ATTRIBUTES) goes before.
        self._provider = TracerProvider(resource=own.merge(OTELResourceDetector().detect()))
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("embedd", __version__)
        self._propagator = TraceContextTextMapPropagator()
        self._base_path = base_path

    def close(self) -> None:
        """Send what is waiting; takes at most about `EXPORT_TIMEOUT`."""
        self._provider.shutdown()

    def record(self, request: web.Request, status: int, seconds: float) -> None:
        """Make the spans of *request*, which was answered after *seconds*."""
        from opentelemetry.trace import (  # noqa: PLC0415 - a part of the extra
            SpanKind,
            StatusCode,
            set_span_in_context,
        )

        end = time.time_ns()
        start = end - round(seconds * NANOSECONDS)
        route = name_route(request, self._base_path)
        span = self._tracer.start_span(
            f"{request.method} {route}",
            context=self._propagator.extract(_trace_headers(request)),
            kind=SpanKind.SERVER,
            start_time=start,
            attributes={
                "http.request.method": request.method,
                "http.route": route,
                "http.response.status_code": status,
                "embedd.request_id": request_id(request),
            },
        )
        if status >= 500:
            span.set_status(StatusCode.ERROR)
        computed = request.get(COMPUTED)
        if computed is not None:
            span.set_attributes(_describe(computed))
            inside = set_span_in_context(span)
            for name, begin, finish in place_parts(computed.result.timings, start):
                part = self._tracer.start_span(name, context=inside, start_time=begin)
                part.end(finish)
        span.end(end)


def _trace_headers(request: web.Request) -> Mapping[str, str]:
    return {name: request.headers[name] for name in HEADERS if name in request.headers}


def _describe(computed: Computed) -> dict[str, str | int]:
    result = computed.result
    facts: dict[str, str | int] = {
        "embedd.model": computed.model,
        "embedd.inputs": len(result.tokens),
        "embedd.tokens": sum(result.tokens),
        "embedd.truncated": len(result.truncated),
    }
    if result.served_by is not None:
        facts["embedd.backend"] = result.served_by.backend
    return facts


def place_parts(timings: Timings, start: int) -> list[tuple[str, int, int]]:
    """Return name, begin and end of each part of a request's time, in nanoseconds since 1970.

    Only their lengths are measured: they follow each other from *start*, the request's. A model
    that was ready has no part ``load``.
    """
    parts = []
    for name in ("load", "tokenize", "queue", "compute"):
        seconds = getattr(timings, name)
        if name == "load" and not seconds:
            continue
        end = start + round(seconds * NANOSECONDS)
        parts.append((name, start, end))
        start = end
    return parts

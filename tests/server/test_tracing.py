"""Traces: the spans of a request, its client's trace, the collector."""

import http.server
import logging
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from embedd.errors import ConfigError
from embedd.server.ops.observer import make_observer
from embedd.server.ops.tracing import Traces, open_tracing, place_parts
from embedd.types import Timings
from tests.server.serving import OpenServer

SECRET = "what the client wrote"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


@pytest.fixture
def exporter() -> Any:
    name = "opentelemetry.sdk.trace.export.in_memory_span_exporter"
    return pytest.importorskip(name, reason="needs OpenTelemetry").InMemorySpanExporter()


@pytest.fixture
def traces(exporter: Any) -> Iterator[Traces]:
    opened = Traces(exporter, "/llm")
    yield opened
    opened.close()


def test_parts_follow_each_other_from_the_start() -> None:
    timings = Timings(load=2.0, tokenize=0.5, queue=0.25, compute=1.0, total=9.0)
    second = 1_000_000_000
    assert place_parts(timings, 10 * second) == [
        ("load", 10 * second, 12 * second),
        ("tokenize", 12 * second, 12 * second + second // 2),
        ("queue", 12 * second + second // 2, 12 * second + 3 * second // 4),
        ("compute", 12 * second + 3 * second // 4, 13 * second + 3 * second // 4),
    ]


def test_a_model_that_was_ready_has_no_part_of_loading() -> None:
    assert [name for name, *_ in place_parts(Timings(), 0)] == ["tokenize", "queue", "compute"]


async def test_without_an_endpoint_nothing_observes_requests() -> None:
    async with open_tracing("") as observers:
        assert observers == []


async def test_without_the_extra_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    module = "opentelemetry.exporter.otlp.proto.http.trace_exporter"
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=r"pip install 'embedd-server\[otel\]'"):
        async with open_tracing("http://127.0.0.1:1"):
            pass


async def test_a_request_has_a_span_with_its_parts_in_its_clients_trace(
    open_server: OpenServer, traces: Traces, exporter: Any
) -> None:
    served = await open_server(observers=[make_observer(traces.record)], base_path="/llm")
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "X-Request-Id": "mine"}
    body = {"model": "tiny", "input": [SECRET, "b"]}
    reply = await served.send("POST", "/llm/v1/embeddings", json=body, headers=headers)
    assert reply.status == 200
    traces.close()
    *parts, span = exporter.get_finished_spans()
    assert span.name == "POST /v1/embeddings"
    assert span.kind.name == "SERVER"
    assert f"{span.context.trace_id:032x}" == TRACE
    assert f"{span.parent.span_id:016x}" == PARENT
    assert [one.name for one in parts] == ["load", "tokenize", "queue", "compute"]
    assert {one.parent.span_id for one in parts} == {span.context.span_id}
    assert all(one.start_time <= one.end_time for one in (*parts, span))
    facts = dict(span.attributes)
    assert facts.pop("embedd.tokens") >= 2
    assert facts.pop("embedd.backend")
    assert facts == {
        "http.request.method": "POST",
        "http.route": "/v1/embeddings",
        "http.response.status_code": 200,
        "embedd.request_id": "mine",
        "embedd.model": "tiny",
        "embedd.inputs": 2,
        "embedd.truncated": 0,
    }
    assert span.resource.attributes["service.name"] == "embedd"
    assert SECRET not in "".join(one.to_json() for one in (*parts, span))


@pytest.mark.parametrize("header", [None, "junk", f"00-{'0' * 32}-{PARENT}-01"])
async def test_a_request_without_a_valid_trace_begins_one(
    header: str | None, open_server: OpenServer, traces: Traces, exporter: Any
) -> None:
    served = await open_server(observers=[make_observer(traces.record)])
    headers = {} if header is None else {"traceparent": header}
    await served.send("GET", "/api/version", headers=headers)
    traces.close()
    [span] = exporter.get_finished_spans()
    assert span.parent is None
    assert span.context.trace_id


async def test_a_request_of_a_trace_that_is_not_sampled_is_not_sent(
    open_server: OpenServer, traces: Traces, exporter: Any
) -> None:
    served = await open_server(observers=[make_observer(traces.record)])
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    await served.send("GET", "/api/version", headers=headers)
    traces.close()
    assert exporter.get_finished_spans() == ()


@pytest.mark.parametrize(
    ("path", "status", "is_error"),
    [("/nothing", 404, False), ("/ui", 302, False), ("/api/embed", 500, True)],
)
async def test_only_faults_of_the_server_are_errors(
    path: str,
    status: int,
    *,
    is_error: bool,
    open_server: OpenServer,
    traces: Traces,
    exporter: Any,
) -> None:
    served = await open_server(observers=[make_observer(traces.record)])
    served.loads.error = RuntimeError("boom")
    method = "POST" if is_error else "GET"
    body = {"model": "tiny", "input": "a"} if is_error else None
    reply = await served.send(method, path, json=body, allow_redirects=False)
    assert reply.status == status
    traces.close()
    [span] = exporter.get_finished_spans()
    assert span.attributes["http.response.status_code"] == status
    assert (span.status.status_code.name == "ERROR") == is_error


@dataclass
class Collector:
    """A collector of traces on a loopback port."""

    url: str = ""
    paths: list[str] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)


@pytest.fixture
def collector() -> Iterator[Collector]:
    received = Collector()

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.paths.append(self.path)
            received.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        received.url = f"http://127.0.0.1:{server.server_port}/otlp"
        yield received
        server.shutdown()
        thread.join()


@pytest.fixture
def library_logger() -> Iterator[logging.Logger]:
    """The library's logger, left as it was."""
    logger = logging.getLogger("opentelemetry")
    before = logger.handlers[:], logger.propagate
    yield logger
    logger.handlers[:], logger.propagate = before


async def test_what_is_not_sent_yet_is_sent_at_the_end(
    open_server: OpenServer, collector: Collector, exporter: Any, library_logger: logging.Logger
) -> None:
    async with open_tracing(collector.url) as observers:
        served = await open_server(observers=observers)
        assert (await served.embed(input="a")).status == 200
    assert collector.paths == ["/otlp/v1/traces"]
    assert b"POST /api/embed" in collector.bodies[0]
    assert b"compute" in collector.bodies[0]


async def test_warnings_of_the_library_are_lines_of_the_servers_log(
    collector: Collector, exporter: Any, library_logger: logging.Logger
) -> None:
    async with open_tracing(collector.url):
        assert library_logger.handlers == logging.getLogger("embedd").handlers
        assert not library_logger.propagate

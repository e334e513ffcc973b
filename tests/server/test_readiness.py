"""``GET /ready``: when a balancer may send requests."""

from embedd.server.access.auth import Keys
from embedd.server.http.shutdown import SHUTDOWN
from embedd.server.ops.health import READINESS
from embedd.server.ops.readiness import Readiness
from tests.server.serving import OpenServer, Served


async def test_a_server_that_stops_is_healthy_and_not_ready(served: Served) -> None:
    assert (await served.send("GET", "/ready")).status == 200
    served.client.app[SHUTDOWN].begin()
    assert (await served.send("GET", "/health")).status == 200
    reply = await served.send("GET", "/ready")
    assert reply.status == 503
    assert reply.json["error"]["message"] == "server is shutting down"


async def test_a_server_is_ready_once_its_models_are_loaded(open_server: OpenServer) -> None:
    served = await open_server(readiness=Readiness(["tiny"]), keys=Keys(listed=["k"]))
    assert (await served.send("GET", "/ready")).status == 503
    served.client.app[READINESS].mark_loaded("tiny")
    assert (await served.send("GET", "/ready")).status == 200

"""``embedd health``."""

import pytest
from aiohttp import web

from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer


@pytest.mark.parametrize(("args", "path"), [([], "/health"), (["--ready"], "/ready")])
def test_health_is_an_exit_status(
    embedd: Run, server: FakeServer, args: list[str], path: str
) -> None:
    server.refusals[path] = web.json_response({"status": "ok"})
    outcome = embedd("health", *args)
    assert (outcome.status, outcome.out, outcome.err) == (0, "ok\n", "")
    assert {asked[1] for asked in server.asked} == {path}
    body = {"error": {"code": 503, "message": "no memory"}}
    server.refusals[path] = web.json_response(body, status=503)
    outcome = embedd("health", *args)
    assert (outcome.status, outcome.out, outcome.err) == (1, "", "Error: no memory\n")


@pytest.mark.usefixtures("_no_server")
def test_without_a_server_it_is_not_healthy(embedd: Run) -> None:
    outcome = embedd("health")
    assert outcome.status == 1
    assert outcome.err.startswith("Error: could not connect to embedd server at http://")


def test_a_page_is_not_health(embedd: Run, server: FakeServer) -> None:
    page = web.Response(status=503, text="<html>", content_type="text/html")
    server.refusals["/health"] = page
    assert embedd("health").status == 1
    server.refusals["/health"] = web.Response(status=404, text="404 page not found")
    outcome = embedd("health")
    assert (outcome.status, outcome.err) == (1, "Error: 404 page not found\n")

"""The page: its files, its rules, and what it reads that no other route has."""

import asyncio
import hashlib
import json
import logging
import re

import pytest

from embedd.server.access.auth import Keys
from embedd.server.dialects.base import Policy
from embedd.server.http.page_files import POLICY
from embedd.server.ui.routes import FILES, STATIC
from tests.server.serving import OpenServer, Served

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("name", FILES)
async def test_every_file_is_served_with_its_type_and_the_policy(served: Served, name: str) -> None:
    reply = await served.send("GET", f"/ui/{name}")
    assert reply.status == 200
    assert reply.headers["Content-Type"] == f"{FILES[name]}; charset=utf-8"
    assert reply.headers["Content-Security-Policy"] == POLICY
    assert reply.body == STATIC.joinpath(name).read_bytes()


async def test_the_page_has_a_slash_at_the_end_so_that_its_addresses_are_relative(
    served: Served,
) -> None:
    reply = await served.send("GET", "/ui", allow_redirects=False)
    assert (reply.status, reply.headers["Location"]) == (302, "ui/")
    reply = await served.send("GET", "/ui/")
    assert reply.body == STATIC.joinpath("index.html").read_bytes()


@pytest.mark.parametrize("name", ["none.js", "../live.py", "vendor", "%2e%2e/routes.py"])
async def test_other_files_do_not_exist(served: Served, name: str) -> None:
    assert (await served.send("GET", f"/ui/{name}")).status == 404


def test_nothing_in_the_files_needs_another_host_or_an_inline_script() -> None:
    page = STATIC.joinpath("index.html").read_text()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\son\w+=", page)
    for name in FILES:
        if not name.startswith("vendor/"):
            text = STATIC.joinpath(name).read_text()
            assert not re.search(r"https?://", text), name
            assert "innerHTML" not in text, name


def test_the_vendored_files_are_those_that_the_notice_names() -> None:
    notice = STATIC.joinpath("vendor", "NOTICE.txt").read_text()
    vendored = [name for name in FILES if name.startswith("vendor/") and "NOTICE" not in name]
    assert len(vendored) == 3
    for name in vendored:
        digest = hashlib.sha256(STATIC.joinpath(name).read_bytes()).hexdigest()
        assert digest in notice, name


def test_every_file_that_a_module_imports_is_served() -> None:
    for name in FILES:
        if name.endswith(".js") and not name.startswith("vendor/"):
            for imported in re.findall(r'from "\./([^"]+)"', STATIC.joinpath(name).read_text()):
                assert imported in FILES, f"{name} imports {imported}"


async def test_a_browser_sees_links_and_everybody_else_what_ollama_says(served: Served) -> None:
    reply = await served.send("GET", "/", headers=BROWSER)
    assert reply.headers["Content-Type"].startswith("text/html")
    assert reply.headers["Vary"] == "Accept"
    links = re.findall(r'href="([^"]+)"', reply.body.decode())
    files, pages = links[:2], links[2:]
    assert files == ["favicon.ico", "docs/welcome.css"]
    assert pages == ["ui/", "docs", "openapi.json", "health"]
    assert "style-src 'self'" in reply.headers["Content-Security-Policy"]
    for link in links:
        assert (await served.send("GET", f"/{link}")).status == 200
    for accept in ("*/*", "application/json"):
        reply = await served.send("GET", "/", headers={"Accept": accept})
        assert (reply.body, reply.headers["Vary"]) == (b"Ollama is running", "Accept")


async def test_without_the_page_no_route_and_no_link_is_left(open_server: OpenServer) -> None:
    served: Served = await open_server(policy=Policy(ui=False))
    for path in ("/ui", "/ui/", "/ui/app.js", "/ui/live", "/ui/catalogue"):
        assert (await served.send("GET", path)).status == 404
    assert b'"ui/"' not in (await served.send("GET", "/", headers=BROWSER)).body


async def test_files_are_open_and_data_asks_for_the_key(open_server: OpenServer) -> None:
    served: Served = await open_server(keys=Keys(listed=["k"]))
    for path in ("/ui/", "/ui/app.js"):
        assert (await served.send("GET", path)).status == 200
    for path in ("/ui/live", "/ui/catalogue", "/ui/access"):
        assert (await served.send("GET", path)).status == 401
    headers = {"Authorization": "Bearer k"}
    assert (await served.send("GET", "/ui/catalogue", headers=headers)).status == 200


async def test_the_catalogue_has_what_can_be_pulled(open_server: OpenServer) -> None:
    served: Served = await open_server()
    models = {model["name"]: model for model in (await served.send("GET", "/ui/catalogue")).json}
    assert models["all-minilm"]["kind"] == "text"
    assert "q8_0" in models["all-minilm"]["tags"]
    assert models["sd-turbo"]["kind"] == "image"
    assert models["sd-turbo"]["license"]


async def test_the_live_figures_are_those_of_the_metrics(served: Served) -> None:
    assert (await served.embed(input=["one two", "three"])).status == 200
    async with served.client.get("/ui/live") as reply:
        assert reply.headers["Content-Type"] == "text/event-stream"
        assert reply.headers["Cache-Control"] == "no-store"
        async with asyncio.timeout(60):
            while True:  # until a sample was taken after the request
                event = await reply.content.readuntil(b"\n\n")
                sample = json.loads(event.removeprefix(b"data: "))[-1:]
                if sample and sample[0]["inputs"] == 2:
                    break
    metrics = (await served.send("GET", "/metrics")).body.decode()
    [inputs] = re.findall(r'embedd_inputs_total\{model="tiny:latest"\} (\S+)', metrics)
    assert sample[0]["inputs"] == float(inputs) == 2
    assert sample[0]["queue"]["+Inf"] == 1


async def test_a_page_that_is_closed_is_not_a_failed_request(
    served: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embedd")
    async with served.client.get("/ui/live") as reply:
        await reply.content.readuntil(b"\n\n")
        reply.close()
    count = 'embedd_requests_total{route="/ui/live",status="499"} 1.0'
    async with asyncio.timeout(60):
        while count not in (await served.send("GET", "/metrics")).body.decode():
            await asyncio.sleep(0.02)
    assert "request failed" not in caplog.text


async def test_browsers_find_an_icon_without_a_key(open_server: OpenServer) -> None:
    served: Served = await open_server(keys=Keys(listed=["k"]))
    reply = await served.send("GET", "/favicon.ico")
    assert (reply.status, reply.body[:5]) == (200, b"<svg ")
    assert reply.headers["Content-Type"].startswith("image/svg+xml")


@pytest.mark.parametrize(
    ("keys", "key", "manage"),
    [
        (Keys(), "", True),
        (Keys(listed=["use"]), "use", True),
        (Keys(listed=["use"], admin=["boss"]), "use", False),
        (Keys(admin=["boss"]), "", False),
        (Keys(admin=["boss"]), "boss", True),
    ],
)
async def test_the_page_is_said_what_its_key_allows(
    keys: Keys, key: str, *, manage: bool, open_server: OpenServer
) -> None:
    served: Served = await open_server(keys=keys)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    reply = await served.send("GET", "/ui/access", headers=headers)
    assert (reply.status, reply.json) == (200, {"manage": manage})

"""A page of another origin, in a real browser: preflight, headers of clients, what it may read."""

import http.server
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.ui.conftest import Server

ASK = """async ([url, headers]) => {
  const reply = await fetch(url, {
    method: "POST", headers: {"Content-Type": "application/json", ...headers},
    body: JSON.stringify({model: "all-minilm", input: ["a", "w ".repeat(600)]}),
  }).catch((error) => null);
  if (!reply) return null;
  const truncated = reply.headers.get("X-Embedd-Truncated");
  return {status: reply.status, truncated, count: (await reply.json()).data.length};
}"""
HEADERS = {
    "Authorization": "Bearer any",
    "api-key": "any",
    "baggage": "a=b",
    "openai-organization": "org",
    "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    "x-client-name": "a page",
    "x-stainless-lang": "js",
}


@pytest.fixture(params=["127.0.0.1", "127.0.0.2"], ids=["local", "foreign"])
def page_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An empty page of a server of its own; embedd knows one of its names as local."""

    class EmptyPage(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer((request.param, 0), EmptyPage) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        yield f"http://{request.param}:{other.server_port}"
        other.shutdown()


def ask(browser: Browser, page_url: str, url: str) -> Any:
    page = browser.new_page()
    try:
        page.goto(page_url)
        return page.evaluate(ASK, [f"{url}/v1/embeddings", HEADERS])
    finally:
        page.close()


def test_a_page_of_an_allowed_origin_sends_its_headers_and_reads_ours(
    browser: Browser, start: Callable[..., Server], page_url: str
) -> None:
    assert ask(browser, page_url, start(EMBEDD_ORIGINS=page_url).url) == {
        "status": 200,
        "truncated": "count=1; index=1 tokens=602 kept=256",
        "count": 2,
    }


def test_without_the_setting_local_pages_alone_are_allowed(
    browser: Browser, server: Server, page_url: str
) -> None:
    reply = ask(browser, page_url, server.url)
    assert (reply is not None) == page_url.startswith("http://127.0.0.1:")

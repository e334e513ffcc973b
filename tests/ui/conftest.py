"""A browser, and servers whose store has the default model."""

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, expect, sync_playwright

from tests.loopback_hub import LoopbackHub, open_hub
from tests.tiny_models import write_tiny_bert

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
START = 60.0  # seconds
expect.set_options(timeout=START * 1000)


@dataclass(frozen=True)
class Server:
    """A server in a process of its own, and the hub from which it pulls."""

    url: str
    hub: LoopbackHub


@dataclass
class Visit:
    """A page of the browser, and what it complained about."""

    page: Page
    complaints: list[str]


def read_address(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + START
    while b"address=" not in log.read_bytes():
        assert time.monotonic() < deadline, log.read_text()
        assert process.poll() is None, log.read_text()
        time.sleep(0.05)
    return log.read_text().partition("address=")[2].split()[0]


@pytest.fixture(scope="session")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LoopbackHub]:
    """With one large model."""
    path = tmp_path_factory.mktemp("hub") / "big.gguf"
    data = write_tiny_bert(path, width=512, layers=6).read_bytes()
    with open_hub() as opened:
        opened.add("acme/big-GGUF", {"big-f16.gguf": data}, license="mit")
        yield opened


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default model, a reranker, and a model with a short context and prefixes."""
    home = tmp_path_factory.mktemp("store")
    environment = make_environment(home)
    short = write_tiny_bert(home / "short.gguf", context=16)
    ranker = write_tiny_bert(home / "rank.gguf", pooling="rank", head=["yes"])
    for command in (
        ("pull", "all-minilm"),
        ("create", "short", "--from", str(short)),
        ("create", "ranker", "--from", str(ranker)),
    ):
        subprocess.run(
            [sys.executable, "-m", "embedd", *command],
            env=environment,
            check=True,
            capture_output=True,
        )
    return home


def make_environment(home: Path, **settings: str) -> dict[str, str]:
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("EMBEDD_", "HF_"))
    }
    return inherited | {
        "EMBEDD_MODELS": str(home / "models"),
        "EMBEDD_STATE": str(home / "state"),
        "EMBEDD_HOST": "127.0.0.1:1",
        "HF_HOME": str(home / "huggingface"),
        **settings,
    }


@pytest.fixture(scope="session")
def start(
    store: Path, hub: LoopbackHub, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[..., Server]]:
    processes: list[subprocess.Popen[bytes]] = []

    def start_one(**settings: str) -> Server:
        log = tmp_path_factory.mktemp("log") / "log"
        environment = make_environment(
            store, EMBEDD_HOST="127.0.0.1:0", HF_ENDPOINT=hub.url, **settings
        )
        with log.open("wb") as stream:
            process = subprocess.Popen(
                [sys.executable, "-m", "embedd", "serve"], env=environment, stderr=stream
            )
        processes.append(process)
        return Server(read_address(process, log), hub)

    yield start_one
    for process in processes:
        process.send_signal(signal.SIGTERM)
        assert process.wait(START) == 0


@pytest.fixture(scope="session")
def server(start: Callable[..., Server]) -> Server:
    return start()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def scheme(request: pytest.FixtureRequest) -> str:
    value: str = request.param
    return value


def visit(browser: Browser, scheme: str = "light", width: int = 1200) -> Visit:
    context = browser.new_context(
        color_scheme=scheme,  # type: ignore[arg-type]  # one of its words
        viewport={"width": width, "height": 900},
        permissions=["clipboard-read", "clipboard-write"],
    )
    page = context.new_page()
    page.set_default_timeout(START * 1000)
    complaints: list[str] = []

    def note(message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            complaints.append(message.text)

    page.on("console", note)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return Visit(page, complaints)


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Opens pages; none of them may complain, but for answers that a test plans."""
    visits: list[Visit] = []
    planned: list[str] = []

    def open_one(url: str, *, expect: str = "", **options: object) -> Page:
        opened = visit(browser, **options)  # type: ignore[arg-type]  # as it has them
        visits.append(opened)
        if expect:
            planned.append(expect)
        opened.page.goto(url)
        return opened.page

    yield open_one
    for opened in visits:
        left = [one for one in opened.complaints if not any(plan in one for plan in planned)]
        opened.page.context.close()
        assert left == []


def read_metric(url: str, name: str) -> float:
    """The sum of a metric over its labels."""
    with urllib.request.urlopen(url + "/metrics") as reply:
        lines = reply.read().decode().splitlines()
    return sum(
        float(line.rpartition(" ")[2]) for line in lines if line.split("{")[0].split(" ")[0] == name
    )

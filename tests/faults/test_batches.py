"""Files of requests of which the command or the server is killed: every answer is there once."""

import asyncio
import random
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from tests.faults.client import ask
from tests.faults.conftest import Scale
from tests.faults.figures import Figures
from tests.faults.process import Home, Server, repeat, wait_until
from tests.faults.small_units import ROWS

LINES = 8 * ROWS
MOST = 50_000  # lines that OpenAI takes in a file
FAKE = "tests.faults.fake_embedd"
URL = "/v1/embeddings"
FORM = (
    b'--m\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n'
    b'--m\r\nContent-Disposition: form-data; name="file"; filename="f"\r\n\r\n%s\r\n--m--\r\n'
)


def make_requests(lines: int = LINES) -> bytes:
    """Requests, the last of which fails."""
    bodies: list[Any] = [{"model": "tiny", "input": f"text {n}"} for n in range(lines - 1)]
    bodies.append({"model": "tiny", "input": "text", "dimensions": 10**6})
    requests = [
        {"custom_id": str(number), "method": "POST", "url": URL, "body": body}
        for number, body in enumerate(bodies)
    ]
    return b"".join(msgspec.json.encode(request) + b"\n" for request in requests)


def without_ids(data: bytes) -> list[Any]:
    """Answers without what is random in them."""
    lines = [msgspec.json.decode(line) for line in data.splitlines()]
    for line in lines:
        del line["id"], line["response"]["request_id"]
        line["response"]["body"].pop("id", None)
    return lines


def start_command(home: Home, source: Path, out: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", FAKE, "bulk", "tiny", str(source), "-o", str(out)]
    command += ["--format", "openai-batch", "--progress", "none", "--local"]
    environment = home.environment(ENGINE="llama", THREADS="1")
    with (home.folder / "command.log").open("wb") as log:
        return subprocess.Popen(command, env=environment, stderr=log)


def test_a_command_that_is_killed_goes_on_where_it_was(
    home: Home, scale: Scale, figures: Figures
) -> None:
    source = home.folder / "requests.jsonl"
    source.write_bytes(make_requests())
    expected = home.folder / "expected.jsonl"
    log = home.folder / "command.log"
    assert start_command(home, source, expected).wait(100) == 3, log.read_text()
    answers = without_ids(expected.read_bytes())
    assert [one["custom_id"] for one in answers] == [str(n) for n in range(LINES)]
    same = 0
    kills: list[int] = []
    rounds = scale.choose(short=1, full=30)
    for number in repeat(rounds, kills):
        out = home.folder / f"{number}.jsonl"
        grown = Path(f"{out}.parts") / "results.jsonl"
        for share in sorted(random.Random(number).sample(range(1, 9), 2)):
            process = start_command(home, source, out)
            size = expected.stat().st_size * share // 10
            wait_until(partial(has_grown, process, grown, size), 100)
            kills.append(process.poll() is None)
            process.kill()
            process.wait()
        if not out.exists():
            assert start_command(home, source, out).wait(100) == 3, log.read_text()
        same += without_ids(out.read_bytes()) == answers
    figures.at_least("kills", sum(kills), 1)
    figures.at_least("outputs equal to the undisturbed one", same, number + 1)


def has_grown(process: subprocess.Popen[bytes], path: Path, size: int) -> bool:
    """Whether a file has more than *size* bytes, or the process that writes it has ended."""
    return process.poll() is not None or (path.exists() and path.stat().st_size > size)


class Client:
    """Asks a server that is started again and again."""

    def __init__(self, server: Server) -> None:
        self.server = server

    def get(self, path: str) -> Any:
        return asyncio.run(ask(self.server.port, path, method="GET"))

    def start_batch(self, content: bytes) -> str:
        file = asyncio.run(self._upload(FORM % content))
        body = {"input_file_id": file, "endpoint": URL, "completion_window": "24h"}
        created = asyncio.run(ask(self.server.port, "/v1/batches", body))
        assert created.status == 200, created
        return str(created.json["id"])

    async def _upload(self, form: bytes) -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.server.port)
        head = (
            "POST /v1/files HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
            f"Content-Type: multipart/form-data; boundary=m\r\nContent-Length: {len(form)}\r\n\r\n"
        )
        writer.write(head.encode() + form)
        answer = await reader.read()
        writer.close()
        return str(msgspec.json.decode(answer.partition(b"\r\n\r\n")[2])["id"])

    def wait_for(self, batch: str, answered: int) -> Any:
        """Return the batch once so many requests are answered, or it has ended."""
        end = time.monotonic() + 100
        while True:
            shown = self.get(f"/v1/batches/{batch}").json
            counts = shown["request_counts"]
            is_far = counts["completed"] + counts["failed"] >= answered
            if shown["status"] == "completed" or is_far:
                return shown
            assert time.monotonic() < end, shown
            time.sleep(0.01)

    def finish(self, batch: str) -> tuple[list[Any], list[Any]]:
        """Return the answers and the errors of a batch."""
        shown = self.wait_for(batch, sys.maxsize)
        counts = shown["request_counts"]
        assert counts["total"] == counts["completed"] + counts["failed"]
        contents = [
            self.get(f"/v1/files/{shown[name]}/content").body
            for name in ("output_file_id", "error_file_id")
        ]
        return without_ids(contents[0]), without_ids(contents[1])


def test_a_batch_goes_on_when_its_server_was_killed(
    home: Home, scale: Scale, figures: Figures
) -> None:
    home.module = FAKE
    home.inside |= {"ENGINE": "llama", "THREADS": "1"}
    client = Client(home.start())
    content = make_requests()
    try:
        expected = client.finish(client.start_batch(content))
        names = [one["custom_id"] for one in expected[0]]
        assert names == [str(number) for number in range(LINES - 1)]
        assert [one["response"]["status_code"] for one in expected[1]] == [400]
        same = 0
        kills: list[int] = []
        rounds = scale.choose(short=1, full=30)
        for number in repeat(rounds, kills):
            batch = client.start_batch(content)
            for share in sorted(random.Random(number).sample(range(1, 9), 2)):
                shown = client.wait_for(batch, LINES * share // 10)
                kills.append(shown["status"] == "in_progress")
                client.server.kill()
                client.server = home.start()
            same += client.finish(batch) == expected
    finally:
        client.server.kill()
    figures.at_least("kills", sum(kills), 1)
    figures.at_least("results equal to the undisturbed ones", same, number + 1)


def test_a_batch_as_long_as_openai_takes_is_answered_in_order_and_once(
    home: Home, scale: Scale, figures: Figures
) -> None:
    lines = scale.choose(short=3_000, full=MOST)
    client = Client(home.start())
    kills: list[int] = []
    peaks: list[float] = []
    try:
        batch = client.start_batch(make_requests(lines))
        for tenths in (2, 5, 8):
            shown = client.wait_for(batch, lines * tenths // 10)
            kills.append(shown["status"] == "in_progress")
            peaks.append(client.server.peak)
            client.server.kill()
            client.server = home.start()
        answers, errors = client.finish(batch)
        peaks.append(client.server.peak)
    finally:
        client.server.kill()
    assert [one["custom_id"] for one in answers] == [str(number) for number in range(lines - 1)]
    assert [one["custom_id"] for one in errors] == [str(lines - 1)]
    figures.at_least("kills", sum(kills), 1)
    figures.at_most("server", max(peaks), 200, "MiB")

"""Clients that send or read slowly, or not at all: others are answered, and they are closed."""

import asyncio
import contextlib
import fcntl
import gzip
import time
from collections.abc import Callable
from pathlib import Path

from tests.faults.client import Connection, ask, connect, make_request, open_connection
from tests.faults.conftest import Scale
from tests.faults.figures import Figures, find_percentile
from tests.faults.process import MIB, Home, Server

WORD = {"model": "tiny", "input": "hello"}


async def is_closed(connection: Connection) -> None:
    """Read until the server ends the connection."""
    with contextlib.suppress(ConnectionError):
        while await connection.reader.read(1 << 16):
            pass


async def write(connection: Connection, data: bytes) -> None:
    connection.writer.write(data)
    with contextlib.suppress(ConnectionError):
        await connection.writer.drain()


async def answer_words(server: Server, until: Callable[[], bool]) -> list[float]:
    """Seconds of requests of one word, one after the other; all are answered."""
    times: list[float] = []
    while not until() or len(times) < 3:
        answer = await ask(server.port, "/api/embed", WORD)
        assert answer.status == 200, answer.body
        times.append(answer.seconds)
        await asyncio.sleep(0.05)
    return times


async def test_slow_heads_bodies_and_readers_lock_no_other_client_out(
    home: Home, scale: Scale, figures: Figures
) -> None:
    each = scale.choose(short=8, full=64)
    timeouts = (
        {"HEAD": 15, "BODY": 30, "WRITE": 60}
        if scale.full
        else dict.fromkeys(("HEAD", "BODY", "WRITE"), 1)
    )
    settings = {f"{name}_TIMEOUT": f"{value}s" for name, value in timeouts.items()}
    body = make_request("/api/embed", WORD)
    large = make_request("/api/embed", {**WORD, "input": ["the same"] * 60_000})
    size = scale.choose(short=1, full=64) * MIB
    padded = make_request("/api/embed", b" " * (size - 1), length=size)
    kinds: list[tuple[str, bytes, int, int]] = [
        ("HEAD", body[:20], each, 0),
        ("HEAD", body[:50], each, 0),
        ("BODY", body[:-1], each, 0),
        ("BODY", padded, 8, 0),
        ("WRITE", large, 4, 4096),
    ]
    closed: dict[bool, list[float]] = {False: [], True: []}  # whether they were to read

    async def stall(data: bytes, receive: int, limit: float) -> None:
        connection = await connect(server.port, receive=receive)
        try:
            await write(connection, data)
            if receive:
                await connection.reader.readuntil(b"\r\n")
            begun = time.perf_counter()
            if receive:
                # The server gives up while nothing is read: what it has sent comes, then the end.
                await asyncio.sleep(2 * limit + 2)
            await is_closed(connection)
            closed[receive > 0].append(time.perf_counter() - begun - limit)
        finally:
            await connection.close()

    with home.open(limits=None, **settings) as server:
        assert (await ask(server.port, "/api/embed", WORD)).status == 200
        stalled = [
            asyncio.create_task(stall(data, receive, timeouts[name]))
            for name, data, count, receive in kinds
            for _ in range(count)
        ]
        times = await answer_words(server, lambda: all(task.done() for task in stalled))
        for task in stalled:
            task.result()
        figures.at_most("server", server.peak, 900, "MiB")
    count = sum(map(len, closed.values()))
    figures.at_least("stalled connections that were closed", count, len(stalled))
    figures.time_at_most("heads and bodies: after their timeouts", max(closed[False]), 3, "s")
    figures.time_at_most("p99 of a word beside them", find_percentile(times, 0.99) * 1e3, 100)


async def test_a_lock_that_is_held_elsewhere_stops_changes_alone(
    home: Home, figures: Figures
) -> None:
    with home.open() as server:
        assert (await ask(server.port, "/api/embed", WORD)).status == 200
        with (home.models / "embedd.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            copies = [
                asyncio.create_task(
                    ask(server.port, "/api/copy", {"source": "tiny", "destination": f"x{number}"})
                )
                for number in range(8)
            ]
            await asyncio.sleep(0.3)
            times = await answer_words(server, lambda: True)
            tags = await ask(server.port, "/api/tags", method="GET")
            assert tags.status == 200
            assert not any(copy.done() for copy in copies)
        answers = await asyncio.gather(*copies)
        assert {answer.status for answer in answers} <= {200, 503}
    figures.time_at_most("a word beside eight copies that wait", max(times) * 1e3, 100)
    figures.time_at_most("the list of models", tags.seconds * 1e3, 100)


async def test_a_compressed_upload_is_bounded(home: Home, scale: Scale, figures: Figures) -> None:
    size = scale.choose(short=100, full=1024) * MIB
    bomb = gzip.compress(bytes(size), 1)
    largest = 0

    def look() -> None:
        nonlocal largest
        files = [path.stat().st_size for path in home.models.rglob("*") if _is_file(path)]
        largest = max(largest, *files)

    before = max(path.stat().st_size for path in home.models.rglob("*") if path.is_file())
    head = "Content-Encoding: gzip\r\n"
    with home.open() as server:
        async with open_connection(server.port) as connection:
            asking = asyncio.create_task(
                connection.send(make_request(f"/api/blobs/sha256:{'0' * 64}", bomb, head=head))
            )
            while not asking.done():
                await asyncio.to_thread(look)
                await asyncio.sleep(0.01)
        answer = asking.result()
        figures.at_most("server", server.peak, 300, "MiB")
    assert answer.status in {400, 413, 415}, answer
    # No more than the factor by which a body may grow, or the limit of a body.
    figures.at_most("written of it", max(0, largest - before) / MIB, 65, "MiB")


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:
        return False


async def test_long_and_malformed_heads_are_answered_without_a_bug(home: Home) -> None:
    with home.open() as server:
        for size, status in [(9_000, 200), (60_000, 200), (70_000, 431)]:
            async with open_connection(server.port) as connection:
                head = f"Cookie: {'a' * size}\r\n"
                request = make_request("/api/version", method="GET", head=head)
                answer = await connection.send(request)
                assert answer.status == status, (size, answer)
        for malformed in (b"GET / HTTP/1.1\r\nHost localhost\r\n\r\n", b"\x16\x03\x01\x02\r\n\r\n"):
            connection = await connect(server.port)
            await write(connection, malformed)
            assert b" 400 " in await connection.reader.readline()
            await connection.close()

"""A load for which no descriptor is left is 503 with the limit, and leaves none behind."""

import asyncio
import contextlib
import itertools
import logging
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from tests.system.serving import Server, open_fake_server


def find_open() -> set[int]:
    """Return the descriptors of this process."""
    found = set()
    for file in list(Path("/dev/fd").iterdir()):
        with contextlib.suppress(OSError):  # the one of the folder itself
            os.fstat(int(file.name))
            found.add(int(file.name))
    return found


@contextlib.contextmanager
def leave(count: int) -> Iterator[None]:
    """Let this process open only *count* more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken = find_open()
    free = (number for number in itertools.count() if number not in taken)
    resource.setrlimit(resource.RLIMIT_NOFILE, (next(itertools.islice(free, count, None)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def unload(server: Server) -> None:
    await server.send("/api/generate", {"model": "tiny", "keep_alive": 0})
    async with asyncio.timeout(60):
        while await server.running():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_a_load_without_descriptors_is_503_with_the_limit_whichever_is_missing(
    loop: Callable[[], asyncio.AbstractEventLoop],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.WARNING)

    async def check() -> None:
        async with open_fake_server(tmp_path, ["tiny"], monkeypatch) as server:
            await server.embed("a", model="tiny")
            await unload(server)
            before = len(find_open())
            statuses = []
            for count in (0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 13, 15, 20, 24):
                with leave(count):
                    status, reply = await server.send("/api/embed", {"model": "tiny", "input": "a"})
                statuses.append(status)
                if status == 200:
                    await unload(server)
                else:
                    assert "too many open files, the limit is" in reply["error"]
            assert statuses == sorted(statuses, reverse=True)
            assert set(statuses) == {503, 200}
            assert len(find_open()) <= before
            assert not [one for one in caplog.records if one.exc_info]

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(check())

"""A server that has no descriptor left: 503 with the limit, and as before once there are some."""

import asyncio
import contextlib
import resource

from tests.faults.client import Answer, Connection, ask, connect, make_request
from tests.faults.conftest import Scale
from tests.faults.figures import Figures
from tests.faults.process import Home, Server

LIMIT = 96
WORD = {"model": "tiny", "input": "x"}
UNLOAD = {"model": "tiny", "keep_alive": 0}


async def fill(server: Server, count: int) -> list[Connection]:
    """Open connections until the server takes no more."""
    connections = []
    for _ in range(count):
        with contextlib.suppress(OSError):
            connections.append(await connect(server.port))
    return connections


async def connect_until_accepted(server: Server) -> Connection:
    """Connect again while the server has not noticed yet that earlier connections are closed."""
    for _ in range(100):
        connection = await connect(server.port)
        with contextlib.suppress(OSError, EOFError):
            if (await connection.send(make_request("/", method="GET"))).status == 200:
                return connection
        await connection.close()
        await asyncio.sleep(0.1)
    raise AssertionError("each connection was refused for 10 s")


async def ask_until_answered(server: Server, path: str, body: object) -> Answer:
    """Ask again while the server has not noticed yet that earlier connections are closed."""
    answer = None
    for _ in range(100):
        with contextlib.suppress(OSError, EOFError):
            answer = await ask(server.port, path, body)
            if answer.status != 503:
                break
        await asyncio.sleep(0.1)
    assert answer is not None
    return answer


async def test_without_descriptors_a_load_is_503_and_the_server_stays(
    home: Home, scale: Scale, figures: Figures
) -> None:
    rounds = scale.choose(short=1, full=20)
    statuses = []
    with home.open(limits={resource.RLIMIT_NOFILE: LIMIT}) as server:
        for number in range(rounds):
            # It loads in a connection that is open before the others take the descriptors.
            asking = await connect_until_accepted(server)
            others = await fill(server, LIMIT + 40)
            await asyncio.sleep(0.3)
            async with asyncio.timeout(60):
                answer = await asking.embed("x", model="tiny")
            statuses.append(answer.status)
            assert answer.status in {200, 503}, answer
            if answer.status == 503:
                assert answer.headers.get("retry-after"), answer
                assert str(LIMIT) in answer.json["error"], answer.body
            for connection in [asking, *others]:
                await connection.close()
            for path, body in (("/api/embed", WORD), ("/api/generate", UNLOAD)):
                answer = await ask_until_answered(server, path, body)
                assert answer.status == 200, (number, path, answer)
    figures.note("loads without descriptors: 503", statuses.count(503))
    figures.note("loads without descriptors: 200", statuses.count(200))

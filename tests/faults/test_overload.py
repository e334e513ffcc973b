"""More requests than can be computed: what is accepted is in time, the rest is refused at once."""

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from tests.exposition import Samples, parse
from tests.faults.client import Answer, Connection, ask, connect, make_request, open_connection
from tests.faults.conftest import Arena, Scale
from tests.faults.figures import Figures, find_percentile
from tests.faults.process import Server

TEXTS = 8  # of a request
PLACE = "########"  # of a number in a text
WORDS = [
    "the",
    "quick",
    "brown",
    "fox",
    "jumps",
    "over",
    "a",
    "lazy",
    "dog",
    "while",
    "seven",
    "wizards",
    "make",
    "toxic",
    "brew",
]
WAIT = 5  # seconds, EMBEDD_MAX_WAIT


class Pool:
    """Connections that are used again: as many as requests are under way at a time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[Connection] = []

    async def send(self, request: bytes) -> Answer:
        connection = self._idle.pop() if self._idle else await connect(self._port)
        answer = await connection.send(request)
        self._idle.append(connection)
        return answer

    async def close(self) -> None:
        for connection in self._idle:
            await connection.close()


def make_texts(count: int, *, words: int, seed: int) -> list[str]:
    chosen = random.Random(seed)
    return [" ".join(chosen.choices(WORDS, k=words)) for _ in range(count)]


class Bodies:
    """Requests of equal size; each has texts of its own, of which none can be reused.

    Args:
        count: Of different ones before numbers make them different.
    """

    def __init__(self, model: str, count: int) -> None:
        self._templates = [
            make_request(
                "/api/embed",
                {
                    "model": model,
                    "input": [f"{PLACE} {text}" for text in make_texts(TEXTS, words=60, seed=seed)],
                },
            )
            for seed in range(count)
        ]
        self._made = 0

    def make(self) -> bytes:
        """Return the next one."""
        template = self._templates[self._made % len(self._templates)]
        self._made += 1
        return template.replace(PLACE.encode(), b"%08d" % self._made)


async def read_samples(server: Server) -> Samples:
    return parse((await ask(server.port, "/metrics", method="GET")).body.decode())


async def find_idle_seconds(server: Server, request: bytes) -> float:
    """Median time of a request that is alone."""
    async with open_connection(server.port) as connection:
        return find_percentile([(await connection.send(request)).seconds for _ in range(5)], 0.5)


async def find_capacity(server: Server, bodies: Bodies, seconds: float) -> float:
    """Requests a second of clients that wait."""
    pool = Pool(server.port)
    done = 0
    end = time.perf_counter() + seconds

    async def work() -> None:
        nonlocal done
        while time.perf_counter() < end:
            answer = await pool.send(bodies.make())
            # At first the server does not know how fast it is.
            if answer.status == 200:
                done += 1
            else:
                await asyncio.sleep(0.05)

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(16)))
    rate = done / (time.perf_counter() - start)
    await pool.close()
    return rate


@dataclass(slots=True)
class Flood:
    """What came of requests that were sent at a fixed rate."""

    accepted: list[float] = field(default_factory=list)  # seconds
    refused: int = 0
    others: list[int] = field(default_factory=list)  # statuses
    without_hint: int = 0  # refusals without Retry-After
    answered: list[float] = field(default_factory=list)  # when those accepted were answered

    def add(self, answer: Answer, now: float) -> None:
        if answer.status == 200:
            self.accepted.append(answer.seconds)
            self.answered.append(now)
        elif answer.status in {429, 503}:
            self.refused += 1
            self.without_hint += not answer.headers.get("retry-after", "").isdigit()
        else:
            self.others.append(answer.status)


async def flood(server: Server, bodies: Bodies, rate: float, seconds: float) -> Flood:
    """Send *rate* requests a second, whatever becomes of those before."""
    pool = Pool(server.port)
    result = Flood()
    running: set[asyncio.Task[None]] = set()

    async def send(request: bytes) -> None:
        result.add(await pool.send(request), time.perf_counter())

    start = time.perf_counter()
    sent = 0
    while (passed := time.perf_counter() - start) < seconds:
        while sent < passed * rate:
            task = asyncio.create_task(send(bodies.make()))
            running.add(task)
            task.add_done_callback(running.discard)
            sent += 1
        await asyncio.sleep(0.002)
    while running:
        await asyncio.gather(*running)
    await pool.close()
    return result


async def test_ten_times_the_load_is_computed_at_capacity_and_the_rest_is_refused(
    arena: Arena, scale: Scale, figures: Figures
) -> None:
    seconds = scale.choose(short=2, full=60)
    wait = scale.choose(short=1, full=WAIT)
    bodies = Bodies(arena.model, 50)
    with arena.home.open(MAX_WAIT=f"{wait}s") as server:
        idle = await find_idle_seconds(server, bodies.make())
        capacity = await find_capacity(server, bodies, scale.choose(short=1, full=10))
        server.forget_peak()
        begun = time.perf_counter()
        result = await flood(server, bodies, 10 * capacity, seconds)
        lone = await find_idle_seconds(server, bodies.make())
        peak = server.peak
    useful = sum(at < begun + seconds for at in result.answered) / seconds
    figures.note("capacity", capacity, "requests/s")
    figures.note("refused", result.refused / seconds, "requests/s")
    figures.time_at_least("useful share of capacity", useful / capacity, 0.85)
    p99 = find_percentile(result.accepted, 0.99)
    figures.time_at_most("p99 of those accepted / EMBEDD_MAX_WAIT", p99 / wait, 1.2, "×")
    figures.at_most("server", peak, 300, "MiB")
    figures.time_at_most("a lone request right after it", lone / idle, 2, "× idle")
    figures.at_most("answers that are neither", len(result.others), 0)
    figures.at_most("refusals without Retry-After", result.without_hint, 0)
    figures.at_least("accepted", len(result.accepted), 1)
    figures.at_least("refused requests", result.refused, 1)


async def test_equal_requests_are_answered_in_the_order_in_which_they_came(
    arena: Arena, scale: Scale, figures: Figures
) -> None:
    count = scale.choose(short=40, full=1000)
    bodies = [
        make_request(
            "/api/embed", {"model": arena.model, "input": make_texts(5, words=20, seed=seed)}
        )
        for seed in range(count)
    ]
    ended: list[tuple[float, int]] = []

    async def send(number: int) -> None:
        answer = await pool.send(bodies[number])
        assert answer.status == 200, answer.body
        ended.append((time.perf_counter() - start, number))

    with arena.home.open(MAX_WAIT="0") as server:
        await find_idle_seconds(server, bodies[0])
        pool = Pool(server.port)
        start = time.perf_counter()
        await asyncio.gather(*map(send, range(count)))
        await pool.close()
    order = [number for _, number in ended]
    # Where each came out, less where it went in: 1/3 in random order, in parts of all.
    moved = sum(abs(at - number) for at, number in enumerate(order)) / count**2
    figures.at_most("mean distance from first come, first served", moved, 0.1)
    whole = ended[-1][0]
    figures.time_at_most("a tenth is done", ended[count // 10][0] / whole, 0.2, "of all time")
    figures.time_at_most("half is done", ended[count // 2][0] / whole, 0.6, "of all time")


async def find_batch_seconds(server: Server, model: str, texts: list[str]) -> float:
    """Mean time of a batch of a large request that is alone."""
    before = await read_samples(server)
    answer = await ask(server.port, "/api/embed", {"model": model, "input": texts})
    assert answer.status == 200, answer.body
    after = await read_samples(server)
    names = [f"embedd_batch_seconds_{part}{{model={model}:latest}}" for part in ("sum", "count")]
    seconds, batches = (after[name] - before[name] for name in names)
    return seconds / batches


async def test_a_query_passes_a_large_request(arena: Arena, scale: Scale, figures: Figures) -> None:
    count = scale.choose(short=300, full=20_000)
    texts = make_texts(count, words=24, seed=1)
    large = make_request("/api/embed", {"model": arena.model, "input": texts})
    query = make_request("/api/embed", {"model": arena.model, "input": "why is the sky blue"})
    times: list[float] = []
    with arena.home.open(MAX_WAIT="0") as server:
        idle = await find_idle_seconds(server, query)
        # The queries are batches of their own: they would make the mean too small.
        batch = await find_batch_seconds(server, arena.model, texts[: count // 10])
        async with open_connection(server.port) as one, open_connection(server.port) as other:
            running = asyncio.create_task(one.send(large))
            await asyncio.sleep(0.2)
            while not running.done():
                answer = await other.send(query)
                assert answer.status == 200
                times.append(answer.seconds)
                await asyncio.sleep(0.02)
            assert running.result().status == 200
    figures.note("a query that is alone", idle * 1e3, "ms")
    figures.note("a batch", batch * 1e3, "ms")
    # The first may have waited for the texts to be counted.
    figures.at_least("queries answered before the large request", len(times) - 1, 3)
    p95 = find_percentile(times[:-1], 0.95)
    figures.time_at_most("p95 of the query", p95 / batch, 1.3, "batches")


async def test_a_deadline_that_passes_is_504_and_its_work_is_not_done(
    arena: Arena, scale: Scale, figures: Figures
) -> None:
    count = scale.choose(short=200, full=5000)
    limit = 0.2
    large = make_texts(count, words=24, seed=1)
    texts = make_texts(count, words=24, seed=2)
    bodies: dict[str, tuple[dict[str, object], Callable[[Any], object]]] = {
        "/api/embed": ({"input": texts}, lambda body: body["error"]),
        "/v1/embeddings": ({"input": texts[:2000]}, lambda body: body["error"]["message"]),
        "/v2/embed": (
            {"texts": texts[:2000], "input_type": "clustering"},
            lambda body: body["message"],
        ),
    }
    name = f"embedd_engine_sequences_total{{model={arena.model}:latest}}"
    with arena.home.open(MAX_WAIT="0") as server:
        word = make_request("/api/embed", {"model": arena.model, "input": "x"})
        await find_idle_seconds(server, word)
        before = await read_samples(server)
        async with open_connection(server.port) as one, open_connection(server.port) as other:
            running = asyncio.create_task(one.embed(large, model=arena.model))
            await asyncio.sleep(0.05)
            for path, (body, find_text) in bodies.items():
                head = f"X-Request-Timeout: {limit}\r\n"
                answer = await other.post(path, {"model": arena.model, **body}, head)
                assert answer.status == 504, answer.body
                assert isinstance(find_text(answer.json), str), answer.body
                over = (answer.seconds - limit) * 1e3
                figures.time_at_most(f"{path}: the answer after the deadline", over, 100)
            assert (await running).status == 200
            assert (await other.send(word)).status == 200
        after = await read_samples(server)
    # What was in the worker when the deadline came may have been computed.
    wasted = after[name] - before[name] - count - 1
    figures.at_most("sequences computed for those too late", wasted, 256)
    figures.at_least("late requests in the metrics", count_late(after) - count_late(before), 3)


def count_late(samples: Samples) -> float:
    return sum(value for name, value in samples.items() if name.startswith("embedd_late_requests"))

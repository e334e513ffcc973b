"""Hostile requests: others are answered meanwhile, and the server stays small."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass

from tests.faults.client import Answer, connect, make_request, open_connection
from tests.faults.conftest import Arena, Scale
from tests.faults.figures import Figures, find_percentile
from tests.faults.process import Server

MB = 1_000_000
SHORT, LARGE = 1, 66  # MB: the limit of a body is 67
READERS = 6


@dataclass(frozen=True, slots=True)
class Hostile:
    """A request that asks for much.

    Args:
        before, item, after: Of the body; *item* is repeated with commas between.
        size: MB of the full form, at most.
    """

    path: str
    before: bytes
    item: bytes
    after: bytes
    size: int = LARGE

    def make(self, size: int) -> bytes:
        """Return the request with a body of *size* MB."""
        count = min(size, self.size) * MB // (len(self.item) + 1)
        return make_request(self.path, self.before + b",".join([self.item] * count) + self.after)


def of_input(path: str, item: bytes, size: int = LARGE, after: bytes = b"]}") -> Hostile:
    return Hostile(path, b'{"model":"MODEL","input":[', item, after, size)


HOSTILE: dict[str, Hostile] = {
    "lists of an id": of_input("/v1/embeddings", b"[1]"),
    "ids": of_input("/v1/embeddings", b"1"),
    "floats": of_input("/v1/embeddings", b"1.0"),
    "objects": of_input("/v1/embeddings", b'{"text":"a"}'),
    "strings": of_input("/v1/embeddings", b'"a"'),
    "lone surrogates": of_input("/v1/embeddings", b'"\\ud800"'),
    "deep lists": of_input("/v1/embeddings", b"[[[[1]]]]"),
    "a body that is cut": of_input("/v1/embeddings", b"[1]", after=b""),
    "an unknown field": Hostile(
        "/v1/embeddings", b'{"model":"MODEL","input":"a","x":[', b"[1]", b"]}"
    ),
    "options": Hostile(
        "/api/embed", b'{"model":"MODEL","input":"a","options":{"a":[', b"[1]", b"]}}"
    ),
    "texts for Ollama": of_input("/api/embed", b'"a"', 4),
    "ids for Ollama": of_input("/api/embed", b"1"),
    "sentences": Hostile(
        "/similarity", b'{"inputs":{"source_sentence":"a","sentences":[', b'"a"', b"]}}"
    ),
    "documents": Hostile(
        "/v1/rerank", b'{"model":"MODEL","query":"a","documents":[', b'{"text":"a"}', b"]}"
    ),
    "contents": Hostile(
        "/v2/embed",
        b'{"model":"MODEL","input_type":"clustering","inputs":[',
        b'{"content":[{"type":"text","text":"a"}]}',
        b"]}",
    ),
    "texts to tokenize": Hostile("/tokenize", b'{"inputs":[', b'"a"', b"]}"),
    "ids to decode": Hostile("/decode", b'{"ids":[', b"[5]", b"]}"),
    "ids to detokenize": Hostile("/detokenize", b'{"tokens":[', b"5", b"]}", 20),
    "one long text": Hostile("/api/embed", b'{"model":"MODEL","input":"', b"a b c d e f", b'"}'),
    "one text of joiners": Hostile(
        "/tokenize", b'{"inputs":"', "a\u200d\u200bb ".encode(), b'"}', 1
    ),
    "an empty generate": Hostile(
        "/api/generate", b'{"model":"MODEL","prompt":"","options":{"a":[', b"[1]", b"]}}"
    ),
}


async def ask_words(server: Server, model: str, until: Callable[[], bool]) -> list[float]:
    """Seconds of one-word requests, one after the other; all are answered."""
    times = []
    async with open_connection(server.port) as connection:
        while not until():
            answer = await connection.embed("hello", model=model)
            assert answer.status == 200, answer.body
            times.append(answer.seconds)
            await asyncio.sleep(0.005)
    return times


async def send(server: Server, request: bytes) -> Answer | None:
    """Return the answer; None if the server closed the connection instead of reading all."""
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
        async with open_connection(server.port) as connection:
            return await connection.send(request)
    return None


async def test_words_are_answered_beside_hostile_bodies(
    arena: Arena, scale: Scale, figures: Figures
) -> None:
    size = scale.choose(short=SHORT, full=LARGE)
    settings = {"DEFAULT_MODEL": arena.model}
    with arena.home.open(limits=None, **settings) as server:
        async with open_connection(server.port) as connection:
            assert (await connection.embed("hello", model=arena.model)).status == 200
        for name, hostile in HOSTILE.items():
            request = hostile.make(size).replace(b"MODEL", arena.model.encode(), 1)
            request = _fix_length(request)
            server.forget_peak()
            asking = asyncio.create_task(send(server, request))
            times = await ask_words(server, arena.model, asking.done)
            answer = asking.result()
            status = answer.status if answer else 0
            assert status < 500 or status in {501, 503}, (name, answer)
            figures.at_most(f"{name}: server", server.peak, 500, "MiB")
            if times:
                p99 = find_percentile(times, 0.99) * 1e3
                figures.time_at_most(f"{name}: p99 of a word ({len(times)}, {status})", p99, 100)


def _fix_length(request: bytes) -> bytes:
    """Return *request* with the length that its body has now."""
    head, _, body = request.partition(b"\r\n\r\n")
    lines = [line for line in head.split(b"\r\n") if not line.startswith(b"Content-Length")]
    return b"\r\n".join([*lines, b"Content-Length: %d" % len(body)]) + b"\r\n\r\n" + body


async def test_clients_that_do_not_read_their_answers_are_bounded(
    arena: Arena, scale: Scale, figures: Figures
) -> None:
    """Equal texts: little work and a large answer."""
    count = scale.choose(short=20_000, full=100_000)
    request = make_request("/api/embed", {"model": arena.model, "input": ["the same"] * count})
    with arena.home.open() as server:
        async with open_connection(server.port) as connection:
            assert (await connection.embed("hello", model=arena.model)).status == 200
        server.forget_peak()
        readers = [await connect(server.port, receive=4096) for _ in range(READERS)]

        async def begin(number: int) -> None:
            readers[number].writer.write(request)
            await readers[number].writer.drain()
            await readers[number].reader.readuntil(b"\r\n")

        begun = asyncio.gather(*map(begin, range(READERS)))
        times = await ask_words(server, arena.model, begun.done)
        await begun
        figures.at_most("server", server.peak, 500, "MiB")
        p99 = find_percentile(times, 0.99) * 1e3 if times else 0.0
        figures.time_at_most("p99 of a word", p99, 100)
        for reader in readers:
            reader.writer.transport.abort()

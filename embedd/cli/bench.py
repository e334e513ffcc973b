"""``embedd bench`` and ``embedd compare``: speed of a server; speed and cosine of two."""

import asyncio
import random
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import click

from embedd.cli.arguments import model_argument
from embedd.cli.connection import connect
from embedd.cli.settings import load_settings
from embedd.cli.tables import fit_table, terminal_width
from embedd.config import parse_host, parse_keys
from embedd.errors import (
    EmbeddError,
    RequestError,
    ServiceError,
    UnauthorizedError,
    UnavailableError,
)

if TYPE_CHECKING:
    from embedd.client import Client

VOCABULARY = (
    "time year people way day man thing woman life child world school state family student "
    "group country problem hand part place case week company system program question work "
    "government number night point home water room mother area money story fact month lot"
)
WORDS = VOCABULARY.split()
COLUMNS = ("WORKLOAD", "SERVER", "TEXTS/S", "RATIO", "P50", "P99")
ROUNDS = 3
OURS = "embedd"  # how tables name the server that EMBEDD_HOST names

Vectors = Sequence[Sequence[float]]
Embed = Callable[[Sequence[str]], Awaitable[Vectors]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """*requests* of *texts* texts of about *words* words, from *clients* clients."""

    name: str
    requests: int
    texts: int
    words: int
    clients: int


WORKLOADS = (
    Workload(name="one short text", requests=40, texts=1, words=8, clients=1),
    Workload(name="short texts, 8 clients", requests=160, texts=1, words=8, clients=8),
    Workload(name="32 passages", requests=4, texts=32, words=60, clients=1),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Texts per second, and milliseconds of a request: median and 99th percentile."""

    texts: float
    p50: float
    p99: float


@click.command
@model_argument
def bench(*, model: str) -> None:
    """Measure how fast the server embeds."""
    click.echo(asyncio.run(_bench(model)))


@click.command
@click.argument("url")
@model_argument
@click.option("--other-model", help="Its name on the other server, if it differs.")
@click.option(
    "--other-key-file",
    type=click.File(),
    help="File with the API key of the other server; - is stdin.",
)
def compare(
    *, url: str, model: str, other_model: str | None, other_key_file: TextIO | None
) -> None:
    """Compare the server with another one: speed and cosine.

    The other, at URL, may speak Ollama's or OpenAI's API. EMBEDD_API_KEY is not sent to it.
    """
    keys = parse_keys(other_key_file.read()) if other_key_file else ()
    if other_key_file and not keys:
        raise click.UsageError("--other-key-file has no key")
    click.echo(asyncio.run(_compare(url, model, other_model or model, next(iter(keys), None))))


async def _bench(model: str) -> str:
    async with connect(load_settings().host) as client:

        async def embed(texts: Sequence[str]) -> Vectors:
            return (await client.embed(model, texts, store=False)).embeddings

        return await measure_all({OURS: embed})


async def _compare(url: str, model: str, other_model: str, other_key: str | None) -> str:
    async with connect(load_settings().host) as ours, open_other(url, other_key) as theirs:

        async def embed_here(texts: Sequence[str]) -> Vectors:
            return (await ours.embed(model, texts, store=False)).embeddings

        async def embed_ollama(texts: Sequence[str]) -> Vectors:
            return (await theirs.embed(other_model, texts, store=False)).embeddings

        async def embed_openai(texts: Sequence[str]) -> Vectors:
            return await theirs.embed_as_openai(other_model, texts)

        embed_there: Embed = embed_ollama
        texts = make_texts(WORKLOADS[-1])[0]
        try:
            their_vectors = await embed_ollama(texts)
        except UnauthorizedError as error:
            raise _naming(url, error) from error
        except RequestError:
            embed_there = embed_openai
            try:
                their_vectors = await embed_openai(texts)
            except EmbeddError as error:
                raise _naming(url, error) from error
        except EmbeddError as error:
            raise _naming(url, error) from error
        table = await measure_all({OURS: embed_here, url: embed_there})
        least = min(map(cosine, await embed_here(texts), their_vectors))
        backends = [
            f"{name}: {backend}"
            for name, client, one in ((OURS, ours, model), (url, theirs, other_model))
            if (backend := await _find_backend(client, one))
        ]
        lines = [table, "", f"least cosine over {len(texts)} texts: {least:.6f}", *backends]
        return "\n".join(lines)


async def _find_backend(client: "Client", model: str) -> str:
    """What computes *model* on the server; "" if it does not say."""
    try:
        shown = await client.show(model)
    except EmbeddError:  # another server, which has no such route
        return ""
    return f"{shown.backend}, tokenizer {shown.tokenizer}" if shown.backend else ""


@asynccontextmanager
async def open_other(url: str, key: str | None = None) -> "AsyncIterator[Client]":
    """A client of the server at *url*, which may be any that speaks one of the two APIs.

    Args:
        key: Its API key: those of the environment are not meant for it.

    Raises:
        UnavailableError: It does not answer.
    """
    from embedd.client import Client

    address = parse_host(url)
    async with Client(address, key=key) as client:
        if not await client.is_up():
            raise UnavailableError(f"the server to compare with, {address.url}, does not answer")
        yield client


async def measure_all(servers: dict[str, Embed]) -> str:
    """A table of every workload on every server; the servers are measured alternately."""
    rows = []
    for workload in WORKLOADS:
        requests = make_texts(workload)
        click.echo(f"measuring {workload.name}", err=True)
        speeds: dict[str, list[Speed]] = {name: [] for name in servers}
        for _ in range(ROUNDS):
            for name, embed in servers.items():
                try:
                    speeds[name].append(await measure(embed, requests, workload.clients))
                except EmbeddError as error:
                    if len(servers) == 1:
                        raise
                    raise _naming(name, error) from error
        first = None
        for name, rounds in speeds.items():
            speed = sorted(rounds, key=lambda one: one.texts)[len(rounds) // 2]
            first = first or speed.texts
            numbers = (f"{speed.texts:.0f}", f"{speed.texts / first:.2f}", _ms(speed.p50))
            rows.append((workload.name, name, *numbers, _ms(speed.p99)))
    table: list[Sequence[str]] = [COLUMNS, *rows]
    if len(servers) == 1:  # neither its name nor its ratio to itself says anything
        table = [(row[0], row[2], *row[4:]) for row in table]
    return fit_table(table[0], table[1:], terminal_width(), ("P99", "P50"))


def _naming(server: str, error: EmbeddError) -> EmbeddError:
    """*error* with the name of the server that it is of."""
    if isinstance(error, UnauthorizedError):
        if server == OURS:
            return error
        what = str(error).partition(":")[0]
        return ServiceError(f"{server}: {what}: give one of its keys with --other-key-file")
    return ServiceError(f"{server}: {error}")


async def measure(embed: Embed, requests: Sequence[Sequence[str]], clients: int) -> Speed:
    """Send all *requests*, at most *clients* at a time."""
    waiting = list(requests)
    latencies: list[float] = []

    async def client() -> None:
        while waiting:
            texts = waiting.pop()
            start = time.perf_counter()
            await embed(texts)
            latencies.append(1000 * (time.perf_counter() - start))

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    seconds = time.perf_counter() - start
    ordered = sorted(latencies)
    return Speed(
        texts=sum(map(len, requests)) / seconds,
        p50=statistics.median(ordered),
        p99=ordered[int(0.99 * (len(ordered) - 1))],
    )


def make_texts(workload: Workload) -> list[list[str]]:
    """Random texts, the same ones on every call."""
    pick = random.Random(workload.name)  # noqa: S311 - the same texts every time, nothing secret
    return [
        [" ".join(pick.choices(WORDS, k=workload.words)) for _ in range(workload.texts)]
        for _ in range(workload.requests)
    ]


def cosine(a: Sequence[float], b: Sequence[float]) -> float:
    """Cosine of the angle between two vectors; 0 if their widths differ."""
    if len(a) != len(b):
        return 0.0
    product = sum(x * y for x, y in zip(a, b, strict=True))
    norms = sum(x * x for x in a) * sum(y * y for y in b)
    return product / norms**0.5 if norms else 0.0


def _ms(milliseconds: float) -> str:
    return f"{milliseconds:.1f} ms"

"""``python -m benchmarks.overhead``: what a request of one short text costs besides its computing.

In one interleaved run, at 1, 8, 32 and 128 clients: embedd; llama.cpp's server, if it is given; a
bare handler of aiohttp, `benchmarks.bare`; and the engine alone in this process, a text at a time
and in batches of 32. The columns are medians over the rounds. Linux only; needs ``wrk``.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from benchmarks import bare
from benchmarks.__main__ import RESULTS, prepare
from benchmarks.alone import EngineAlone, list_backends, read_chosen
from benchmarks.contenders import (
    find_free_port,
    open_embedd,
    open_llama_server,
    open_process,
)
from benchmarks.load import Load, Usage, is_installed, make_texts, read_usages, run_wrk
from benchmarks.report import describe_machine
from embedd.config import read_settings
from embedd.types import TokenIds

CLIENTS = (1, 8, 32, 128)
BATCH = 32  # texts
ALONE = 300  # texts that the engine computes in each round, alone and in batches


COLUMNS = (
    "| clients | server | requests/s | p50 ms | p99 ms | server µs | worker µs "
    "| wakes of the server | of the worker | texts a batch |"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What is sent requests.

    Args:
        metrics: Whether it has embedd's metrics.
    """

    name: str
    url: str
    path: str
    pid: int
    metrics: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A round of one server: what wrk saw, what its process and its children used, its batches."""

    load: Load
    own: Usage
    children: Usage
    batches: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """The medians of a server with a number of clients; processor seconds are of one request."""

    server: str
    clients: int
    rate: float
    p50: float
    p99: float
    own: float
    children: float
    own_wakes: float
    children_wakes: float
    texts_per_batch: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """The engine alone: seconds of a lone text, and texts a second in batches."""

    lone: float
    rate: float


async def run(options: argparse.Namespace) -> str:
    """Measure, and return the report."""
    cores = read_settings().threads
    gguf = await asyncio.to_thread(prepare, options.model)
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = await _open_servers(stack, options, gguf, cores, folder)
        tuning = read_chosen(folder)
        alone = await asyncio.to_thread(EngineAlone, options.model, options.engine, tuning, cores)
        stack.callback(alone.close)
        for server in servers:
            await _measure_server(server, 8, 1, 0, folder)  # warm up
        samples: dict[tuple[int, str], list[Sample]] = {}
        engines: list[Engine] = []
        for number in range(1, options.rounds + 1):
            for clients in options.clients:
                for server in servers:
                    sample = await _measure_server(
                        server, clients, options.seconds, number * 1000 + clients, folder
                    )
                    samples.setdefault((clients, server.name), []).append(sample)
            engines.append(await asyncio.to_thread(measure_engine, alone, number))
    rows = [summarise(name, clients, of) for (clients, name), of in samples.items()]
    engine = Engine(
        lone=statistics.median(one.lone for one in engines),
        rate=statistics.median(one.rate for one in engines),
    )
    return to_report(rows, engine, baseline=servers[-1].name)


async def _open_servers(
    stack: AsyncExitStack, options: argparse.Namespace, gguf: Path, cores: int, state: Path
) -> list[Server]:
    embedd = await stack.enter_async_context(open_embedd(gguf, cores, options.engine, state=state))
    await embedd.embed(["ready?"])  # loads the model, which takes longer than a warm-up
    servers = [
        Server(name=embedd.name, url=embedd.url, path="/api/embed", pid=embedd.pid, metrics=True)
    ]
    if options.llama_server:
        theirs = await stack.enter_async_context(
            open_llama_server(options.llama_server, gguf, cores)
        )
        servers.append(
            Server(name=theirs.name, url=theirs.url, path="/v1/embeddings", pid=theirs.pid)
        )
    servers.append(await stack.enter_async_context(_open_bare()))
    return servers


@asynccontextmanager
async def _open_bare() -> AsyncIterator[Server]:
    port = find_free_port()
    command = [sys.executable, "-m", "benchmarks.bare", str(port)]
    url = f"http://127.0.0.1:{port}"
    async with open_process(command, url, dict(os.environ), status=404) as pid:
        yield Server(name="bare aiohttp", url=url, path=bare.PATH, pid=pid)


async def _measure_server(
    server: Server, clients: int, seconds: int, seed: int, folder: Path
) -> Sample:
    before, batches = read_usages(server.pid), await _read_batches(server)
    load = await run_wrk(
        server.url, server.path, clients=clients, seconds=seconds, seed=seed, folder=folder
    )
    after = read_usages(server.pid)
    own, children = (now - then for now, then in zip(after, before, strict=True))
    return Sample(
        load=load, own=own, children=children, batches=await _read_batches(server) - batches
    )


async def _read_batches(server: Server) -> float:
    """Return how many batches embedd has sent to its worker so far."""
    if not server.metrics:
        return 0.0
    async with aiohttp.ClientSession() as session, session.get(f"{server.url}/metrics") as reply:
        text = await reply.text()
    return sum(
        float(line.split()[-1])
        for line in text.splitlines()
        if line.startswith("embedd_batch_seconds_count{")
    )


def measure_engine(alone: EngineAlone, seed: int) -> Engine:
    """Compute texts of the kind that the clients send one by one, then in batches."""
    sequences = alone.engines[0].tokenizer.tokenize(make_texts(1000 * seed + 1, ALONE))
    seconds = [_time(alone, [ids]) for ids in sequences]
    batches = [sequences[at : at + BATCH] for at in range(0, len(sequences) - BATCH + 1, BATCH)]
    rate = BATCH * len(batches) / sum(_time(alone, batch) for batch in batches)
    return Engine(lone=statistics.median(seconds), rate=rate)


def _time(alone: EngineAlone, sequences: Sequence[TokenIds]) -> float:
    start = time.perf_counter()
    alone.encode(sequences)
    return time.perf_counter() - start


def summarise(server: str, clients: int, samples: Sequence[Sample]) -> Row:
    """Return the medians of *samples*."""

    def median(values: Iterator[float]) -> float:
        return statistics.median(values)

    batches = median(one.batches / one.load.requests for one in samples)
    return Row(
        server=server,
        clients=clients,
        rate=median(one.load.requests / one.load.seconds for one in samples),
        p50=median(one.load.p50 for one in samples),
        p99=median(one.load.p99 for one in samples),
        own=median(one.own.seconds / one.load.requests for one in samples),
        children=median(one.children.seconds / one.load.requests for one in samples),
        own_wakes=median(one.own.wakes / one.load.requests for one in samples),
        children_wakes=median(one.children.wakes / one.load.requests for one in samples),
        texts_per_batch=1 / batches if batches else None,
    )


def to_report(rows: Sequence[Row], engine: Engine, *, baseline: str) -> str:
    """Return a table of *rows*, and what the first server is to the engine and to *baseline*.

    A batch is two frames between server and worker, one in each direction.
    """
    lines = [
        COLUMNS,
        "|--:|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for row in rows:
        batch = "" if row.texts_per_batch is None else f"{row.texts_per_batch:.1f}"
        lines.append(
            f"| {row.clients} | {row.server} | {row.rate:.0f} | {1e3 * row.p50:.2f} "
            f"| {1e3 * row.p99:.2f} | {1e6 * row.own:.0f} | {1e6 * row.children:.0f} "
            f"| {row.own_wakes:.2f} | {row.children_wakes:.2f} | {batch} |"
        )
    lone, rate = 1e3 * engine.lone, engine.rate
    alone = (
        f"The engine alone: {lone:.2f} ms a lone text, {rate:.0f} texts/s in batches of {BATCH}."
    )
    notes = [f"- {one}" for one in (alone, *compare(rows, engine, baseline=baseline))]
    return "\n".join([*lines, "", *notes])


def compare(rows: Sequence[Row], engine: Engine, *, baseline: str) -> list[str]:
    """Return for each number of clients what the first server is to the others."""
    found: dict[int, Mapping[str, Row]] = {}
    for row in rows:
        found[row.clients] = {**found.get(row.clients, {}), row.server: row}
    lines = []
    for clients, of in found.items():
        ours, *others = of.values()
        text = (
            f"{clients} clients: {100 * ours.rate / engine.rate:.0f} % of the engine's texts/s, "
            f"p50 {ours.p50 / engine.lone:.2f} × its lone text, processor of the server "
            f"{ours.own / of[baseline].own:.1f} × {baseline}"
        )
        text += "".join(
            f"; requests/s {ours.rate / other.rate:.2f} × and p50 {ours.p50 / other.p50:.2f} × "
            f"{other.server}"
            for other in others
            if other.server != baseline
        )
        lines.append(f"{text}.")
    return lines


def main() -> None:
    """Measure, print, and save if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead", description=__doc__)
    parser.add_argument("--model", default="all-minilm:q8_0", help="model of the catalogue")
    parser.add_argument("--engine", default="openvino", choices=["llama", "openvino"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=4, help="of each server in a round")
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--llama-server", type=Path, help="binary; build_llama_server.sh makes one")
    parser.add_argument("--save", metavar="NAME", help="write benchmarks/results/NAME.md")
    options = parser.parse_args()
    if not is_installed():
        parser.error("wrk is not installed: apt install wrk")
    report = asyncio.run(run(options))
    binary = str(options.llama_server)
    words = [Path(word).name if word == binary else word for word in sys.argv[1:]]
    command = " ".join(["python -m benchmarks.overhead", *words])
    backend = list_backends(options.engine)[0].name
    head = f"{describe_machine(read_settings().threads)}, {backend}. Made by `{command}`."
    text = f"{head}\n\n{report}\n"
    print(text)
    if options.save:
        (RESULTS / f"{options.save}.md").write_text(text)


if __name__ == "__main__":
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    main()

"""``python -m benchmarks.inside``: the server's overhead, and the latency beside a large request.

One run answers four questions: how much of the engine's own throughput is left over HTTP; how
long a short query takes while 20,000 texts are computed; what the cache gains; how near the
calibrated setting is to the best of all settings.
"""

import argparse
import asyncio
import os
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import aiohttp
import numpy as np
import psutil

from benchmarks.__main__ import RESULTS, prepare
from benchmarks.alone import EngineAlone, find_spec, list_backends, read_chosen
from benchmarks.contenders import Contender, open_embedd
from benchmarks.report import MIB, describe_machine
from benchmarks.texts import make_ingest, make_workloads
from embedd.config import read_settings
from embedd.engine.settings import Tuning
from embedd.engine.tuning.calibrate import choose_replicas, choose_sizes
from embedd.types import TokenIds

ROUNDS = 3
TURNS = 5  # of each setting, of which the best counts: other programs only make one slower
IDLE_QUERIES = 100
CACHE = 64 * MIB
PAUSE = 0.05  # seconds between the queries of a user


def time_alone(alone: EngineAlone, sequences: Sequence[TokenIds]) -> float:
    """Return the seconds to encode *sequences*."""
    start = time.perf_counter()
    alone.encode(sequences)
    return time.perf_counter() - start


async def measure_overhead(embedd: Contender, alone: EngineAlone, scale: float) -> str:
    """Compare throughput over HTTP with the engine's own, on 64 passages × 4."""
    workload = make_workloads(scale=scale)[2]
    texts = [text for request in workload.requests for text in request]
    sequences = alone.engines[0].tokenizer.tokenize(texts)
    over_http, inside = [], []
    for _ in range(ROUNDS):
        inside.append(await asyncio.to_thread(time_alone, alone, sequences))
        over_http.append(await send_all(embedd, workload.requests, workload.clients))
    share = statistics.median(inside) / statistics.median(over_http)
    return (
        f"64 passages × 4: {len(texts) / statistics.median(over_http):.1f} texts/s over HTTP, "
        f"{len(texts) / statistics.median(inside):.1f} by the engine alone: {100 * share:.0f} %."
    )


async def send_all(embedd: Contender, requests: Sequence[Sequence[str]], clients: int) -> float:
    """Return the seconds for all *requests*."""
    waiting = deque(requests)

    async def client() -> None:
        while waiting:
            await embedd.embed(waiting.popleft())

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return time.perf_counter() - start


async def measure_latency(embedd: Contender, count: int) -> str:
    """Measure short queries beside *count* texts in one request, and the peak of memory."""
    idle = [await ask(embedd, number) for number in range(IDLE_QUERIES)]
    before = await read_batches(embedd)
    large = asyncio.ensure_future(embedd.embed(make_ingest(texts=count).requests[0]))
    beside: list[float] = []
    server = workers = 0
    start = time.perf_counter()
    while not large.done():
        beside.append(await ask(embedd, len(beside)))
        process = psutil.Process(embedd.pid)
        server = max(server, process.memory_info().rss)
        workers = max(workers, sum(one.memory_info().rss for one in process.children()))
        await asyncio.sleep(PAUSE)
    seconds = time.perf_counter() - start
    after = await read_batches(embedd)
    batches, busy = (now - then for now, then in zip(after, before, strict=True))
    bulk = batches - len(beside)
    longest = 1000 * (busy - len(beside) * statistics.median(idle)) / bulk
    p50 = 1000 * statistics.median(idle)
    p95 = [1000 * float(np.percentile(of, 95)) for of in (idle, beside)]
    return (
        f"{count} texts in one request: {count / seconds:.0f} texts/s. A short query: p95 "
        f"{p95[0]:.1f} ms when idle (p50 {p50:.1f}), {p95[1]:.1f} ms beside it "
        f"({len(beside)} queries); one batch takes {longest:.1f} ms. Peak resident: "
        f"server {server / MIB:.0f} MiB, worker {workers / MIB:.0f} MiB."
    )


async def ask(embedd: Contender, number: int) -> float:
    """Return the seconds for one short text."""
    start = time.perf_counter()
    await embedd.embed([f"How far is it to station number {number}?"])
    return time.perf_counter() - start


async def read_batches(embedd: Contender) -> list[float]:
    """Return the number of batches that the engine has computed so far, and their seconds."""
    names = ("batch_seconds_count", "batch_seconds_sum")
    async with aiohttp.ClientSession() as session, session.get(f"{embedd.url}/metrics") as reply:
        lines = (await reply.text()).splitlines()
    return [
        sum(float(line.split()[-1]) for line in lines if line.startswith(f"embedd_{name}{{"))
        for name in names
    ]


async def measure_cache(embedd: Contender) -> str:
    """Measure the same 1,000 texts, computed once and then cached."""
    texts = make_ingest(texts=1000).requests[0]
    seconds = []
    for _ in range(1 + ROUNDS):
        start = time.perf_counter()
        await embedd.embed(texts)
        seconds.append(time.perf_counter() - start)
    first, again = seconds[0], statistics.median(seconds[1:])
    return (
        f"1,000 texts in one request: {1000 / first:.0f} texts/s; the same again, from the cache: "
        f"{1000 / again:.0f} texts/s."
    )


def compare_settings(model: str, engine: str, chosen: Tuning, cores: int) -> str:
    """Compare the calibrated setting with every other, in texts/s on passages."""
    spec = find_spec(model)
    settings = [
        Tuning(replicas=replicas, batch_tokens=size, backend=chosen.backend)
        for replicas in choose_replicas(cores)
        for size in choose_sizes(spec, list_backends(engine)[0])
    ]
    texts = [text for request in make_workloads(scale=0.2)[2].requests for text in request]
    rates: dict[tuple[int, int | None], float] = {}
    opened = [EngineAlone(model, engine, one, cores) for one in settings]
    sequences = opened[0].engines[0].tokenizer.tokenize(texts)
    for _ in range(TURNS):
        for one, alone in zip(settings, opened, strict=True):
            setting = (one.replicas, one.batch_tokens)
            rate = len(texts) / time_alone(alone, sequences)
            rates[setting] = max(rate, rates.get(setting, 0.0))
    for alone in opened:
        alone.close()
    best = max(rates, key=lambda setting: rates[setting])
    ours = rates[chosen.replicas, chosen.batch_tokens]
    return (
        f"Calibrated: {chosen.replicas} × {chosen.batch_tokens} tokens, {ours:.1f} texts/s; the "
        f"best of {len(rates)} settings tried by hand: {best[0]} × {best[1]}, "
        f"{rates[best]:.1f}: {100 * ours / rates[best]:.0f} % (of {TURNS} turns of each the best)."
    )


async def run(options: argparse.Namespace) -> list[str]:
    """Return a line for each question, for one engine."""
    cores = read_settings().threads
    gguf = await asyncio.to_thread(prepare, options.model)
    async with AsyncExitStack() as stack:
        state = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        embedd = await stack.enter_async_context(
            open_embedd(gguf, cores, options.engine, state=state)
        )
        await ask(embedd, 0)
        chosen = read_chosen(state)
        alone = await asyncio.to_thread(EngineAlone, options.model, options.engine, chosen, cores)
        lines = [await measure_overhead(embedd, alone, options.scale)]
        await asyncio.to_thread(alone.close)
        lines.append(await measure_latency(embedd, options.texts))
    async with open_embedd(gguf, cores, options.engine, cache=CACHE) as embedd:
        lines.append(await measure_cache(embedd))
    lines.append(
        await asyncio.to_thread(compare_settings, options.model, options.engine, chosen, cores)
    )
    return lines


def main() -> None:
    """Measure, print, and save if asked."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inside", description=__doc__)
    parser.add_argument("--model", default="all-minilm:q8_0", help="model of the catalogue")
    parser.add_argument("--engine", default="llama", choices=["llama", "openvino"])
    parser.add_argument("--texts", type=int, default=20_000, help="of the large request")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the passages")
    parser.add_argument("--save", metavar="NAME", help="write benchmarks/results/NAME.md")
    options = parser.parse_args()
    lines = asyncio.run(run(options))
    command = "python -m benchmarks.inside " + " ".join(sys.argv[1:])
    backend = list_backends(options.engine)[0].name
    head = f"{describe_machine(read_settings().threads)}, {backend}. Made by `{command}`."
    text = "\n".join([head, "", *(f"- {line}" for line in lines)]) + "\n"
    print(text)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.save}.md").write_text(text)


if __name__ == "__main__":
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    main()

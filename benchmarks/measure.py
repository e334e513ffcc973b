"""Measurement of contenders on workloads, interleaved."""

import asyncio
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.contenders import Contender
from benchmarks.libraries import Matrix
from benchmarks.texts import Workload


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One round: total seconds, seconds of each request, resident bytes at the end."""

    seconds: float
    latencies: Sequence[float]
    resident: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Medians over the rounds of one contender on one workload; latencies in seconds.

    ``cosine`` is the smallest cosine to the reference over the first request.
    """

    workload: str
    contender: str
    texts_per_second: float
    tokens_per_second: float
    p50: float
    p99: float
    resident: int
    cosine: float


async def measure(
    contenders: Sequence[Contender],
    workloads: Sequence[Workload],
    *,
    rounds: int,
    tokens: dict[str, int],
    reference: Contender,
) -> list[Result]:
    """Measure every contender on every workload, *rounds* times, taking turns in a round."""
    results = []
    for workload in workloads:
        samples: dict[str, list[Sample]] = {one.name: [] for one in contenders}
        for contender in contenders:
            await _send(contender, workload, share=0.2)  # warm up
        for _ in range(rounds):
            for contender in contenders:
                samples[contender.name].append(await _send(contender, workload))
        for contender in contenders:
            cosine = await least_cosine(contender, reference, workload)
            result = _summarize(workload, contender.name, samples[contender.name], tokens, cosine)
            results.append(result)
            rate = f"{result.texts_per_second:9.1f} texts/s"
            print(f"  {result.workload:32} {result.contender:24} {rate}", flush=True)
    return results


async def least_cosine(contender: Contender, reference: Contender, workload: Workload) -> float:
    """Return the smallest cosine to *reference* on the workload's first request."""
    texts = workload.requests[0][:64]
    ours = contender.parse(await contender.embed(texts))
    theirs = reference.parse(await reference.embed(texts))
    return float(_cosines(ours, theirs).min())


async def _send(contender: Contender, workload: Workload, share: float = 1.0) -> Sample:
    count = max(1, int(len(workload.requests) * share))
    waiting = list(reversed(workload.requests[:count]))
    latencies: list[float] = []

    async def client() -> None:
        while waiting:
            texts = waiting.pop()
            start = time.perf_counter()
            await contender.embed(texts)
            latencies.append(time.perf_counter() - start)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(workload.clients)))
    return Sample(
        seconds=time.perf_counter() - start,
        latencies=latencies,
        resident=contender.resident_bytes(),
    )


def _summarize(
    workload: Workload,
    contender: str,
    samples: Sequence[Sample],
    tokens: dict[str, int],
    cosine: float,
) -> Result:
    seconds = statistics.median(one.seconds for one in samples)
    latencies = np.concatenate([one.latencies for one in samples])
    return Result(
        workload=workload.name,
        contender=contender,
        texts_per_second=workload.texts / seconds,
        tokens_per_second=tokens[workload.name] / seconds,
        p50=float(np.percentile(latencies, 50)),
        p99=float(np.percentile(latencies, 99)),
        resident=max(one.resident for one in samples),
        cosine=cosine,
    )


def _cosines(a: Matrix, b: Matrix) -> Matrix:
    product: Matrix = (a * b).sum(axis=1)
    norms: Matrix = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return product / norms

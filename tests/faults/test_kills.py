"""Workers that are killed or stopped from outside, or run out of memory: no input is at fault."""

import asyncio
import random
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import psutil

from tests.faults.client import Answer, embed_patiently
from tests.faults.conftest import Scale
from tests.faults.figures import Figures
from tests.faults.process import MIB, Home, Server

CLIENTS = 32
ALIKE = 1e-3  # 1 − cosine: between backends; texts of the scenarios differ by more


def make_texts(count: int) -> list[str]:
    """Texts of some twenty tokens that differ from each other."""
    chosen = random.Random(7)
    words = ("why", "sky", "blue", "hello", "world", "query", "test", "document")
    return [f"{n} " + " ".join(chosen.choices(words, k=12)) for n in range(count)]


def to_unit(answer: Answer) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    assert answer.status == 200, answer.body
    return np.array(answer.json["embeddings"])


async def serve_all(server: Server, texts: list[str], statuses: list[int]) -> list[Answer]:
    """Answers to all *texts* from 32 patient clients, whose statuses are added to *statuses*."""
    answers: dict[int, Answer] = {}
    left = list(enumerate(texts))[::-1]

    async def work() -> None:
        while left:
            row, text = left.pop()
            answers[row] = await embed_patiently(server.port, text, model="tiny", tries=statuses)

    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return [answers[row] for row in range(len(texts))]


def count_right(answers: list[Answer], expected: list[Answer]) -> int:
    """How many answers have the vector of their text."""
    right = 0
    for answer, wanted in zip(answers, expected, strict=True):
        if answer.status == 200:
            cosine = float((to_unit(answer) * to_unit(wanted)).sum())
            right += cosine > 1 - ALIKE
    return right


async def test_a_kill_every_second_costs_no_answer(
    home: Home, scale: Scale, figures: Figures
) -> None:
    texts = make_texts(scale.choose(short=60, full=1000))
    rounds, pause = (30, 1.0) if scale.full else (2, 0.5)
    kills = 0
    statuses: list[int] = []

    async def kill() -> None:
        nonlocal kills
        for _ in range(rounds):
            kills += server.kill_workers()
            await asyncio.sleep(pause)

    with home.open() as server:
        expected = await serve_all(server, texts, [])
        killing = asyncio.ensure_future(kill())
        wrong = passes = 0
        while not killing.done():
            answers = await serve_all(server, texts, statuses)
            passes += 1
            wrong += len(texts) - count_right(answers, expected)
        await killing
    figures.note("passes over all texts", passes)
    figures.at_least("kills", kills, scale.choose(short=1, full=5))  # less while none is loaded
    figures.at_most(f"answers of {passes * len(texts)} that are not right", wrong, 0)
    figures.note("answers 503", statuses.count(503))


async def test_random_kills_condemn_no_innocent_text(
    home: Home, scale: Scale, figures: Figures
) -> None:
    kills = scale.choose(short=4, full=300)
    texts = make_texts(40)
    chosen = random.Random(11)
    statuses: list[int] = []
    done = 0

    async def kill() -> None:
        nonlocal done
        while done < kills:
            # After a random time of a worker's life: it starts, loads, computes or is idle.
            await asyncio.sleep(chosen.uniform(0.0, 0.6))
            done += server.kill_workers()

    with home.open() as server:
        expected = await serve_all(server, texts, [])
        killing = asyncio.ensure_future(kill())
        while not killing.done():
            await serve_all(server, texts, statuses)
        await killing
        answers = await serve_all(server, texts, [])
    condemned = len(texts) - count_right(answers, expected)
    figures.note("kills", done)
    figures.note("answers", len(statuses))
    figures.at_most("innocent texts that are refused", condemned, 0)
    figures.at_most("answers but 200 and 503", sum(one not in {200, 503} for one in statuses), 0)


async def test_a_worker_that_is_stopped_costs_no_answer(
    home: Home, scale: Scale, figures: Figures
) -> None:
    """It goes on after a moment, or never: then another one takes its place."""
    texts = make_texts(scale.choose(short=20, full=200))
    pauses = [0.5] if not scale.full else [0.5, 3.0, None, None]
    with home.open() as server:
        expected = await serve_all(server, texts, [])
        for pause in pauses:
            [worker] = server.workers
            worker.suspend()
            asking = asyncio.ensure_future(serve_all(server, texts, []))
            if pause is not None:
                await asyncio.sleep(pause)
                worker.resume()
            answers = await asking
            name = "for ever" if pause is None else f"for {pause:g} s"
            wrong = len(texts) - count_right(answers, expected)
            figures.at_most(f"stopped {name}: answers that are not right", wrong, 0)
            if pause is None:
                worker.wait(60)


async def test_a_worker_that_runs_out_of_memory_costs_no_answer(
    home: Home, scale: Scale, figures: Figures
) -> None:
    """By a limit of its address space, and of its control group where one can be made."""
    texts = make_texts(scale.choose(short=20, full=200))
    with home.open(PRECISION="f32") as server:  # a fallback computes the same
        expected = await serve_all(server, texts, [])
        for name, limit in [("address space", limit_addresses), ("control group", limit_group)]:
            [worker] = server.workers
            with limit(worker) as is_limited:
                if not is_limited:
                    figures.note(f"{name}: limit", "not available")
                    continue
                answers = await serve_all(server, texts * 4, [])
                wrong = len(answers) - count_right(answers, expected * 4)
                figures.at_most(f"{name}: answers that are not right", wrong, 0)
                figures.note(f"{name}: the worker died", "no" if worker.is_running() else "yes")


@contextmanager
def limit_addresses(worker: psutil.Process) -> Iterator[bool]:
    """Let the worker have a little more than it has."""
    if not hasattr(worker, "rlimit"):
        yield False
        return
    size = worker.memory_info().vms + MIB
    worker.rlimit(psutil.RLIMIT_AS, (size, size))
    yield True


@contextmanager
def limit_group(worker: psutil.Process) -> Iterator[bool]:
    """Put the worker into a control group with less memory than it needs to go on."""
    group = Path("/sys/fs/cgroup/memory/embedd-faults")
    try:
        group.mkdir()
    except OSError:
        yield False
        return
    try:
        (group / "memory.limit_in_bytes").write_text(str(MIB))
        (group / "cgroup.procs").write_text(str(worker.pid))
        yield True
    finally:
        with suppress(OSError):
            for line in (group / "cgroup.procs").read_text().split():
                (group.parent / "cgroup.procs").write_text(line)
        group.rmdir()

"""Workers that are killed or stopped from outside, or run out of memory: no input is at fault."""

import asyncio
import random

import numpy as np

from tests.faults.client import Answer, embed_patiently
from tests.faults.conftest import Scale
from tests.faults.figures import Figures
from tests.faults.process import Home, Server

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
    figures.at_least("kills", kills, rounds // 2)
    figures.at_most(f"answers of {passes * len(texts)} that are not right", wrong, 0)
    figures.note("answers 503", statuses.count(503))

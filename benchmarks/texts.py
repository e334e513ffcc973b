"""Workloads: seeded texts of everyday words, so that every contender gets the same."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

WORDS = (
    "the of and a to in is you that it he was for on are as with his they at be this have from "
    "or one had by word but not what all were we when your can said there use an each which she "
    "do how their if will up other about out many then them these so some her would make like him "
    "into time has look two more write go see number no way could people my than first water been "
    "call who oil its now find long down day did get come made may part river mountain garden "
    "engine history science music language children winter summer morning evening kitchen window "
    "teacher doctor market village island ocean forest animal machine computer network protein "
    "energy climate economy policy election parliament contract insurance hospital medicine"
).split()


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Requests that *clients* clients share and send, each one after the other."""

    name: str
    requests: Sequence[Sequence[str]]
    clients: int

    @property
    def texts(self) -> int:
        """Texts in all requests."""
        return sum(map(len, self.requests))


def make_workloads(seed: int = 7, scale: float = 1.0) -> list[Workload]:
    """Return the workloads of the results table; *scale* below 1 shortens them."""
    pick = random.Random(seed)

    def text(words: int) -> str:
        return " ".join(pick.choices(WORDS, k=words)).capitalize() + "."

    def requests(count: int, texts: int, least: int, most: int) -> list[list[str]]:
        count = max(2, int(count * scale))
        return [[text(pick.randint(least, most)) for _ in range(texts)] for _ in range(count)]

    return [
        Workload(name="one short text, 1 client", requests=requests(200, 1, 6, 10), clients=1),
        Workload(name="one short text, 32 clients", requests=requests(1600, 1, 6, 10), clients=32),
        Workload(name="64 passages, 4 clients", requests=requests(8, 64, 60, 100), clients=4),
        Workload(name="mixed lengths, 8 clients", requests=requests(64, 8, 3, 180), clients=8),
        Workload(
            name="300-word documents, 2 clients", requests=requests(24, 2, 300, 300), clients=2
        ),
    ]


def make_ingest(seed: int = 11, texts: int = 20_000) -> Workload:
    """Return one request with *texts* short passages."""
    pick = random.Random(seed)
    passages = [
        " ".join(pick.choices(WORDS, k=pick.randint(8, 24))).capitalize() for _ in range(texts)
    ]
    return Workload(name=f"{texts} texts in one request", requests=[passages], clients=1)

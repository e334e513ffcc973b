"""Jobs with a computer of vectors in this process, and their outputs as rows."""

import asyncio
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from embedd.bulk.commit import Counts, FolderSink, complete_parts
from embedd.bulk.compute import Compute, Pool, Wanted
from embedd.bulk.ending import finish_job
from embedd.bulk.job import Model, Options
from embedd.bulk.opening import choose_units, folder_of, open_job
from embedd.bulk.parts import choose_output
from embedd.bulk.progress import Progress
from embedd.bulk.remote import RemotePath, Target
from embedd.bulk.runner import ErrorBudget, read_units, run_units
from embedd.bulk.sources import Format, find_paths
from embedd.bulk.units import Limits
from embedd.errors import InvalidInputError
from embedd.types import Arrays

WIDTH = 4
SERVED_BY = "0123456789ab;engine=fake;backend=llama;tokenizer=llama"
MODEL = Model(digest="0123456789ab", prefix="", width=WIDTH)
BAD = "\ue000"  # a text with it cannot be embedded


def vector_of(text: str) -> list[float]:
    """A vector that depends on the text and on nothing else."""
    numbers = np.random.default_rng(zlib.crc32(text.encode())).standard_normal(WIDTH)
    return [float(one) for one in numbers]


@dataclass
class FakeCompute:
    """Computes `vector_of` each text.

    Attributes:
        requests: The texts of each request.
        names: Whether an error names the text at fault.
        before: Called before each request is answered.
    """

    served_by: str = SERVED_BY
    names: bool = True
    before: Callable[[Sequence[str]], None] = lambda _texts: None
    requests: list[list[str]] = field(default_factory=list)

    async def __call__(self, texts: Sequence[str]) -> Arrays:
        await asyncio.sleep(0)
        self.requests.append(list(texts))
        self.before(texts)
        for index, text in enumerate(texts):
            if BAD in text:
                raise InvalidInputError(
                    "the text is bad", index=index if self.names else None, tokens=9, limit=8
                )
        return Arrays(
            vectors=np.array([vector_of(one) for one in texts], np.float32),
            tokens=sum(len(one) // 4 + 1 for one in texts),
            cut=sum(len(one) > 1000 for one in texts),
            served_by=self.served_by,
        )

    def __hash__(self) -> int:
        return id(self)


def run_job(
    inputs: Sequence[Path | str],
    target: Target,
    compute: Compute | None = None,
    *,
    limits: Limits | None = None,
    shard: tuple[int, int] = (1, 1),
    model: Model = MODEL,
    stop: Callable[[asyncio.Event], None] = lambda _event: None,
    wanted: Wanted | None = None,
    form: Format | None = None,
    mixed: bool = False,
    budget: ErrorBudget | None = None,
    notify: Callable[[str], object] = lambda _text: None,
    **options: Any,
) -> Counts | None:
    """Do a job as the command does; return what its output came to, None if parts are missing."""

    async def run() -> Counts | None:
        output = choose_output(target.uri if isinstance(target, RemotePath) else str(target))
        folder = folder_of(target, output, f"{shard[0]}-of-{shard[1]}")
        with folder.lock():
            job = open_job(
                folder,
                target,
                Options(wanted=wanted or Wanted(model="fake"), output=output, **options),
                model,
                find_paths([str(one) for one in inputs], form),
                limits=limits,
                notify=notify,
            )
            units = choose_units(job, complete_parts(folder, job), shard)
            event = asyncio.Event()
            stop(event)
            await run_units(
                job,
                read_units(job, units),
                pool=Pool([compute or FakeCompute()], mixed=mixed),
                sink=FolderSink(folder, output, mixed=mixed),
                progress=Progress(rows=None, size=None, parts=None),
                budget=budget or ErrorBudget(),
                stop=event,
            )
            return finish_job(folder, target, job, [one.part for one in job.units()])

    return asyncio.run(run())


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of JSON lines."""
    return [msgspec.json.decode(line) for line in path.read_bytes().splitlines()]


def write_lines(path: Path, rows: Sequence[object]) -> Path:
    """Write *rows* as JSON lines."""
    path.write_bytes(b"".join(msgspec.json.encode(row) + b"\n" for row in rows))
    return path

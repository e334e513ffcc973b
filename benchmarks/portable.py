"""``python -m benchmarks.portable WHAT WHEEL``: llama.cpp of ``make wheel`` beside that here.

``vectors`` compares those of mixed texts, each alone and all in batches, on every backend of
llama.cpp; ``speed`` compares three workloads, taking turns. Each build has processes of its own.
Linux only.
"""

import argparse
import asyncio
import os
import random
import re
import sys
import tempfile
import time
import zipfile
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from benchmarks.__main__ import prepare
from benchmarks.contenders import Contender, open_in_process
from benchmarks.libraries import OF_BACKENDS, Job, Matrix
from benchmarks.report import describe_machine
from benchmarks.texts import WORDS, Workload
from embedd.config import read_settings

MODELS: Final = ("all-minilm:f32", "all-minilm", "all-minilm:q8_0")
VARIANT: Final = re.compile(r"libggml-cpu-(\w+)\.so$")
LOADED: Final = re.compile(r"libggml-cpu[-\w]*\.so\S*")
TEXTS: Final = 208  # whose vectors are compared
STRANGE: Final = ("a", "Größe, naïve, 東京 \U0001f600", "1234567890 " * 40, "?!" * 150, "\n\t x")


@dataclass(frozen=True, slots=True, kw_only=True)
class Build:
    """A build of llama.cpp; ``folder`` is one that Python searches first, None for that here."""

    name: str
    folder: Path | None = None

    def make_environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the environment of a process that loads this build."""
        if self.folder is None:
            return dict(environ)
        searched = [str(self.folder), *filter(None, [environ.get("PYTHONPATH")])]
        return {**environ, "PYTHONPATH": os.pathsep.join(searched)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Seconds of a workload by build, (rounds, requests)."""

    workload: str
    seconds: Mapping[str, npt.NDArray[np.float64]]

    def to_row(self, model: str, first: str, other: str) -> str:
        """Return a row of the table.

        Ratios are within the same round; the last one is of every request's fastest time, which
        other programs on the machine disturb least.
        """
        ours, theirs = (self.seconds[name].sum(axis=1) for name in (first, other))
        fastest, theirs_fastest = (self.seconds[name].min(axis=0).sum() for name in (first, other))
        ratios = theirs / ours
        return (
            f"| {model} | {self.workload} | {other} | {1000 * np.median(ours):.1f} "
            f"| {1000 * np.median(theirs):.1f} | {np.median(ratios):.3f} "
            f"| {ratios.min():.2f}–{ratios.max():.2f} | {theirs_fastest / fastest:.3f} |"
        )


def unpack(wheel: Path, folder: Path, variant: str | None = None) -> Build:
    """Unpack *wheel* into *folder*.

    Args:
        variant: The only backend for CPUs that is kept, such as ``haswell``; None keeps all.

    Raises:
        ValueError: The wheel has no such backend.
    """
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder)
    backends = [
        (path, found[1]) for path in folder.rglob("*.so") if (found := VARIANT.match(path.name))
    ]
    names = {name for _, name in backends}
    if variant is None:
        return Build(name="the wheel", folder=folder)
    if variant not in names:
        raise ValueError(f"{wheel} has no backend {variant}: it has {', '.join(sorted(names))}")
    for path, name in backends:
        if name != variant:
            path.unlink()
    return Build(name=variant, folder=folder)


def read_loaded(maps: str) -> str:
    """Return the file name of ggml's backend for CPUs in a process's ``/proc/…/maps``."""
    return ", ".join(sorted(set(LOADED.findall(maps)))) or "none"


def make_texts(seed: int = 5) -> list[str]:
    """Return texts of one word to 160, and strange ones."""
    pick = random.Random(seed)
    words = [" ".join(pick.choices(WORDS, k=pick.randint(1, 160))) for _ in range(TEXTS)]
    return [*STRANGE, *words[len(STRANGE) :]]


def make_workloads(seed: int = 7) -> list[Workload]:
    """Return the workloads of ``speed``; every text of one has about as many tokens as words."""
    pick = random.Random(seed)

    def requests(count: int, texts: int, words: int) -> list[list[str]]:
        return [
            [" ".join(pick.choices(WORDS, k=words)) for _ in range(texts)] for _ in range(count)
        ]

    return [
        Workload(name="50 short texts, one at a time", requests=requests(50, 1, 8), clients=1),
        Workload(name="32 short texts, 4 times", requests=requests(4, 32, 8), clients=1),
        Workload(name="64 passages of 128 tokens", requests=requests(1, 64, 126), clients=1),
    ]


def find_least_cosine(ours: Matrix, theirs: Matrix) -> tuple[float, int]:
    """Return the least cosine of rows at the same place, and how many rows are equal."""
    a, b = ours.astype(np.float64), theirs.astype(np.float64)
    norms = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosines = (a * b).sum(axis=1) / norms
    return float(cosines.min()), int((ours == theirs).all(axis=1).sum())


@asynccontextmanager
async def open_builds(
    builds: Iterable[Build], model: str, backend: str
) -> AsyncIterator[dict[str, Contender]]:
    """Open *backend* of each build with *model*, by the name of the build."""
    gguf = await asyncio.to_thread(prepare, model)
    job = Job(model, str(gguf), read_settings().threads, Path())
    async with AsyncExitStack() as stack:
        opened = {}
        for build in builds:
            environment = build.make_environment(os.environ)
            opened[build.name] = await stack.enter_async_context(
                open_in_process(backend, job, environment)
            )
        yield opened


async def compare_vectors(builds: Sequence[Build], models: Sequence[str]) -> AsyncIterator[str]:
    """Yield a table of the least cosines to the first build."""
    yield "| model | backend | build | library | alone: least cosine | equal | batches | equal |"
    yield "|---|---|---|---|--:|--:|--:|--:|"
    texts = make_texts()
    for model in models:
        for backend in OF_BACKENDS:
            async with open_builds(builds, model, backend) as contenders:
                vectors = {name: await embed_both(one, texts) for name, one in contenders.items()}
                loaded = {name: read_maps(one.pid) for name, one in contenders.items()}
            (alone, batched), *others = vectors.values()
            for name, (of_alone, of_batched) in zip(list(vectors)[1:], others, strict=True):
                one_by_one = find_least_cosine(alone, of_alone)
                together = find_least_cosine(batched, of_batched)
                yield (
                    f"| {model} | {backend} | {name} | {loaded[name]} "
                    f"| {one_by_one[0]:.9f} | {one_by_one[1]} of {len(texts)} "
                    f"| {together[0]:.9f} | {together[1]} of {len(texts)} |"
                )


def read_maps(pid: int) -> str:
    """Return the backend for CPUs that a process has loaded."""
    return read_loaded(Path(f"/proc/{pid}/maps").read_text())


async def embed_both(contender: Contender, texts: Sequence[str]) -> tuple[Matrix, Matrix]:
    """Return the vectors of *texts*, each computed alone, and all in batches."""
    alone = [contender.parse(await contender.embed([text])) for text in texts]
    return np.concatenate(alone), contender.parse(await contender.embed(texts))


async def compare_speed(
    builds: Sequence[Build], models: Sequence[str], rounds: int
) -> AsyncIterator[str]:
    """Yield a table of times; builds take turns, and each round begins with another one."""
    first = builds[0].name
    yield f"| model | workload | build | ms, {first} | ms | × | least and most | × fastest |"
    yield "|---|---|---|--:|--:|--:|--:|--:|"
    for model in models:
        async with open_builds(builds, model, next(iter(OF_BACKENDS))) as contenders:
            for workload in make_workloads():
                speed = await time_builds(contenders, workload, rounds)
                for other in list(contenders)[1:]:
                    yield speed.to_row(model, first, other)


async def time_builds(
    contenders: Mapping[str, Contender], workload: Workload, rounds: int
) -> Speed:
    """Measure *workload* on each contender, *rounds* times after a first one for warmth."""
    seconds: dict[str, list[list[float]]] = {name: [] for name in contenders}
    names = list(contenders)
    for number in range(1 + rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            seconds[name].append(
                [await time_one(contenders[name], one) for one in workload.requests]
            )
    return Speed(
        workload=workload.name,
        seconds={name: np.array(taken[1:]) for name, taken in seconds.items()},
    )


async def time_one(contender: Contender, texts: Sequence[str]) -> float:
    """Return the seconds of one request."""
    start = time.perf_counter()
    await contender.embed(texts)
    return time.perf_counter() - start


async def run(options: argparse.Namespace) -> None:
    """Unpack the wheel, once for each variant, compare, and print as it goes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        builds = [
            Build(name="compiled here"),
            *(
                unpack(options.wheel, folder / (variant or "all"), variant)
                for variant in (None, *options.variant)
            ),
        ]
        models = options.model or MODELS
        if options.what == "vectors":
            lines = compare_vectors(builds, models)
        else:
            lines = compare_speed(builds, models, options.rounds)
        async for line in lines:
            print(line, flush=True)


def main() -> None:
    """Parse the arguments, and say what is measured where."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.portable", description=__doc__)
    parser.add_argument("what", choices=["vectors", "speed"])
    parser.add_argument("wheel", type=Path, help="of llama-cpp-python, in wheels/")
    parser.add_argument("--variant", action="append", default=[], help="as well: haswell for AVX2")
    parser.add_argument("--model", action="append", help="of the catalogue; default: three")
    parser.add_argument("--rounds", type=int, default=9, help="of speed")
    options = parser.parse_args()
    words = [Path(word).name if word == str(options.wheel) else word for word in sys.argv[1:]]
    machine = describe_machine(read_settings().threads)
    print(f"{machine}. Made by `python -m benchmarks.portable {' '.join(words)}`.\n", flush=True)
    asyncio.run(run(options))


if __name__ == "__main__":
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    main()

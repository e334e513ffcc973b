"""``python -m benchmarks.bulk``: the speed of ``embedd bulk``, and its memory with many rows.

``speed`` embeds the same short texts with the engine alone, with ``--local`` and with
``--server``, one after the other in every round; only ratios count. ``memory`` computes nothing:
it reads, plans and writes, with made-up vectors, and prints the peak of the process. ``plan`` does
so for the plan of a large text file alone.
"""

import argparse
import asyncio
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np

from benchmarks.__main__ import prepare
from benchmarks.alone import EngineAlone, read_chosen
from benchmarks.contenders import Contender, open_embedd
from benchmarks.report import describe_machine
from benchmarks.texts import make_ingest
from embedd.bulk.commit import FolderSink
from embedd.bulk.compute import Pool, Wanted
from embedd.bulk.ending import finish_job
from embedd.bulk.folder import Folder
from embedd.bulk.job import Model, Options
from embedd.bulk.opening import folder_of, open_job
from embedd.bulk.parts import Output, choose_output
from embedd.bulk.progress import Progress
from embedd.bulk.runner import ErrorBudget, UnitsWithRows, read_units, run_units
from embedd.bulk.sources import find_paths
from embedd.config import read_settings
from embedd.types import Arrays

TOTALS = re.compile(r"errors, ([0-9.]+) s")


def time_engine(alone: EngineAlone, texts: Sequence[str]) -> float:
    """Return the seconds to compute *texts*, which are tokenized before, by the engine alone."""
    sequences = alone.engines[0].tokenizer.tokenize(texts)
    start = time.perf_counter()
    alone.encode(sequences)
    return time.perf_counter() - start


def time_bulk(model: str, source: Path, state: Path, *options: str) -> float:
    """Return the seconds that the units of a job take, without the load of the model."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "embedd", "bulk", model, str(source)]
        command += ["-o", f"{folder}/vectors.npy", "--progress", "none", *options]
        environment = {**os.environ, "EMBEDD_STATE": str(state)}
        done = subprocess.run(
            command, env=environment, check=True, stderr=subprocess.PIPE, text=True
        )
    found = TOTALS.search(done.stderr)
    if found is None:
        raise RuntimeError(done.stderr)
    return float(found[1])


async def measure_speed(options: argparse.Namespace) -> str:
    """Compare the three ways in turns."""
    cores = read_settings().threads
    gguf = await asyncio.to_thread(prepare, options.model)
    texts = list(make_ingest(texts=options.rows).requests[0])
    seconds: dict[str, list[float]] = {"engine": [], "--local": [], "--server": []}
    with tempfile.TemporaryDirectory() as folder:
        state, source = Path(folder) / "state", Path(folder) / "texts.txt"
        source.write_text("\n".join(texts))
        async with open_embedd(gguf, cores, options.engine, state=state) as embedd:
            chosen = read_chosen(state)
            for _ in range(options.rounds):
                alone = await asyncio.to_thread(
                    EngineAlone, options.model, options.engine, chosen, cores
                )
                seconds["engine"].append(await asyncio.to_thread(time_engine, alone, texts))
                await asyncio.to_thread(alone.close)
                for way, (model, *more) in ways(embedd, options).items():
                    took = await asyncio.to_thread(time_bulk, model, source, state, *more)
                    seconds[way].append(took)
    medians = {way: statistics.median(times) for way, times in seconds.items()}
    lines = [f"{options.rows} short texts, {describe_machine(cores)}, {chosen}:"]
    lines += [
        f"- {way}: {options.rows / took:.0f} texts/s, {100 * medians['engine'] / took:.0f} %"
        for way, took in medians.items()
    ]
    return "\n".join(lines)


def ways(embedd: Contender, options: argparse.Namespace) -> dict[str, list[str]]:
    """Return the model and the options of each way to run the command."""
    return {
        "--local": [options.model, "--local"],
        "--server": ["bench", "--server", embedd.url],
    }


async def measure_memory(rows: int, out: str, width: int) -> str:
    """Do a job whose vectors are made up."""
    numbers = np.random.default_rng(7).standard_normal((2000, width), np.float32)

    async def compute(texts: Sequence[str]) -> Arrays:
        await asyncio.sleep(0)
        vectors = numbers[: len(texts)].copy()
        return Arrays(vectors=vectors, tokens=sum(map(len, texts)), served_by="nothing")

    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "a.jsonl", Path(name) / out
        with source.open("wb") as file:
            for row in range(rows):
                line = {"id": f"k{row}", "text": f"The text with the number {row}"}
                file.write(msgspec.json.encode(line) + b"\n")
        output = choose_output(str(target))
        folder = folder_of(target, output, "1-of-1")
        model = Model(digest="0" * 12, prefix="", width=width)
        wanted = Options(wanted=Wanted(model="nothing"), output=output, id="id")
        peaks: list[float] = []
        start = time.perf_counter()
        with folder.lock():
            job = open_job(folder, target, wanted, model, find_paths([str(source)]))
            progress = Progress(rows=rows, size=None, parts=None)
            await run_units(
                job,
                watch(read_units(job, job.units()), peaks),
                pool=Pool([compute]),
                sink=FolderSink(folder, output),
                progress=progress,
                budget=ErrorBudget(),
                stop=asyncio.Event(),
            )
            peaks.append(_peak())
            finish_job(folder, target, job, [unit.part for unit in job.units()])
        seconds = time.perf_counter() - start
        units = len(job.units())
    third = peaks[min(2, len(peaks) - 1)]
    return (
        f"{rows} rows × {width} in {units} units → {out}: peak {_peak():.0f} MiB, "
        f"{third:.0f} MiB when the third unit began; {rows / seconds:.0f} rows/s"
    )


def measure_plan(size: int) -> str:
    """Plan a text file of *size* bytes, and read its last units."""
    with tempfile.TemporaryDirectory() as name:
        source, target = Path(name) / "a.txt", Path(name) / "out"
        line = b"The quick brown fox jumps over the lazy dog. " * 3
        block = b"".join(b"%08d %b\n" % (row, line[: 40 + row % 90]) for row in range(20_000))
        with source.open("wb") as file:
            while file.tell() < size:
                file.write(block)
        wanted = Options(wanted=Wanted(model="nothing"), output=Output.FOLDER)
        model = Model(digest="0" * 12, prefix="", width=384)
        before, start = _peak(), time.perf_counter()
        with Folder(target).lock():
            job = open_job(Folder(target), target, wanted, model, find_paths([str(source)]))
        units = job.units()
        seconds = time.perf_counter() - start
        last = sum(len(rows.texts) for _, rows in read_units(job, units[-2:]))
        rows = sum(unit.range.rows for unit in units)
        return (
            f"{source.stat().st_size} bytes, {rows} rows in {len(units)} units, {last} of them in "
            f"the last two: {seconds:.1f} s, peak {before:.0f} MiB before, {_peak():.0f} MiB after"
        )


def watch(work: UnitsWithRows, peaks: list[float]) -> UnitsWithRows:
    """Yield what *work* yields, and note the peak of the process before each unit."""
    for one in work:
        peaks.append(_peak())
        yield one


def _peak() -> float:
    # `getrusage` would begin with the peak of the process that started this one.
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024  # type: ignore[index]  # Linux has it


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bulk", description=__doc__)
    parser.add_argument("what", choices=["speed", "memory", "plan"])
    parser.add_argument("--rows", type=int, help="default: 200,000 for speed, 1,000,000 for memory")
    parser.add_argument("--model", default="all-minilm", help="model of the catalogue")
    parser.add_argument("--engine", default="openvino", choices=["llama", "openvino"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--width", type=int, default=384, help="numbers of a vector, of memory")
    parser.add_argument("--bytes", type=int, default=2 << 30, help="of the text file, of plan")
    parser.add_argument("--output", default="out", help="of memory: out, x.npy, x.jsonl …")
    options = parser.parse_args()
    options.rows = options.rows or (200_000 if options.what == "speed" else 1_000_000)
    if options.what == "plan":
        print(measure_plan(options.bytes))
    elif options.what == "speed":
        print(asyncio.run(measure_speed(options)))
    else:
        print(asyncio.run(measure_memory(options.rows, options.output, options.width)))


if __name__ == "__main__":
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    main()

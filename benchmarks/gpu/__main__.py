"""``python -m benchmarks.gpu OUT``: check vectors and measure speed on a GPU, without a network.

Needs a llama.cpp with CUDA (`benchmarks.gpu.wheel` builds one), torch and sentence-transformers.
Results are written to the folder OUT as they come, so that a run that is cut is not lost. On a
machine without a GPU ``--cpu`` tries the same steps.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu import speed
from benchmarks.gpu.checkpoints import BASE, LARGE, write_checkpoint
from benchmarks.gpu.clock import Clock
from benchmarks.gpu.report import count_faults, to_markdown
from benchmarks.gpu.vectors import (
    Model,
    check_families,
    check_model,
    check_replicas,
    make_texts,
)
from benchmarks.libraries import CHECKPOINT, ON_DEVICES, Job, find_checkpoint
from benchmarks.report import describe_machine
from embedd.convert import WeightType, convert_checkpoint

SECONDS: Final = 460.0
SPEED_SECONDS: Final = 120.0  # for one model
STEP_SECONDS: Final = 20.0  # that must be left for another model
PACKAGES: Final = ("llama-cpp-python", "torch", "sentence-transformers", "transformers")


class Results:
    """What was found so far, written to the folder *out* with every change."""

    def __init__(self, out: Path, facts: dict[str, str], clock: Clock) -> None:
        self.out = out
        self.facts = facts
        self.clock = clock
        self.families: list[dict[str, Any]] = []
        self.models: list[dict[str, Any]] = []
        self.speed: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def add(self, rows: list[dict[str, Any]], new: Iterable[dict[str, Any]]) -> None:
        """Append *new* rows to *rows*, one of the lists here."""
        for row in new:
            rows.append(row)
            if row.get("fault"):
                self.clock.say(f"FAULT {row}")
        self.write()

    def note(self, text: str) -> None:
        """Add what the reader of the tables should know."""
        self.clock.say(text)
        self.notes.append(text)
        self.write()

    def write(self) -> None:
        """Write ``results.json`` and ``results.md``."""
        parts = {
            "facts": self.facts,
            "families": self.families,
            "models": self.models,
            "speed": self.speed,
            "notes": self.notes,
        }
        (self.out / "results.json").write_text(json.dumps(parts, indent=1))
        (self.out / "results.md").write_text(to_markdown(*parts.values()))  # type: ignore[arg-type]  # their order is that of the parameters


def main() -> int:
    """Run all steps; returns how many vectors were wrong, at most 100."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("out", type=Path, help="folder for results.json and results.md")
    parser.add_argument("--checkpoint", type=Path, help="folder of the default model's checkpoint")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="for the whole run")
    parser.add_argument("--cpu", action="store_true", help="try it where there is no GPU")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    clock = Clock(options.seconds)
    device = "cpu" if options.cpu else "cuda"
    backend = "llama" if options.cpu else "llama-gpu"
    results = Results(options.out, describe(device), clock)
    clock.say(str(results.facts))
    results.add(results.families, check_families(backend, clock))
    clock.say(f"families: {len(results.families)} rows, {count_faults(results.families)} faults")
    with tempfile.TemporaryDirectory() as folder:
        models = []
        for model in make_models(Path(folder), options.checkpoint, clock, tiny=options.cpu):
            models.append(model)
            check(results, model, Path(folder), device, backend)
        for model in models:
            if model.weights == "f16":
                measure(results, model, Path(folder), device)
    wrong = count_faults([*results.families, *results.models])
    clock.say(f"{wrong} faults")
    return min(wrong, 100)


def describe(device: str) -> dict[str, str]:
    """Return card, driver, processor and versions."""
    cores = len(os.sched_getaffinity(0))
    facts = {"CPU": describe_machine(cores)}
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"]
        output = subprocess.run(query, capture_output=True, text=True, check=True).stdout
        facts = {"GPU": f"{output.splitlines()[0]} (driver)", **facts}
    return facts | {name: version(name) for name in PACKAGES[1:]}


def make_models(folder: Path, default: Path | None, clock: Clock, *, tiny: bool) -> list[Model]:
    """Write checkpoints and GGUFs: the default model and seeded ones of two sizes."""
    if default is None and find_spec(CHECKPOINT):
        default = Path(find_checkpoint())
    if default is None:
        raise SystemExit("the default model's checkpoint is missing: name it with --checkpoint")
    sources = {"all-minilm": default}
    for name, size in {"bert-base, seeded": BASE, "bert-large, seeded": LARGE}.items():
        if not tiny:
            sources[name] = write_checkpoint(folder / name.partition(",")[0], size, default)
    models = []
    for name, source in sources.items():
        for weights in (WeightType.F16, WeightType.Q8_0):
            if weights is WeightType.Q8_0 and source is not default:
                continue
            gguf = folder / f"{name.partition(',')[0]}-{weights.value}.gguf"
            convert_checkpoint(source, gguf, weights=weights, name=name)
            models.append(Model(name=name, checkpoint=source, gguf=gguf, weights=weights.value))
            clock.say(f"{name}, {weights.value}: {gguf.stat().st_size >> 20} MiB")
    return models


def check(results: Results, model: Model, folder: Path, device: str, backend: str) -> None:
    """Compare the vectors of *model* with those of torch in float32."""
    job = Job("", "", len(os.sched_getaffinity(0)), folder, checkpoint=str(model.checkpoint))
    texts = make_texts()
    exact = ON_DEVICES[f"torch f32, {device}"].open(job)(texts)
    path = folder / "texts.json"
    path.write_text(json.dumps(texts))
    rows = check_model(model, np.asarray(exact), path, backend=backend, clock=results.clock)
    results.add(results.models, rows)
    results.add(results.models, [check_replicas(model, backend, results.clock)])
    results.clock.say(f"vectors of {model.name}, {model.weights}, compared")


def measure(results: Results, model: Model, folder: Path, device: str) -> None:
    """Measure the speed of *model* in a process of its own."""
    clock = results.clock
    if clock.left < STEP_SECONDS:
        results.note(f"{model.name}: no time was left to measure its speed")
        return
    work = folder / "speed"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    limit = clock.limit(SPEED_SECONDS)
    places = [str(model.gguf), str(model.checkpoint), str(work)]
    cores = str(len(os.sched_getaffinity(0)))
    command = [sys.executable, "-m", "benchmarks.gpu.speed", model.name, *places, device, cores]
    # In a session of its own, so that its servers end with it.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(limit)
        ended = f"ended with {code}" if code else None
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        ended = f"was stopped after {limit:.0f} s"
    found = work / speed.FILE
    lines = found.read_text().splitlines() if found.exists() else []
    results.add(results.speed, map(json.loads, lines))
    if ended:
        results.note(f"{model.name}: the measurement {ended}")
    clock.say(f"speed of {model.name} measured")


if __name__ == "__main__":
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    sys.exit(main())

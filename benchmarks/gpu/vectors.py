"""Vectors on the GPU against exact ones: every family, and models of real sizes."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.gpu.child import compare
from benchmarks.gpu.clock import Clock
from benchmarks.libraries import Matrix
from benchmarks.texts import make_workloads
from embedd.config import worker_environment
from embedd.gguf.header import read_header_file
from tests.families import FAMILIES

# Of `1 - cosine`: that of the contract suite; and of float16 weights, whose products a GPU may
# compute with the 10 bits of TF32, through up to 24 layers.
FAMILY_DISTANCE: Final = 1e-4
MODEL_DISTANCE: Final = 2e-4
QUANTISED_DISTANCE: Final = 5e-3
SCORE_DIFFERENCE: Final = 5e-3
LENGTH_DIFFERENCE: Final = 0.01
CHILDREN: Final = 16  # at a time: each takes a second to reach the GPU

CHILD: Final = [sys.executable, "-m", "benchmarks.gpu.child"]

Row = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A checkpoint, and a GGUF of it."""

    name: str
    checkpoint: Path
    gguf: Path
    weights: str


def check_families(backend: str, clock: Clock) -> Iterator[Row]:
    """Yield a row for every family, pooling, placement, and company of the texts."""
    names = [family.name for family in FAMILIES.values() if not family.refused]
    layers = ",".join(choose_layers(backend))
    with ThreadPoolExecutor(min(CHILDREN, os.cpu_count() or 1)) as threads:
        answers = threads.map(
            lambda name: run_child("families", backend, layers, name, limit=clock.limit(60)), names
        )
        for name, (found, error) in zip(names, answers, strict=True):
            last = [{"layers": "?", "error": error}] if error else []
            for row in [*found, *last]:
                yield {"family": name, **row, "fault": find_fault(row, FAMILY_DISTANCE)}


def choose_layers(backend: str, layers: int = 2) -> Sequence[str]:
    """Return the placements of a model with so many *layers* on *backend*."""
    return ("all", str(layers // 2)) if backend == "llama-gpu" else ("0",)


def check_model(
    model: Model, exact: Matrix, texts: Path, *, backend: str, clock: Clock
) -> Iterator[Row]:
    """Yield rows for all and for half of the layers, alone and packed, against *exact* vectors."""
    metadata = read_header_file(model.gguf).metadata
    layers = int(str(metadata[f"{metadata['general.architecture']}.block_count"]))
    limit = QUANTISED_DISTANCE if model.weights == "q8_0" else MODEL_DISTANCE
    for placed in choose_layers(backend, layers):
        start = {"model": model.name, "weights": model.weights, "layers": placed}
        out = texts.with_name("vectors.npz")
        found, error = run_child(
            "models", backend, placed, str(model.gguf), str(texts), str(out), limit=clock.limit(90)
        )
        if error:
            yield {**start, "error": error, "fault": error}
            continue
        [said] = found
        with np.load(out) as arrays:
            for how in ("alone", "packed"):
                facts = compare_directions(arrays[how], exact)
                yield {**start, **said, "how": how, **facts, "fault": find_fault(facts, limit)}


def check_replicas(model: Model, backend: str, clock: Clock) -> Row:
    """Return a row for two replicas that compute at a time."""
    layers = choose_layers(backend)[0]
    start = {"model": model.name, "weights": model.weights, "layers": layers, "how": "replicas"}
    found, error = run_child("replicas", backend, layers, str(model.gguf), limit=clock.limit(60))
    facts = found[-1] if found and not error else {"error": error}
    return {**start, **facts, "fault": find_fault(facts, MODEL_DISTANCE)}


def compare_directions(vectors: Matrix, exact: Matrix) -> Row:
    """Return the largest distance of normalised vectors: reference libraries return such."""
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    exact = exact / np.linalg.norm(exact, axis=1, keepdims=True)
    return {"distance": compare(unit, exact.astype(np.float64), scores=False)["distance"]}


def find_fault(row: Row, distance: float) -> str | None:
    """Return what is wrong with the vectors of a *row*, or None."""
    if "error" in row:
        return str(row["error"])
    limits = {
        "difference": SCORE_DIFFERENCE,
        "distance": distance,
        "length": LENGTH_DIFFERENCE,
    }
    # A comparison with a limit that NaN does not pass.
    over = [
        f"{name} {row[name]:.1e}, the limit is {limit:.0e}"
        for name, limit in limits.items()
        if name in row and not row[name] <= limit
    ]
    return "; ".join(over) or None


def run_child(*arguments: str, limit: float) -> tuple[list[Row], str]:
    """Run `benchmarks.gpu.child`; return the rows that it printed, and why there are no more."""
    process = subprocess.Popen(
        [*CHILD, *arguments],
        env=worker_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        output, errors = process.communicate(timeout=limit)
        error = "" if process.returncode == 0 else f"ended with {process.returncode}: "
        error += " ".join(errors.strip().splitlines()[-2:])[-300:] if error else ""
    except subprocess.TimeoutExpired:
        process.kill()
        output, _ = process.communicate()
        error = f"no answer within {limit:.0f} s"
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    return rows, error


def make_texts() -> list[str]:
    """Return texts of every length that the workloads have."""
    return [text for one in make_workloads(scale=0.01) for text in one.requests[0][:8]]

"""Speed of embedd on the GPU beside sentence-transformers on torch, in one interleaved run.

``python -m benchmarks.gpu.speed NAME GGUF CHECKPOINT FOLDER DEVICE CORES`` measures one model and
appends a line of JSON for each contender and workload to FOLDER/speed.jsonl.
"""

import asyncio
import json
import os
import sys
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import aiohttp

from benchmarks.__main__ import count_tokens
from benchmarks.contenders import Contender, open_embedd, open_in_process
from benchmarks.libraries import Job
from benchmarks.measure import measure
from benchmarks.texts import Workload, make_workloads

FILE: Final = "speed.jsonl"
ROUNDS: Final = 3
# Of the requests of the CPU's benchmark, so that each takes a GPU some seconds.
SCALES: Final = {
    "one short text, 1 client": 1.0,
    "one short text, 32 clients": 0.125,
    "64 passages, 4 clients": 4.0,
    "mixed lengths, 8 clients": 1.0,
    "300-word documents, 2 clients": 2.0,
}
CPU_SCALE: Final = 0.02  # to try the run where there is no GPU


def make_gpu_workloads(device: str) -> list[Workload]:
    """Return the workloads of the table, long enough for *device*."""
    share = 1.0 if device == "cuda" else CPU_SCALE
    return [
        one
        for name, scale in SCALES.items()
        for one in make_workloads(scale=scale * share)
        if one.name == name
    ]


async def run(name: str, job: Job, device: str) -> None:
    """Open the contenders and measure one workload after the other."""
    folder, gguf, cores = job.folder, Path(job.gguf), job.cores
    workloads = make_gpu_workloads(device)
    tokens = count_tokens(workloads, gguf)
    async with AsyncExitStack() as stack:
        reference = await stack.enter_async_context(open_in_process(f"torch f32, {device}", job))
        contenders = [
            await stack.enter_async_context(one)
            for one in (
                open_embedd(gguf, cores, "llama"),
                open_in_process(f"torch f{16 if device == 'cuda' else 32}, {device}", job),
            )
        ]
        facts = await read_facts(contenders[0])
        for workload in workloads:
            results = await measure(
                contenders, [workload], rounds=ROUNDS, tokens=tokens, reference=reference
            )
            with (folder / FILE).open("a") as file:
                for result in results:
                    print(json.dumps({"model": name, **asdict(result), **facts}), file=file)


async def read_facts(embedd: Contender) -> dict[str, Any]:
    """Return what the server says of the model: backend, settings, bytes on the GPU."""
    async with aiohttp.ClientSession() as session:
        body = {"model": "bench", "input": "Where is it computed?"}
        async with session.post(f"{embedd.url}/api/embed", json=body) as reply:
            computed = reply.headers["X-Embedd-Model"]
        async with session.get(f"{embedd.url}/api/ps") as reply:
            [model] = (await reply.json())["models"]
    facts = {key: model[key] for key in ("size", "size_vram", "embedd") if key in model}
    return {"computed": computed, "ps": facts}


def main() -> None:
    """Parse the arguments and measure."""
    name, gguf, checkpoint, folder, device, cores = sys.argv[1:]
    job = Job("", gguf, int(cores), Path(folder), checkpoint)
    asyncio.run(run(name, job, device))


if __name__ == "__main__":
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    main()

"""``python -m benchmarks``: all contenders, all workloads, in one interleaved run.

Compare ratios within a run, not figures of different runs: machines are noisy.
"""

import argparse
import asyncio
import os
import sys
import tempfile
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from pathlib import Path

from benchmarks.contenders import Contender, open_embedd, open_in_process, open_llama_server
from benchmarks.libraries import ENGINES, LIBRARIES, Job, find_installed
from benchmarks.measure import measure
from benchmarks.report import draw, to_markdown
from benchmarks.texts import Workload, make_ingest, make_workloads
from embedd.config import read_settings
from embedd.engine.installation import has_openvino
from embedd.resolve import Resolver
from embedd.runtime import open_library, open_store

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Parse the arguments and run."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--model", default="all-minilm:q8_0", help="model of the catalogue")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the requests")
    parser.add_argument("--llama-server", type=Path, help="binary; build_llama_server.sh makes one")
    parser.add_argument(
        "--in-process",
        action="store_true",
        help="libraries and embedd's engines without its server, no servers",
    )
    parser.add_argument("--only", default="", help="workloads whose name contains this")
    parser.add_argument("--ingest", action="store_true", help="20,000 texts in one request as well")
    parser.add_argument("--save", metavar="NAME", help="write benchmarks/results/NAME.{md,svg}")
    asyncio.run(run(parser.parse_args()))


async def run(options: argparse.Namespace) -> None:
    """Open the contenders, measure, print the table."""
    settings = read_settings()
    gguf = await asyncio.to_thread(prepare, options.model)
    exact = await asyncio.to_thread(prepare, "all-minilm:f32")
    workloads = [one for one in make_workloads(scale=options.scale) if options.only in one.name]
    workloads += [make_ingest()] if options.ingest else []
    cores = settings.threads
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        job = Job(options.model, str(gguf), cores, folder)
        of_reference = job._replace(gguf=str(exact))
        reference = await stack.enter_async_context(open_in_process("Llama.embed", of_reference))
        opened = choose_contenders(options, job)
        contenders = [await stack.enter_async_context(one) for one in opened]
        results = await measure(
            contenders,
            workloads,
            rounds=options.rounds,
            tokens=count_tokens(workloads, exact),
            reference=reference,
        )
    baseline = contenders[0].name
    binary = str(options.llama_server)
    words = [Path(word).name if word == binary else word for word in sys.argv[1:]]
    command = "python -m benchmarks " + " ".join(words)
    table = to_markdown(results, baseline=baseline, command=command.strip(), cores=cores)
    print(table)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{options.save}.md").write_text(table)
        draw(results, RESULTS / f"{options.save}.svg", baseline=baseline)


def choose_contenders(
    options: argparse.Namespace, job: Job
) -> list[AbstractAsyncContextManager[Contender]]:
    """Return the contenders that are installed; the first is the baseline of all ratios."""
    libraries = [open_in_process(name, job) for name in find_installed(LIBRARIES)]
    if options.in_process:
        return [*(open_in_process(name, job) for name in find_installed(ENGINES)), *libraries]
    servers = []
    gguf = Path(job.gguf)
    if options.llama_server:
        servers.append(open_llama_server(options.llama_server, gguf, job.cores))
    engines = ["llama", "openvino"] if has_openvino() else ["llama"]
    return [
        *servers,
        *(open_embedd(gguf, job.cores, engine) for engine in engines),
        *libraries,
    ]


def prepare(name: str) -> Path:
    """Pull *name* into the store if it is not there, and return its GGUF."""
    settings = read_settings()
    open_library(settings).pull(name)
    return Resolver(open_store(settings)).resolve(name).spec.path


def count_tokens(workloads: list[Workload], gguf: Path) -> dict[str, int]:
    """Return the tokens of every workload, special tokens included, by llama.cpp's tokenizer."""
    from llama_cpp import Llama

    model = Llama(str(gguf), vocab_only=True, verbose=False)
    return {
        one.name: sum(
            len(model.tokenize(text.encode())) for texts in one.requests for text in texts
        )
        for one in workloads
    }


if __name__ == "__main__":
    os.environ.setdefault("GGML_NO_BACKTRACE", "1")
    main()

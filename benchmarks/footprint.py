"""``python -m benchmarks.footprint``: how fast a server starts, and how much memory it takes.

Cold starts take turns: ``embedd serve --load MODEL`` with nothing known of this machine, where the
load compares OpenVINO with llama.cpp, and with what that load found. Files are in the page cache.
Memory is the proportional set size, in which a page that processes share counts once.
"""

import argparse
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import gguf
import numpy as np
import psutil

from benchmarks.__main__ import prepare
from benchmarks.contenders import find_free_port
from benchmarks.gpu.checkpoints import LARGE

MB: Final = 1e6
LISTENING: Final = 60.0  # seconds
CLIENTS: Final = 32
SETTLED: Final = 0.5  # seconds after the last answer
WORDS: Final = 250_002  # of XLM-R's vocabulary
POSITIONS: Final = 8192
SPECIAL: Final = ("<s>", "<pad>", "</s>", "<unk>")


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """One start: seconds from the command to the listening socket, and to the first vector.

    Memory in bytes: of the server and its worker after the first answers, and after many clients.
    """

    listening: float
    first: float
    server: int
    worker: int
    after_clients: int


def main() -> None:
    """Measure a model of the catalogue; with ``--xlmr`` a seeded one of 568 M parameters too."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.footprint", description=__doc__)
    parser.add_argument("--model", default="all-minilm", help="model of the catalogue")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--xlmr", action="store_true", help="a seeded XLM-R (2.3 GB of disk)")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), prepare(options.model), options.model, options.rounds)
    if options.xlmr:
        with tempfile.TemporaryDirectory() as folder:
            path = write_xlmr(Path(folder) / "xlmr.gguf")
            measure(Path(folder), path, "xlmr", 1)


def measure(folder: Path, path: Path, name: str, rounds: int) -> None:
    """Start servers with the GGUF *path* and print two tables."""
    environment = {
        **os.environ,
        "EMBEDD_MODELS": f"{folder}/models",
        "EMBEDD_STATE": f"{folder}/state",
        "EMBEDD_CACHE_BYTES": "0",
        "EMBEDD_MAX_WAIT": "10m",  # a busy machine refuses no client
    }
    command = [sys.executable, "-m", "embedd", "create", name, "--from", str(path)]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    starts: dict[str, list[Start]] = {"first load": [], "later loads": []}
    for _ in range(rounds):
        shutil.rmtree(f"{folder}/state", ignore_errors=True)
        for kind in starts.values():
            kind.append(start_once(name, environment))
    print(f"\n{name}, file of {path.stat().st_size / MB:.0f} MB\n")
    print("| seconds, median (least) | listening | first vector |\n|---|---|---|")
    for label, kind in starts.items():
        cells = (
            f"{statistics.median(values):.2f} ({min(values):.2f})"
            for values in ([one.listening for one in kind], [one.first for one in kind])
        )
        print(f"| {label} | {' | '.join(cells)} |")
    print(
        "\n| MB, median | server | worker | both | both after 32 clients |\n|---|---|---|---|---|"
    )
    for label, kind in starts.items():
        columns = (
            [one.server for one in kind],
            [one.worker for one in kind],
            [one.server + one.worker for one in kind],
            [one.after_clients for one in kind],
        )
        medians = (f"{statistics.median(column) / MB:.0f}" for column in columns)
        print(f"| {label} | {' | '.join(medians)} |")


def start_once(model: str, environment: dict[str, str]) -> Start:
    """Start a server with *model*, ask it for vectors, stop it."""
    port = find_free_port()
    command = [sys.executable, "-m", "embedd", "serve", "--port", str(port), "--load", model]
    begin = time.perf_counter()
    with open_server(command, environment) as server:
        connection = connect(port)
        listening = time.perf_counter() - begin
        embed(connection, model, ["Why is the sky blue?"])
        first = time.perf_counter() - begin
        for text in ("What is the grass?", "Rain falls mainly on the plain."):
            embed(connection, model, [text])
        time.sleep(SETTLED)
        own, workers = count_bytes(server.pid)
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(lambda at: ask_often(port, model, at), range(CLIENTS)))
        time.sleep(SETTLED)
        after = sum(count_bytes(server.pid))
    return Start(listening=listening, first=first, server=own, worker=workers, after_clients=after)


@contextmanager
def open_server(
    command: Sequence[str], environment: dict[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, whose log is dropped, until the block ends."""
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as server:
        try:
            yield server
        finally:
            server.terminate()


def connect(port: int) -> http.client.HTTPConnection:
    """Return a connection to the server on *port* as soon as it takes one."""
    end = time.perf_counter() + LISTENING
    while True:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        try:
            connection.connect()
        except ConnectionRefusedError:
            if time.perf_counter() > end:
                raise
            time.sleep(0.002)
        else:
            return connection


def embed(connection: http.client.HTTPConnection, model: str, texts: Sequence[str]) -> None:
    """Ask for the vectors of *texts*."""
    connection.request("POST", "/api/embed", json.dumps({"model": model, "input": texts}))
    reply = connection.getresponse()
    answer = reply.read()
    if reply.status != http.client.OK:
        raise RuntimeError(answer.decode())


def ask_often(port: int, model: str, client: int) -> None:
    """Be one of many clients, with passages of its own."""
    connection = connect(port)
    for turn in range(4):
        embed(connection, model, [f"{client} {turn} " + "the quick brown fox jumps " * 20] * 4)


def count_bytes(pid: int) -> tuple[int, int]:
    """Return the proportional set sizes of a server, and of its workers together."""
    server = psutil.Process(pid)
    sizes = [one.memory_full_info().pss for one in (server, *server.children(recursive=True))]
    return sizes[0], sum(sizes[1:])


def write_xlmr(path: Path, seed: int = 1) -> Path:
    """Write the shape of XLM-R large (bge-m3, multilingual-e5) with random float16 weights."""
    random = np.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_block_count(LARGE.layers)
    writer.add_context_length(POSITIONS)
    writer.add_embedding_length(LARGE.width)
    writer.add_feed_forward_length(LARGE.inner)
    writer.add_head_count(LARGE.heads)
    writer.add_layer_norm_eps(1e-5)
    writer.add_causal_attention(value=False)
    writer.add_pooling_type(gguf.PoolingType.CLS)
    _add_vocabulary(writer)

    def add(name: str, *shape: int) -> None:
        values = random.standard_normal(shape, np.float32) / np.float32(shape[-1] ** 0.5)
        writer.add_tensor(name, values.astype(np.float16 if len(shape) > 1 else np.float32))

    def add_norm(name: str) -> None:
        writer.add_tensor(f"{name}.weight", np.ones(LARGE.width, np.float32))
        writer.add_tensor(f"{name}.bias", np.zeros(LARGE.width, np.float32))

    add("token_embd.weight", WORDS, LARGE.width)
    writer.add_tensor("position_embd.weight", np.zeros((POSITIONS, LARGE.width), np.float32))
    add_norm("token_embd_norm")
    shapes = {
        **dict.fromkeys(("attn_q", "attn_k", "attn_v", "attn_output"), (LARGE.width, LARGE.width)),
        "ffn_up": (LARGE.inner, LARGE.width),
        "ffn_down": (LARGE.width, LARGE.inner),
    }
    for layer in range(LARGE.layers):
        for part, shape in shapes.items():
            add(f"blk.{layer}.{part}.weight", *shape)
            add(f"blk.{layer}.{part}.bias", shape[0])
        add_norm(f"blk.{layer}.attn_output_norm")
        add_norm(f"blk.{layer}.layer_output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_vocabulary(writer: gguf.GGUFWriter) -> None:
    letters = "abcdefghijklmnopqrstuvwxyz"
    count = WORDS - len(SPECIAL) - len(letters)
    words = ["\u2581" * (at % 2) + _spell(at, letters) for at in range(count)]
    types = [gguf.TokenType.CONTROL] * 3 + [gguf.TokenType.UNKNOWN]
    writer.add_tokenizer_model("t5")
    writer.add_tokenizer_pre("default")
    writer.add_token_list([*SPECIAL, *letters, *words])
    writer.add_token_scores([0.0] * len(SPECIAL) + [-9.0 - at / WORDS for at in range(WORDS - 4)])
    writer.add_token_types([*types, *[gguf.TokenType.NORMAL] * (WORDS - len(SPECIAL))])
    writer.add_add_space_prefix(value=True)
    writer.add_remove_extra_whitespaces(value=True)
    writer.add_bos_token_id(0)
    writer.add_pad_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_sep_token_id(2)
    writer.add_unk_token_id(3)
    writer.add_add_bos_token(value=True)
    writer.add_add_eos_token(value=True)
    writer.add_token_type_count(1)


def _spell(number: int, letters: str) -> str:
    """Return a made-up word of five letters, another one for each number."""
    digits = []
    for _ in range(5):
        number, digit = divmod(number, len(letters))
        digits.append(letters[digit])
    return "".join(digits)


if __name__ == "__main__":
    main()

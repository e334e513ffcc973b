"""Vectors of one GGUF by one backend, in a process that may end without a word.

``python -m benchmarks.gpu.child families BACKEND LAYERS FAMILY`` prints line by line how far the
family's vectors are from its definition; ``… models BACKEND LAYERS GGUF TEXTS OUT`` writes vectors
of the JSON list TEXTS to the file OUT, each text alone and all together; ``… replicas BACKEND
LAYERS GGUF`` prints how far vectors that two replicas compute at a time are from those of one.
LAYERS of the model go to the GPU; ``all`` are all, and a family takes several placements, with
commas between them.
"""

import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from embedd.engine.backends import LLAMA_BACKENDS, LLAMA_GPU
from embedd.engine.llama.engine import LlamaEngine
from embedd.engine.spec import ModelSpec
from embedd.types import Pooling, TokenIds, Vectors
from tests.families import FAMILIES
from tests.families.family import Array, Family, Weights, read_weights

# Two experts may score so alike that rounding decides which one computes a token: of token vectors
# of such a family, one in so many may be that of the other choice.
ROUTED = frozenset({"nomic-bert-moe"})
SPARED = 100
Row = dict[str, Any]
LENGTHS = (1, 2, 3, 5, 8, 17, 33, 64, 96)
LIMIT = 512  # tokens of a text of a model
REPLICAS = 2
BATCH_SIZES = (64, 256, 512, 1024, 2048)
ROW_TOKENS = 64
BATCHES, REPEATS = 8, 4


def open_engine(backend: str, layers: str, path: Path, pooling: Pooling) -> LlamaEngine:
    """Load *path* on the backend of this name."""
    found = {one.name: one for one in (*LLAMA_BACKENDS, LLAMA_GPU)}[backend]
    spec = ModelSpec(
        name=path.name,
        digest="",
        path=path,
        pooling=pooling,
        context_length=LIMIT,
        vocabulary=0,
        width=0,
        weights=0,
        gpu_layers=None if layers == "all" else int(layers),
    )
    return LlamaEngine.load(spec, found, threads=2)


def encode_together(engine: LlamaEngine, sequences: Sequence[TokenIds]) -> Vectors:
    """Return vectors of all *sequences*, in batches as large as the engine allows."""
    info = engine.info
    batches: list[list[TokenIds]] = [[]]
    for ids in sequences:
        full = sum(map(len, batches[-1])) + len(ids) > info.max_batch_tokens
        if batches[-1] and (full or len(batches[-1]) == info.max_sequences):
            batches.append([])
        batches[-1].append(ids)
    return np.concatenate([engine.encode(batch) for batch in batches])


def check_family(family: Family, backend: str, layers: Sequence[str]) -> Iterator[Row]:
    """Compare the vectors of a family with its definition in float64, for every pooling."""
    with tempfile.TemporaryDirectory() as folder:
        for pooling in family.poolings:
            path = family.write(Path(folder) / f"{pooling.value}.gguf", pooling)
            texts, expected = define(family, read_weights(path), pooling)
            routed = family.name in ROUTED
            for placed in layers:
                engine = open_engine(backend, placed, path, pooling)
                for how, right in expected.items():
                    vectors = compute(engine, texts, how)
                    spared = len(right) // SPARED if how == "tokens" and routed else 0
                    scores = pooling is Pooling.RANK
                    facts = compare(vectors, right, scores=scores, spared=spared)
                    yield {"layers": placed, "pooling": pooling.value, "how": how, **facts}
                engine.close()


def define(
    family: Family, weights: Weights, pooling: Pooling
) -> tuple[list[TokenIds], dict[str, Array]]:
    """Return texts, and what their vectors should be by how they are computed."""
    random = np.random.default_rng(len(family.name))
    vocabulary = len(weights["token_embd.weight"])
    texts = [
        random.integers(0, vocabulary, length).astype(np.int32)
        for length in LENGTHS
        if length <= family.context
    ]
    hidden = [family.forward(weights, ids) for ids in texts]
    pooled = np.stack([family.embed(weights, one, pooling) for one in hidden])
    expected = {"alone": pooled, "packed": pooled}
    if pooling is not Pooling.RANK:
        tokens = [family.embed(weights, one, Pooling.NONE) for one in hidden]
        expected["tokens"] = np.concatenate(tokens)
    return texts, expected


def compute(engine: LlamaEngine, texts: Sequence[TokenIds], how: str) -> Vectors:
    """Return vectors of the *texts* alone, packed in another order, or token by token."""
    if how == "alone":
        return np.concatenate([engine.encode([ids]) for ids in texts])
    if how == "tokens":
        return engine.encode(texts, Pooling.NONE)
    order = np.random.default_rng(0).permutation(len(texts))
    return engine.encode([texts[row] for row in order])[np.argsort(order)]


def compare(
    vectors: Vectors, expected: Array, *, scores: bool, spared: int = 0
) -> dict[str, float]:
    """Return the largest difference of a score, or the largest ``1 - cosine`` and of a length.

    Args:
        spared: How many of the farthest vectors do not count.
    """
    if scores:
        return {"difference": float(np.abs(vectors - expected).max())}
    exact = vectors.astype(np.float64)
    lengths, right = np.linalg.norm(exact, axis=1), np.linalg.norm(expected, axis=1)
    distances = 1 - (exact * expected).sum(axis=1) / (lengths * right)
    counted = np.argsort(distances)[: len(distances) - spared]  # NaN is the last
    return {
        "distance": float(distances[counted].max()),
        "length": float(np.abs(lengths / right - 1)[counted].max()),
    }


def encode_model(backend: str, layers: str, gguf: str, texts: str, out: str) -> None:
    """Write the vectors of the *texts* alone and together, each [texts, width], to *out*."""
    engine = open_engine(backend, layers, Path(gguf), Pooling.MEAN)
    ids = [one[:LIMIT] for one in engine.tokenizer.tokenize(json.loads(Path(texts).read_text()))]
    alone = np.concatenate([engine.encode([one]) for one in ids])
    np.savez(out, alone=alone, packed=encode_together(engine, ids))
    print(json.dumps({"gpu_bytes": engine.info.gpu_bytes}))
    engine.close()


def check_replicas(backend: str, layers: str, gguf: str) -> Row:
    """Compute batches of several sizes on two replicas at a time, as the server does."""
    threads = [ThreadPoolExecutor(1) for _ in range(REPLICAS)]
    first = threads[0].submit(open_engine, backend, layers, Path(gguf), Pooling.MEAN).result()
    engines = [first, *(one.submit(first.replicate).result() for one in threads[1:])]
    random = np.random.default_rng(0)
    batches = [
        random.integers(1000, first.info.vocabulary, (size // ROW_TOKENS, ROW_TOKENS), np.int32)
        for size in BATCH_SIZES
    ]
    exact = [threads[0].submit(first.encode, list(batch)).result() for batch in batches]

    def work(engine: LlamaEngine, seed: int) -> tuple[float, int]:
        order = np.random.default_rng(seed).integers(0, len(batches), BATCHES)
        order = np.repeat(order, REPEATS)  # equal batches are where CUDA records graphs
        found = [(at, engine.encode(list(batches[at]))) for at in order]
        far = [compare(rows, exact[at].astype(np.float64), scores=False) for at, rows in found]
        return max(one["distance"] for one in far), sum(batches[at].size for at in order)

    start = time.perf_counter()
    running = [
        thread.submit(work, engine, seed)
        for seed, (thread, engine) in enumerate(zip(threads, engines, strict=True))
    ]
    found = [one.result() for one in running]
    seconds = time.perf_counter() - start
    for thread, engine in reversed([*zip(threads, engines, strict=True)]):
        thread.submit(engine.close).result()
    rate = round(sum(tokens for _, tokens in found) / seconds)
    return {"distance": max(distance for distance, _ in found), "tokens_per_second": rate}


def main() -> None:
    """Do what the arguments say."""
    kind, backend, layers, *rest = sys.argv[1:]
    if kind == "models":
        encode_model(backend, layers, *rest)
    elif kind == "replicas":
        print(json.dumps(check_replicas(backend, layers, *rest)))
    else:
        for row in check_family(FAMILIES[rest[0]], backend, layers.split(",")):
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()

"""Damaged files and damaged requests, seeded: each is an error with a cause, none is a bug."""

import asyncio
import gc
import json
import random
from collections import Counter
from pathlib import Path

from embedd.errors import EmbeddError
from embedd.gguf.header import read_header_file
from embedd.tokenizers.model_tokenizer import load_tokenizer
from tests.faults.client import Answer, connect, make_request
from tests.faults.conftest import Scale
from tests.faults.figures import Figures
from tests.faults.process import Home, Server
from tests.tiny_models import write_tiny_bert, write_tiny_decoder

SEED = 14


def mutate(data: bytes, chosen: random.Random, header: int) -> bytes:
    """Change the beginning of *data* in one of several ways; *header* bytes are looked at."""
    changed = bytearray(data)
    at = chosen.randrange(min(header, len(changed)))
    match chosen.randrange(6):
        case 0:
            changed[at] ^= 1 << chosen.randrange(8)
        case 1:
            changed[at : at + 8] = chosen.randbytes(8)
        case 2:
            number = chosen.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
            changed[at : at + 8] = number.to_bytes(8, "little")
        case 3:
            del changed[at:]
        case 4:
            del changed[at : at + chosen.randrange(1, 64)]
        case _:
            changed[at:at] = chosen.randbytes(chosen.randrange(1, 64))
    return bytes(changed)


def test_a_damaged_gguf_is_an_error_or_a_model(
    tmp_path: Path, scale: Scale, figures: Figures
) -> None:
    count = scale.choose(short=150, full=3000)
    chosen = random.Random(SEED)
    originals = [
        write_tiny_bert(tmp_path / "bert.gguf").read_bytes(),
        write_tiny_decoder(tmp_path / "decoder.gguf").read_bytes(),
    ]
    path = tmp_path / "damaged.gguf"
    outcomes: Counter[str] = Counter()
    for _ in range(count):
        original = chosen.choice(originals)
        path.write_bytes(mutate(original, chosen, header=12_000))
        for read in (read_header_file, load_tokenizer):
            try:
                read(path)
                outcomes[f"{read.__name__}: read"] += 1
            except EmbeddError:
                outcomes[f"{read.__name__}: refused"] += 1
    gc.collect()
    for name, number in sorted(outcomes.items()):
        figures.note(name, number)
    # All others would have raised; damage must not be in places where nothing looks.
    figures.at_least("refused headers", outcomes["read_header_file: refused"], count // 4)


ROUTES: dict[str, dict[str, object]] = {
    "/api/embed": {"model": "tiny", "input": ["a", "b"], "truncate": True, "dimensions": 8},
    "/api/embeddings": {"model": "tiny", "prompt": "a", "options": {"num_ctx": 8}},
    "/v1/embeddings": {"model": "tiny", "input": "a", "encoding_format": "base64", "user": "x"},
    "/v2/embed": {"model": "tiny", "texts": ["a"], "input_type": "search_query"},
    "/embed": {"inputs": ["a"], "truncate": True, "normalize": True},
    "/tokenize": {"inputs": "a", "add_special_tokens": True},
    "/detokenize": {"tokens": [1, 2, 3]},
    "/similarity": {"inputs": {"source_sentence": "a", "sentences": ["b", "c"]}},
    "/v1/rerank": {"model": "tiny", "query": "a", "documents": ["b"], "top_n": 1},
    "/api/show": {"model": "tiny", "verbose": True},
    "/api/generate": {"model": "tiny", "prompt": "", "keep_alive": "5m"},
}
STRANGE: list[object] = [
    None, True, 0, -1, 2**63, 1e308, "", "\0", "\ud800", "a" * 5000, [], {}, [[]], [None], [[1, 2]],
    [1.5], {"a": {"b": []}}, "🙂" * 50, -0.0, ["a"] * 70,
]  # fmt: skip


def damage(request: dict[str, object], chosen: random.Random) -> bytes:
    """Return a body like *request* with a strange field, a strange byte, or its half."""
    body = dict(request)
    for _ in range(chosen.randrange(1, 3)):
        body[chosen.choice([*body, "model", "options", "extra"])] = chosen.choice(STRANGE)
    data = bytearray(json.dumps(body).encode())
    match chosen.randrange(4):
        case 0:
            data[chosen.randrange(len(data))] = chosen.randrange(256)
        case 1:
            del data[chosen.randrange(len(data)) :]
    return bytes(data)


async def send_all(server: Server, requests: list[bytes]) -> list[tuple[bytes, Answer]]:
    """Send *requests* over eight connections; each is answered."""
    left = requests[::-1]
    answers: list[tuple[bytes, Answer]] = []

    async def work() -> None:
        connection = await connect(server.port)
        while left:
            request = left.pop()
            answer = await connection.send(request)
            answers.append((request, answer))
            if answer.headers.get("connection") == "close":
                await connection.close()
                connection = await connect(server.port)
        await connection.close()

    await asyncio.gather(*(work() for _ in range(8)))
    return answers


async def test_a_damaged_request_is_answered_with_its_error(
    home: Home, scale: Scale, figures: Figures
) -> None:
    count = scale.choose(short=400, full=10_000)
    chosen = random.Random(SEED)
    paths = list(ROUTES)
    requests = [
        make_request(path, damage(ROUTES[path], chosen)) for path in chosen.choices(paths, k=count)
    ]
    with home.open(DEFAULT_MODEL="tiny") as server:
        answers = await send_all(server, requests)
        assert len(server.workers) <= 1
    statuses = Counter(answer.status for _, answer in answers)
    for status, number in sorted(statuses.items()):
        figures.note(f"answers {status}", number)
    unexplained = [
        (request[-200:], answer.body)
        for request, answer in answers
        if answer.status >= 500 and answer.status != 501
    ]
    assert not unexplained, unexplained[:3]
    figures.at_most("answers 5xx", len(unexplained), 0)
    figures.at_least("answers", len(answers), count)

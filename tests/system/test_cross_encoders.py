"""A pair of texts has the score that the definition of its family gives for the right tokens."""

from collections.abc import AsyncIterator
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from embedd.config import read_settings
from embedd.store.store import Store
from embedd.types import Pooling
from tests.families import FAMILIES, layers
from tests.families.family import LABELS, read_weights
from tests.families.qwen import TEMPLATE
from tests.families.vocabularies import BYTE_PAIRS_SIZE
from tests.needs import INHERITED
from tests.system.serving import Server, open_server
from tests.unit.stored import store_model

pytestmark = pytest.mark.asyncio(loop_scope="module")

QUERY = "why is the sky blue?"
DOCUMENTS = ["the sky is blue", "hello world", "a test, of the query"]
SCORE = 3e-4  # largest difference of a probability
END = BYTE_PAIRS_SIZE - 1  # the one special token of a tiny RoBERTa
# Family → the text of a pair; or the tokens before, between and after its two texts.
PAIRS: dict[str, str | tuple[list[int], list[int], list[int]]] = {
    "bert": "[CLS]{query}[SEP]{document}[SEP]",
    "bert without a pooler": "[CLS]{query}[SEP]{document}[SEP]",
    "roberta": ([END], [END, END], [END]),
    "xlm-roberta": ([0], [2, 2], [2]),
    "qwen3": TEMPLATE,
    "qwen3vl": TEMPLATE,
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Server]:
    """With a cross-encoder of each family in `PAIRS`, in float32.

    Flash attention adds up in float16, which on processors that have instructions for it moves a
    probability by up to 5e-4.
    """
    folder = tmp_path_factory.mktemp("pairs")
    store = Store(folder / "models")
    for name in PAIRS:
        store_model(
            store, name.replace(" ", "-"), FAMILIES[name].write(place(folder, name), Pooling.RANK)
        )
    settings = read_settings(
        {
            "EMBEDD_MODELS": str(folder / "models"),
            "EMBEDD_STATE": str(folder / "state"),
            "EMBEDD_THREADS": "1",
            **INHERITED,
            "EMBEDD_PRECISION": "f32",
            "EMBEDD_FLASH_ATTENTION": "false",
        }
    )
    async with open_server(settings) as opened:
        yield opened


def place(folder: Path, name: str) -> Path:
    return folder / f"{name}.gguf"


async def join(server: Server, name: str, document: str) -> list[int]:
    """Return the tokens of `QUERY` and *document* as the family wants them."""
    pair = PAIRS[name]
    if isinstance(pair, str):
        return await tokenize(server, name, pair.format(query=QUERY, document=document))
    before, between, after = pair
    query, other = [await tokenize(server, name, text) for text in (QUERY, document)]
    return [*before, *query, *between, *other, *after]


async def tokenize(server: Server, model: str, text: str) -> list[int]:
    status, reply = await server.send(
        "/tokenize", {"model": model.replace(" ", "-"), "content": text, "add_special": False}
    )
    assert status == 200, reply
    tokens: list[int] = reply["tokens"]
    return tokens


@pytest.mark.parametrize("name", PAIRS)
async def test_a_pair_has_the_score_of_its_definition(
    server: Server, name: str, tmp_path: Path
) -> None:
    family = FAMILIES[name]
    weights = read_weights(family.write(place(tmp_path, name), Pooling.RANK))
    body = {"model": name.replace(" ", "-"), "query": QUERY, "documents": DOCUMENTS}
    status, reply = await server.send("/rerank", body)
    assert status == 200, reply
    got = {one["index"]: one["relevance_score"] for one in reply["results"]}
    expected = []
    for document in DOCUMENTS:
        hidden = family.forward(weights, await join(server, name, document))
        assert family.score is not None
        scores = family.score(weights, hidden)
        # Qwen3's are probabilities, of which the softmax's logarithm is the logit.
        logits = np.log(scores) if name.startswith("qwen3") else scores
        expected.append(layers.softmax(logits)[LABELS.index("yes")])
    assert [got[at] for at in range(len(DOCUMENTS))] == pytest.approx(expected, abs=SCORE)
    assert np.ptp(expected) > 10 * SCORE

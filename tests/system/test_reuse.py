"""What was computed is not computed again: the same thousand texts, twice."""

from pathlib import Path

import orjson
from prometheus_client.parser import text_string_to_metric_families

from embedd.config import read_settings
from tests.needs import INHERITED
from tests.system.serving import Server, open_server

TEXTS = [f"Note {number}: {number * 7919} apples." for number in range(1000)]


async def computed_tokens(server: Server) -> float:
    async with server.session.get(server.url + "/metrics") as reply:
        text = await reply.text()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "embedd_engine_tokens_total"
    )


async def test_texts_that_were_embedded_before_cost_no_engine_tokens_and_give_equal_bytes(
    default_store: Path,
) -> None:
    environment = {
        "EMBEDD_MODELS": str(default_store),
        "EMBEDD_STATE": str(default_store / "state"),
        "EMBEDD_THREADS": "1",
        **INHERITED,
    }
    body = orjson.dumps({"model": "all-minilm", "input": TEXTS})
    async with open_server(read_settings(environment)) as server:
        answers, tokens, timings = [], [], []
        for _ in range(2):
            async with server.session.post(server.url + "/api/embed", data=body) as reply:
                assert reply.status == 200
                timings.append(reply.headers["Server-Timing"])
                answers.append(orjson.loads(await reply.read()))
            tokens.append(await computed_tokens(server))
    assert tokens[0] == answers[0]["prompt_eval_count"] > 5000
    assert tokens[1] == tokens[0]
    assert orjson.dumps(answers[0]["embeddings"]) == orjson.dumps(answers[1]["embeddings"])
    assert "cache" not in timings[0]
    assert 'cache;desc="1000 of 1000 reused"' in timings[1]

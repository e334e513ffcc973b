"""What an operator sees of a server whose workers die, and whose models come and go."""

import asyncio
import os
import signal
from pathlib import Path

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from embedd.engine import fake
from embedd.metrics import counters
from embedd.names import parse_model_name
from embedd.store.store import Store
from tests.exposition import Samples, moved
from tests.system.serving import Server, open_fake_server, workers

# What every request moves.
USUAL = ("embedd_requests_total", "embedd_request_seconds", "embedd_queue", "embedd_batch_")
COUNTED = ("embedd_inputs", "embedd_tokens", "embedd_engine_", "embedd_cache_", "embedd_waiting_")


def unusual(before: Samples, after: Samples) -> Samples:
    return {
        name: value
        for name, value in moved(before, after).items()
        if not name.startswith((*USUAL, *COUNTED))
    }


def of_tiny(name: str, **labels: str) -> str:
    named = sorted({"model": "tiny:latest", **labels}.items())
    inside = ",".join(f"{key}={value}" for key, value in named)
    return f"embedd_{name}{{{inside}}}"


async def fail(server: Server, text: str) -> None:
    status, _ = await server.send("/api/embed", {"model": "tiny", "input": text})
    assert status == 500


async def test_deaths_have_reasons(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_fake_server(tmp_path, ["tiny"], monkeypatch) as server:
        await server.embed("loads the model", model="tiny")
        loaded = await server.samples()
        assert loaded[of_tiny("load_seconds_count")] == 1
        os.kill(workers()[0].pid, signal.SIGKILL)
        await server.embed("after the death", model="tiny")
        killed = await server.samples()
        assert unusual(loaded, killed) == {of_tiny("worker_deaths_total", reason="killed"): 1}
        os.kill(workers()[0].pid, signal.SIGSEGV)
        await server.embed("after another", model="tiny")
        crashed = await server.samples()
        assert unusual(killed, crashed) == {of_tiny("worker_deaths_total", reason="crashed"): 1}
        # Once beside others, of which it has none, and once more: then the input is known.
        await fail(server, fake.KILL)
        refused = await server.samples()
        assert unusual(crashed, refused) == {of_tiny("worker_deaths_total", reason="crashed"): 2}
        await fail(server, fake.KILL)
        assert unusual(refused, await server.samples()) == {}, "it is known by now"


async def test_a_first_batch_that_kills_costs_a_backend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_fake_server(tmp_path, ["tiny"], monkeypatch) as server:
        await server.embed(fake.KILL_FIRST_BACKEND, model="tiny")
        samples = await server.samples()
        assert samples[of_tiny("backend_failures_total", backend="llama")] == 1
        assert (
            samples["embedd_model_loaded{backend=llama-no-repack,engine=fake,model=tiny:latest}"]
            == 1
        )
        assert samples[of_tiny("model_batch_tokens")] == fake.MAX_BATCH_TOKENS
        assert samples[of_tiny("model_replicas")] == samples[of_tiny("model_cores")] == 1
        assert samples[of_tiny("model_calibrated")] == 0


async def test_models_come_and_go_for_reasons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_fake_server(
        tmp_path, ["tiny", "other"], monkeypatch, MAX_LOADED_MODELS="1"
    ) as server:
        await server.embed("a", model="tiny")
        await server.embed("a", model="other")
        samples = await server.samples()
        assert samples[of_tiny("unloads_total", reason="evicted")] == 1
        assert of_tiny("model_bytes") not in samples
        await server.embed("b", model="other", keep_alive=0)
        await server.embed("b", model="tiny", keep_alive="50ms")
        async with asyncio.timeout(60):
            while not (after := await server.samples())[of_tiny("unloads_total", reason="expired")]:
                await asyncio.sleep(0.01)
        assert of_tiny("model_bytes") not in after
        assert unusual(samples, after) == {
            "embedd_unloads_total{model=other:latest,reason=asked}": 1,
            of_tiny("unloads_total", reason="expired"): 1,
            of_tiny("load_seconds_count"): 1,
        }


async def test_equal_texts_and_cached_ones_are_counted_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_fake_server(tmp_path, ["tiny"], monkeypatch) as server:
        both = [server.embed(fake.SLOW, model="tiny") for _ in range(2)]
        await asyncio.gather(*both)
        await server.embed(["a", "a", "a", fake.SLOW], model="tiny")
        samples = await server.samples()
        found = {
            source: samples[of_tiny("reused_inputs_total", source=source)]
            for source in ("cache", "joined", "equal")
        }
        assert found == {"cache": 1, "joined": 1, "equal": 2}


async def test_series_of_models_that_were_deleted_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counters, "MANY_MODELS", 1)
    async with open_fake_server(tmp_path, ["tiny"], monkeypatch) as server:
        await server.embed("a", model="tiny")
        for number in range(5):
            name = f"copy{number}"
            body = {"source": "tiny", "destination": name}
            async with server.session.post(server.url + "/api/copy", json=body) as reply:
                assert reply.status == 200
            await server.embed("a", model=name)
            async with server.session.delete(
                server.url + "/api/delete", json={"model": name}
            ) as reply:
                assert reply.status == 200
        samples = await server.samples()
        assert samples["embedd_inputs_total{model=tiny:latest}"] == 1
        names = {f"embedd_inputs_total{{model=copy{number}:latest}}" for number in range(5)}
        assert len(names & samples.keys()) <= 2


async def test_a_model_in_memory_has_its_series_though_its_name_was_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By hand, in the folder: `DELETE` unloads it."""
    monkeypatch.setattr(counters, "MANY_MODELS", 1)
    async with open_fake_server(tmp_path, ["tiny", "other"], monkeypatch) as server:
        await server.embed("a", model="tiny")
        Store(tmp_path / "models").manifests.delete(parse_model_name("tiny"))
        await server.embed("a", model="other")
        samples = await server.samples()
        assert samples[of_tiny("inputs_total")] == 1
        assert samples[of_tiny("model_bytes")] > 0


async def test_openmetrics_has_the_samples_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parser is stricter: units, suffixes, no series twice."""
    async with open_fake_server(tmp_path, ["tiny"], monkeypatch) as server:
        await server.embed("a", model="tiny")
        accept = {"Accept": "application/openmetrics-text; version=1.0.0"}
        async with server.session.get(server.url + "/metrics", headers=accept) as reply:
            text = await reply.text()
        families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]  # the library has no types
        names = {sample.name for family in families for sample in family.samples}
        plain = {name.partition("{")[0] for name in await server.samples()}
        assert {name for name in names if name.startswith("embedd_")} == plain

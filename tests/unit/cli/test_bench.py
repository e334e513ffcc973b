"""bench and compare measure servers; tune prints what was measured of a model."""

from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from embedd.cli import bench
from embedd.cli.bench import Workload, cosine
from embedd.cli.tune import format_calibration
from embedd.engine.settings import Tuning
from embedd.engine.tuning.calibrate import Calibration, Trial
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer, in_background

WORKLOADS = (
    Workload(name="one text", requests=2, texts=1, words=3, clients=1),
    Workload(name="passages", requests=1, texts=4, words=5, clients=2),
)
FOUND = Calibration(
    trials=(
        Trial(backend="llama", replicas=2, batch_tokens=128, tokens_per_second=1234.5),
        Trial(backend="llama", replicas=1, batch_tokens=64, tokens_per_second=600.0),
    ),
    best=Tuning(replicas=2, batch_tokens=128, backend="llama", measured=True),
)


UNKNOWN = (
    'Error: model "nope" not found: `embedd list` shows the stored models, `embedd search` others\n'
)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "WORKLOADS", WORKLOADS)


def test_bench_prints_a_row_for_each_workload(embedd: Run, server: FakeServer) -> None:
    outcome = embedd("bench", "all-minilm")
    assert outcome.status == 0
    header, *rows = outcome.out.splitlines()
    assert header.split() == ["WORKLOAD", "TEXTS/S", "P50", "P99"]
    assert [row.split("    ")[0].strip() for row in rows] == ["one text", "passages"]
    assert {path for _, path, _ in server.asked} == {"/api/version", "/api/embed"}


def test_bench_of_a_model_that_is_not_there_is_an_error(embedd: Run, server: FakeServer) -> None:
    del server
    assert embedd("bench", "nope").err == "measuring one text\n" + UNKNOWN


@pytest.mark.usefixtures("_no_server")
def test_bench_needs_a_server(embedd: Run) -> None:
    assert "could not connect to embedd server" in embedd("bench", "all-minilm").err


def without_ollama(other: FakeServer) -> None:
    other.refusals["/api/embed"] = web.Response(status=404, text="404 page not found")


@pytest.mark.parametrize(
    ("prepare", "path"),
    [(lambda _other: None, "/api/embed"), (without_ollama, "/v1/embeddings")],
    ids=["ollama", "openai"],
)
def test_compare_speaks_what_the_other_server_speaks(
    embedd: Run, server: FakeServer, prepare: Callable[[FakeServer], None], path: str
) -> None:
    with in_background(FakeServer(models={"theirs"})) as other:
        prepare(other)
        outcome = embedd("compare", other.url, "all-minilm", "--other-model", "theirs")
        assert outcome.err == "measuring one text\nmeasuring passages\n"
        assert path in {asked for _, asked, _ in other.asked}
    assert other.url in outcome.out
    assert "least cosine over 4 texts: 1.000000" in outcome.out.splitlines()
    ratios = [line.split()[-5] for line in outcome.out.splitlines()[1:5]]
    assert (ratios[0], ratios[2]) == ("1.00", "1.00")
    assert float(ratios[1]) > 0


@pytest.mark.usefixtures("server")
def test_compare_says_which_server_failed(embedd: Run) -> None:
    with in_background(FakeServer(models={"theirs"})) as other:
        outcome = embedd("compare", other.url, "all-minilm")
        assert outcome.status == 1
        assert outcome.err.endswith(
            f'Error: {other.url}: model "all-minilm" not found, try pulling it first\n'
        )
        outcome = embedd("compare", other.url, "theirs")
        assert outcome.err.endswith(
            'Error: embedd: model "theirs" not found, try pulling it first\n'
        )


@pytest.mark.usefixtures("server")
@pytest.mark.parametrize("source", ["file", "stdin"])
def test_compare_sends_the_other_server_its_own_key_alone(
    source: str, embedd: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EMBEDD_API_KEY", "ours")
    (tmp_path / "key").write_text("theirs\n")
    with in_background(FakeServer()) as other:
        assert embedd("compare", other.url, "all-minilm").status == 0
        assert set(other.keys.values()) == {""}
        given = str(tmp_path / "key") if source == "file" else "-"
        args = ("compare", other.url, "all-minilm", "--other-key-file", given)
        assert embedd(*args, stdin=b"theirs\n").status == 0
        assert other.keys["/api/embed"] == "Bearer theirs"


def test_compare_names_the_option_where_the_other_server_needs_a_key(
    embedd: Run, server: FakeServer, tmp_path: Path
) -> None:
    def refuse() -> web.Response:
        return web.json_response({"error": "invalid API key: send a header"}, status=401)

    with in_background(FakeServer()) as other:
        other.refusals["/api/embed"] = refuse()
        outcome = embedd("compare", other.url, "all-minilm")
        assert outcome.err == (
            f"Error: {other.url}: invalid API key: give one of its keys with --other-key-file\n"
        )
        del other.refusals["/api/embed"]
        server.refusals["/api/embed"] = refuse()
        outcome = embedd("compare", other.url, "all-minilm")
        assert "Error: invalid API key: set EMBEDD_API_KEY" in outcome.err
    (tmp_path / "empty").touch()
    outcome = embedd("compare", "x", "y", "--other-key-file", str(tmp_path / "empty"))
    assert (outcome.status, "has no key" in outcome.err) == (2, True)


@pytest.mark.usefixtures("server")
def test_compare_needs_the_other_server(embedd: Run) -> None:
    outcome = embedd("compare", "127.0.0.1:1", "all-minilm")
    assert outcome.err == (
        "Error: the server to compare with, http://127.0.0.1:1, does not answer\n"
    )


def test_compare_names_what_computes(embedd: Run, server: FakeServer) -> None:
    server.shown_backend = "openvino-bf16"
    outcome = embedd("compare", server.url, "all-minilm")
    assert outcome.out.splitlines()[-2:] == [
        "embedd: openvino-bf16, tokenizer model",
        f"{server.url}: openvino-bf16, tokenizer model",
    ]
    assert server.asked


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [([1, 0], [2, 0], 1.0), ([1, 0], [0, 1], 0.0), ([1, 0], [1], 0.0), ([0, 0], [1, 0], 0.0)],
    ids=["same direction", "right angle", "other width", "zero"],
)
def test_cosines(a: list[float], b: list[float], expected: float) -> None:
    assert cosine(a, b) == pytest.approx(expected)


@pytest.mark.parametrize("known", [True, False])
def test_tune_show_prints_the_curve_or_says_how_to_get_it(
    embedd: Run, monkeypatch: pytest.MonkeyPatch, *, known: bool
) -> None:
    monkeypatch.setattr(
        "embedd.cli.tune.read_calibration", lambda _settings, _name: FOUND if known else None
    )
    outcome = embedd("tune", "--show", "all-minilm")
    if not known:
        assert outcome.err == (
            "Error: all-minilm has not been measured on this machine: "
            "run `embedd tune all-minilm`\n"
        )
        return
    assert outcome.out.splitlines() == [
        "BACKEND    REPLICAS    BATCH TOKENS    TOKENS/S",
        "llama      2           128             1234        chosen",
        "llama      1           64              600",
    ]


@pytest.mark.parametrize(
    ("replicas", "batch_tokens", "why"),
    [
        (2, 256, "3% slower here than 2 × 512 tokens of llama, because a smaller batch answers"),
        (4, 128, "8% slower here than 2 × 512 tokens of llama, because one core for each replica"),
    ],
)
def test_tune_says_why_not_the_fastest_setting_was_chosen(
    replicas: int, batch_tokens: int, why: str
) -> None:
    rates = {(2, 512): 1000.0, (2, 256): 970.0, (4, 128): 920.0}
    trials = tuple(
        Trial(backend="llama", replicas=each, batch_tokens=tokens, tokens_per_second=rate)
        for (each, tokens), rate in rates.items()
    )
    best = Tuning(replicas=replicas, batch_tokens=batch_tokens, backend="llama", measured=True)
    assert why in format_calibration(Calibration(trials=trials, best=best))


def test_tune_prints_each_trial_as_it_comes(embedd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    async def calibrate(_settings: object, name: str, report: Callable[[Trial], None]) -> object:
        assert name == "all-minilm"
        for trial in FOUND.trials:
            report(trial)
        return FOUND

    monkeypatch.setattr("embedd.cli.tune.calibrate_model", calibrate)
    outcome = embedd("tune", "all-minilm")
    assert outcome.err.splitlines()[0] == "llama, 2 × 128 tokens: 1234 tokens/s"
    assert "chosen" in outcome.out

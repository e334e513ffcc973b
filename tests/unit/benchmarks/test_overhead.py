"""The benchmark of overhead: what it reads, and what it says of it."""

import subprocess
import sys
from collections.abc import Callable

import pytest

from benchmarks.load import (
    WORDS_OF_A_TEXT,
    Load,
    Usage,
    make_script,
    make_texts,
    parse_result,
    read_usage,
)
from benchmarks.overhead import Engine, Row, Sample, summarise, to_report

RESULT = 'RESULT {"requests":40,"seconds":2.000000,"p50":0.002,"p99":0.004,"errors":%d}\n'


def make_row(server: str, *, rate: float, p50: float, own: float) -> Row:
    return Row(
        server=server,
        clients=32,
        rate=rate,
        p50=p50,
        p99=2 * p50,
        own=own,
        children=1e-3,
        own_wakes=0.5,
        children_wakes=0.25,
        texts_per_batch=16.0 if server == "embedd" else None,
    )


def make_sample(requests: int) -> Sample:
    load = Load(requests=requests, seconds=2, p50=0.001, p99=0.002, errors=0)
    own, children = Usage(seconds=0.2, wakes=50), Usage(seconds=1.0, wakes=200)
    return Sample(load=load, own=own, children=children, batches=requests / 8)


def test_the_result_of_wrk_is_read_among_its_other_lines() -> None:
    load = parse_result("Running 2s test\n" + RESULT % 3 + "Transfer/sec: 1MB\n")
    assert load == Load(requests=40, seconds=2, p50=0.002, p99=0.004, errors=3)
    with pytest.raises(RuntimeError, match="wrk failed: unable to connect"):
        parse_result("unable to connect")


def test_the_script_sends_json_to_the_path_with_its_own_seed() -> None:
    script = make_script("/v1/embeddings", 7)
    assert '"/v1/embeddings"' in script
    assert "seed = 0, 7" in script
    assert "%(" not in script
    assert "%%" not in script


def test_the_engine_computes_texts_like_those_of_the_clients() -> None:
    """Their lengths decide what is padding."""
    least, most = WORDS_OF_A_TEXT
    words = [text.split() for text in make_texts(3001, 200)]
    assert {len(one) - 2 for one in words} == set(range(least, most + 1))
    assert [one[-2:] for one in words] == [["3001", str(number)] for number in range(1, 201)]
    assert f"place = 1, math.random({least}, {most}) do" in make_script("/api/embed", 3001)


COMPUTES = """
import sys, time
for line in sys.stdin:
    began = time.thread_time()
    while time.thread_time() < began + 0.02:
        pass
    print("done", flush=True)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_time_of_a_process_grows_as_it_computes() -> None:
    program = [sys.executable, "-c", COMPUTES]
    with subprocess.Popen(program, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        usages = []
        for _ in range(2):
            child.stdin.write(b"\n")
            child.stdin.flush()
            assert child.stdout.readline() == b"done\n"
            usages.append(read_usage(child.pid))
        child.stdin.close()
    used = usages[1] - usages[0]
    assert used.seconds > 0.01
    assert used.wakes >= 0


def test_a_row_is_of_medians_and_of_one_request() -> None:
    row = summarise("embedd", 8, [make_sample(1000), make_sample(1000), make_sample(10)])
    assert (row.rate, row.own, row.children) == pytest.approx((500, 2e-4, 1e-3))
    assert (row.own_wakes, row.children_wakes) == pytest.approx((0.05, 0.2))
    assert row.texts_per_batch == 8


@pytest.mark.parametrize(
    ("choose", "text"),
    [
        (lambda lines: lines[0], "| clients | server | requests/s |"),
        (lambda lines: lines[2], "| 32 | embedd | 900 | 3.00 | 6.00 | 200 | 1000 | 0.50 |"),
        (lambda lines: lines[3], "| 32 | llama-server | 300 | 9.00 |"),
        (lambda lines: lines[-2], "- The engine alone: 1.50 ms a lone text, 1500 texts/s"),
        (lambda lines: lines[-1], "- 32 clients: 60 % of the engine's texts/s, p50 2.00 × its"),
        (
            lambda lines: lines[-1][-74:],
            "r of the server 4.0 × bare; requests/s 3.00 × and p50 0.33 ×",
        ),
    ],
)
def test_the_report_compares_the_first_server_with_all_others(
    choose: Callable[[list[str]], str], text: str
) -> None:
    rows = [
        make_row("embedd", rate=900, p50=0.003, own=2e-4),
        make_row("llama-server", rate=300, p50=0.009, own=1e-3),
        make_row("bare", rate=18_000, p50=0.001, own=5e-5),
    ]
    lines = to_report(rows, Engine(lone=0.0015, rate=1500), baseline="bare").splitlines()
    assert choose(lines).startswith(text)

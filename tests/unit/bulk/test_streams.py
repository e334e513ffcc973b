"""Compressed inputs, and inputs that are not what they were."""

import gzip
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest

from embedd.bulk.streams import open_stream
from embedd.bulk.units import Limits
from embedd.errors import InvalidInputError
from tests.unit.bulk.jobs import FakeCompute, run_job

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LINES = b"".join(b"%d\n" % (number * 7919) for number in range(20_000))
DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "cut": lambda data: data[: len(data) // 2],
    "without its end": lambda data: data[:-4],
    "overwritten": lambda data: data[:500] + bytes(40) + data[540:],
    "of another format": lambda _: b"not compressed at all\n",
}


CASES = [(ending, damage) for ending in (".gz", ".zst") for damage in DAMAGES]
CASES.remove((".zst", "overwritten"))  # it need not have a sum by which that is seen


@pytest.mark.parametrize(("ending", "damage"), CASES)
def test_a_damaged_compressed_file_is_named(tmp_path: Path, ending: str, damage: str) -> None:
    path = tmp_path / f"a.txt{ending}"
    data = gzip.compress(LINES) if ending == ".gz" else zstd.compress(LINES)
    path.write_bytes(data)
    with open_stream(str(path)) as stream:
        assert stream.read() == LINES
    path.write_bytes(DAMAGES[damage](data))
    with pytest.raises(InvalidInputError, match=rf"a\.txt{ending} is damaged"):
        run_job([path], tmp_path / "o.jsonl")


def test_a_compressed_file_that_is_cut_says_how_much_of_it_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "a.txt.gz"
    data = gzip.compress(LINES)
    path.write_bytes(data[: len(data) // 2])
    readable = zlib.decompressobj(wbits=31).decompress(data[: len(data) // 2])
    assert 0 < len(readable) < len(LINES)
    with open_stream(str(path)) as stream, pytest.raises(InvalidInputError) as caught:
        while stream.read(1000):
            pass
    assert str(caught.value).endswith(
        f" after {len(readable):,} bytes of its content: replace it by a whole one"
    )


def test_a_file_that_loses_lines_while_it_is_read_ends_the_job(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(LINES)

    def cut(_: object) -> None:
        path.write_bytes(LINES[:1000])

    compute = FakeCompute(before=cut)
    with pytest.raises(InvalidInputError, match=r"a\.txt ends early: it has changed"):
        run_job([path], tmp_path / "o.jsonl", compute, limits=Limits(rows=1000))

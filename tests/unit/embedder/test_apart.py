"""Work on many inputs, or on many ids, is done in a thread."""

import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedd.embedder import inputs as checks
from embedd.embedder.apart import QUICK_IDS, QUICK_INPUTS, apart
from embedd.embedder.inputs import check_ids, tokenize
from embedd.errors import InvalidTokenIdError
from embedd.types import ClientIds, Input, Pooling, TokenIds
from tests.contract.conftest import make_spec
from tests.fakes import FakeModel

MANY = np.zeros(QUICK_IDS + 1, np.int64)
FEW = np.zeros(1, np.int64)


@pytest.mark.parametrize(
    ("inputs", "is_apart"),
    [
        ([], False),
        (["a" * 1_000_000], False),
        ([FEW], False),
        (["a"] * QUICK_INPUTS, False),
        (["a"] * (QUICK_INPUTS + 1), True),
        ([FEW] * (QUICK_INPUTS + 1), True),
        ([MANY], True),
        ([MANY[: QUICK_IDS // 2]] * 3, True),
        ([("a", MANY)], True),
    ],
)
async def test_inputs_and_their_ids_are_counted(inputs: Sequence[Input], *, is_apart: bool) -> None:
    here = threading.get_ident()
    assert (await apart(inputs, threading.get_ident) != here) == is_apart


async def test_many_ids_are_converted_in_a_thread(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, threads = FakeModel(make_spec(tmp_path / "model", Pooling.MEAN)), set[int]()
    to_rows = checks._to_rows

    def watched(*arguments: Any) -> list[TokenIds]:
        threads.add(threading.get_ident())
        return to_rows(*arguments)

    monkeypatch.setattr(checks, "_to_rows", watched)
    [row] = await tokenize(model, [MANY])
    assert row.dtype == np.int32
    assert threads.isdisjoint({threading.get_ident()})
    assert len(threads) == 1


@pytest.mark.parametrize("sizes", [[QUICK_IDS * 2], [3, QUICK_IDS, 3], [2] * (QUICK_INPUTS + 5)])
def test_the_first_wrong_id_is_named_wherever_it_is(sizes: list[int]) -> None:
    rows: list[ClientIds] = [np.ones(size, np.int64) for size in sizes]
    check_ids(rows, 2)
    rows[-1][-1] = 2
    for bad in (2, -1):
        rows[-1][-1] = bad
        with pytest.raises(InvalidTokenIdError) as caught:
            check_ids([*rows, np.array([], np.int64)], 2)
        assert (caught.value.index, caught.value.position) == (len(sizes) - 1, sizes[-1] - 1)

"""The headers of deadline and priority."""

import asyncio
import math
import time

import pytest
from aiohttp.test_utils import make_mocked_request

from embedd.errors import DeadlineError, InvalidInputError
from embedd.server.http.schedule import Deadline, read_schedule
from embedd.types import Priority, Schedule


def read(timeout: float = math.inf, **headers: str) -> Schedule:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return read_schedule(make_mocked_request("POST", "/", named), arrived=10, timeout=timeout)


def test_without_headers_a_request_has_the_default_time_and_priority() -> None:
    assert read() == Schedule()
    assert read(5) == Schedule(deadline=15)


def test_a_request_may_set_its_time_and_yield() -> None:
    wanted = Schedule(deadline=12.5, priority=Priority.BULK)
    assert read(5, X_Request_Timeout="2.5", X_Embedd_Priority="Bulk") == wanted


@pytest.mark.parametrize("value", ["", "0", "-1", "nan", "inf", "2s"])
def test_a_time_that_is_not_a_positive_number_is_refused(value: str) -> None:
    with pytest.raises(InvalidInputError, match="X-Request-Timeout must be a number of seconds"):
        read(X_Request_Timeout=value)


def test_an_unknown_priority_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match=r"one of interactive, bulk, got 'high'"):
        read(X_Embedd_Priority="high")


async def test_the_block_ends_at_the_deadline() -> None:
    request = make_mocked_request("POST", "/", {"X-Request-Timeout": "0.01"})
    with pytest.raises(DeadlineError, match=r"X-Request-Timeout or EMBEDD_REQUEST_TIMEOUT"):
        async with Deadline(read_schedule(request, arrived=time.perf_counter(), timeout=math.inf)):
            await asyncio.Event().wait()


async def test_another_timeout_in_the_block_is_not_the_deadline() -> None:
    request = make_mocked_request("POST", "/")
    with pytest.raises(TimeoutError):
        async with Deadline(read_schedule(request, arrived=time.perf_counter(), timeout=60)):
            raise TimeoutError

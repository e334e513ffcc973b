"""Statuses, headers and log lines of errors."""

import logging

import pytest
from aiohttp.test_utils import make_mocked_request

from embedd import errors
from embedd.logs import MAX_REASON
from embedd.server.dialects.ollama.dialect import DIALECT
from embedd.server.errors import OverloadLog, choose_status, log_error, retry_headers


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.InvalidInputError("x"), 400),
        (errors.InputTooLongError(index=0, tokens=2, limit=1, special=0), 400),
        (errors.InvalidModelNameError("x"), 400),
        (errors.UnsupportedError("x"), 400),
        (errors.UnauthorizedError("x"), 401),
        (errors.ModelNotFoundError("x"), 404),
        (errors.TooLargeError("x"), 413),
        (errors.OverloadedError("x"), 503),
        (errors.LoadTimeoutError("x"), 503),
        (errors.ShuttingDownError(), 503),
        (errors.EngineError("x"), 500),
        (errors.InsufficientMemoryError("x"), 503),
        (errors.CorruptBlobError("x"), 500),
        (errors.PullError("x"), 502),
        (errors.EmbeddError("x"), 500),
    ],
)
def test_an_error_has_the_status_of_its_nearest_base_class(
    error: errors.EmbeddError, status: int
) -> None:
    assert choose_status(error, {}) == status


def test_a_dialect_may_override_the_status_of_a_class_and_its_subclasses() -> None:
    table = {errors.UnsupportedError: 501, errors.StoreError: 507}
    assert choose_status(errors.UnsupportedError("x"), table) == 501
    assert choose_status(errors.CorruptBlobError("x"), table) == 507
    assert choose_status(errors.PullError("x"), table) == 502, "the nearer class counts"


@pytest.mark.parametrize("error", [errors.LoadTimeoutError, errors.InsufficientMemoryError])
def test_ollamas_clients_get_500_for_a_model_that_cannot_be_loaded_now(
    error: type[errors.EmbeddError],
) -> None:
    assert choose_status(error("x"), DIALECT.statuses) == 500


@pytest.mark.parametrize("status", [429, 503])
def test_only_429_and_503_have_retry_after(status: int) -> None:
    error = errors.OverloadedError("x", retry_after=7)
    assert retry_headers(error, status) == {"Retry-After": "7"}
    assert retry_headers(errors.ShuttingDownError(), status) == {"Retry-After": "1"}
    assert retry_headers(error, 500) == {}


@pytest.mark.parametrize(
    ("error", "level"),
    [
        (errors.InvalidInputError("x" * 9999), logging.INFO),
        (errors.UnsupportedError("x"), logging.INFO),
        (errors.OverloadedError("x"), logging.INFO),
        (errors.InsufficientMemoryError("x"), logging.ERROR),
        (errors.NoSourceError("x"), logging.INFO),
        (errors.PullError("x"), logging.ERROR),
        (errors.EngineError("x"), logging.ERROR),
        (errors.EmbeddError("x"), logging.ERROR),
    ],
)
def test_errors_of_the_service_are_logged_as_errors(
    error: errors.EmbeddError, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "embedd")
    log_error(make_mocked_request("POST", "/api/embed"), error, 418)
    [record] = caplog.records
    assert (record.levelno, record.getMessage()) == (level, "request failed")
    assert record.__dict__["status"] == 418
    assert record.__dict__["reason"] == str(error)[:MAX_REASON]


def test_of_refusals_for_overload_one_a_second_is_logged_with_the_number_of_the_others() -> None:
    now = 0.0
    overloads = OverloadLog(clock=lambda: now)
    assert [overloads.take_omitted() for _ in range(4)] == [0, None, None, None]
    now = 1.0
    assert [overloads.take_omitted() for _ in range(2)] == [3, None]
    now = 9.0
    assert overloads.take_omitted() == 1


def test_the_number_of_refusals_that_were_not_logged_is_in_the_line(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "embedd")
    request = make_mocked_request("POST", "/api/embed")
    for omitted in (0, 3):
        log_error(request, errors.OverloadedError("x"), 503, omitted=omitted)
    assert [record.__dict__.get("omitted") for record in caplog.records] == [None, 3]

"""What holds for every test: examples repeat in CI, no parametrisation is empty."""

import logging
import os
from collections.abc import Mapping

import pytest
from hypothesis import settings

from tests.conftest import choose_profile
from tests.key_watch import MARK, WATCH, KeyWatch, check_answer


@pytest.mark.parametrize(
    ("environment", "profile"), [({}, "local"), ({"CI": ""}, "local"), ({"CI": "true"}, "ci")]
)
def test_the_profile_of_ci_is_chosen_by_its_variable(
    environment: Mapping[str, str], profile: str
) -> None:
    assert choose_profile(environment) == profile


def test_a_run_in_ci_repeats_itself_and_prints_how_to_repeat_a_failure() -> None:
    ci = settings.get_profile("ci")
    assert (ci.derandomize, ci.print_blob, ci.database) == (True, True, None)
    local = settings.get_profile("local")
    assert not local.derandomize
    assert ci.max_examples == local.max_examples


def test_the_chosen_profile_is_the_present_one() -> None:
    chosen = settings.get_profile(choose_profile(os.environ))
    present = settings()
    assert present.derandomize == chosen.derandomize
    assert present.print_blob == chosen.print_blob
    assert present.max_examples == chosen.max_examples


def test_an_empty_parametrisation_fails(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.getini("empty_parameter_set_mark") == "fail_at_collect"


def test_a_key_in_the_log_or_the_output_of_a_test_is_found() -> None:
    watch = KeyWatch()
    record = logging.makeLogRecord({"msg": "request failed", "header": f"Bearer {MARK}x"})
    watch.handle(record)
    watch.handle(logging.makeLogRecord({"msg": "request failed", "path": "/"}))
    found = watch.take_found(["a line", f"a key: {MARK}y"])
    assert [line.partition("sk-")[2][:8] for line in found] == ["secret-x", "secret-y"]
    assert watch.take_found() == []


def test_the_watch_sees_what_the_server_logs() -> None:
    assert WATCH in logging.getLogger().handlers
    assert logging.getLogger("embedd").isEnabledFor(logging.INFO)


def test_a_key_in_an_answer_is_found() -> None:
    check_answer(b"{}", ["a"])
    with pytest.raises(AssertionError, match="answer has a key"):
        check_answer(f"{MARK}x".encode(), [])
    with pytest.raises(AssertionError, match="header of an answer"):
        check_answer(b"", [f"{MARK}x"])

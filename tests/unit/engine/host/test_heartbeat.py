"""Signs of life: what is missed, what is excused, what ends a worker."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest

from embedd.engine.host.heartbeat import (
    MAX_BUSY,
    MAX_IDLE,
    MAX_UNREPORTED,
    Activity,
    Heartbeat,
)
from embedd.metrics import DeathReason


def check(
    heart: Heartbeat,
    times: int,
    *,
    answered: bool = False,
    idle: bool = False,
    loading: bool = False,
) -> DeathReason | None:
    """The verdict of the last of so many equal checks."""
    verdict = None
    for _ in range(times):
        verdict = heart.check(answered=answered, idle=idle, loading=loading)
    return verdict


def test_a_worker_that_does_nothing_is_stopped() -> None:
    heart = Heartbeat()
    assert check(heart, MAX_IDLE - 1, idle=True) is None
    assert check(heart, 1, idle=True) is DeathReason.STOPPED


def test_one_that_is_busy_has_more_time_and_is_stuck() -> None:
    heart = Heartbeat()
    assert check(heart, MAX_BUSY - 1) is None
    assert check(heart, 1) is DeathReason.STUCK


def test_a_load_may_keep_a_worker_busy_for_as_long_as_it_makes_progress() -> None:
    assert check(Heartbeat(), 10 * MAX_BUSY, loading=True) is None
    assert check(Heartbeat(), MAX_IDLE, idle=True, loading=True) is DeathReason.STOPPED


def test_an_answer_forgives_what_was_missed() -> None:
    heart = Heartbeat()
    for _ in range(10):
        assert check(heart, MAX_IDLE - 1, idle=True) is None
        check(heart, 1, answered=True, idle=True)


def test_a_worker_is_silent_after_some_checks_and_until_it_answers() -> None:
    heart = Heartbeat()
    check(heart, MAX_UNREPORTED - 1)
    assert not heart.is_silent
    check(heart, 1)
    assert heart.is_silent
    check(heart, 1, answered=True)
    assert not heart.is_silent


@pytest.fixture
def spinner() -> Iterator[psutil.Process]:
    """A process that computes until the end of the test."""
    command = [sys.executable, "-I", "-S", "-c", "print(flush=True)\nwhile True: pass"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield psutil.Process(process.pid)
        process.kill()


def test_a_process_that_computes_is_not_idle_and_a_stopped_one_is(spinner: psutil.Process) -> None:
    activity = Activity(spinner.pid)
    activity.is_idle(1.0)
    used = sum(spinner.cpu_times()[:2])
    while sum(spinner.cpu_times()[:2]) < used + 0.1:
        time.sleep(0.02)
    assert not activity.is_idle(1.0)
    os.kill(spinner.pid, signal.SIGSTOP)
    while spinner.status() != psutil.STATUS_STOPPED:
        time.sleep(0.01)
    activity.is_idle(1.0)
    assert activity.is_idle(1.0)


def test_a_process_that_waits_for_a_core_is_not_idle(spinner: psutil.Process) -> None:
    activity = Activity(spinner.pid)
    activity.is_idle(1.0)
    assert not activity.is_idle(1e9), "as if it had got next to nothing of a busy machine"


def test_without_the_process_nothing_is_claimed(spinner: psutil.Process) -> None:
    activity = Activity(spinner.pid)
    spinner.kill()
    spinner.wait()
    assert not activity.is_idle(1.0)

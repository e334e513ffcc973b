"""The command itself: instant help, errors of one line, exit status."""

import logging
import re
import subprocess
import sys

import click
import pytest

from embedd import cli
from embedd.errors import InvalidInputError
from embedd.library import StoredModels
from tests.unit.cli.conftest import FakeLibrary, Run

HEAVY = [
    "aiohttp",
    "numpy",
    "rich",
    "gguf",
    "llama_cpp",
    "huggingface_hub",
    "openvino",
    "msgspec",
    "psutil",
    "asyncio",
]


@pytest.mark.parametrize(
    "program", ["import embedd.cli", "from embedd.cli import run; run(['-h'])"]
)
def test_start_and_help_import_nothing_heavy(program: str) -> None:
    check = f"{program}; import sys; print([n for n in {HEAVY} if n in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_commands_of_the_store_load_no_http() -> None:
    check = "import embedd.cli.models, sys; print('aiohttp' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "False\n"


def test_the_module_is_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "embedd", "-h"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stdout.startswith("Usage: embedd [OPTIONS] COMMAND")


@pytest.mark.parametrize("name", [*cli.COMMANDS, *cli.ALIASES])
def test_the_table_says_what_the_command_says(name: str) -> None:
    command = cli.root.get_command(click.Context(cli.root), name)
    assert command is not None
    entry = cli.COMMANDS[cli.ALIASES.get(name, name)]
    assert (command.help or "").startswith(entry.summary.rstrip("."))


def test_the_help_lists_every_command_in_order(embedd: Run) -> None:
    lines = embedd("--help").out.split("Commands:\n")[1].splitlines()
    assert [line.split()[0] for line in lines] == list(cli.COMMANDS)
    assert cli.root.list_commands(click.Context(cli.root)) == list(cli.COMMANDS)


@pytest.mark.parametrize("args", [["nope"], ["ps", "--nope"], ["stop"], ["rm"], ["stop", "a", "b"]])
def test_wrong_usage_exits_2(embedd: Run, args: list[str]) -> None:
    outcome = embedd(*args)
    assert outcome.status == 2
    assert "Error: " in outcome.err
    assert outcome.out == ""


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (InvalidInputError("the text"), 1, "Error: the text\n"),
        (PermissionError(13, "Permission denied", "/x"), 1, "Error: /x: Permission denied\n"),
        ("\udcff".encode, 1, "Error: the text is not UTF-8\n"),
        (OSError(30, "Read-only file system", "out"), 1, "Error: out: Read-only file system\n"),
        (OSError("gone"), 1, "Error: gone\n"),
        (b"\xff".decode, 1, "Error: the text is not UTF-8\n"),
        (ZeroDivisionError("oh"), 1, "Error: internal error: ZeroDivisionError: oh\n"),
        (KeyboardInterrupt(), 130, "\n"),
    ],
)
def test_an_error_is_one_line_and_a_status(
    embedd: Run, monkeypatch: pytest.MonkeyPatch, error: object, status: int, text: str
) -> None:
    def fail(**_: object) -> None:
        if isinstance(error, BaseException):
            raise error
        assert callable(error)
        error()

    from embedd.cli.ps import ps

    monkeypatch.setattr(ps, "callback", fail)
    outcome = embedd("ps")
    assert outcome.status == status
    assert outcome.err.endswith(text)
    assert outcome.err.count("\n") == 1
    assert outcome.out == ""


def test_main_exits_with_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["embedd", "nope"])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 2


@pytest.mark.usefixtures("_no_server")
def test_an_unreadable_setting_is_a_warning(embedd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDD_MAX_QUEUE", "many")
    assert embedd("ps").err.startswith("Warning: EMBEDD_MAX_QUEUE: cannot use 'many', using 512\n")


@pytest.mark.parametrize(
    ("debug", "levels"),
    [("0", ["WARNING"]), ("1", ["INFO", "WARNING"]), ("2", ["INFO", "WARNING"])],
)
def test_only_warnings_are_logged_unless_debugging(
    embedd: Run,
    library: FakeLibrary,
    monkeypatch: pytest.MonkeyPatch,
    debug: str,
    levels: list[str],
) -> None:
    def list_with_warning() -> StoredModels:
        log = logging.getLogger("embedd.library")
        log.info("model stored", extra={"model": "x"})
        log.warning("model left out", extra={"model": "x"})
        return []

    monkeypatch.setenv("EMBEDD_DEBUG", debug)
    monkeypatch.setattr(library, "list", list_with_warning)
    assert [line.split()[2] for line in embedd("list").err.splitlines()] == levels


def test_an_unusable_address_is_an_error(embedd: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBEDD_HOST", "ftp://x")
    outcome = embedd("ps")
    assert outcome.status == 1
    assert outcome.err.startswith("Error: cannot use the address 'ftp://x'")


@pytest.mark.parametrize(
    ("typed", "meant"),
    [("lsit", "list"), ("bnch", "bench"), ("PULL", "pull"), ("verfy", "verify"), ("xyzzy", "")],
)
def test_an_unknown_command_is_named_with_those_like_it(
    embedd: Run, typed: str, meant: str
) -> None:
    for args in ([typed], ["help", typed]):
        outcome = embedd(*args)
        assert outcome.status == 2
        assert f"there is no command '{typed}'" in outcome.err
        assert f"did you mean {meant}" in outcome.err if meant else "did you" not in outcome.err


def test_help_shows_what_the_option_shows(embedd: Run) -> None:
    assert embedd("help").out == embedd("--help").out
    assert embedd("help", "pull").out == embedd("pull", "--help").out
    assert embedd("help", "ls").out == embedd("help", "list").out.replace(" list ", " ls ", 1)


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_the_help_of_every_command_has_examples_that_can_be_typed(embedd: Run, name: str) -> None:
    out = embedd(name, "--help").out
    examples = re.findall(rf"^ +embedd {name}\b.*$", out, re.MULTILINE)
    assert examples
    command = cli.root.get_command(click.Context(cli.root), name)
    assert command is not None
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    for example in examples:
        options = [word for word in example.split() if re.fullmatch(r"--?[a-z][a-z-]*", word)]
        assert set(options) <= known, example

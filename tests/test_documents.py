"""Blocks of code in the documents: commands, options, targets and files in them are understood.

Requests are sent by ``tests/dialects/test_documents.py``, Python is run by
``tests/system/test_documents.py``. What no test runs has ``<!-- not run: reason -->`` above it.
"""

import itertools
import json
import re
import shlex
import tomllib
from collections.abc import Callable, Mapping

import click
import pytest
import yaml

from embedd.cli import root
from embedd.modelfile import parse_modelfile
from tests.documents import BLOCKS, CURL, ROOT, Block

EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
MAKEFILE = (ROOT / "Makefile").read_text()
PARSERS: Mapping[str, Callable[[str], object]] = {
    "json": json.loads,
    "modelfile": parse_modelfile,
    "yaml": yaml.safe_load,
}
LANGUAGES = {"python", "sh", *PARSERS}


def blocks_in(*languages: str) -> list[Block]:
    """Return the blocks that are tested."""
    return [block for block in BLOCKS if block.language in languages and not block.reason]


def find_commands(code: str) -> list[list[str]]:
    """Return the words of each command of a shell script, without requests and comments."""
    commands = []
    for line in CURL.sub("", code).splitlines():
        lexer = shlex.shlex(line, posix=True, punctuation_chars="|>")
        lexer.whitespace_split = True
        for is_pipe, words in itertools.groupby(lexer, lambda word: word == "|"):
            if not is_pipe:
                command = list(itertools.takewhile(lambda word: word != ">", words))
                is_set = re.compile(r"[A-Z_]+=")
                commands.append(list(itertools.dropwhile(is_set.match, command)))
    return commands


def check_command(name: str, *words: str) -> None:
    """Raise unless a command is one that exists here, with options that it has."""
    match name, words:
        case "embedd", (command, *rest):
            group = click.Context(root, info_name="embedd")
            found = root.get_command(group, command)
            assert found is not None, command
            found.make_parser(click.Context(found, parent=group)).parse_args(list(rest))
        case "make", (target, *variables):
            assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target
            for variable in variables:
                assert re.search(rf"^{variable.split('=')[0]} \?=", MAKEFILE, re.MULTILINE)
        case "pip", ("install", package):
            assert package in {f".[{extra}]" for extra in EXTRAS}  # of a clone
        case (("cat" | "zcat"), (_,)):
            pass
        case _:
            raise AssertionError(f"no test understands {name}: give the reason not to run it")


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.place)
def test_a_block_is_in_a_language_that_is_tested_or_says_why_not(block: Block) -> None:
    assert block.reason or block.language in LANGUAGES
    for path in re.findall(r"tests/\S+\.py", block.reason):
        assert (ROOT / path).is_file()


@pytest.mark.parametrize("block", blocks_in("sh"), ids=lambda block: block.place)
def test_commands_exist_with_their_options(block: Block) -> None:
    commands = find_commands(block.code)
    assert commands or CURL.search(block.code)
    for command in commands:
        check_command(*command)


@pytest.mark.parametrize("command", ["embedd lsit", "embedd pull --every", "make cake", "rm -r x"])
def test_a_command_that_does_not_exist_is_found(command: str) -> None:
    with pytest.raises((AssertionError, click.UsageError)):
        check_command(*shlex.split(command))


@pytest.mark.parametrize("block", blocks_in(*PARSERS), ids=lambda block: block.place)
def test_files_and_answers_can_be_read(block: Block) -> None:
    assert PARSERS[block.language](block.code)

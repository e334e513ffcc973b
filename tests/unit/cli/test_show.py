"""show: blocks for people, raw fields for scripts."""

import json

import msgspec
import pytest

from embedd.cli.show import format_show
from tests.unit.cli.conftest import SHOWN, FakeLibrary, Run
from tests.unit.cli.fake_server import FakeServer

BLOCKS = """\
  Model
    architecture        bert
    parameters          22.57M
    context length      256 (trained with 512)
    embedding length    384
    quantization        F16

  Capabilities
    embedding

  Parameters
    num_ctx         256
    query_prefix    "ask: "

"""
DETAILS = """\
  Metadata
    bert.context_length      512
    bert.embedding_length    384
    general.architecture     bert
    general.description      word word word word word word wo...
    tokenizer.ggml.merges
    tokenizer.ggml.tokens    [[PAD], [unused0], ...+3 more]

  Tensors
    token_embd.weight    F16    [384, 30522]

"""
LICENSE = """\
  License
    Apache License
    Version 2.0, January 2004
    ...

"""


@pytest.mark.usefixtures("library")
def test_the_blocks_of_show(embedd: Run) -> None:
    outcome = embedd("show", "all-minilm")
    assert (outcome.status, outcome.out) == (0, BLOCKS + LICENSE)
    assert max(map(len, outcome.out.splitlines())) < 80


def test_verbose_adds_metadata_and_tensors(embedd: Run, library: FakeLibrary) -> None:
    assert embedd("show", "all-minilm", "-v").out == BLOCKS + DETAILS + LICENSE
    assert library.asked == [("show", "all-minilm", True)]


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("flag", "text"),
    [
        ("--modelfile", "FROM /blobs/sha256-0\n\n"),
        ("--template", "{{ .Prompt }}\n"),
        ("--system", "\n"),
        ("--parameters", f'{"num_ctx":<30} 256\n{"query_prefix":<30} "ask: "\n'),
    ],
)
def test_one_field_as_it_is(embedd: Run, flag: str, text: str) -> None:
    assert embedd("show", "all-minilm", flag).out == text


@pytest.mark.usefixtures("library")
def test_only_one_field_at_a_time(embedd: Run) -> None:
    outcome = embedd("show", "all-minilm", "--license", "--system")
    assert (outcome.status, outcome.out) == (1, "")
    assert outcome.err == (
        "Error: only one of '--license', '--modelfile', '--parameters', '--system', "
        "'--template' can be specified\n"
    )


@pytest.mark.usefixtures("library")
def test_json_is_what_the_api_says(embedd: Run) -> None:
    shown = json.loads(embedd("show", "all-minilm", "--json").out)
    assert shown["model_info"]["bert.context_length"] == 512
    assert shown["capabilities"] == ["embedding"]
    assert "system" not in shown


@pytest.mark.usefixtures("library")
def test_an_unknown_model_is_an_error(embedd: Run) -> None:
    outcome = embedd("show", "nope")
    assert outcome.status == 1
    assert 'model "nope" not found' in outcome.err


@pytest.mark.usefixtures("library")
def test_show_asks_the_server_that_answers(embedd: Run, server: FakeServer) -> None:
    outcome = embedd("show", "all-minilm", "-v")
    assert outcome.out.splitlines()[:4] == [
        "  Model",
        "    architecture      bert",
        "    parameters        22.57M",
        "    context length    512",
    ]
    assert server.asked[-1] == ("POST", "/api/show", {"model": "all-minilm", "verbose": True})


@pytest.mark.usefixtures("library")
def test_a_field_that_the_server_does_not_send_is_an_empty_line(
    embedd: Run, server: FakeServer
) -> None:
    assert embedd("show", "all-minilm", "--license").out == "\n"
    assert server.asked[-1][1] == "/api/show"


def test_the_weights_are_named_as_answers_name_them() -> None:
    digest = "797b70c4edf85907fe0a49eb85811256f65fa0f7bf52166b147fd16be2be4662"
    shown = msgspec.structs.replace(SHOWN, modelfile=f'# FROM x\n\nFROM "/m/sha256-{digest}"\n')
    assert "    weights             797b70c4edf8\n" in format_show(shown)

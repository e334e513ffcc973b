"""image: what is asked of the server, and which files are written."""

import sys
from pathlib import Path

import click
import pytest
from aiohttp import web

from embedd.cli import image
from embedd.errors import InvalidInputError
from tests.unit.cli.conftest import Run
from tests.unit.cli.fake_server import FakeServer

pytestmark = pytest.mark.usefixtures("_in_a_folder")


@pytest.fixture
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def asked(server: FakeServer) -> list[dict[str, object]]:
    return [body for _, path, body in server.asked if path == "/api/generate"]


def test_a_picture_is_a_file_named_after_model_and_seed(embedd: Run, server: FakeServer) -> None:
    outcome = embedd("image", "sd", "a", "lovely cat", "--seed", "7")
    assert (outcome.status, outcome.out, outcome.err) == (0, "sd-7.png\n", "seed 7, 1.5 s\n")
    assert Path("sd-7.png").read_bytes() == server.picture
    body = {"model": "sd", "prompt": "a lovely cat", "output_format": "png"}
    assert asked(server) == [{**body, "options": {"seed": 7}}]


def test_every_option_is_sent(embedd: Run, server: FakeServer) -> None:
    outcome = embedd(
        "image", "me/sd:q8", "cat", "--size", "512x768", "--steps", "4", "--guidance", "1.5",
        "--negative", "rain", "--format", "webp", "--seed", "1",
    )  # fmt: skip
    assert outcome.out == "me-sd-q8-1.webp\n"
    [body] = asked(server)
    assert body == {
        "model": "me/sd:q8", "prompt": "cat", "width": 512, "height": 768, "steps": 4,
        "guidance": 1.5, "negative_prompt": "rain", "output_format": "webp",
        "options": {"seed": 1},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("name", "form"),
    [("a.png", "png"), ("a.JPG", "jpeg"), ("a.webp", "webp"), ("a", "png"), ("a.b", "png")],
)
def test_the_name_of_the_file_says_the_format(
    embedd: Run, server: FakeServer, name: str, form: str
) -> None:
    assert embedd("image", "sd", "cat", "-o", name).out == f"{name}\n"
    assert asked(server)[0]["output_format"] == form


def test_a_seed_that_is_not_given_is_drawn_and_printed(embedd: Run, server: FakeServer) -> None:
    for arguments in ([], ["--seed", "-1"]):
        outcome = embedd("image", "sd", "cat", *arguments)
        options = asked(server)[-1]["options"]
        assert isinstance(options, dict)
        assert outcome.err == f"seed {options['seed']}, 1.5 s\n"
        assert 0 <= options["seed"] < 1 << 32


def test_several_pictures_have_the_next_seeds(embedd: Run, server: FakeServer) -> None:
    most = (1 << 32) - 1
    outcome = embedd("image", "sd", "cat", "-n", "2", "--seed", str(most))
    assert outcome.out == f"sd-{most}.png\nsd-0.png\n"
    outcome = embedd("image", "sd", "cat", "-n", "2", "-o", "cat.png")
    assert outcome.out == "cat-1.png\ncat-2.png\n"
    assert [body["options"] for body in asked(server)][:2] == [{"seed": most}, {"seed": 0}]


def test_a_file_is_never_replaced(embedd: Run, server: FakeServer) -> None:
    Path("cat.png").write_text("mine")
    Path("sd-7.png").write_text("mine")
    outcome = embedd("image", "sd", "cat", "-o", "cat.png")
    wanted = "Error: cat.png exists and is not replaced: choose another name\n"
    assert (outcome.status, outcome.err) == (1, wanted)
    assert asked(server) == []
    assert embedd("image", "sd", "cat", "--seed", "7").out == "sd-7-2.png\n"
    assert embedd("image", "sd", "cat", "--seed", "7").out == "sd-7-3.png\n"
    assert {Path(name).read_text() for name in ("cat.png", "sd-7.png")} == {"mine"}


def test_a_file_that_appears_while_the_picture_is_painted_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "cat.png"
    path.write_text("mine")
    with pytest.raises(InvalidInputError, match="is not replaced"):
        image._write(path, b"a picture", is_chosen=True)
    assert path.read_text() == "mine"


def test_a_dash_writes_the_bytes_to_stdout(embedd: Run, server: FakeServer) -> None:
    outcome = embedd("image", "sd", "cat", "-o", "-", "--seed", "7")
    assert (outcome.status, outcome.out, outcome.err) == (0, "a picture", "seed 7, 1.5 s\n")
    assert list(Path.cwd().iterdir()) == []
    assert embedd("image", "sd", "cat", "-o", "-", "-n", "2").status == 2
    assert embedd("image", "sd", "cat", "-o", "-", "--open").status == 2
    assert len(asked(server)) == 1


@pytest.mark.parametrize(
    "arguments", [["--size", "big"], ["--size", "64"], ["-n", "0"], ["--format", "gif"], []]
)
@pytest.mark.usefixtures("server")
def test_wrong_usage_has_the_status_2(embedd: Run, arguments: list[str]) -> None:
    prompt = ["cat"] if arguments else []
    assert embedd("image", "sd", *prompt, *arguments).status == 2


def test_a_picture_of_many_megabytes_arrives(embedd: Run, server: FakeServer) -> None:
    server.picture = bytes(range(256)) * 20_000
    assert embedd("image", "sd", "cat", "-o", "cat.png").status == 0
    assert Path("cat.png").read_bytes() == server.picture


def test_the_servers_error_is_shown_and_nothing_is_written(embedd: Run, server: FakeServer) -> None:
    server.paint_lines = ({"done": False, "total": 2}, {"error": "the image engine died"})
    outcome = embedd("image", "sd", "cat")
    assert (outcome.status, outcome.err) == (1, "Error: the image engine died\n")
    server.paint_lines = ({"done": False, "total": 2},)
    server.picture = b""  # the answer ends without one
    outcome = embedd("image", "sd", "cat")
    text = "Error: the server ended the picture without a result\n"
    assert (outcome.status, outcome.err) == (1, text)
    assert list(Path.cwd().iterdir()) == []


def test_an_embedding_model_is_named_as_one(embedd: Run, server: FakeServer) -> None:
    server.refusals["/api/generate"] = web.json_response(
        {"error": '"all-minilm" does not support generate'}, status=400
    )
    outcome = embedd("image", "all-minilm", "cat")
    text = (
        'Error: "all-minilm" is an embedding model and does not paint: '
        "`embedd search images` lists image models\n"
    )
    assert (outcome.status, outcome.err) == (1, text)
    server.refusals["/api/generate"] = web.json_response({"error": "no such size"}, status=400)
    assert embedd("image", "sd", "cat").err == "Error: no such size\n"


@pytest.mark.usefixtures("_no_server")
def test_painting_needs_a_server(embedd: Run) -> None:
    outcome = embedd("image", "sd", "cat")
    assert outcome.status == 1
    assert "run 'embedd serve'" in outcome.err


def test_a_picture_is_opened_if_that_is_asked_for(
    embedd: Run, server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(click, "launch", opened.append)
    embedd("image", "sd", "cat", "-o", "cat.png", "--open")
    assert opened == ["cat.png"]
    assert len(asked(server)) == 1


def test_run_paints_with_an_image_model(embedd: Run, server: FakeServer) -> None:
    server.models.add("sd")
    server.capabilities = ("image",)
    outcome = embedd("run", "sd", "a", "cat")
    [body] = asked(server)
    options = body["options"]
    assert isinstance(options, dict)
    assert outcome.out == f"sd-{options['seed']}.png\n"
    assert body["prompt"] == "a cat"


def test_the_steps_are_shown_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    with image.open_progress() as report:
        report(0, 4)
        report(1, 4)
        report(4, 4)
    shown = capfd.readouterr().err
    assert "4/4" in shown
    assert "finishing" in shown

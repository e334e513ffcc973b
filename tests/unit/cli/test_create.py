"""create: from a Modelfile, a path or a name, on the store or through the server."""

import hashlib
from pathlib import Path

import pytest

from embedd.cli.create import gather
from embedd.errors import InvalidInputError
from tests.tiny_models import write_tiny_checkpoint
from tests.unit.cli.conftest import FakeLibrary, Run
from tests.unit.cli.fake_server import FakeServer


def write(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_a_modelfile_sets_source_parameters_and_licences(
    embedd: Run, library: FakeLibrary, tmp_path: Path
) -> None:
    write(tmp_path / "a/model.gguf", "GGUF")
    text = "FROM ./model.gguf\nPARAMETER num_ctx 16\nLICENSE MIT\nSYSTEM be nice\n"
    outcome = embedd("create", "mine", "-f", write(tmp_path / "a/Modelfile", text), "-q", "f16")
    assert outcome.status == 0
    assert outcome.err == ("Warning: line 4: SYSTEM has no effect\nconverting model\nsuccess\n")
    source = tmp_path / "a/model.gguf"
    assert library.asked == [("create", "mine", source, "f16", {"num_ctx": 16}, ["MIT"])]


def test_a_source_that_is_not_a_file_is_a_model_name(embedd: Run, library: FakeLibrary) -> None:
    assert embedd("create", "mine", "-f", "-", stdin=b"FROM all-minilm").status == 0
    assert embedd("create", "mine", "--from", "hf.co/a/b:Q8_0").status == 0
    assert [asked[2] for asked in library.asked] == ["all-minilm", "hf.co/a/b:Q8_0"]


def test_the_source_option_overrides_the_modelfile(embedd: Run, library: FakeLibrary) -> None:
    modelfile = b"FROM a\nPARAMETER num_ctx 16"
    assert embedd("create", "m", "-f", "-", "--from", "b", stdin=modelfile).status == 0
    assert library.asked == [("create", "m", "b", None, {"num_ctx": 16}, [])]


def test_the_modelfile_of_this_folder_is_found(
    embedd: Run, library: FakeLibrary, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    outcome = embedd("create", "mine")
    assert outcome.err == ("Error: no Modelfile here: give one with -f, or a source with --from\n")
    write(tmp_path / "Modelfile", "FROM all-minilm")
    assert embedd("create", "mine").status == 0
    assert library.asked[0][2] == "all-minilm"


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("args", "stdin", "text"),
    [
        (["-f", "-"], b"LICENSE MIT", "no FROM line"),
        (["-f", "-"], b"FROM a\nPARAMETER x 1", "(line 2): unknown parameter 'x'"),
        (["--from", "./nope"], b"",
         "./nope does not exist: give a checkpoint folder or a GGUF"),
        (["--from", "nope.gguf"], b"",
         "nope.gguf does not exist: give a checkpoint folder or a GGUF"),
    ],
)  # fmt: skip
def test_a_model_that_cannot_be_created_is_an_error_of_one_line(
    embedd: Run, args: list[str], stdin: bytes, text: str
) -> None:
    outcome = embedd("create", "mine", *args, stdin=stdin)
    assert (outcome.status, outcome.err) == (1, f"Error: {text}\n")


@pytest.mark.usefixtures("library")
def test_files_are_given_to_the_server_that_answers(
    embedd: Run, server: FakeServer, tmp_path: Path
) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    outcome = embedd("create", "mine", "--from", str(folder), "-q", "q8_0")
    assert outcome.status == 0, outcome.err
    weights = (folder / "model.safetensors").read_bytes()
    digest = f"sha256:{hashlib.sha256(weights).hexdigest()}"
    assert server.blobs[digest] == weights
    assert outcome.err.startswith("gathering model components\ncopying file sha256:")
    body = server.asked[-1][2]
    assert body["files"]["model.safetensors"] == digest
    assert set(body["files"]) == set(gather(folder))
    assert (body["model"], body["quantize"], body.get("from")) == ("mine", "q8_0", None)
    sent = [request for request in server.asked if request[0] == "POST"]
    embedd("create", "mine", "--from", str(folder))
    again = [request for request in server.asked if request[0] == "POST"][len(sent) :]
    assert [path for _, path, _ in again] == ["/api/create"]


@pytest.mark.usefixtures("library")
def test_a_name_is_left_to_the_server_that_answers(embedd: Run, server: FakeServer) -> None:
    text = b"FROM all-minilm\nPARAMETER num_ctx 16\nLICENSE MIT"
    assert embedd("create", "mine", "-f", "-", stdin=text).status == 0
    body = {"model": "mine", "from": "all-minilm", "parameters": {"num_ctx": 16}}
    assert server.asked[-1] == ("POST", "/api/create", body | {"license": ["MIT"]})


@pytest.mark.usefixtures("library")
def test_the_servers_error_is_shown(embedd: Run, server: FakeServer) -> None:
    server.pull_lines = ({"status": "parsing GGUF"}, {"error": "truncated"})
    outcome = embedd("create", "mine", "--from", "x")
    assert (outcome.status, outcome.err) == (1, "parsing GGUF\nError: truncated\n")


def test_a_checkpoint_is_its_weights_and_its_texts(tmp_path: Path) -> None:
    folder = write_tiny_checkpoint(tmp_path / "checkpoint")
    for other in ("README.md", "onnx/model.onnx", "openvino/config.json", ".git/x.json"):
        write(folder / other, "")
    write(folder / "2_Dense/model.safetensors", "")
    assert set(gather(folder)) == {
        "1_Pooling/config.json",
        "2_Dense/model.safetensors",
        "config.json",
        "model.safetensors",
        "modules.json",
        "sentence_bert_config.json",
        "tokenizer_config.json",
        "vocab.txt",
    }
    (tmp_path / "empty").mkdir()
    with pytest.raises(InvalidInputError, match="holds no checkpoint"):
        gather(tmp_path / "empty")
    assert gather(folder / "vocab.txt") == {"vocab.txt": folder / "vocab.txt"}


IMAGE_MODEL = "FROM ./klein.gguf\nCOMPONENT llm ./llm.gguf\nCOMPONENT vae ../vae.safetensors\n"


def test_the_files_of_components_are_found_beside_the_modelfile(
    embedd: Run, library: FakeLibrary, tmp_path: Path
) -> None:
    for name in ("a/klein.gguf", "a/llm.gguf", "vae.safetensors"):
        write(tmp_path / name, f"GGUF {name}")
    modelfile = write(tmp_path / "a/Modelfile", IMAGE_MODEL)
    assert embedd("create", "klein", "-f", modelfile).status == 0
    [components] = library.components
    found = {part: path.read_text() for part, path in components.items()}
    assert found == {"llm": "GGUF a/llm.gguf", "vae": "GGUF vae.safetensors"}
    (tmp_path / "a/llm.gguf").unlink()
    outcome = embedd("create", "klein", "-f", modelfile)
    wanted = f"Error: {tmp_path}/a/llm.gguf, the file of a COMPONENT, does not exist\n"
    assert (outcome.status, outcome.err) == (1, wanted)


@pytest.mark.usefixtures("library")
def test_the_files_of_components_are_uploaded_to_the_server_that_answers(
    embedd: Run, server: FakeServer, tmp_path: Path
) -> None:
    for name in ("a/klein.gguf", "a/llm.gguf", "vae.safetensors"):
        write(tmp_path / name, f"GGUF {name}")
    outcome = embedd("create", "klein", "-f", write(tmp_path / "a/Modelfile", IMAGE_MODEL))
    assert outcome.status == 0, outcome.err
    body = server.asked[-1][2]
    assert server.blobs[body["files"]["klein.gguf"]] == b"GGUF a/klein.gguf"
    assert body["components"].keys() == {"llm", "vae"}
    assert server.blobs[body["components"]["llm"]] == b"GGUF a/llm.gguf"
    assert server.blobs[body["components"]["vae"]] == b"GGUF vae.safetensors"


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize(
    ("file", "message"),
    [
        (("noise.bin", "noise and more of it"), "is not a model: it is neither"),
        (("a/config.json", "{}"), "holds no checkpoint: it has no .safetensors file"),
        (("a/m.safetensors", "x"), "is not a checkpoint: it has no config.json"),
    ],
)
def test_what_is_not_a_model_is_refused_before_it_is_uploaded(
    embedd: Run, server: FakeServer, tmp_path: Path, file: tuple[str, str], message: str
) -> None:
    name, text = file
    write(tmp_path / name, text)
    outcome = embedd("create", "mine", "--from", str(tmp_path / name.partition("/")[0]))
    assert outcome.status == 1
    assert message in outcome.err
    assert server.asked == []


@pytest.mark.usefixtures("library")
def test_an_unknown_base_is_named_with_its_line(
    embedd: Run, server: FakeServer, tmp_path: Path
) -> None:
    text = "pull model manifest: file does not exist"
    server.pull_lines = ({"error": text},)
    modelfile = write(tmp_path / "Modelfile", "# mine\nFROM nope\n")
    outcome = embedd("create", "mine", "-f", modelfile)
    assert outcome.err.splitlines()[-1].startswith(f"Error: {modelfile}, line 2: FROM nope: {text}")

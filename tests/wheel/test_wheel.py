"""The wheel is complete, and a user who installs it can serve the default model."""

import json
import math
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

import pytest

from embedd import __version__
from tests.installed_server import serving
from tests.wheel.conftest import Installation

# Prints where each module was imported from, or the foreign module that it lacks.
IMPORT = """
import importlib, json, sys

def find(name):
    try:
        return importlib.import_module(name).__file__
    except ModuleNotFoundError as error:
        return error.name

print(json.dumps({name: find(name) for name in sys.argv[1:]}))
"""

# Modules of an extra → those of ours that need it.
EXTRAS = {
    "openvino": ("embedd.engine.openvino.",),
    "pyarrow": ("embedd.bulk.tables",),
    "stable_diffusion_cpp": ("embedd.engine.diffusion.",),
    "ray": ("embedd.ray.cluster",),
    "PIL": ("embedd.engine.worker.picture_file", "embedd.engine.worker.painting"),
}


@pytest.fixture(scope="session")
def files(wheel: Path) -> set[str]:
    """Names of the files in the wheel, without those that describe it."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    return {name for name in names if ".dist-info/" not in name}


def test_the_wheel_holds_every_file_of_the_package(source: Path, files: set[str]) -> None:
    package = {path.relative_to(source) for path in (source / "embedd").rglob("*")}
    recipes = {"embedd" / path.relative_to(source) for path in (source / "models").rglob("*")}
    expected = {path.as_posix() for path in package | recipes if path.suffix}
    assert {"embedd/__main__.py", "embedd/models/all-minilm.toml", "embedd/py.typed"} <= expected
    assert files == expected


def test_every_module_can_be_imported(files: set[str], installation: Installation) -> None:
    modules = [PurePosixPath(name) for name in sorted(files) if name.endswith(".py")]
    names = [".".join(path.with_suffix("").parts).removesuffix(".__init__") for path in modules]
    assert "embedd.metrics" in names
    found = json.loads(installation.run(installation.python, "-c", IMPORT, *names))
    installed = installation.python.parents[1] / "lib"
    for path, name in zip(modules, names, strict=True):
        lacks_extra = name.startswith(EXTRAS.get(found[name], ()))
        assert lacks_extra or Path(found[name]).is_relative_to(installed), (path, found[name])


def test_the_command_says_its_version(installation: Installation) -> None:
    printed = installation.run(installation.embedd, "--version")
    assert printed == f"embedd version is {__version__}\n"


def test_the_default_model_is_served(installation: Installation, tmp_path: Path) -> None:
    """As the README has it: pull, serve, one request; without OpenVINO llama.cpp computes."""
    installation.run(installation.embedd, "pull", "all-minilm")
    body = json.dumps({"model": "all-minilm", "input": ["Why is the sky blue?", "a"]}).encode()
    with (
        serving(installation.embedd, installation.environment, tmp_path / "log") as url,
        urllib.request.urlopen(f"{url}/api/embed", body, timeout=60) as reply,
    ):
        vectors = json.load(reply)["embeddings"]
        served_by = reply.headers["X-Embedd-Model"]
    assert ";engine=llama;" in served_by
    assert [len(vector) for vector in vectors] == [384, 384]
    assert all(math.isclose(math.hypot(*vector), 1, abs_tol=1e-5) for vector in vectors)
    assert vectors[0] != vectors[1]

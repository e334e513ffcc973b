"""Official clients that paint, unchanged: they read their pictures, steps and errors."""

import base64
import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import litellm
import ollama
import openai
import pytest
from conftest import EMBEDD, KEY, ROOT

from tests.installed_server import serving

PYTHON = ROOT / ".venv" / "bin" / "python"
MODEL = "tiny"
HAS_EXTRA = "from embedd.engine.installation import has_diffusion as f; raise SystemExit(not f())"
WRITE = (
    "import sys; from pathlib import Path; from tests.tiny_images import write_tiny_klein;"
    "write_tiny_klein(Path(sys.argv[1]))"
)
MODELFILE = """\
FROM ./klein.gguf
PARAMETER width 64
PARAMETER height 64
PARAMETER steps 2
"""


@pytest.fixture(scope="module")
def image_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Base URL of a server with a tiny image model."""
    here = {**os.environ, "PYTHONPATH": str(ROOT)}
    if subprocess.run([PYTHON, "-c", HAS_EXTRA], env=here, check=False).returncode:
        pytest.skip("needs the extra embedd-server[images]: make images")
    home = tmp_path_factory.mktemp("images")
    environment = {
        **{name: value for name, value in os.environ.items() if "_PROXY" not in name.upper()},
        "EMBEDD_HOST": "127.0.0.1:0",
        "EMBEDD_MODELS": str(home / "models"),
        "EMBEDD_STATE": str(home / "state"),
    }
    subprocess.run([PYTHON, "-c", WRITE, home / "klein.gguf"], env=here, check=True, cwd=ROOT)
    modelfile = home / "Modelfile"
    modelfile.write_text(MODELFILE)
    create = [EMBEDD, "create", MODEL, "-f", modelfile]
    subprocess.run(create, env={**environment, "EMBEDD_HOST": "127.0.0.1:1"}, check=True)
    with serving(EMBEDD, environment, home / "log") as url:
        yield url


def size_of(data: bytes) -> tuple[int, int]:
    """Width and height of a PNG."""
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    return width, height


def test_openai(image_url: str) -> None:
    client = openai.OpenAI(base_url=f"{image_url}/v1", api_key=KEY)
    reply = client.images.generate(model=MODEL, prompt="a cat", n=2, size="128x64")
    assert [size_of(base64.b64decode(one.b64_json or "")) for one in reply.data or ()] == [
        (128, 64), (128, 64)
    ]  # fmt: skip
    assert reply.created > 0
    wanted = {"seed": 7, "steps": 3, "negative_prompt": "rain", "guidance_scale": 2}
    reply = client.images.generate(
        model=MODEL, prompt="a cat", response_format="url", extra_body=wanted
    )
    [one] = reply.data or ()
    assert (one.url or "").startswith("data:image/png;base64,")
    with pytest.raises(openai.NotFoundError, match="not found"):
        client.images.generate(model="nope", prompt="a cat")
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(model=MODEL, prompt="a cat", size="17x17")
    assert (caught.value.param, caught.value.code) == ("size", "invalid_value")
    with pytest.raises(openai.BadRequestError, match="image-to-image"):
        client.images.generate(model=MODEL, prompt="a cat", extra_body={"image": "aGk="})


async def test_openai_async_streams_partial_images(image_url: str) -> None:
    async with openai.AsyncOpenAI(base_url=f"{image_url}/v1", api_key=KEY) as client:
        stream = await client.images.generate(
            model=MODEL, prompt="a cat", stream=True, partial_images=2, extra_body={"steps": 4}
        )
        events = [event async for event in stream]
    assert [event.type for event in events] == [
        "image_generation.partial_image",
        "image_generation.partial_image",
        "image_generation.completed",
    ]
    assert size_of(base64.b64decode(events[-1].b64_json)) == (64, 64)


def test_ollama(image_url: str) -> None:
    client = ollama.Client(image_url)
    whole = client.generate(MODEL, "a cat", width=72, height=64, options={"seed": 7})
    assert size_of(base64.b64decode(whole.image or "")) == (72, 64)
    lines = list(client.generate(MODEL, "a cat", steps=3, stream=True))
    assert max(line.completed or 0 for line in lines) == 3
    assert lines[-1].done
    assert size_of(base64.b64decode(lines[-1].image or "")) == (64, 64)
    assert client.show(MODEL).capabilities == ["image"]
    with pytest.raises(ollama.ResponseError, match="makes images, not embeddings"):
        client.embed(MODEL, "a cat")
    with pytest.raises(ollama.ResponseError, match="width is 8192"):
        client.generate(MODEL, "a cat", width=8192)


def test_litellm(image_url: str) -> None:
    asked: dict[str, Any] = {"api_base": f"{image_url}/v1", "api_key": KEY}
    reply = litellm.image_generation("a cat", f"openai/{MODEL}", size="64x72", **asked)
    [one] = reply.data
    assert size_of(base64.b64decode(one.b64_json)) == (64, 72)
    with pytest.raises(litellm.BadRequestError):
        litellm.image_generation("a cat", f"openai/{MODEL}", size="1x1", **asked)


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl, which is not installed")
def test_curl_writes_a_file(image_url: str, tmp_path: Path) -> None:
    path = tmp_path / "cat.jpg"
    url = f"{image_url}/api/v1/images/generation"
    body = f'{{"model": "{MODEL}", "prompt": "a cat"}}'
    command = ["curl", "-s", "-X", "GET", url, "-H", "Accept: image/jpeg", "-o", path, "-d", body]
    subprocess.run(command, check=True)
    assert path.read_bytes().startswith(b"\xff\xd8")

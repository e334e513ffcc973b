"""Pictures by the real library through real HTTP: the origin's documents, clients, the command."""

import asyncio
import base64
import contextlib
import io
import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import ollama
import psutil
import pytest
import pytest_asyncio
from PIL import Image

from embedd.config import read_settings
from embedd.runtime import open_library
from tests.image_files import write_gguf
from tests.needs import require_diffusion
from tests.system.serving import Server, open_server
from tests.tiny_images import write_tiny_klein_parts
from tests.tiny_models import write_tiny_bert

pytestmark = pytest.mark.asyncio(loop_scope="module")

XL = "stabilityai/stable-diffusion-xl-base-1.0"
UAE = "WhereIsAI/UAE-Large-V1"
PATH = "/api/v1/images/generation"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(
    tmp_path_factory: pytest.TempPathFactory, tiny_klein: Path
) -> AsyncIterator[Server]:
    """A server with the tiny model under the names of the documents, and in three files."""
    require_diffusion()
    root = tmp_path_factory.mktemp("images")
    settings = read_settings(
        {"EMBEDD_MODELS": str(root / "models"), "EMBEDD_STATE": str(root / "state")}
    )
    library = open_library(settings)
    small = {"width": 64, "height": 64, "steps": 2}
    library.create(XL, tiny_klein, parameters=small)
    diffusion, *others = write_tiny_klein_parts(root).items()
    library.create("parts", diffusion[1], components=dict(others), parameters=small)
    library.create(UAE, write_tiny_bert(root / "bert.gguf"))
    async with open_server(settings) as opened:
        yield opened


async def paint(server: Server, path: str, **fields: object) -> Any:
    status, reply = await server.send(path, {"model": XL, "prompt": "a lovely cat", **fields})
    assert status == 200, reply
    return reply


def open_picture(text: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(text)))


async def test_the_documents_requests_work_as_they_stand(server: Server) -> None:
    """But for the size and the steps, which would take minutes."""
    body = {
        "model_name": XL,
        "prompt": "insert your prompt here",
        "num_steps": 2,
        "guidance_scale": 9,
        "width": 128,
        "height": 64,
        "negative_prompt": None,
    }
    headers = {"Authorization": "Bearer {TOKEN/KEY}", "Content-Type": "application/json"}
    async with server.session.get(server.url + PATH, json=body, headers=headers) as response:
        reply = await response.json()
        assert response.status == 200
        engine = response.headers["X-Embedd-Model"].split(";")[1]
    assert engine == "engine=diffusion"
    [item] = reply["data"]
    assert open_picture(item["b64_json"]).size == (128, 64)
    assert item["timings"]["inference"] > 0
    texts = {"model": UAE, "input": ["Bananas are berries.", "The Eiffel Tower is in Paris."]}
    async with server.session.get(server.url + PATH, json=texts, headers=headers) as response:
        assert [row["index"] for row in (await response.json())["data"]] == [0, 1]


async def test_all_dialects_and_both_forms_of_the_model_paint_the_same_picture(
    server: Server,
) -> None:
    first = (await paint(server, PATH, seed=7))["data"][0]["b64_json"]
    pictures = [
        (await paint(server, "/v1/images/generations", seed=7))["data"][0]["b64_json"],
        (await paint(server, "/api/generate", options={"seed": 7}, stream=False))["image"],
        (await paint(server, PATH, model="parts", seed=7))["data"][0]["b64_json"],
    ]
    a1111 = {"prompt": "a lovely cat", "seed": 7, "override_settings": {"sd_model_checkpoint": XL}}
    status, reply = await server.send("/sdapi/v1/txt2img", a1111)
    assert status == 200
    pictures += reply["images"]
    pixels = {open_picture(one).tobytes() for one in pictures}
    assert pixels == {open_picture(first).tobytes()}
    text = open_picture(first).text  # type: ignore[attr-defined]  # of PNG files
    assert text["parameters"].startswith("a lovely cat\nSteps: 2, Sampler: euler,")
    assert "Seed: 7, Size: 64x64" in text["parameters"]
    other = (await paint(server, PATH, seed=8))["data"][0]["b64_json"]
    assert open_picture(other).tobytes() not in pixels


async def test_the_ollama_client_gets_its_steps_and_its_picture(server: Server) -> None:
    async with ollama.AsyncClient(server.url) as client:
        stream = await client.generate(
            XL, "a lovely cat", width=72, height=64, steps=3, stream=True, options={"seed": 7}
        )
        lines = [line async for line in stream]
    assert [line.completed for line in lines if line.completed][:3] == [1, 2, 3]
    assert lines[-1].image is not None
    assert open_picture(lines[-1].image).size == (72, 64)


async def test_a_request_of_open_webui_gets_its_picture(server: Server) -> None:
    body = {
        "model": XL, "prompt": "a lovely cat", "n": 1, "size": "64x72",
        "response_format": "b64_json",
    }  # fmt: skip
    status, reply = await server.send("/v1/images/generations", body)
    assert status == 200
    assert open_picture(reply["data"][0]["b64_json"]).size == (64, 72)


async def test_a_stream_of_openai_has_previews_and_the_picture(server: Server) -> None:
    body = {"model": XL, "prompt": "a cat", "stream": True, "partial_images": 2, "steps": 4}
    async with server.session.post(server.url + "/v1/images/generations", json=body) as response:
        text = (await response.read()).decode()
    names = [line for line in text.splitlines() if line.startswith("event: ")]
    partial, completed = (
        "event: image_generation.partial_image",
        "event: image_generation.completed",
    )
    assert names == [partial, partial, completed]


async def test_a_client_that_leaves_at_the_third_step_ends_the_worker(server: Server) -> None:
    before = set(psutil.Process().children())
    body = {"model": XL, "prompt": "a cat", "steps": 150, "width": 256, "height": 256}
    async with server.session.post(server.url + "/api/generate", json=body) as response:
        lines = [json.loads(await response.content.readline()) for _ in range(5)]
        assert lines[-1]["completed"] >= 3
        workers = list(set(psutil.Process().children()) - before)
        assert workers
        response.close()
    async with asyncio.timeout(60):
        while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in workers):
            await asyncio.sleep(0.05)
    await paint(server, PATH)


async def test_a_file_that_lacks_a_tensor_is_an_error_that_names_it(
    server: Server, tmp_path: Path
) -> None:
    tensors = {
        "model.diffusion_model.double_stream_modulation_img.lin.weight": (4, 4),
        "model.diffusion_model.double_blocks.0.img_attn.qkv.weight": (4, 4),
        "text_encoders.llm.model.embed_tokens.weight": (4, 8),
        "first_stage_model.decoder.conv_in.weight": (3, 3, 4, 4),
    }
    server.runtime.library.create("broken", write_gguf(tmp_path / "broken.gguf", tensors))
    status, reply = await server.send(PATH, {"model": "broken", "prompt": "a cat"})
    assert status == 500
    assert "broken" in reply["message"] or "tensor" in reply["message"]
    await paint(server, PATH)


async def test_the_command_writes_the_picture(server: Server, tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "embedd", "image", XL, "a lovely cat", "--seed", "7",
        "-o", str(tmp_path / "cat.webp"),
        env={**os.environ, "EMBEDD_HOST": server.url},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode == 0, err
    assert out.decode() == f"{tmp_path}/cat.webp\n"
    assert err.decode().startswith("seed 7, ")
    with Image.open(tmp_path / "cat.webp") as picture:
        assert (picture.format, picture.size) == ("WEBP", (64, 64))


async def test_ctrl_c_of_the_command_ends_the_picture_on_the_server(server: Server) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "embedd", "image", XL, "a cat", "--steps", "150",
        "--size", "512x512", "-o", "-",
        env={**os.environ, "EMBEDD_HOST": server.url},
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )  # fmt: skip
    painter = server.runtime.painter
    async with asyncio.timeout(60):
        while not any(one.progress and one.progress.step for one in painter.statuses()):
            await asyncio.sleep(0.05)
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(2)
    assert await process.wait() == 130
    async with asyncio.timeout(60):
        while painter.statuses():
            await asyncio.sleep(0.05)


async def test_the_seed_is_in_the_headers_before_the_stream_begins(server: Server) -> None:
    body = {"model": XL, "prompt": "a cat", "stream": True}
    async with server.session.post(server.url + PATH, json=body) as response:
        assert isinstance(response, aiohttp.ClientResponse)
        seed = int(response.headers["X-Embedd-Seed"])
        text = (await response.read()).decode()
    assert f'"seed":{seed}' in text
    assert text.endswith("data: [DONE]\n\n")

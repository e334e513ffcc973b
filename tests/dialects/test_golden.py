"""Golden conversations of every dialect, a file each: requests and their exact answers.

An answer names every field of the JSON. In place of a value that differs from run to run
stands what it must be: ``<positive>``, ``<whole float>``, ``<vector>``, ``<vector 3>``,
``<base64 32>`` (bytes), ``<png 64x48>`` (base64 of a picture of this size), ``<json>`` (text), or
one of `PATTERNS`. A stream is the list of its lines, or of its server-sent events. A file may name
models to store beside those of `tiny_store`: the weights of ``tiny`` with these parameters, and
image models; and settings of the server.
"""

import base64
import json
import math
import re
import struct
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from embedd.choices import TokenIdChoice
from embedd.engine.fake import WIDTH
from embedd.server.dialects.base import Policy
from tests.server.serving import OpenServer, Reply, Served
from tests.unit.stored import store_model

GOLDEN = Path(__file__).parent / "golden"
PATTERNS = {
    "<any>": r"[^\0]+",
    "<hex12>": r"[0-9a-f]{12}",
    "<hex24>": r"[0-9a-f]{24}",
    "<hex32>": r"[0-9a-f]{32}",
    "<hex64>": r"[0-9a-f]{64}",
    "<number>": r"[0-9]+",
    "<uuid>": r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
    "<version>": r"[0-9]+\.[0-9]+\.[0-9]+",
    "<time>": r"[0-9-]{10}T[0-9:]{8}(\.[0-9]{1,6})?(Z|[+-][0-9:]{5})",
}
PLACEHOLDER = re.compile("|".join(map(re.escape, PATTERNS)))


CASES = {
    f"{path.parent.name}/{path.stem}": json.loads(path.read_text())
    for path in sorted(GOLDEN.glob("*/*.json"))
}


@pytest.mark.parametrize("name", CASES)
async def test_a_conversation_goes_as_promised(
    name: str, open_server: OpenServer, tiny_store: Path
) -> None:
    choice = TokenIdChoice(CASES[name].get("token_ids", "auto"))
    default = CASES[name].get("default_model")
    policy = Policy(token_ids=choice, default_model=default)
    served: Served = await open_server(policy=policy)
    for model, parameters in CASES[name].get("models", {}).items():
        store_model(served.store, model, tiny_store.parent / "tiny.gguf", parameters)
    for model, parameters in CASES[name].get("image_models", {}).items():
        served.add_image_model(model, parameters)
    assert CASES[name]["exchanges"]
    for number, exchange in enumerate(CASES[name]["exchanges"]):
        request, answer = exchange["request"], exchange["answer"]
        reply = await send(served, request)
        where = f"{name} #{number}: {request} answered {reply.body[:200]!r}"
        assert reply.status == answer["status"], where
        if "text" in answer:
            assert reply.body.decode() == answer["text"], where
        elif "lines" in answer:
            lines = [json.loads(line) for line in reply.body.decode().splitlines()]
            assert fits(lines, answer["lines"]), where
        elif "events" in answer:
            assert fits(read_events(reply.body.decode()), answer["events"]), where
        elif "file" in answer:
            assert picture_size(reply.body) == answer["file"], where
        else:
            assert fits(reply.json, answer["json"]), where
        for header, value in answer.get("headers", {}).items():
            assert fits(reply.headers.get(header), value), f"{where}, {header}"


def read_events(text: str) -> list[object]:
    """The events of a stream: their names, if they have one, and their data."""
    events: list[object] = []
    for block in text.strip().split("\n\n"):
        named = dict(line.split(": ", 1) for line in block.splitlines())
        data = named["data"]
        events.append(named | {"data": data if data == "[DONE]" else json.loads(data)})
    return events


def picture_size(data: bytes) -> str:
    """Size of a PNG as its header says it."""
    assert data.startswith(b"\x89PNG")
    width, height = struct.unpack(">II", data[16:24])
    return f"png {width}x{height}"


async def send(served: Served, request: dict[str, Any]) -> Reply:
    arguments: dict[str, Any] = {"headers": request.get("headers", {})}
    if "json" in request:
        arguments["json"] = request["json"]
    if "body" in request:
        arguments["data"] = request["body"].encode()
    return await served.send(request["method"], request["path"], **arguments)


def fits(value: object, wanted: object) -> bool:
    """Whether *value* is *wanted*, or of the kind that it names; objects have no more fields."""
    if isinstance(wanted, dict):
        same_names = isinstance(value, dict) and value.keys() == wanted.keys()
        return same_names and all(fits(value[name], wanted[name]) for name in wanted)  # type: ignore[index]  # JSON: its type was compared before
    if isinstance(wanted, list):
        same_length = isinstance(value, list) and len(value) == len(wanted)
        return same_length and all(map(fits, value, wanted))  # type: ignore[call-overload]  # JSON: its type was compared before
    if isinstance(wanted, str):
        return word_fits(value, wanted)
    return type(value) is type(wanted) and value == wanted


def word_fits(value: object, wanted: str) -> bool:
    if wanted == "<positive>":
        return isinstance(value, int) and not isinstance(value, bool) and value > 0
    if wanted == "<whole float>":
        return isinstance(value, float) and value.is_integer()
    if wanted.startswith("<vector"):
        return is_unit_vector(value, int(wanted[7:-1] or WIDTH))
    return isinstance(value, str) and (
        content_fits(value, wanted) if wanted.startswith(CONTENTS) else text_fits(value, wanted)
    )


CONTENTS = ("<json", "<png", "<base64")


def content_fits(value: str, wanted: str) -> bool:
    """Whether the text contains what *wanted* names."""
    if wanted == "<json>":
        return isinstance(json.loads(value), dict)
    data = base64.b64decode(value.removeprefix("data:image/png;base64,"))
    if wanted.startswith("<png"):
        return f"<{picture_size(data)}>" == wanted
    return len(data) == int(wanted[7:-1])


def text_fits(value: str, wanted: str) -> bool:
    if wanted == "<time>":
        datetime.fromisoformat(value)
    parts = PLACEHOLDER.split(wanted)
    kinds = PLACEHOLDER.findall(wanted)
    pattern = "".join(
        re.escape(part) + (PATTERNS[kind] if kind else "")
        for part, kind in zip(parts, [*kinds, ""], strict=True)
    )
    return re.fullmatch(pattern, value) is not None


def is_unit_vector(value: object, length: int) -> bool:
    if not isinstance(value, list) or len(value) != length:
        return False
    return math.isclose(math.hypot(*value), 1, abs_tol=1e-5)

"""A model that OpenVINO cannot compute is served by llama.cpp, with one line in the log."""

import logging
from pathlib import Path

import pytest

from embedd.runtime import open_library
from tests.conftest import MakeSettings
from tests.needs import require_openvino
from tests.requantize import requantize
from tests.system.serving import open_server
from tests.tiny_models import write_tiny_bert

require_openvino()


async def test_weights_that_only_llama_cpp_reads_are_served_with_one_line_in_the_log(
    make_settings: MakeSettings, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = make_settings()
    plain = write_tiny_bert(tmp_path / "plain.gguf", width=256)
    small = requantize(plain, tmp_path / "small.gguf", "Q1_0", pure=True)
    open_library(settings).create("small", small)
    for expected in (["backend cannot compute model"], []):  # the verdict is kept
        caplog.clear()
        with caplog.at_level(logging.DEBUG, "embedd"):
            async with open_server(settings) as server:
                body = {"model": "small", "input": "the sky"}
                async with server.session.post(f"{server.url}/api/embed", json=body) as response:
                    assert response.status == 200, await response.text()
                    assert "engine=llama" in response.headers["X-Embedd-Model"]
        lines = [one for one in caplog.records if one.levelno > logging.INFO]
        assert [one.message for one in lines] == expected
        assert all("has the type Q1_0" in one.__dict__["reason"] for one in lines)

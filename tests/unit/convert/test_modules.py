"""Modules and adapters of a checkpoint are converted or refused, never passed over."""

from pathlib import Path

import numpy as np
import pytest

from embedd.convert.checkpoint import read_checkpoint
from embedd.convert.modules import ORDER, read_dense_tensors, read_modules
from embedd.errors import ConversionError
from embedd.types import Pooling
from tests.checkpoints import SAMPLES, write_sample
from tests.tiny_models import write_json, write_safetensors, write_tiny_checkpoint


def write_kinds(folder: Path, *kinds: str, package: str = "sentence_transformers.models") -> Path:
    modules = [{"type": f"{package}.{kind}", "path": kind} for kind in kinds]
    write_json(folder / "modules.json", modules)
    return folder


def test_modules_have_their_folders_and_dense_ones_their_order(tmp_path: Path) -> None:
    modules = read_modules(write_kinds(tmp_path, *ORDER[:3], "Dense", "Normalize"))
    assert modules.transformer == tmp_path / "Transformer"
    assert modules.pooling == tmp_path / "Pooling"
    assert modules.dense == ("Dense", "Dense")


def test_types_of_later_releases_are_known_by_their_last_word(tmp_path: Path) -> None:
    write_kinds(tmp_path, "Transformer", package="sentence_transformers.base.modules.transformer")
    assert read_modules(tmp_path).transformer == tmp_path / "Transformer"


@pytest.mark.parametrize(
    "kind", ["LSTM", "CNN", "WeightedLayerPooling", "Router", "Dropout", "StaticEmbedding"]
)
def test_a_module_that_is_not_converted_is_named(kind: str, tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=f"the module 'sentence_transformers.models.{kind}'"):
        read_modules(write_kinds(tmp_path, "Transformer", "Pooling", kind))


def test_a_module_with_code_of_its_own_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=r"the module 'custom_st\.Transformer'"):
        read_modules(write_kinds(tmp_path, "Transformer", package="custom_st"))


@pytest.mark.parametrize(
    "kinds",
    [
        ("Transformer", "Dense", "Pooling"),
        ("Transformer", "Pooling", "Normalize", "Dense"),
        ("Pooling", "Transformer"),
    ],
)
def test_modules_in_another_order_are_refused(kinds: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(ConversionError, match=f"has the modules {', '.join(kinds)}: only the ord"):
        read_modules(write_kinds(tmp_path, *kinds))


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
@pytest.mark.parametrize("place", [".", "Transformer"])
def test_an_adapter_is_refused_with_what_to_do(file: str, place: str, tmp_path: Path) -> None:
    write_kinds(tmp_path, "Transformer", "Pooling")
    write_json(tmp_path / place / file, {})
    with pytest.raises(ConversionError, match=f"the adapter {file}: merge it into the weights"):
        read_modules(tmp_path)


def test_the_tensors_of_a_dense_module_carry_its_folder(tmp_path: Path) -> None:
    write_kinds(tmp_path, "Transformer", "Pooling", "Dense")
    (tmp_path / "Dense").mkdir()
    stored = {"linear.weight": np.zeros((2, 3), np.float32)}
    write_safetensors(tmp_path / "Dense/model.safetensors", stored)
    found = dict(read_dense_tensors(read_modules(tmp_path)))
    assert found["Dense.linear.weight"].shape == (2, 3)


def test_a_dense_module_with_one_more_tensor_is_refused(tmp_path: Path) -> None:
    write_sample(tmp_path / "source", SAMPLES["embeddinggemma"], Pooling.MEAN)
    stored = {
        "linear.weight": np.zeros((96, 32), np.float32),
        "linear.bias": np.zeros(96, np.float32),
    }
    write_safetensors(tmp_path / "source/2_Dense/model.safetensors", stored)
    with pytest.raises(ConversionError, match=r"'linear\.bias' is not computed by EmbeddingG"):
        read_checkpoint(tmp_path / "source")


PROMPTS = "config_sentence_transformers.json"


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"prompts": ["query: "]}, "they must be names and texts"),
        ({"prompts": {"query": 1}}, "has 1 as prompt 'query': it must be a text"),
        (
            {"prompts": {"document": "passage: "}, "default_prompt_name": "document"},
            "puts the prompt 'document' before every text",
        ),
        ({"default_prompt_name": []}, "has default_prompt_name []: it must be a text"),
    ],
)
def test_prompts_that_a_model_cannot_have_are_refused(
    config: dict[str, object], reason: str, tmp_path: Path
) -> None:
    write_json(write_tiny_checkpoint(tmp_path) / PROMPTS, config)
    with pytest.raises(ConversionError) as caught:
        read_checkpoint(tmp_path)
    assert reason in str(caught.value)


def test_a_default_prompt_without_text_changes_nothing(tmp_path: Path) -> None:
    config = {"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": "document"}
    write_json(write_tiny_checkpoint(tmp_path) / PROMPTS, config)
    assert read_checkpoint(tmp_path).prompts == {"query": "q: "}

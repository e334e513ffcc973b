"""A checkpoint is converted or refused, whatever stands in its files."""

import copy
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from embedd.convert.checkpoint import read_checkpoint
from embedd.errors import ConversionError
from embedd.types import Pooling
from tests.checkpoints import SAMPLES, write_sample
from tests.tiny_models import write_json

CHANGES = 250  # of each checkpoint
VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**40, 1.5, float("nan"), "", "x", [], [None], [1], [[1]], [{}], {},
    {"a": 1}, {"type": "Sequence"}, {"type": []},
)  # fmt: skip

Place = tuple[str | int, ...]


def list_places(value: Any, random_: random.Random, place: Place = ()) -> Iterator[Place]:
    """Where a value could be replaced; of long lists and vocabularies a few places."""
    if place:
        yield place
    keys = [*value] if isinstance(value, dict) else []
    if isinstance(value, list):
        keys = [*range(len(value))]
    for key in keys if len(keys) < 40 else random_.sample(keys, 5):
        yield from list_places(value[key], random_, (*place, key))


def replace_at(value: Any, place: Place, other: Any) -> Any:
    changed = copy.deepcopy(value)
    inside = changed
    for key in place[:-1]:
        inside = inside[key]
    inside[place[-1]] = other
    return changed


@pytest.mark.parametrize("name", SAMPLES)
def test_any_value_at_any_place_is_converted_or_refused(name: str, tmp_path: Path) -> None:
    random_ = random.Random(name)
    source = tmp_path / "source"
    write_sample(source, SAMPLES[name], Pooling.MEAN)
    write_json(source / "sentence_bert_config.json", {"max_seq_length": 64})
    prompts = {"prompts": {"query": "q: "}, "default_prompt_name": None}
    write_json(source / "config_sentence_transformers.json", prompts)
    files = {path: json.loads(path.read_text()) for path in sorted(source.rglob("*.json"))}
    places = [(path, at) for path, value in files.items() for at in list_places(value, random_)]
    refused = 0
    for path, place in random_.choices(places, k=CHANGES):
        write_json(path, replace_at(files[path], place, random_.choice(VALUES)))
        try:
            read_checkpoint(source)
        except ConversionError:
            refused += 1
        write_json(path, files[path])
    assert 0 < refused < CHANGES

"""Verifying finds what is wrong; 200 random rounds leave nothing wrong."""

import random
from pathlib import Path

import pytest

from embedd.errors import EmbeddError, ModelNotFoundError, PullError
from embedd.ollama_api import ProgressLine
from embedd.store.manifests import MODEL
from tests.unit.library.conftest import Workshop

ROUNDS = 200
NAMES = ("a", "B", "b:q8", "acme/c", "hf.co/acme/d:Q8_0", "A")


def test_a_sound_store_has_no_problems(workshop: Workshop) -> None:
    workshop.create("a", workshop.gguf(), licenses=["MIT"])
    workshop.library.copy("a", "b")
    seen: list[ProgressLine] = []
    found = workshop.library.verify(report=seen.append)
    assert (found.models, found.blobs, found.problems, found.unused) == (2, 3, (), ())
    assert found.size == workshop.library.disk_use()
    assert len({step.status for step in seen}) == 3
    assert all(step.status.startswith("verifying ") for step in seen)


def test_one_model_alone_can_be_verified(workshop: Workshop) -> None:
    workshop.create("a", workshop.gguf())
    workshop.create("b", workshop.gguf("b.gguf", seed=1))
    assert workshop.library.verify("A").blobs == 2
    with pytest.raises(ModelNotFoundError):
        workshop.library.verify("nope")


def test_every_kind_of_damage_is_found(workshop: Workshop) -> None:
    for seed, name in enumerate(["flipped", "short", "missing", "lied", "folder"]):
        workshop.create(
            name, workshop.gguf(f"{name}.gguf", seed=seed), parameters={"num_ctx": seed}
        )
    weights = {
        name: workshop.store.blobs.path(
            workshop.library._find(name).manifest.of_type(MODEL)[0].digest
        )
        for name in ("flipped", "short", "missing", "folder")
    }
    data = bytearray(weights["flipped"].read_bytes())
    data[-1] ^= 1
    weights["flipped"].write_bytes(data)
    weights["short"].write_bytes(weights["short"].read_bytes()[:-9])
    weights["missing"].unlink()
    weights["folder"].unlink()
    weights["folder"].mkdir()
    manifest = workshop.library._find("lied").path
    manifest.write_text(manifest.read_text().replace('"size":', '"size":1'))
    broken = manifest.parent.parent / "broken/latest"
    broken.parent.mkdir()
    broken.write_text("{")
    (workshop.store.layout.blobs / f"sha256-{'0' * 64}").write_bytes(b"unused, and wrong")
    found = workshop.library.verify()
    text = "\n".join(found.problems)
    assert 'of "flipped:latest" is corrupt' in text
    assert 'of "short:latest" is corrupt' in text
    assert f'"short:latest" says {weights["flipped"].stat().st_size}' in text
    assert 'of "missing:latest" is missing' in text
    assert '"lied:latest" says 1' in text
    assert "broken/latest cannot be read" in text
    assert f"blob sha256:{'0' * 64} is corrupt" in text
    assert str(weights["folder"]) in text
    assert found.unused == (f"sha256:{'0' * 64}",)
    assert found.models == 5


def test_random_rounds_leave_no_orphan_and_no_dangling_name(
    workshop: Workshop, chance: random.Random
) -> None:
    """Create, copy, delete, and work that breaks off at any line."""
    ggufs = [workshop.gguf(f"{seed}.gguf", seed=seed, layers=1) for seed in range(3)]
    done = [do_something(workshop, chance, ggufs) for _ in range(ROUNDS)]
    assert len(set(done)) > 6
    found = workshop.library.verify()
    assert found.problems == found.unused == ()
    assert not [name for name in workshop.files if name.startswith(".")]
    assert len({name.lower() for name in workshop.names}) == len(workshop.names)
    for name in workshop.names:
        workshop.library.delete(name)
    assert workshop.files == set()
    assert list(workshop.store.layout.manifests.rglob("*")) == []


def do_something(workshop: Workshop, chance: random.Random, ggufs: list[Path]) -> str:
    """One random step; what it was, and whether it failed."""
    one, two = chance.choice(NAMES), chance.choice(NAMES)
    lines = chance.choice([0, 1, 2, 3, 4, 99])
    parameters = {"num_ctx": chance.randrange(3)}
    what = chance.choice(["file", "model", "quantize", "copy", "delete"])

    def break_off(_: ProgressLine) -> None:
        nonlocal lines
        if not lines:
            raise PullError("broken off")
        lines -= 1

    library = workshop.library
    try:
        match what:
            case "file":
                library.create(one, chance.choice(ggufs), parameters=parameters, report=break_off)
            case "model":
                library.create(one, two, parameters=parameters, report=break_off)
            case "quantize":
                library.create(one, two, quantize="q8_0", report=break_off)
            case "copy":
                library.copy(one, two)
            case "delete":
                library.delete(one)
    except EmbeddError as error:
        return f"{what} {type(error).__name__}"
    return what

"""What the machine says of itself."""

from pathlib import Path

import pytest

from embedd.machine import read_cpu_features

INTEL = "processor\t: 0\nflags\t\t: fpu avx2 amx_bf16\nvmx flags\t: a\n\nprocessor\t: 1\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


@pytest.mark.parametrize(
    ("text", "features"),
    [(INTEL, {"fpu", "avx2", "amx_bf16"}), (ARM, {"fp", "asimd", "bf16"}), ("", set[str]())],
)
def test_features_are_those_of_the_first_cpu(text: str, features: set[str], tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(text)
    assert read_cpu_features(path) == features
    assert read_cpu_features(tmp_path / "missing") == frozenset()

"""What ``pyproject.toml`` promises about dependencies agrees with ``constraints.txt``."""

import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIRED = [Requirement(line) for line in PROJECT["dependencies"]]
OPTIONAL = [
    Requirement(line) for extra in PROJECT["optional-dependencies"].values() for line in extra
]
PINS = {
    canonicalize_name(name): Version(version)
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE
    )
}
# Their C structures are checked, release by release.
EXACT = {"llama-cpp-python", "stable-diffusion-cpp-python"}


def installed_requirements(extra: str) -> set[str]:
    """Names of all that embedd and this extra need here, directly and through others."""
    found: set[str] = set()
    waiting = [(PROJECT["name"], extra)]
    while waiting:
        name, wanted = waiting.pop()
        for line in distribution(name).requires or ():
            requirement = Requirement(line)
            needed = requirement.marker is None or requirement.marker.evaluate({"extra": wanted})
            if needed and canonicalize_name(requirement.name) not in found:
                found.add(canonicalize_name(requirement.name))
                waiting += [(requirement.name, one) for one in {"", *requirement.extras}]
    return found


@pytest.mark.parametrize("requirement", [*REQUIRED, *OPTIONAL], ids=str)
def test_a_range_begins_at_a_version_and_holds_the_pinned_one(requirement: Requirement) -> None:
    if requirement.name in EXACT:
        assert [one.operator for one in requirement.specifier] == ["=="]
    else:
        operators = {one.operator for one in requirement.specifier}
        assert ">=" in operators
        assert "==" not in operators
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


@pytest.mark.parametrize("requirement", REQUIRED, ids=str)
def test_a_range_ends_at_the_next_major_version(requirement: Requirement) -> None:
    if requirement.name not in EXACT:
        [upper] = [one.version for one in requirement.specifier if one.operator == "<"]
        assert int(upper) == PINS[canonicalize_name(requirement.name)].major + 1


def test_everything_that_is_installed_is_pinned() -> None:
    needed = installed_requirements("dev")
    assert {"aiohttp", "pytest", "multidict"} <= needed
    assert needed - PINS.keys() == set()

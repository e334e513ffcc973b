"""What ``pyproject.toml`` cannot say: packages are found, and `models/` is one of them."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["embedd", "embedd.*"]), "embedd.models"],
    package_dir={"embedd.models": "models"},
)

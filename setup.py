"""Packages of the distribution: all of ``embedd``, and ``models/`` as ``embedd.models``.

``pyproject.toml`` can either find packages or place one elsewhere, not both.
"""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["embedd", "embedd.*"]), "embedd.models"],
    package_dir={"embedd.models": "models"},
)

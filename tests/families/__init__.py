"""Families of models, each with a tiny GGUF and an independent computation of its vectors."""

from tests.families import bert, gemma, hybrid, llama, qwen
from tests.families.family import Family

FAMILIES: dict[str, Family] = {
    family.name: family
    for module in (bert, qwen, llama, gemma, hybrid)
    for family in module.FAMILIES
}

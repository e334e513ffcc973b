"""Families of models, each with a tiny GGUF and an independent computation of its vectors."""

from tests.families import bert, gemma, hybrid, jina, llama, modern_bert, nomic, pre_norm, qwen, t5
from tests.families.family import Family

MODULES = (bert, nomic, jina, modern_bert, pre_norm, t5, qwen, llama, gemma, hybrid)
FAMILIES: dict[str, Family] = {
    family.name: family for module in MODULES for family in module.FAMILIES
}

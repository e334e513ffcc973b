"""The tables of families in docs/models.md, made of the records that the tests run on.

``python -m tests.families.table`` writes them.
"""

import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from embedd.gguf.faults import find_fault
from embedd.gguf.header import read_header_file
from embedd.tokenizers.failures import TokenizerError
from embedd.tokenizers.model_tokenizer import load_tokenizer
from embedd.types import Pooling
from tests.families import FAMILIES
from tests.families.family import Family

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "models.md"
BEGIN: Final = "<!-- Made by python -m tests.families.table: -->\n\n"
END: Final = "<!-- End of what is made. -->"
NONE: Final = "–"

# Family → models of it that people know.
EXAMPLES: Final[Mapping[str, str]] = {
    "bert": "all-MiniLM, bge-en, mxbai-embed-large, arctic-embed",
    "eurobert": "jina-embeddings-v5-text-nano",
    "gemma-embedding": "EmbeddingGemma",
    "gemma2": "bge-multilingual-gemma2",
    "gemma3": "harrier-oss-v1-270m",
    "jina-bert-v2": "jina-embeddings-v2",
    "jina-bert-v2, code": "jina-embeddings-v2-base-code",
    "jina-bert-v3": "jina-embeddings-v3",
    "lfm2": "LFM2.5-Embedding",
    "llama": "e5-mistral, SFR-Embedding-Mistral",
    "llama-embed": "llama-embed-nemotron",
    "mistral3": "Nemotron-3-Embed",
    "modern-bert": "granite-embedding r2, gte-modernbert",
    "nomic-bert": "nomic-embed-text v1.5",
    "nomic-bert-moe": "nomic-embed-text v2",
    "qwen2": "gte-Qwen2, nomic-embed-code",
    "qwen2vl": "jina-embeddings-v4",
    "qwen3": "Qwen3-Embedding and -Reranker, jina-embeddings-v5-text-small",
    "qwen3vl": "Qwen3-VL-Embedding and -Reranker",
    "roberta": "granite-embedding 30m",
    "xlm-roberta": "bge-m3, multilingual-e5, arctic-embed 2, bge-reranker-v2-m3",
}
# Architecture → the models that have it, which the pinned llama.cpp cannot load.
UNKNOWN_ARCHITECTURES: Final[Mapping[str, str]] = {
    "deberta-v2": "DeBERTa (mxbai-rerank-v1)",
    "gemma-embedding2": "EmbeddingGemma 2",
    "mpnet": "MPNet (all-mpnet-base-v2)",
    "new": "GTE (gte-multilingual, snowflake-arctic-embed-m-v2.0)",
}


def format_tables() -> str:
    """The families that are served, then those that are not."""
    refused = [family for family in FAMILIES.values() if family.refused]
    return f"{format_served(FAMILIES.values())}\n{format_refused(refused)}"


def format_served(families: Iterable[Family]) -> str:
    """A row for each family that is one to users, by name."""
    titles = (
        "family", "models", "tokenizer", "pooling", "OpenVINO", "rerank", "from a checkpoint",
        "note",
    )  # fmt: skip
    served = (family for family in families if family.listed and not family.refused)
    return _format_table(titles, map(_to_row, sorted(served, key=lambda family: family.name)))


def format_refused(families: Iterable[Family]) -> str:
    """A row for each family that is not served, and why."""
    rows = [(family.name, find_reason(family)) for family in families]
    rows += [
        (models, f"llama.cpp does not know the architecture `{name}`")
        for name, models in UNKNOWN_ARCHITECTURES.items()
    ]
    return _format_table(("not served", "because"), rows)


def find_reason(family: Family) -> str:
    """What embedd says of a file of the family that it refuses."""
    with tempfile.TemporaryDirectory() as folder:
        path = family.write(Path(folder) / "tiny.gguf", family.poolings[0])
        reason = find_fault(read_header_file(path), family.poolings[0])
    assert reason is not None, f"{family.name} is not refused"
    return reason


def has_own_tokenizer(family: Family) -> bool:
    """Whether the tokenizer of its files is built, instead of using llama.cpp's."""
    with tempfile.TemporaryDirectory() as folder:
        path = family.write(Path(folder) / "tiny.gguf", family.poolings[0])
        try:
            load_tokenizer(path)
        except TokenizerError:
            return False
    return True


def replace_tables(text: str) -> str:
    """The text of the document with the tables as they should be."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"{DOCUMENT.name} has no line {BEGIN.strip()!r}"
    assert end, f"{DOCUMENT.name} has no line {END.strip()!r}"
    return f"{before}{begin}{format_tables()}\n{end}{after}"


def _to_row(family: Family) -> Sequence[str]:
    name, architecture = family.name, family.architecture
    poolings = [pooling.value for pooling in family.poolings if pooling is not Pooling.RANK]
    cells = (
        name if name.startswith(architecture) else f"{name} (`{architecture}`)",
        EXAMPLES.get(name),
        "own" if has_own_tokenizer(family) else "llama.cpp's",
        ", ".join(poolings),
        "yes" if family.openvino else None,
        "yes" if family.rerank else None,
        family.conversion,
        family.note,
    )
    return [cell or NONE for cell in cells]


def _format_table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [titles, ["---" for _ in titles], *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    DOCUMENT.write_text(replace_tables(DOCUMENT.read_text()))

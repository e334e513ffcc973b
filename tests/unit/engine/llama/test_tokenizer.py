"""llama.cpp's tokenizer: the templates of pairs in a GGUF."""

from pathlib import Path

import pytest

from embedd.engine.llama.model import LlamaModel
from embedd.engine.llama.tokenizer import LlamaTokenizer
from tests.tiny_models import TINY_VOCABULARY, write_tiny_bert


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("q {query} d{document}.", ((" ", ""), True)),
        ("{document} {query}", None),
        ("{query}", None),
    ],
)
def test_a_template_says_what_stands_around_a_pair(
    template: str, expected: tuple[tuple[str, str], bool] | None, tmp_path: Path
) -> None:
    path = write_tiny_bert(tmp_path / "tiny.gguf")
    model = LlamaModel(path, extra_buffers=False, gpu_layers=0, vocabulary_only=True)
    pair = LlamaTokenizer(model)._parse_pair(template)
    if expected is None:
        assert pair is None
    else:
        assert pair is not None
        assert (pair.query_lead, pair.document_lead) == expected[0]
        ids = [TINY_VOCABULARY.index(one) for one in ("q", "d", ".")]
        assert [*pair.prefix, *pair.middle, *pair.suffix] == ids
    model.close()

"""What WordPiece's tokens stand for, cleaned in slices."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.tokenizers import pieces
from embedd.tokenizers.pieces import clean_wordpieces

WORDS = st.sampled_from([b" a", b" '", b" s", b" re", b" .", b" ?", b"b", b"'", b" ", b" \xc3\xa9"])


@given(words=st.lists(WORDS, max_size=30), size=st.integers(1, 6))
def test_slices_are_cleaned_as_the_whole_text_is_where_it_can_be_cut(
    words: list[bytes], size: int
) -> None:
    text = b"".join(words)
    whole = clean_wordpieces(text)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pieces, "_SLICE", size)
        slices = [*pieces._slice(text)]
        assert b"".join(slices) == text
        assert all(len(one) <= 2 * size for one in slices)
        starts = [b"".join(slices[:number]) for number in range(1, len(slices))]
        if all(text[len(one) :][:1] == b" " and one[-1:] not in b" '" for one in starts):
            assert clean_wordpieces(text) == whole


def test_a_long_text_is_cleaned_in_many_calls() -> None:
    text = b" it ' s a cat ." * 20_000
    assert len([*pieces._slice(text)]) > 3
    assert clean_wordpieces(text) == (b" it's a cat." * 20_000).removeprefix(b" ")

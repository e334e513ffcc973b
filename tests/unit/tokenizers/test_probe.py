"""The texts on which two tokenizers must agree, and how a difference is found."""

import numpy as np

from embedd.tokenizers.probe import ODD, PROBE, find_differences


def test_the_probe_is_some_200_different_plain_texts() -> None:
    assert 150 <= len(PROBE) == len({*PROBE}) <= 250
    assert all(letter < "\u0100" for text in PROBE for letter in text)
    assert min(map(len, PROBE)) == 1
    assert max(map(len, PROBE)) > 1500
    assert any(letter > "\x7f" for text in PROBE for letter in text)


def test_differences_are_the_indices_of_texts_with_other_ids() -> None:
    ours = [np.array(row, np.int32) for row in ([1, 2], [3], [], [4])]
    theirs = [np.array(row, np.int32) for row in ([1, 2], [4], [], [4, 4])]
    assert find_differences(ours, theirs) == [1, 3]
    assert find_differences(ours, ours) == []


def test_the_odd_texts_have_control_characters_and_letters_of_every_plane() -> None:
    characters = {*"".join(ODD)}
    assert {"\0", "\x7f", "\u0301", "\u200d", "\u2fff"} <= characters
    assert {ord(one) >> 16 for one in characters} == {*range(17)}
    "".join(ODD).encode()  # no surrogates

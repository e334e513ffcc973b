"""Which file of a repository a tag means."""

import pytest

from embedd.library.file_choice import choose_file, name_parts
from embedd.store.remote import RemoteFile


def choose(tag: str, *paths: str, **sizes: int) -> str | None:
    files = [RemoteFile(path=path, size=sizes.get(path[:1], 100)) for path in paths]
    found = choose_file(files, tag)
    return found.path if found else None


@pytest.mark.parametrize(
    ("paths", "chosen"),
    [
        (["m-Q4_0.gguf"], "m-Q4_0.gguf"),
        (["m-Q4_0.gguf", "README.md", "mmproj-F16.gguf", "m.imatrix.gguf"], "m-Q4_0.gguf"),
        (["m.f16.gguf", "m.Q8_0.gguf", "m.F32.gguf"], "m.Q8_0.gguf"),
        (["m_fp16.gguf", "m_fp32.gguf", "m-bf16.gguf"], "m_fp16.gguf"),
        (["m-F32.gguf", "m-BF16.gguf", "m-Q6_K.gguf"], "m-BF16.gguf"),
        (["m-Q6_K.gguf", "m-f32.gguf"], "m-f32.gguf"),
        (["m-Q6_K.gguf", "b-Q4_K_M.gguf", "c-Q4_K_S.gguf", "d-Q3_K_L.gguf"], "b-Q4_K_M.gguf"),
        (["a-Q5_0.gguf", "b-Q5_K_S.gguf", "c-IQ4_XS.gguf"], "a-Q5_0.gguf"),
        (["a-Q2_K.gguf", "c-IQ4_XS.gguf"], "c-IQ4_XS.gguf"),
        (["sub/m-q8_0.gguf", "m-other-q8_0.gguf"], "m-other-q8_0.gguf"),
        ([], None),
        (["model.safetensors"], None),
        (["Q4_K_M/model.gguf", "Q8_0/model.gguf", "BF16/model.gguf"], "Q8_0/model.gguf"),
    ],
)
def test_latest_is_the_most_faithful_that_is_not_too_large(
    paths: list[str], chosen: str | None
) -> None:
    assert choose("latest", *paths, a=1, b=2, c=3) == chosen


FILES = (
    "q/m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-Q4_K_S.gguf", "m-bf16.gguf", "m-FP16.gguf",
    "m-UD-Q5_K_XL.gguf", "tiny-v2.gguf",
)  # fmt: skip


@pytest.mark.parametrize(
    ("tag", "chosen"),
    [
        ("q8_0", "q/m-Q8_0.gguf"),
        ("Q4_K_M", "m-Q4_K_M.gguf"),
        ("q4_k_s", "m-Q4_K_S.gguf"),
        ("Q4_K", None),
        ("Q4", None),
        ("BF16", "m-bf16.gguf"),
        ("F16", "m-FP16.gguf"),
        ("fp16", "m-FP16.gguf"),
        ("UD-Q5_K_XL", "m-UD-Q5_K_XL.gguf"),
        ("Q5_K_XL", "m-UD-Q5_K_XL.gguf"),
        ("M-Q8_0.GGUF", "q/m-Q8_0.gguf"),
        ("tiny-v2.gguf", "tiny-v2.gguf"),
        ("f32", None),
        (".*", None),
    ],
)
def test_a_tag_names_a_quantisation_or_a_file(tag: str, chosen: str | None) -> None:
    assert choose(tag, *FILES) == chosen


FOLDERS = ("F16/model.gguf", "Q8_0/model.gguf", "Q8_0/deep/model.gguf", "UD-Q4_K_XL/model.gguf")


@pytest.mark.parametrize(
    ("tag", "chosen"),
    [
        ("Q8_0", "Q8_0/model.gguf"),
        ("fp16", "F16/model.gguf"),
        ("ud-q4_k_xl", "UD-Q4_K_XL/model.gguf"),
        ("Q8_0--deep--model.gguf", "Q8_0/deep/model.gguf"),
        ("UD-Q4_K_XL--model.gguf", "UD-Q4_K_XL/model.gguf"),
        ("q6_k", None),
    ],
)
def test_a_tag_names_a_folder_or_a_path(tag: str, chosen: str | None) -> None:
    assert choose(tag, *FOLDERS) == chosen


def test_the_name_of_a_file_goes_before_that_of_a_folder() -> None:
    assert choose("q8_0", "Q8_0/a-f16.gguf", "b-Q8_0.gguf") == "b-Q8_0.gguf"


@pytest.mark.parametrize(
    ("path", "parts"),
    [
        (
            "m-00002-of-00003.gguf",
            ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"],
        ),
        ("a/M-00001-OF-00002.GGUF", ["a/M-00001-OF-00002.GGUF", "a/M-00002-OF-00002.GGUF"]),
        ("m.gguf", ["m.gguf"]),
        ("m-1-of-2.gguf", ["m-1-of-2.gguf"]),
    ],
    ids=["three", "shouted", "whole", "not quite"],
)
def test_a_split_model_is_known_by_the_name_of_its_files(path: str, parts: list[str]) -> None:
    assert name_parts(path) == parts

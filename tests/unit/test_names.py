"""The grammar of model names, which is Ollama's."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import InvalidModelNameError
from embedd.names import ModelName, parse_model_name

ALNUM = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_"


def parts(others: str, longest: int) -> st.SearchStrategy[str]:
    rest = st.text(ALNUM + others, max_size=longest - 1)
    return st.builds(str.__add__, st.sampled_from(ALNUM), rest)


hosts = st.one_of(
    st.sampled_from(["registry.ollama.ai", "Registry.Ollama.AI", "hf.co", "localhost:5000"]),
    parts("-.:", 350),
)
names = st.builds(
    "{}{}/{}/{}:{}".format,
    st.sampled_from(["", "http://", "https://"]),
    hosts,
    st.one_of(st.sampled_from(["library", "Library"]), parts("-", 80)),
    parts("-.", 80),
    parts("-.", 80).filter(lambda tag: tag.lower() not in ("local", "cloud")),
)


@pytest.mark.parametrize(
    ("text", "path", "display"),
    [
        ("a", ("registry.ollama.ai", "library", "a", "latest"), "a:latest"),
        (" \ta:q8_0\n", ("registry.ollama.ai", "library", "a", "q8_0"), "a:q8_0"),
        (
            "chroma/x-f32",
            ("registry.ollama.ai", "chroma", "x-f32", "latest"),
            "chroma/x-f32:latest",
        ),
        ("hf.co/u/r:Q8_0", ("hf.co", "u", "r", "Q8_0"), "hf.co/u/r:Q8_0"),
        ("hf.co/u/r.gguf", ("hf.co", "u", "r.gguf", "latest"), "hf.co/u/r.gguf:latest"),
        ("my:50/n/lips:code", ("my:50", "n", "lips", "code"), "my:50/n/lips:code"),
        ("my:50/n/lips", ("my:50", "n", "lips", "latest"), "my:50/n/lips:latest"),
        ("registry.ollama.ai/library/a:b", ("registry.ollama.ai", "library", "a", "b"), "a:b"),
        (
            "Registry.Ollama.AI/Library/A",
            ("registry.ollama.ai", "library", "A", "latest"),
            "A:latest",
        ),
        ("registry.ollama.ai/me/a", ("registry.ollama.ai", "me", "a", "latest"), "me/a:latest"),
        ("hf.co/library/a", ("hf.co", "library", "a", "latest"), "hf.co/library/a:latest"),
        ("HTTPS://h/n/m", ("h", "n", "m", "latest"), "h/n/m:latest"),
        ("http://h/n/m", ("h", "n", "m", "latest"), "h/n/m:latest"),
        ("a:local", ("registry.ollama.ai", "library", "a", "latest"), "a:latest"),
        ("a:q8_0:LOCAL", ("registry.ollama.ai", "library", "a", "q8_0"), "a:q8_0"),
        ("a-cloud:local", ("registry.ollama.ai", "library", "a-cloud", "latest"), "a-cloud:latest"),
        ("my:50/n/a-cloud:local", ("my:50", "n", "a-cloud", "latest"), "my:50/n/a-cloud:latest"),
        ("a:cloud", ("registry.ollama.ai", "library", "a", "cloud"), "a:cloud"),
        ("a:30b-cloud", ("registry.ollama.ai", "library", "a", "30b-cloud"), "a:30b-cloud"),
        ("cloud:local", ("registry.ollama.ai", "library", "cloud", "latest"), "cloud:latest"),
    ],
)
def test_a_name_is_read_from_the_right(text: str, path: tuple[str, ...], display: str) -> None:
    name = parse_model_name(text)
    assert (name.path, name.display) == (path, display)


@pytest.mark.parametrize(
    "text",
    [
        "", "  ", ":x", "a:", "bad name!", "a b", "a@sha256:00", "a/b/c/d", "/a", "a/", "n//m",
        "../a", "../../etc/passwd", "a/..", "..", ".", ".a", "-a", "a:.b", "n.s/m", "a:5000/m",
        "a:b:c", "ä", "a\n/b", "a:b\x00", "x://h/n/m", "http://m", "://h/n/m", "a\\b",
        "a" * 81, f"a:{'t' * 81}", f"{'n' * 81}/a", f"{'h' * 351}/n/m",
    ],
)  # fmt: skip
def test_an_invalid_name_is_refused_with_the_text_as_sent(text: str) -> None:
    with pytest.raises(InvalidModelNameError) as caught:
        parse_model_name(text)
    assert caught.value.name == text


PAGES = {
    "hf.co/u/r/m.gguf": "hf.co/u/r:m.gguf",
    "https://hf.co/u/r/Q8_0/m.gguf": "hf.co/u/r:Q8_0--m.gguf",
    "https://huggingface.co/u/r": "huggingface.co/u/r:latest",
    "https://huggingface.co/u/r/": "huggingface.co/u/r:latest",
    "https://huggingface.co/u/r/tree/main": "huggingface.co/u/r:latest",
    "https://huggingface.co/u/r/blob/main/m.gguf": "huggingface.co/u/r:m.gguf",
    "https://huggingface.co/u/r/resolve/main/a/b/m.gguf?download=true": (
        "huggingface.co/u/r:a--b--m.gguf"
    ),
    "huggingface.co/u/r/sd.safetensors": "huggingface.co/u/r:sd.safetensors",
}


@pytest.mark.parametrize("text", PAGES)
def test_the_address_of_a_file_on_the_hub_is_a_name(text: str) -> None:
    name = parse_model_name(text)
    assert name.display == PAGES[text]
    assert parse_model_name(name.display) == name


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("hf.co/u/r/blob/v2/m.gguf", "only the main branch"),
        ("hf.co/u/r/tree/v2", "only the main branch"),
        ("hf.co/u/r/README.md", "not a model file"),
        ("hf.co/u/r/discussions", "not a model file"),
    ],
)
def test_a_page_of_the_hub_that_is_not_a_model_is_refused_with_the_reason(
    text: str, reason: str
) -> None:
    with pytest.raises(InvalidModelNameError, match=reason):
        parse_model_name(text)


def test_names_on_the_hub_may_be_as_long_as_there() -> None:
    text = f"hf.co/u/{'m' * 96}:{'t' * 101}.gguf"
    assert parse_model_name(text).display == text
    for long in (f"hf.co/u/{'m' * 97}", f"example.com/u/{'m' * 81}"):
        with pytest.raises(InvalidModelNameError):
            parse_model_name(long)


@pytest.mark.parametrize("text", ["a:cloud:local", "a:7b-cloud:local", "a:local:cloud"])
def test_a_name_cannot_be_local_and_in_the_cloud(text: str) -> None:
    with pytest.raises(InvalidModelNameError) as caught:
        parse_model_name(text)
    assert str(caught.value) == f'use either :local or :cloud, not both: "{text}"'


@pytest.mark.parametrize("part", ["host", "namespace", "model", "tag"])
@pytest.mark.parametrize("value", ["", "..", "a/b", ".a", "a\n"])
def test_an_invalid_name_cannot_be_made(part: str, value: str) -> None:
    with pytest.raises(InvalidModelNameError):
        ModelName(**{"model": "m", part: value})


def test_the_tag_local_cannot_be_made_because_it_could_not_be_read_back() -> None:
    with pytest.raises(InvalidModelNameError):
        ModelName(model="m", tag="Local")


def test_the_longest_parts_are_accepted() -> None:
    text = f"{'h' * 350}/{'n' * 80}/{'m' * 80}:{'t' * 80}"
    assert parse_model_name(text).display == text


@given(names)
def test_formatting_and_parsing_again_gives_the_same_name(text: str) -> None:
    name = parse_model_name(text)
    assert parse_model_name(str(name)) == name
    assert parse_model_name(name.display).path == name.path


@given(names)
def test_letter_case_does_not_change_the_key(text: str) -> None:
    assert parse_model_name(text.upper()).key == parse_model_name(text.lower()).key


@given(st.one_of(st.text(), st.text("./:\\~a-_ \x00", max_size=20), names))
def test_no_name_leaves_the_folder_of_the_store(text: str) -> None:
    try:
        name = parse_model_name(text)
    except InvalidModelNameError:
        return
    root = Path("/store/manifests")
    inside = Path(*root.parts, *name.path)
    assert len(name.path) == 4
    assert ".." not in inside.parts
    assert len(inside.relative_to(root).parts) == 4

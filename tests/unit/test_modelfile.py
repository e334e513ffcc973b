"""Modelfiles: the grammar, the exact texts of its errors, and that writing undoes reading."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from embedd import modelfile, options
from embedd.choices import EngineChoice, Precision, TokenizerChoice
from embedd.errors import InvalidInputError
from embedd.modelfile import Modelfile, decode_modelfile, format_modelfile, parse_modelfile
from embedd.types import Pooling

BAD_COMMAND = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", '
    '"renderer", "parser", "parameter", "component", "message", or "requires"'
)


def test_every_instruction_that_has_an_effect_is_read() -> None:
    text = """
# a comment
FROM ./model.gguf
parameter num_ctx 256
PARAMETER use_mmap false
Parameter temperature 0.5
PARAMETER pooling cls
  PARAMETER query_prefix "ask: "
PARAMETER stop a
PARAMETER stop "b c"
LICENSE MIT
LICENSE \"\"\"
Apache License
"Version" 2.0
\"\"\"
"""
    assert parse_modelfile(text) == Modelfile(
        source="./model.gguf",
        parameters={
            "num_ctx": 256,
            "use_mmap": False,
            "temperature": 0.5,
            "pooling": "cls",
            "query_prefix": "ask: ",
            "stop": ["a", "b c"],
        },
        licenses=("MIT", '\nApache License\n"Version" 2.0\n'),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no FROM line"),
        ("# FROM x\n\nLICENSE MIT", "no FROM line"),
        ("FROM x\nBOGUS y", f"(line 2): {BAD_COMMAND}"),
        ("FROM: x", f"(line 1): {BAD_COMMAND}"),
        ("\n\n<html>", f"(line 3): {BAD_COMMAND}"),
        ("FROM", '(line 1): "from" needs a value'),
        ("FROM x\nPARAMETER", '(line 2): "parameter" needs a value'),
        ("FROM x\nPARAMETER num_ctx  ", '(line 2): "num_ctx" needs a value'),
        ("FROM x\nFROM y", "(line 2): there is a second FROM"),
        ("FROM x\nPARAMETER bogus 1", "(line 2): unknown parameter 'bogus'"),
        ("FROM x\nPARAMETER num_ctx many", "(line 2): invalid int value [many]"),
        ("FROM x\nPARAMETER num_ctx 1.5", "(line 2): invalid int value [1.5]"),
        ("FROM x\nPARAMETER num_ctx \u0663", "(line 2): invalid int value [\u0663]"),
        ("FROM x\nPARAMETER top_p much", "(line 2): invalid float value [much]"),
        ("FROM x\nPARAMETER top_p nan", "(line 2): invalid float value [nan]"),
        ("FROM x\nPARAMETER use_mmap maybe", "(line 2): invalid bool value [maybe]"),
        (
            "FROM x\nPARAMETER pooling max",
            '(line 2): parameter "pooling" must be one of mean, cls, last, rank',
        ),
        ("FROM x\nADAPTER ./lora", '(line 2): "adapter" is not supported'),
        (
            "FROM x\nCOMPONENT unet ./a",
            '(line 2): component "unet" must be one of llm, clip_l, clip_g, t5xxl, vae, taesd',
        ),
        ("FROM x\nCOMPONENT vae", '(line 2): "vae" needs a value'),
        (
            "FROM x\nCOMPONENT vae a\nCOMPONENT vae b",
            "(line 3): there is a second COMPONENT vae",
        ),
        ("FROM x\nDRAFT y", '(line 2): "draft" is not supported'),
        (
            'FROM x\nLICENSE """MIT\n\n',
            "(line 2): unexpected EOF: the quote that begins here does not end",
        ),
        (
            'FROM x\nLICENSE "',
            "(line 2): unexpected EOF: the quote that begins here does not end",
        ),
    ],
)
def test_an_error_of_grammar_names_the_line(text: str, message: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse_modelfile(text)
    assert str(caught.value) == message


def test_lines_are_counted_over_quoted_values() -> None:
    with pytest.raises(InvalidInputError, match=r"^\(line 5\): unknown parameter"):
        parse_modelfile('FROM x\nLICENSE """a\nb\nc"""\nPARAMETER y 1')


@pytest.mark.parametrize(
    "instruction", ["TEMPLATE x", "SYSTEM x", "MESSAGE user x", "RENDERER x", "PARSER x"]
)
def test_instructions_for_language_models_give_a_warning(instruction: str) -> None:
    parsed = parse_modelfile(f"FROM m\n{instruction}\nREQUIRES 0.13\nPARAMETER mirostat 1")
    command = instruction.split(maxsplit=1)[0]
    assert parsed.parameters == {}
    assert parsed.warnings == (
        f"line 2: {command} has no effect",
        "line 3: REQUIRES has no effect",
        "line 4: parameter mirostat is no longer used",
    )


def test_the_template_that_show_prints_gives_no_warning() -> None:
    parsed = parse_modelfile("FROM m\nTEMPLATE {{ .Prompt }}\n")
    assert (parsed.template, parsed.warnings) == ("{{ .Prompt }}", ())


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_byte_order_mark_decides_the_encoding(encoding: str) -> None:
    text = "FROM m\nPARAMETER query_prefix für: \r\n"
    bom = "\ufeff" if encoding in {"utf-16-le", "utf-16-be"} else ""
    parsed = parse_modelfile(decode_modelfile((bom + text).encode(encoding)))
    assert parsed.parameters == {"query_prefix": "für:"}


def test_bytes_that_are_not_text_are_refused() -> None:
    with pytest.raises(InvalidInputError, match="the Modelfile is not UTF-8"):
        decode_modelfile(b"GGUF\x03\xff\xfe")


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("ask: ", '"ask: "'),
        ("ask:", "ask:"),
        ("", '""'),
        ("a\nb", '"a\nb"'),
        ('say "a"\nb', '"""say "a"\nb"""'),
        ('say "a"', 'say "a"'),
        ('"a"', '""""a""""'),
    ],
)
def test_values_are_quoted_only_where_they_must_be(value: str, written: str) -> None:
    text = format_modelfile(Modelfile(source="m", parameters={"query_prefix": value}))
    assert text == f"FROM m\nPARAMETER query_prefix {written}\n"


def test_show_writes_source_template_parameters_and_licences_in_this_order() -> None:
    given = Modelfile(
        source="/blobs/sha256-0",
        template="{{ .Prompt }}",
        parameters={"num_ctx": 256, "use_mmap": True, "stop": ["a", "b"]},
        licenses=("MIT",),
    )
    assert format_modelfile(given).splitlines() == [
        "FROM /blobs/sha256-0",
        "TEMPLATE {{ .Prompt }}",
        "PARAMETER num_ctx 256",
        "PARAMETER use_mmap true",
        "PARAMETER stop a",
        "PARAMETER stop b",
        "LICENSE MIT",
    ]


def test_the_parameters_are_those_of_the_options() -> None:
    assert {*options._INTEGERS, *options._BOOLEANS, *options.IGNORED} == (
        modelfile.PARAMETERS - modelfile.TEXTS
    )
    assert set(modelfile.CHOICES["pooling"]) == {kind.value for kind in Pooling} - {"none"}
    assert modelfile.CHOICES["engine"] == tuple(EngineChoice)
    assert modelfile.CHOICES["precision"] == tuple(Precision)
    assert modelfile.CHOICES["tokenizer"] == tuple(TokenizerChoice)


def is_writable(text: str) -> bool:
    """No line but the last may end like a closing quote."""
    return not any(line.rstrip().endswith('"""') for line in text.split("\n")[:-1])


texts = st.text(st.sampled_from('"" \n\n\ta#\u00a0\u2028\x00'), max_size=8).filter(is_writable)
numbers = st.integers(-(10**18), 10**18)
floats = st.floats(allow_nan=False, allow_infinity=False)
values = st.one_of(
    st.tuples(st.sampled_from(sorted(modelfile.INTEGERS)), numbers),
    st.tuples(st.sampled_from(sorted(modelfile.FLOATS)), floats),
    st.tuples(st.just("use_mmap"), st.booleans()),
    st.tuples(st.sampled_from(["query_prefix", "document_prefix"]), texts),
    *(st.tuples(st.just(name), st.sampled_from(of)) for name, of in modelfile.CHOICES.items()),
    st.tuples(st.just("stop"), st.lists(texts, min_size=1)),
)


@settings(max_examples=200)
@given(
    texts, st.lists(values, max_size=3).map(dict), st.lists(texts, max_size=2), st.none() | texts
)
def test_a_formatted_modelfile_parses_to_itself(
    source: str, parameters: dict[str, object], licenses: list[str], template: str | None
) -> None:
    given = Modelfile(
        source=source, parameters=parameters, licenses=tuple(licenses), template=template
    )
    assert parse_modelfile(format_modelfile(given)) == given


@given(st.text(st.sampled_from('FROMfrom \n"#x\x00'), max_size=20))
def test_any_text_is_a_modelfile_or_a_clear_error(text: str) -> None:
    try:
        parse_modelfile(text)
    except InvalidInputError as error:
        assert str(error)


def test_the_files_of_an_image_model_are_components() -> None:
    text = (
        'FROM ./klein.gguf\nCOMPONENT llm ./qwen3.gguf\nCOMPONENT vae "./my vae.safetensors"\n'
        "PARAMETER steps 4\nPARAMETER guidance 1.5\nPARAMETER width 512\n"
    )
    parsed = parse_modelfile(text)
    assert parsed.components == {"llm": "./qwen3.gguf", "vae": "./my vae.safetensors"}
    assert parsed.parameters == {"steps": 4, "guidance": 1.5, "width": 512}
    assert parse_modelfile(format_modelfile(parsed)) == parsed

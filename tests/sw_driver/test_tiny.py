"""The small language model: its text, its vocabulary, its files, and its training."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rtl_gen.errors import InputError
from sw_driver.checkpoint import Checkpoint
from sw_driver.forward import Decoder
from sw_driver.tiny import EVALUATION, FOLDER, language_model_folder
from sw_driver.tiny.corpus import EVALUATION_BYTES, collect
from sw_driver.tiny.pairs import BYTES, Pairs, load_pairs, train_pairs

# What is kept in the repository; docs/tiny_model.md says how it came about.
WEIGHTS = "d79b2d5edd112350fdca3e3628cc3f208e9e6e045fd11511846186960f70a193"
PARAMETERS = 467_840
LIMIT = 1_000_000

LONG = "Return the number of things that there are, as an integer, or None for nothing."


def library(folder: Path) -> Path:
    """A standard library of a few sources."""
    files = {
        "alpha.py": f'"""Alpha. {LONG}"""\ndef f():\n  """short"""\nclass C:\n  """C. {LONG}"""\n',
        "heapq.py": f'"""Heap. {LONG}"""\ndef f():\n  """Another.\n\n  C. {LONG}"""\n',
        "concurrent/futures.py": f'async def g():\n    """Futures. {LONG}"""\n',
        "beta.py": f'"""Alpha. {LONG}"""\n',
        "broken.py": "def f(:\n",
        "test/test_alpha.py": f'"""Test. {LONG}"""\n',
        "gamma.py": f'def h():\n    """Gamma “{LONG}”\n\n\n\n    {"=" * 40}   \n    end\x07é"""\n',
        "pydoc_data/topics.py": f"topics = {{'with': 'With. {LONG}', 'del': 'Del. {LONG}'}}\n",
    }
    for name, text in files.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return folder


def test_a_corpus_is_collected_from_sources_alone(tmp_path: Path) -> None:
    corpus = collect(library(tmp_path))
    assert corpus.train == (
        f"Alpha. {LONG}",
        f"C. {LONG}",
        f'Gamma "{LONG}"\n\n{"=" * 8}\nend',
        f"Del. {LONG}",
    )
    assert corpus.held_out == (f"Futures. {LONG}", f"Heap. {LONG}", f"With. {LONG}")
    assert corpus.evaluation() == "\n\n".join(corpus.held_out) + "\n"
    assert replace(corpus, train=corpus.train[1:]).sha256 != corpus.sha256
    assert collect(tmp_path).sha256 == corpus.sha256
    with pytest.raises(FileNotFoundError, match="holds no sources of the standard library"):
        collect(tmp_path / "test")


def test_nothing_held_out_is_learnt() -> None:
    corpus = collect()
    assert len(corpus.train) > 3000
    assert not set(corpus.train) & set(corpus.held_out)
    for text in (*corpus.train, *corpus.held_out):
        assert text.isascii()
        assert "\0" not in text
    assert len(corpus.evaluation()) <= EVALUATION_BYTES
    # The text that is kept is of one Python's sources, and held out in any.
    for line in ("Calendar printing functions", "Given a source (filename or zipfile), return an"):
        assert line in EVALUATION.read_text()
        assert not any(line in text for text in corpus.train)


def merged_by_hand(text: str, pairs: Pairs) -> list[int]:
    """The algorithm as it is written down: the pair that was merged first is merged first."""
    tokens = list(text.encode())
    ranks = {pair: number for number, pair in enumerate(pairs.merges)}
    while True:
        known = [ranks[p] for p in itertools.pairwise(tokens) if p in ranks]
        if not known:
            return tokens
        pair, made = pairs.merges[min(known)], BYTES + min(known)
        at, result = 0, []
        while at < len(tokens):
            hit = tuple(tokens[at : at + 2]) == pair
            result.append(made if hit else tokens[at])
            at += 2 if hit else 1
        tokens = result


def test_byte_pairs(tmp_path: Path) -> None:
    texts = ("aaaa bbaaab the thing", "the other thing then", "aabaa\n\n    é")
    pairs = train_pairs(texts, BYTES + 9)
    assert pairs.size == BYTES + 9
    # By hand: "aa" is in seven places, "th" in five.
    assert pairs.pieces[BYTES] == b"aa"
    for text in (*texts, "aaaaaaa", "a", "", "ünknown Ω \0", "thethethe"):
        tokens = pairs.encode(text)
        assert tokens.tolist() == merged_by_hand(text, pairs)
        assert pairs.decode(tokens).decode() == text
    assert len(pairs.encode(texts[0])) < len(texts[0])
    file = tmp_path / "tokenizer.json"
    pairs.save(file)
    assert load_pairs(file) == pairs
    with pytest.raises(ValueError, match="size: the texts have pairs for"):
        train_pairs(("ab",), BYTES + 1)


def test_byte_pairs_are_those_of_the_library() -> None:
    tokenizers = pytest.importorskip("tokenizers", reason="an outside reference")
    theirs = tokenizers.Tokenizer.from_file(str(FOLDER / "tokenizer.json"))
    ours = load_pairs(FOLDER / "tokenizer.json")
    for text in (EVALUATION.read_text(), "aaaaaaa    \n\n\n é ü Ω =====\t"):
        assert theirs.encode(text).ids == ours.encode(text).tolist()
        assert theirs.decode(ours.encode(text).tolist()) == text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": {"type": "WordPiece"}}, "model: must be of type BPE"),
        ({"pre_tokenizer": None}, "pre_tokenizer: must be ByteLevel without pattern or prefix"),
        ({"normalizer": {"type": "NFC"}}, "normalizer: must be empty"),
        ({"vocab": {}}, "model.vocab: must be 256 bytes and a token a merge, in order"),
        ({"merges": [["a"]]}, "model.merges[0]: must be two tokens"),
        ({"merges": ["a no", "a b"]}, "model.merges[0]: must make a new token of known ones"),
        ({"merges": ["a b", "a b"]}, "model.merges[1]: must make a new token of known ones"),
    ],
)
def test_a_wrong_vocabulary_is_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    file = tmp_path / "tokenizer.json"
    Pairs(merges=((97, 98),)).save(file)
    data = json.loads(file.read_text())
    for name, value in change.items():
        (data["model"] if name in ("vocab", "merges") else data)[name] = value
    file.write_text(json.dumps(data))
    with pytest.raises(InputError, match=re.escape(f"{file}: {message}")):
        load_pairs(file)


def test_files_that_are_no_vocabulary(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    with pytest.raises(InputError, match="cannot be read"):
        load_pairs(file)
    for text, message in (("{", "is not JSON"), ("[]", "model: must be of type BPE")):
        file.write_text(text)
        with pytest.raises(InputError, match=message):
            load_pairs(file)
    file.write_text("[" * 100_000)
    with pytest.raises(InputError, match="is not JSON"):
        load_pairs(file)
    file.write_bytes(b" " * ((1 << 20) + 1))
    with pytest.raises(InputError, match="must be at most 1048576 bytes"):
        load_pairs(file)


# What is kept in the repository -------------------------------------------------------


def test_the_weights_are_those_that_were_trained() -> None:
    files = [item for item in FOLDER.iterdir() if item.is_file()]
    assert sum(item.stat().st_size for item in files) < LIMIT
    record = json.loads((FOLDER / "training.json").read_text())
    for name, digest in record["sha256"].items():
        assert hashlib.sha256((FOLDER / name).read_bytes()).hexdigest() == digest, name
    assert set(record["sha256"]) | {"training.json", "README.md"} == {item.name for item in files}
    assert record["sha256"]["model.safetensors"] == WEIGHTS


def test_the_weights_are_a_checkpoint_as_any_other() -> None:
    checkpoint = Checkpoint(FOLDER)
    arch = checkpoint.architecture
    assert arch.parameters == checkpoint.parameters == PARAMETERS
    assert (arch.family, arch.layers, arch.hidden) == ("LlamaForCausalLM", 3, 128)
    assert (arch.heads, arch.kv_heads, arch.head_dim) == (4, 2, 32)
    assert arch.max_positions >= 256
    assert load_pairs(FOLDER / "tokenizer.json").size == arch.vocab
    assert all(tensor.storage.name == "F16" for tensor in checkpoint.tensors.values())
    logits = Decoder(FOLDER)
    x = logits.hidden([0, 65])
    assert np.isfinite(logits.logits(x)).all()


def test_a_model_is_found_by_name_or_place(tmp_path: Path) -> None:
    assert language_model_folder("tiny") == FOLDER
    assert language_model_folder(tmp_path) == tmp_path
    with pytest.raises(InputError, match="model: must be tiny, a folder or a file, got 'none'"):
        language_model_folder("none")


# Training -----------------------------------------------------------------------------

trained = pytest.mark.skipif(
    importlib.util.find_spec("jax") is None or importlib.util.find_spec("optax") is None,
    reason="needs the extra train: JAX and Optax",
)


@trained
@pytest.mark.nightly
def test_training_is_repeated_to_the_bit(tmp_path: Path) -> None:
    from sw_driver.tiny.train import Recipe, Shape, save, train

    corpus = collect(library(tmp_path / "library"))
    corpus = replace(
        corpus, train=tuple(f"{n}. {text}" for n in range(99) for text in corpus.train)
    )
    shape = Shape(vocabulary=260, layers=1, hidden=64, heads=2, kv_heads=1, intermediate=64)
    pairs = train_pairs(corpus.train, shape.vocabulary)
    recipe = Recipe(steps=6, batch=4, warm_up=2)
    told: list[float] = []
    digests = []
    for number, seed in enumerate((1, 1, 2)):
        parameters = train(
            corpus,
            pairs,
            shape,
            replace(recipe, seed=seed),
            progress=lambda step, loss: told.append(loss),
        )
        found = save(tmp_path / str(number), parameters, shape, pairs, "text", {})
        digests.append(found["model.safetensors"])
    assert digests[0] == digests[1] != digests[2]
    assert told[0] == told[1] < np.log(shape.vocabulary) + 1
    assert Checkpoint(tmp_path / "0").architecture.layers == 1


@trained
@pytest.mark.nightly
def test_the_forward_pass_is_the_one_that_was_trained() -> None:
    from sw_driver.tiny.train import Shape, model

    tokens = load_pairs(FOLDER / "tokenizer.json").encode(EVALUATION.read_text())[:256]
    decoder = Decoder(FOLDER)
    parameters = {name: decoder.checkpoint.floats(name) for name in decoder.checkpoint.tensors}
    theirs = np.asarray(model(Shape())(parameters, tokens[None]))[0]
    ours = decoder.logits(decoder.hidden(tokens.tolist()))
    assert np.abs(theirs - ours).max() < 1e-3 * np.abs(theirs).max()

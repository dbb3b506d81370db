"""Perplexity in formats: the golden model's numbers, known values, and what breaks them."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import sw_driver.runner.products
from hw.block import spec_from_dict
from rtl_gen.errors import InputError
from rtl_gen.specfile import load_spec
from sw_driver.commands.perplexity import perplexity as verb
from sw_driver.forward import Decoder, KvCache
from sw_driver.language.perplexity import Measured, PerplexityReport, Wanted, perplexity
from sw_driver.language.quantized_caches import QuantizedCache, parse_cache
from sw_driver.language.scoring import Text, cross_entropy, in_format, score, score_with_cache
from sw_driver.quantize.treatments import Treatment
from sw_driver.runner.operands import product as reference_product
from sw_driver.runner.products import ProductFormat, exact_product, product
from sw_driver.text.tokenizer import tokenizer_of
from sw_driver.tiny import EVALUATION, FOLDER

# Of the first 2000 bytes of the text that is kept, by the weights that are kept.
FLOAT32 = 21.67743
KNOWN = {"lut": {4: 23.66738}, "mx": {8: 21.66767}}
# Float32 alone may differ, by the order of sums in numpy's matrix products.
TOLERANCE = 1e-4


def core(name: str, **fields: Any) -> Any:
    return spec_from_dict({"name": name, **fields})


LUT = core(
    "lut",
    block="lut_core",
    tile={"m": 2, "n": 8, "k": 8},
    weights={"encoding": "unsigned", "max_bits": 8},
    max_k=256,
)
MX = core("mx", block="mx_core", tile={"m": 1, "n": 4, "k": 32})


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(FOLDER)


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("text") / "some.txt"
    file.write_text(EVALUATION.read_text()[:2000])
    return file


@pytest.fixture(scope="module")
def text(some: Path) -> Text:
    return Text(some.read_text(), tokenizer_of(FOLDER), 0, 256)


@pytest.fixture(scope="module")
def measured(decoder: Decoder, some: Path) -> PerplexityReport:
    return perplexity(
        [LUT, MX], model=decoder, weight_bits=(2, 4, 8), text_file=some, progress=False
    )


def row(report: PerplexityReport, spec: str, bits: int) -> Measured:
    (found,) = [item for item in report.rows if (item.spec, item.weight_bits) == (spec, bits)]
    return found


def test_known_values(measured: PerplexityReport) -> None:
    assert measured.plain.perplexity == pytest.approx(FLOAT32, rel=TOLERANCE)
    for spec, by_width in KNOWN.items():
        for bits, value in by_width.items():
            # A rounding that tips over moves more than one sum.
            found = row(measured, spec, bits).score.perplexity
            assert found == pytest.approx(value, rel=10 * TOLERANCE)


def test_more_bits_are_better(measured: PerplexityReport) -> None:
    plain = measured.plain.perplexity
    eight, four, two = (row(measured, "lut", bits).score.perplexity for bits in (8, 4, 2))
    assert abs(eight / plain - 1) < 0.01
    assert eight < four < two
    assert four < 1.2 * plain
    assert abs(row(measured, "mx", 8).score.perplexity / plain - 1) < 0.01


@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_broken_scale_is_noticed(
    decoder: Decoder, text: Text, monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    form = ProductFormat(spec=LUT, bits=8, group=64)
    right = score(decoder, text, in_format(decoder, form)).perplexity
    kept = sw_driver.runner.products.prepare

    def broken(*args: Any, **settings: Any) -> Any:
        made = kept(*args, **settings)
        finish = made.finish
        object.__setattr__(made, "finish", lambda results: finish(results) * np.float32(factor))
        return made

    monkeypatch.setattr(sw_driver.runner.products, "prepare", broken)
    wrong = score(decoder, text, in_format(decoder, form)).perplexity
    assert abs(wrong / right - 1) > 0.01


def test_the_report_says_it_all(measured: PerplexityReport, some: Path, tmp_path: Path) -> None:
    data = json.loads(measured.json())
    assert data["float32"]["perplexity"] == measured.plain.perplexity
    assert data["bytes"] == 2000
    assert [item["spec"] for item in data["rows"]] == ["lut"] * 3 + ["mx"]
    assert row(measured, "lut", 4).weight_bits_each == 4 + 20 / 64  # scale and zero point
    assert row(measured, "mx", 8).weight_bits_each == 8 + 8 / 32
    assert "INT8 × W4 asymmetric" in str(measured)
    assert str(some) in str(measured)
    picture = measured.save_picture(tmp_path / "p.svg")
    assert "<svg" in picture.read_text()[:500]


def test_cross_entropy_by_hand() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]], dtype=np.float32)) + 300
    found = cross_entropy(logits, np.array([0, 2]))
    assert found == pytest.approx(-math.log(0.5) - math.log(0.8), abs=1e-4)


def test_every_token_is_predicted_once() -> None:
    tokenizer = tokenizer_of(FOLDER)
    words = "Return the name of the file, or None if there is none. " * 9
    tokens = tokenizer.encode(words)
    text = Text(words, tokenizer, 0, 16)
    assert text.tokens == len(tokens)
    assert np.array_equal(np.concatenate([row[1:] for row in text.rows]), tokens)
    assert all(row[0] == 0 and len(row) <= 17 for row in text.rows)
    # Without a token to begin with, the first of a window cannot be.
    bare = Text(words, tokenizer, None, 16)
    assert bare.tokens == sum(len(row) - 1 for row in bare.rows) < len(tokens)
    batches = list(text.batches(40))
    assert [len(row) for batch in batches for row in batch] == [len(row) for row in text.rows]
    assert all(sum(map(len, batch)) <= 40 for batch in batches)
    assert all(len(batch) == 1 for batch in text.batches(1))
    with pytest.raises(InputError, match="text: must have a token to predict, got 0 in all"):
        Text("", tokenizer, 0, 16)


def test_windows_do_not_see_each_other(decoder: Decoder) -> None:
    tokenizer = tokenizer_of(FOLDER)
    words = EVALUATION.read_text()[:900]
    text = Text(words, tokenizer, 0, 64)
    together, apart = score(decoder, text), score(decoder, text, batch=1)
    assert together.nats == pytest.approx(apart.nats, rel=1e-6)
    alone = 0.0
    for window in text.rows:
        logits = decoder.logits(decoder.hidden(window[:-1].tolist()))
        alone += cross_entropy(logits, window[1:])
    assert together.nats == pytest.approx(alone, rel=1e-6)
    assert together.bits_per_byte == pytest.approx(alone / math.log(2) / 900, rel=1e-6)


# Products -----------------------------------------------------------------------------

CORES = (
    "lut_serial_k16", "lut_ternary", "mac_w4", "bitserial_k64", "lut_fp16_k16", "mx_fp4",
    "mx_nvfp4", "dequant_w4", "fp8_e4m3",
)  # fmt: skip


@pytest.mark.parametrize("name", CORES)
def test_a_product_is_the_golden_model_s(root: Path, name: str) -> None:
    spec: Any = load_spec(root / f"hw/configs/density/{name}.yaml")
    rng = np.random.default_rng(1)
    x, w = (rng.standard_normal((n, 128)).astype(np.float32) for n in (5, 9))
    bits = min(4, spec.max_weight_bits) if spec.operand_formats[1] is None else spec.max_weight_bits
    form = ProductFormat(spec=spec, bits=bits, group=32)
    made = form.prepare(x, w)
    golden = made.finish([plan.assemble(plan.expected()) for plan in made.plans])
    found = product(form, x, w)
    assert found.dtype == np.float32
    assert np.array_equal(found, golden)
    assert np.array_equal(found, reference_product(spec, x, w, bits=bits, group=32))
    scheme = made.quantizer.removeprefix(f"W{bits} ")
    assert spec.operand_formats[1] is not None or form.scheme == scheme


def test_rows_are_multiplied_in_parts(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(2)
    x, w = (rng.standard_normal((n, 64)).astype(np.float32) for n in (11, 9))
    form = ProductFormat(spec=LUT, bits=3, group=32, treatment=Treatment(name="h", hadamard=16))
    whole = product(form, x, w)
    monkeypatch.setattr(sw_driver.runner.products, "ROWS", 4)
    assert np.array_equal(product(form, x, w), whole)
    nv: Any = load_spec(root / "hw/configs/density/mx_nvfp4.yaml")
    tensor = ProductFormat(spec=nv, bits=4, group=32)
    assert np.array_equal(product(tensor, x, w), reference_product(nv, x, w, bits=4, group=32))


def test_a_wrong_fast_product_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(3)
    x, w = (rng.standard_normal((n, 64)).astype(np.float32) for n in (5, 9))
    form = ProductFormat(spec=LUT, bits=4, group=32)

    def wrong(plan: Any) -> np.ndarray:
        found = exact_product(plan)
        found[1, 3] += 1
        return found

    monkeypatch.setattr(sw_driver.runner.products, "exact_product", wrong)
    with pytest.raises(AssertionError, match="the exact product is not the golden model's"):
        product(form, x, w)


# Caches -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def short() -> Text:
    return Text(EVALUATION.read_text()[:700], tokenizer_of(FOLDER), 0, 128)


def test_token_by_token_is_the_same(decoder: Decoder, short: Text) -> None:
    found, bits = score_with_cache(decoder, short, KvCache)
    assert found.nats == pytest.approx(score(decoder, short).nats, rel=1e-5)
    assert bits == 32.0


@pytest.mark.parametrize("kind", ["int", "kivi", "xquant"])
def test_caches_of_fewer_bits_are_worse(decoder: Decoder, short: Text, kind: str) -> None:
    plain = score(decoder, short).nats

    def by_bits(bits: int) -> tuple[float, float]:
        form = parse_cache(f"{kind}{bits}:16")
        found, each = score_with_cache(decoder, short, lambda: QuantizedCache(decoder, form))
        return found.nats / plain - 1, each

    (eight, wide), (one, narrow) = by_bits(8), by_bits(1)
    assert abs(eight) < 2e-3
    assert one > abs(eight) + 0.01
    assert narrow < wide


def test_a_cache_counts_its_tokens_and_bytes(decoder: Decoder) -> None:
    for text, each in (("int8:32", 8 + 24 / 32), ("xquant8:32", 8 + 24 / 32)):
        cache = QuantizedCache(decoder, parse_cache(text))
        assert cache.length() == 0
        for place, token in enumerate([0, 65, 66]):
            x = decoder.embed([token], place)
            for layer in range(decoder.architecture.layers):

                def project(name: str, value: np.ndarray, layer: int = layer) -> np.ndarray:
                    return value @ decoder.weight(layer, name)[0].T

                x = decoder.layer(layer, x, cache.projecting(layer, project), cache)
                assert cache.length(layer) == place + 1
        # Keys and values of 2 heads of 32; or the input of 128.
        elements = 3 * 3 * 128
        assert cache.bytes == elements * each / 8
    with pytest.raises(ValueError, match="k: must be of one token, got 2"):
        cache.extend(0, np.zeros((2, 2, 32)), np.zeros((2, 2, 32)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("float", "kv: must be int, kivi, xquant with bits from 1 to 8"),
        ("int9", "kv: must be int, kivi, xquant with bits from 1 to 8"),
        ("int8:0", "kv: group must be positive"),
        ("kivi2:32+48", "kv: window must be a multiple of the group for kivi"),
    ],
)
def test_a_wrong_cache_is_refused(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_cache(text)


# What a person writes -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model", "nowhere"], "model: must be tiny, a folder or a file, got 'nowhere'"),
        (["--text-file", "nowhere.txt"], "nowhere.txt: cannot be read, no such file or directory"),
        (["--text-file", "empty.txt"], "empty.txt: must not be empty"),
        (["--text-file", "binary.txt"], "binary.txt: must be UTF-8, byte 1 is not"),
        (["--context", "1"], "context: must lie in [2, 256] for tiny_pydoc, got 1"),
        (["lut.yaml@9"], "weight_bits: must lie in [1, 8] for lut, got 9"),
        (
            ["lut.yaml", "--activation-bits", "6"],
            "activation_bits: must not be given where no core's jobs choose it, got 6",
        ),
        (["lut.yaml", "--hadamard", "3"], "hadamard: must be a power of two from 2 to 128, got 3"),
        (["lut.yaml", "--group", "0"], "group: must lie in [1, 1048576], got 0"),
        (["quantize.yaml"], "quantizer: block: must be a GEMM core to run a layer, got 'quantize'"),
        (["--kv", "x"], "kv: must be int, kivi, xquant"),
        (["--picture", "p.png"], "picture: needs a SPEC.yaml to draw"),
        (["lut.yaml", "--picture", "p.txt"], "p.txt: must end in .png, .svg, .pdf"),
    ],
)
def test_mistakes_are_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("empty.txt").write_text(" \n")
    Path("binary.txt").write_bytes(b"a\xff")
    Path("lut.yaml").write_text(json.dumps(LUT.model_dump(mode="json")))
    Path("quantize.yaml").write_text("block: quantize\nname: quantizer\n")
    result = CliRunner().invoke(verb, options)
    assert result.exit_code == 2, result.output
    assert message in result.stderr
    assert not re.search("Traceback", result.output)


class Long:
    """A decoder of rows that are longer than a rounding core's K."""

    def weight(self, layer: int | None, name: str) -> tuple[np.ndarray, None]:
        return np.zeros((4, 128), dtype=np.float32), None


def test_a_core_that_does_not_fit_says_where() -> None:
    short = core("short", block="mx_core", tile={"m": 1, "n": 4, "k": 32}, max_k=64)
    form = ProductFormat(spec=short, bits=8, group=64)
    decoder: Any = Long()
    project = in_format(decoder, form)(0)
    with pytest.raises(InputError, match="short: layer 0: q: K: must be at most 64"):
        project("q", np.zeros((1, 128), dtype=np.float32))
    with pytest.raises(InputError, match="short: must take real rows of 128 elements"):
        perplexity([short], progress=False)


def test_json_and_files(tmp_path: Path, root: Path) -> None:
    file = tmp_path / "t.txt"
    file.write_text("Return the name of the file.\n")
    out = tmp_path / "r.json"
    result = CliRunner().invoke(verb, ["--text-file", str(file), "--json", "-o", str(out)])
    assert result.exit_code == 0, result.output
    data = json.loads(result.stdout)
    assert data == json.loads(out.read_text())
    assert data["rows"] == []
    assert data["float32"]["bytes"] == 29


def test_treatments_reach_the_product(decoder: Decoder, text: Text) -> None:
    wanted = Wanted(hadamard=64, clip="mse", head=False)
    forms = perplexity(
        [LUT],
        model=decoder,
        widths={"lut": (3,)},
        wanted=wanted,
        text_file=EVALUATION,
        context=64,
        progress=False,
    )
    (found,) = forms.rows
    assert found.treatment == "hadamard 64, clip mse"
    assert "but the product with the vocabulary" in str(forms)

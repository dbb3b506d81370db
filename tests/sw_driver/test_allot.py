"""Bits for every layer: figures are the mapper's, errors the quantizers', and the best is best."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hw.block import spec_from_dict
from hw.formats import FP8_E4M3, MXFP4
from rtl_gen.errors import InputError
from sw_driver.allot import allotment
from sw_driver.allot.allotment import AllotReport, allot, parse_budget
from sw_driver.allot.costs import Costs, Figures, Place
from sw_driver.allot.sensitivity import (
    Calibration,
    Layer,
    model_errors,
    output_errors,
    quantized_weights,
    share,
    similarities,
    weight_errors,
)
from sw_driver.architecture import load_architecture
from sw_driver.checkpoint import Checkpoint
from sw_driver.commands.allot import allot as command
from sw_driver.forward import Decoder, Transformer
from sw_driver.mapper.core import core_of
from sw_driver.mapper.mapping import Choices, map_workload
from sw_driver.mapper.report import workloads_of
from sw_driver.quantize import quantize_symmetric
from sw_driver.runner.operands import product
from sw_driver.text.bert import Bert
from sw_driver.text.prompts import load_transformer, prompts_of

TEXT = "Sums of tables."
ROOT = Path(__file__).resolve().parents[2]


def spec_of(name: str, block: str = "bitserial_core", **fields: Any) -> Any:
    data = {
        "block": block,
        "name": name,
        "tile": {"m": 2, "n": 16, "k": 32},
        "weights": {"encoding": "twos_complement", "max_bits": 8},
    }
    return spec_from_dict({**data, **fields})


SERIAL = spec_of("serial")
ARRAY = spec_of("array", "mac_core", weights={"encoding": "twos_complement", "bits": 4})
MX = spec_of("mx", "mx_core", activations={"format": "mxfp4"}, weights={"format": "mxfp4"})


@pytest.fixture(scope="module")
def bert() -> Bert:
    return Bert()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory, files: SimpleNamespace) -> Path:
    file = tmp_path_factory.mktemp("models") / "small.gguf"
    made: Path = files.gguf(file, "llama", files.llama_keys, files.llama_shapes())
    return made


ROLES = ("q", "k", "v", "o", "up", "down")


def calibrated(model: Transformer, *roles: str) -> Calibration:
    return Calibration.of(model, roles or ROLES, prompts_of(model, [TEXT])[0])


def run(model: Path, specs: list[Any], *budgets: str, **named: Any) -> AllotReport:
    named = {"prefill": 64, "decode": 4, "widths": (2, 4, 8), "points": 0, "rows": 64, **named}
    return allot(model, specs, budgets=[parse_budget(text) for text in budgets], **named)


@pytest.mark.parametrize("model", ["gpt2", "qwen3-30b-a3b", "llama-2-7b", "deepseek-v2-lite"])
def test_uniform_totals_are_the_mapper_s(model: str) -> None:
    arch = load_architecture(model)
    works = workloads_of(arch, prefill=64, decode=3, context=64, batch=2)
    cores = [core_of(SERIAL), core_of(ARRAY)]
    places = [Place(core=0, bits=8), Place(core=0, bits=3)]
    costs = Costs(works, cores, places, group=32)
    roles = [role for role in costs.layers if role not in ("kv_b", "k_up", "v_up")]
    for place in places:
        total = costs.rest(roles, place)
        for role in roles:
            for _ in range(costs.layers[role]):
                total += costs.layer(role, place)
        # The cache's width is the first core's widest, whatever the weights have.
        choices = Choices(weight_bits=place.bits, group=32, kv_bits=8)
        wanted = [map_workload(work, cores[0], choices) for work in works]
        assert total.cycles == sum(item.cycles for item in wanted)
        assert total.bytes == sum(item.bytes for item in wanted)
        assert total.size == wanted[0].parameter_bytes
        seconds = sum(item.seconds for item in wanted)
        assert seconds * 1e9 * (1 - 1e-12) <= total.nanoseconds <= seconds * 1e9 + 3000


def test_the_best_is_that_of_all_allotments(llama: Path) -> None:
    report = run(llama, [SERIAL], "cycles=0.6x", widths=(2, 8))
    data = report.data
    layers = data["layers"]
    assert [layer["role"] for layer in layers[:7]] == ["q", "k", "v", "o", "gate", "up", "down"]
    limit = data["limits"]["cycles"]
    fixed = data["fixed"]["cycles"]
    least = min(
        sum(layer["options"][at]["error"] for layer, at in zip(layers, chosen, strict=True))
        for chosen in itertools.product((0, 1), repeat=len(layers))
        if fixed
        + sum(layer["options"][at]["cycles"] for layer, at in zip(layers, chosen, strict=True))
        <= limit
    )
    assert data["value"] == pytest.approx(least, rel=1e-12)
    assert data["gap"] == 0
    assert report.best.figures.cycles <= limit
    # The reference is everything at the widest of the first core.
    widest = next(each for each in report.uniform if each.name == "all W8")
    assert limit == int(0.6 * widest.figures.cycles)
    assert report.best.error * len(layers) == pytest.approx(least)


def test_several_budgets_and_cores(llama: Path, tmp_path: Path) -> None:
    pytest.importorskip("scipy", reason="the extra allot is not installed")
    free = run(llama, [SERIAL, ARRAY, MX])
    assert {place.core for place in free.best.places.values()} == {0}
    both = run(llama, [SERIAL, ARRAY, MX], "cycles=0.5x", "size=0.62x")
    assert both.solution.solver == "milp"
    assert both.solution.gap < 1e-9
    assert both.best.figures.cycles <= both.data["limits"]["cycles"]
    assert both.best.figures.size <= both.data["limits"]["size"]
    assert both.best.error > free.best.error
    # Dynamic programming and HiGHS agree where both can be had.
    one = [run(llama, [SERIAL, ARRAY], "bytes=0.7x", solver=name) for name in ("dp", "milp")]
    assert one[0].solution.value == pytest.approx(one[1].solution.value, rel=1e-9)
    names = ("serial", "array", "mx")
    rows = [
        {
            "spec": name, "weight_bits": bits, "unit": "µm²", "mac_area": area,
            "scale_area": 1.0, "quantizer_area": 0.5,
        }
        for name, bits, area in (("serial", 8, 40.0), ("serial", 2, 9.0), ("array", 4, 10.0),
                                 ("mx", 4, 6.0), ("other", 4, 1.0))
    ]  # fmt: skip
    file = tmp_path / "compare.json"
    file.write_text(json.dumps({"technology": "t", "candidates": rows}), encoding="utf-8")
    areas = dict(
        zip(
            names,
            (each.area or 0 for each in run(llama, [SERIAL], areas=[file]).uniform),
            strict=False,
        )
    )
    # 1024 MACs a step, 64 cycles at W8 by A8, 16 at W2.
    assert areas["serial"] == pytest.approx(max(41.5 * 1024 / 64, 10.5 * 1024 / 16))
    # The first core does attention: it is there, whatever the layers have.
    small = run(llama, [SERIAL, ARRAY, MX], f"area={areas['serial'] + 10}", areas=[file])
    assert small.best.area == pytest.approx(areas["serial"])
    beside = run(llama, [ARRAY, SERIAL], "area=1x", areas=[file])
    by_name = {each.name: each.area or 0 for each in beside.uniform}
    assert by_name["all array W4"] < by_name["all serial W4"] == beside.best.area
    with pytest.raises(InputError, match=r"area: the least possible is [\d,.]+, got 5.0"):
        run(llama, [SERIAL, ARRAY], "area=5", areas=[file])


def test_a_curve_falls_from_the_least_to_the_free(llama: Path) -> None:
    report = run(llama, [SERIAL], "size=0.6x", points=6)
    taken = [each for each, _ in report.curve]
    values = [value for _, value in report.curve]
    assert len(taken) > 3
    assert taken == sorted(set(taken))
    assert values == sorted(values, reverse=True)
    by_name = {each.name: each for each in report.uniform}
    assert taken[0] == by_name["all W2"].figures.size
    assert taken[-1] == by_name["all W8"].figures.size
    assert values[-1] == pytest.approx(by_name["all W8"].error * 15)


def test_efficiency_trades_error_for_cycles(llama: Path) -> None:
    cycles = [
        run(llama, [SERIAL], efficiency=beta).best.figures.cycles for beta in (0, 0.2, 1, 100)
    ]
    assert cycles == sorted(cycles, reverse=True)
    assert cycles[0] > cycles[1] > cycles[3]
    widths = {place.bits for place in run(llama, [SERIAL], efficiency=100).best.places.values()}
    assert widths == {2}


def test_errors_of_outputs_by_hand(bert: Bert) -> None:
    place = Place(core=0, bits=4)
    errors = output_errors(calibrated(bert), [ARRAY], [place], group=64, progress=False)
    assert len(errors) == 36
    x = bert.hidden(bert.tokens(TEXT), 2)
    w, _ = bert.weight(2, "q")
    wanted = x @ w.T
    got = product(ARRAY, x, w, bits=4, group=64)
    noise = np.square(got.astype(np.float64) - wanted).sum() / np.square(wanted.astype(float)).sum()
    assert errors[Layer(role="q", index=2)][place] == pytest.approx(noise, rel=1e-6)
    assert 1e-4 < noise < 0.1


def test_errors_of_the_model_by_hand(bert: Bert) -> None:
    places = [Place(core=0, bits=2), Place(core=0, bits=8)]
    some = calibrated(bert, "v", "down")
    errors = model_errors(some, [SERIAL], places, group=64, progress=False)
    assert len(errors) == 12
    for found in errors.values():
        assert found[places[1]] < found[places[0]] / 20
    # Of the last layer's last projection nothing comes after but the sum and the norm.
    last = bert.architecture.layers - 1
    tokens = bert.tokens(TEXT)

    def project(name: str, value: np.ndarray) -> np.ndarray:
        w, b = bert.weight(last, name)
        if name == "down":
            return np.asarray(product(SERIAL, value, w, bits=2, group=64) + b)
        return np.asarray(value @ w.T + b)

    noise, signal = share(bert.layer(last, bert.hidden(tokens, last), project), bert.hidden(tokens))
    assert errors[Layer(role="down", index=last)][places[0]] == pytest.approx(noise / signal)


def test_embeddings_of_an_allotment(bert: Bert) -> None:
    layers = [Layer(role=role, index=index) for index in range(6) for role in ROLES]
    cosines = []
    for bits in (2, 4, 8):
        chosen = dict.fromkeys(layers, Place(core=0, bits=bits))
        cosines += similarities(calibrated(bert), [SERIAL], chosen, group=64)
    assert cosines == sorted(cosines)
    assert cosines[0] < 0.9 < cosines[1]
    assert 0.99 < cosines[2] < 1


def test_errors_of_a_decoder(llama: Path) -> None:
    """Logits are what a decoder gives; the head is one of the layers that bits are chosen for."""
    decoder = load_transformer(llama)
    tokens = [[1, 7, 3, 11, 2], [5, 9]]
    inputs, _ = prompts_of(decoder, tokens=tokens)
    roles = ("q", "gate", "lm_head")
    some = Calibration.of(decoder, roles, inputs)
    place = Place(core=0, bits=3)
    errors = model_errors(some, [SERIAL], [place], group=32, progress=False)
    layers = decoder.architecture.layers
    wanted = {Layer(role=role, index=index) for index in range(layers) for role in roles[:2]}
    head = Layer(role="lm_head", index=None)
    assert set(errors) == {*wanted, head}
    assert isinstance(decoder, Decoder)
    exact, made = [], []
    for numbers in tokens:
        x = decoder.final(decoder.hidden(numbers))
        w, _ = decoder.weight(None, "lm_head")
        exact.append(x @ w.T)
        made.append(product(SERIAL, x, w, bits=3, group=32))
    noise, signal = share(np.concatenate(made), np.concatenate(exact))
    assert errors[head][place] == pytest.approx(noise / signal, rel=1e-5)
    # Of a head the model's error and its own are one.
    own = output_errors(some, [SERIAL], [place], group=32, progress=False)
    assert own[head][place] == pytest.approx(noise / signal, rel=1e-5)
    chosen = dict.fromkeys(errors, Place(core=0, bits=8))
    assert min(similarities(some, [SERIAL], chosen, group=32)) > 0.99
    report = run(llama, [SERIAL], "cycles=0.7x", sensitivity="model", widths=(2, 8))
    assert report.data["measured"] == "model"
    assert "random tokens of seed 0" in report.data["calibration"]


def test_errors_of_weights_by_hand(llama: Path) -> None:
    checkpoint = Checkpoint(llama)
    place = Place(core=0, bits=4)
    errors = weight_errors(checkpoint, ["q", "lm_head"], [ARRAY], [place], group=32, rows=10**6)
    assert [layer.name for layer in errors] == ["lm_head", "0.q", "1.q"]
    w = checkpoint.floats("blk.1.attn_q.weight")
    found = quantize_symmetric(w, 4, 32).dequantized()
    noise, signal = share(found, w)
    assert errors[Layer(role="q", index=1)][place] == pytest.approx(noise / signal)
    # Fewer rows are a sample of them.
    some = weight_errors(checkpoint, ["q"], [ARRAY], [place], group=32, rows=48)
    assert some[Layer(role="q", index=1)][place] == pytest.approx(noise / signal, rel=0.05)
    assert some[Layer(role="q", index=1)][place] != noise / signal


def test_fused_and_stacked_tensors_are_their_parts(tmp_path: Path, files: SimpleNamespace) -> None:
    rng = np.random.default_rng(5)
    hidden = 64
    parts = [rng.normal(size=(hidden, hidden)).astype(np.float32) * size for size in (1, 2, 3)]
    parts[1][:, 7] *= 50  # k alone has an outlier
    shapes = {
        "attn.c_proj.weight": (hidden, hidden), "mlp.c_fc.weight": (hidden, 256),
        "mlp.c_proj.weight": (256, hidden),
    }  # fmt: skip
    arrays = {
        f"h.0.{name}": rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()
    }
    # GPT-2 stores (K, N), q, k and v side by side.
    arrays["h.0.attn.c_attn.weight"] = np.concatenate([part.T for part in parts], axis=1)
    arrays |= {
        "wte.weight": rng.normal(size=(100, hidden)).astype(np.float32),
        "wpe.weight": rng.normal(size=(32, hidden)).astype(np.float32),
    }
    files.safetensors(tmp_path / "model.safetensors", arrays)
    config = {
        "architectures": ["GPT2LMHeadModel"], "n_layer": 1, "n_embd": hidden, "n_head": 4,
        "n_positions": 32, "vocab_size": 100, "n_inner": 256,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    place = Place(core=0, bits=4)
    errors = weight_errors(
        Checkpoint(tmp_path), ["q", "k", "v"], [ARRAY], [place], group=32, rows=10**6
    )
    for role, part in zip("qkv", parts, strict=True):
        noise, signal = share(quantize_symmetric(part, 4, 32).dequantized(), part)
        assert errors[Layer(role=role, index=0)][place] == pytest.approx(noise / signal)


def test_weights_as_every_kind_of_core_sees_them() -> None:
    rng = np.random.default_rng(2)
    w = rng.normal(size=(8, 40)).astype(np.float32)
    wide = np.pad(w, ((0, 0), (0, 24)))
    wanted = MXFP4.dequantize(*MXFP4.quantize(wide))[:, :40]
    assert np.array_equal(quantized_weights(MX, w, 4, 32), wanted.astype(np.float32))
    eight = spec_of(
        "eight", "fp_core", activations={"format": "fp8_e4m3"}, weights={"format": "fp8_e4m3"}
    )
    scale = np.abs(w).max(axis=1, keepdims=True).astype(float) / FP8_E4M3.max
    wanted = FP8_E4M3.decode(FP8_E4M3.encode(w / scale)) * scale
    assert np.allclose(quantized_weights(eight, w, 8, 32), wanted, rtol=1e-6)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cycles", "must be METRIC=AMOUNT with one of cycles, bytes, size, seconds, area"),
        ("power=3", "must be METRIC=AMOUNT"),
        ("cycles=", "cycles: must be a number above 0"),
        ("cycles=-3", "cycles: must be a number above 0"),
        ("size=nan", "size: must be a number above 0"),
        ("size=0x", "size: must be a number above 0"),
    ],
)
def test_budgets_that_are_none(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words):
        parse_budget(text)


def test_budgets() -> None:
    assert parse_budget("size=1.5M").amount == 1.5e6
    assert parse_budget("cycles=0.6x").relative
    assert parse_budget("cycles=0.6x").text == "cycles=0.6x"


def test_refusals(llama: Path, tmp_path: Path) -> None:
    for named, words in (
        ({"widths_of": {"array": (8,)}}, "array: has weights of 1, 2, 3, 4 bits, got 8"),
        ({"efficiency": -1.0}, "efficiency: must lie in"),
        ({"points": 1000}, "points: must lie in"),
        ({"rows": 0}, "rows: must lie in"),
    ):
        with pytest.raises(InputError, match=words):
            run(llama, [ARRAY], **named)
    with pytest.raises(InputError, match="core: array: must be given once"):
        run(llama, [ARRAY, ARRAY])
    with pytest.raises(InputError, match="budget: size: must be given once"):
        run(llama, [ARRAY], "size=0.5x", "size=0.6x")
    with pytest.raises(InputError, match="area: a budget of it needs the cores' areas"):
        run(llama, [ARRAY], "area=0.5x")
    with pytest.raises(InputError, match="model: must be minilm or a checkpoint with tensors"):
        run(tmp_path / "none", [ARRAY])
    least = run(llama, [SERIAL]).uniform[0].figures.cycles
    with pytest.raises(InputError, match=f"cycles: the least possible is {least:,}, got 1,000"):
        run(llama, [SERIAL], "cycles=1000")
    file = tmp_path / "area.json"
    file.write_text('{"candidates": [{"spec": "array"}]}', encoding="utf-8")
    with pytest.raises(InputError, match="candidates: must be the rows"):
        run(llama, [ARRAY], areas=[file])
    file.write_text('{"top": "other"}', encoding="utf-8")
    with pytest.raises(InputError, match="top: must be one of array, got 'other'"):
        run(llama, [ARRAY], areas=[file])


def test_command(bert: Bert, llama: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    core = f"{ROOT}/hw/configs/bitserial_core.yaml@2,8"
    picture = tmp_path / "allot.png"
    arguments = [str(llama), "--core", core, "--budget", "cycles=0.7x", "--prefill", "32"]
    arguments += ["--rows", "32", "--points", "3"]
    result = CliRunner().invoke(command, [*arguments, "--picture", str(picture)])
    assert result.exit_code == 0, result.output
    assert "proven by dynamic programming" in result.output
    assert "no activations of this model were measured" in result.output
    assert picture.stat().st_size > 10_000
    result = CliRunner().invoke(command, [*arguments, "--json"])
    data = json.loads(result.output)
    assert data["measured"] == "weights"
    assert {item["bits"] for item in data["best"]["layers"].values()} == {2, 8}
    # An encoder is measured by its activations, and run with what was chosen.
    monkeypatch.setattr(allotment, "HELD_OUT", (TEXT,))
    result = CliRunner().invoke(
        command,
        ["minilm", "--core", core, "--sensitivity", "layer", "--text", TEXT, "--json",
         "--budget", "cycles=0.8x", "--points", "0"],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    data = json.loads(result.output)
    assert data["measured"] == "layer"
    assert len(data["best"]["layers"]) == 36
    assert 0 < data["best"]["cosines"][0] < 1
    result = CliRunner().invoke(command, [*arguments, "--budget", "cycles=oops"])
    assert result.exit_code == 2
    assert Figures() + Figures(cycles=2) == Figures(cycles=2)

"""A real layer on a small core: bit-exact, cycles as mapped, and a wrong result noticed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hw.block import spec_from_dict
from rtl_gen.errors import InputError
from sim.harness import Model, verilate
from sim.harness.compile import RUN_SHORT
from sw_driver.quantize import SCHEMES, Scheme, quantize_activations
from sw_driver.runner.operands import operand_for, scheme_for
from sw_driver.runner.run import LayerRunner, cosine, run_layer
from sw_driver.text.bert import Bert

CORES: dict[str, dict[str, Any]] = {
    "unsigned": {
        "block": "lut_core",
        "tile": {"m": 3, "n": 12, "k": 8},
        "weights": {"encoding": "unsigned", "max_bits": 4},
        "max_k": 64,
    },
    "twos_complement": {
        "block": "mac_core",
        "tile": {"m": 2, "n": 8, "k": 16},
        "weights": {"encoding": "twos_complement", "bits": 4},
    },
    "bipolar": {
        "block": "lut_core",
        "tile": {"m": 1, "n": 8, "k": 8},
        "weights": {"encoding": "bipolar", "max_bits": 3},
        "planes": "parallel",
    },
    "ternary": {
        "block": "lut_core",
        "tile": {"m": 2, "n": 8, "k": 10},
        "weights": {"encoding": "ternary", "packing": "base3"},
    },
}


def spec_of(name: str) -> Any:
    return spec_from_dict({**CORES[name], "name": f"run_{name}"})


@pytest.fixture(scope="module")
def unsigned() -> Iterator[Model]:
    with verilate(spec_of("unsigned"), effort=RUN_SHORT, progress=False) as model:
        yield model


def test_a_layer_is_bit_exact(unsigned: Model) -> None:
    report = run_layer(
        unsigned.spec, layer=1, text="Tables of sums.", simulator=unsigned, progress=False
    )
    assert report.failures == ()
    assert [item.weight_bits for item in report.runs] == [1] * 6 + [2] * 6 + [4] * 6
    assert [item.name for item in report.runs[:6]] == ["q", "k", "v", "o", "up", "down"]
    for item in report.runs:
        assert item.exact
        assert item.cycles == item.predicted == item.mapped > 0
        assert item.groups == (24 if item.name == "down" else 6)
    # By hand: 6 tokens are two tiles of rows, 384 columns 32, each of 6 groups 8 K steps, W4.
    q = report.runs[12]
    assert q.shape == (6, 384, 384)
    assert q.jobs == 2 * 32 * 6
    assert q.cycles == 2 + q.jobs * 8 * 4
    assert 0.99 < report.layer_cosine[4] <= 1
    assert report.layer_cosine[1] < report.layer_cosine[2] < report.layer_cosine[4]
    data = report.as_dict()
    assert data["bit_exact"]
    assert data["cycles_exact"]
    assert len(data["projections"]) == 18
    assert data["spec_digest"] == unsigned.spec.digest
    assert "wrong" in str(report)


class Faulty:
    """A model with one wrong bit in its results, or one cycle too many."""

    def __init__(self, model: Model, *, bit: bool):
        self.model, self.bit = model, bit

    def run(self, inputs: Any, expect: Any) -> Any:
        run = self.model.run(inputs, expect)
        if self.bit:
            run.outputs["o"]["o"][3, 1, 2] ^= 1
        else:
            run.__dict__["cycles"] = run.cycles + 1
        return run


@pytest.mark.parametrize("bit", [True, False])
def test_a_wrong_result_or_cycle_is_noticed(unsigned: Model, bit: bool) -> None:
    faulty: Any = Faulty(unsigned, bit=bit)
    report = run_layer(
        unsigned.spec, weight_bits=[2], text="Sums.", simulator=faulty, progress=False
    )
    assert len(report.failures) == 6
    assert not report.runs[0].exact
    if bit:
        assert "q at W2: 1 of " in report.failures[0]
        assert "group 0, job 3, element (1, 2): got " in report.failures[0]
        assert not report.as_dict()["bit_exact"]
    else:
        assert "cycles observed" in report.failures[0]
        assert report.as_dict()["bit_exact"]
        assert not report.as_dict()["cycles_exact"]


@pytest.mark.parametrize("name", ["twos_complement", "bipolar", "ternary"])
def test_every_encoding_runs(name: str) -> None:
    spec = spec_of(name)
    rng = np.random.default_rng(2)
    x, w = rng.normal(size=(5, 72)).astype(np.float32), rng.normal(size=(11, 72)).astype(np.float32)
    with verilate(spec, effort=RUN_SHORT, progress=False) as model:
        runner = LayerRunner(spec, model, group=32)
        widths = [2] if name == "ternary" else range(1, spec.max_weight_bits + 1)
        for bits in widths:
            output, run = runner.linear("x", x, w, None, bits)
            assert run.exact
            assert run.groups == 3
            # What came through the RTL is what the quantized numbers say.
            weights = SCHEMES[scheme_for(name, bits)](w, bits, 32).dequantized()
            a = quantize_activations(x)
            wanted = (a.codes * a.scale[:, None]) @ weights.T
            assert np.allclose(output, wanted, rtol=1e-4, atol=1e-4)
            assert run.cosine == pytest.approx(cosine(wanted, x @ w.T), abs=1e-5)


@pytest.mark.parametrize(
    ("scheme", "encoding", "bits"),
    [
        *(("asymmetric", "unsigned", bits) for bits in (1, 2, 4)),
        *(("bipolar", "unsigned", bits) for bits in (1, 3)),
        *(("bipolar", "twos_complement", bits) for bits in (1, 3)),
        ("bipolar", "bipolar", 2),
        ("symmetric", "twos_complement", 4),
        ("ternary", "unsigned", 2),
        ("ternary", "twos_complement", 2),
        ("ternary", "ternary", 2),
    ],
)
def test_operand_keeps_the_product(scheme: Scheme, encoding: str, bits: int) -> None:
    from hw.integers import weight_range

    rng = np.random.default_rng(bits)
    weights = SCHEMES[scheme](rng.normal(size=(7, 48)).astype(np.float32), bits, 48)
    operand = operand_for(weights, encoding)
    low, high = weight_range(encoding, bits)  # type: ignore[arg-type]
    assert operand.w.min() >= low
    assert operand.w.max() <= high
    a = rng.integers(-128, 128, size=(5, 48))
    z = 0 if operand.z is None else operand.z[:, :1]
    o = a @ (operand.w - z).T
    zero = 0 if weights.zero is None else weights.zero[:, :1]
    wanted = a @ (weights.codes.astype(int) - zero).T
    assert np.array_equal(operand.factor * o + operand.offset * a.sum(1, keepdims=True), wanted)


def test_operand_that_does_not_fit_is_refused() -> None:
    weights = SCHEMES["asymmetric"](np.ones((2, 8), dtype=np.float32), 4, 8)
    with pytest.raises(ValueError, match="asymmetric weights do not fit the bipolar encoding"):
        operand_for(weights, "bipolar")


def test_requests_are_checked(unsigned: Model) -> None:
    bert = Bert()
    with pytest.raises(InputError) as caught:
        run_layer(unsigned.spec, model=bert, layer=6, weight_bits=[5], group=0, progress=False)
    assert str(caught.value).splitlines() == [
        "layer: must lie in [0, 5], got 6",
        "weight_bits: must lie in [1, 4] for run_unsigned, got 5",
        "group: must lie in [1, 1048576], got 0",
    ]
    unsigned_activations = spec_from_dict(
        {"block": "lut_core", "name": "u", "activations": {"bits": 8, "signed": False}}
    )
    with pytest.raises(InputError, match=r"u: activations: must be signed"):
        run_layer(unsigned_activations, model=bert, progress=False)


@pytest.mark.parametrize("bits", [1, 4])
def test_scales_in_hardware_are_those_in_software(unsigned: Model, bits: int) -> None:
    rng = np.random.default_rng(bits)
    x, w = rng.normal(size=(5, 96)).astype(np.float32), rng.normal(size=(13, 96)).astype(np.float32)
    b = rng.normal(size=13).astype(np.float32)
    spec = unsigned.spec
    hardware = LayerRunner(spec, unsigned, group=32, hardware_scales=True)
    output, run = hardware.linear("x", x, w, b, bits)
    software, plain = LayerRunner(spec, unsigned, group=32).linear("x", x, w, b, bits)
    hardware.close()
    assert run.exact
    assert plain.exact
    # Three jobs of two tiles of rows and two of columns; every output is compared once more.
    assert run.results == plain.results + 2 * 2 * 3 * 12
    assert 0 < run.scale_cycles == run.scale_predicted
    assert plain.scale_cycles == 0
    np.testing.assert_allclose(output, software, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["fp16", "fp8_e4m3"])
def test_results_with_exponents_are_scaled_in_hardware(form: str) -> None:
    exponent = "running" if form == "fp16" else "exact"
    spec: Any = spec_from_dict(
        {
            **CORES["unsigned"],
            "name": f"run_{form}",
            "activations": {"format": form, "bits": 10, "exponent": exponent},
        }
    )
    rng = np.random.default_rng(8)
    x, w = rng.normal(size=(5, 96)).astype(np.float32), rng.normal(size=(13, 96)).astype(np.float32)
    b = rng.normal(size=13).astype(np.float32)
    with verilate(spec, effort=RUN_SHORT, progress=False) as model:
        hardware = LayerRunner(spec, model, group=32, hardware_scales=True)
        output, run = hardware.linear("x", x, w, b, 4)
        software, plain = LayerRunner(spec, model, group=32).linear("x", x, w, b, 4)
        with pytest.raises(InputError, match=f"scales: must be software for run_{form} at W1"):
            hardware.linear("x", x, w, b, 1)
        hardware.close()
    assert run.exact
    assert plain.exact
    assert run.results == plain.results + 2 * 2 * 3 * 12
    assert 0 < run.scale_cycles == run.scale_predicted
    np.testing.assert_allclose(output, software, rtol=1e-5, atol=1e-5)

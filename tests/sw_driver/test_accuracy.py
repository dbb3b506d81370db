"""Errors of number formats on a real layer: treatments, figures by hand, and RTL that differs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from hw.block import spec_from_dict
from rtl_gen.errors import InputError
from rtl_gen.specfile import load_specs
from sim.harness import Model, verilate
from sim.harness.compile import RUN_SHORT
from sw_driver.commands.accuracy import accuracy as command
from sw_driver.measure.accuracy import accuracy, measure
from sw_driver.quantize import quantize_activations, quantize_symmetric
from sw_driver.quantize.treatments import Treatment, rotate, treatments
from sw_driver.runner.operands import prepare
from sw_driver.runner.run import sqnr_db
from sw_driver.text.bert import Bert

TEXT = "Sums of tables."


def spec_of(name: str, **fields: Any) -> Any:
    data = {
        "block": "mac_core",
        "name": name,
        "tile": {"m": 2, "n": 16, "k": 32},
        "weights": {"encoding": "twos_complement", "bits": 4},
    }
    return spec_from_dict({**data, **fields})


SPEC = spec_of("four")


@pytest.fixture(scope="module")
def bert() -> Bert:
    return Bert()


@pytest.fixture(scope="module")
def model() -> Iterator[Model]:
    with verilate(SPEC, effort=RUN_SHORT, progress=False) as made:
        yield made


def test_a_rotation_is_orthonormal_and_its_own_inverse() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3, 48)).astype(np.float32)
    turned = rotate(x, 16)
    assert np.allclose(rotate(turned, 16), x, atol=1e-6)
    assert np.allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(x, axis=1))
    # One element spreads evenly over its block and stays inside.
    one = np.zeros((1, 48), dtype=np.float32)
    one[0, 20] = 1
    spread = np.abs(rotate(one, 16))[0]
    assert np.allclose(spread[16:32], 0.25)
    assert not spread[:16].any()
    assert not spread[32:].any()
    for size in (0, 3, 32):
        with pytest.raises(ValueError, match="size: must"):
            rotate(x, size)


@pytest.mark.parametrize("treatment", treatments(8), ids=lambda item: item.name)
def test_treatments_keep_the_product(treatment: Treatment) -> None:
    rng = np.random.default_rng(1)
    x, w = (rng.normal(size=(n, 24)).astype(np.float32) for n in (3, 5))
    a, b = treatment.apply(x, w)
    assert np.allclose(a @ b.T, x @ w.T, atol=1e-5)
    assert (treatment.name == "plain") == np.array_equal(a, x)
    if treatment.sort and not treatment.hadamard:
        norms = np.linalg.norm(b, axis=0)
        assert (np.diff(norms) <= 0).all()


def test_figures_are_those_of_the_quantizers(bert: Bert) -> None:
    (row,), failures = measure(
        SPEC, bert, bits=4, group=48, layer=1, text=TEXT, treated=treatments(16)[:1]
    )
    assert failures == []
    tokens = bert.tokens(TEXT)
    x = bert.hidden(tokens, 1)
    for name in "qkv":
        w, _ = bert.weight(1, name)
        a = quantize_activations(x, 8)
        wanted = (a.codes * a.scale[:, None]) @ quantize_symmetric(w, 4, 48).dequantized().T
        assert row.sqnr_db[name] == pytest.approx(sqnr_db(wanted, x @ w.T), abs=1e-3)
    assert row.weight_bits_each == 4 + 16 / 48
    assert row.activation_bits_each == 8
    assert row.projections_db == pytest.approx(
        np.mean([row.sqnr_db[name] for name in ("q", "k", "v", "o", "up", "down")])
    )
    assert 0.95 < row.layer_cosine < 1
    assert row.results == row.mismatches == row.cycles == 0


def test_more_bits_are_better(bert: Bert) -> None:
    core = spec_of("serial", block="bitserial_core", weights={"max_bits": 8})
    report = accuracy(
        [core],
        model=bert,
        weight_bits=(2, 4, 8),
        activation_bits=(4, 8),
        text=TEXT,
        progress=False,
    )
    plain = {row.formats: row.projections_db for row in report.rows if row.treatment == "plain"}
    assert len(plain) == 6
    for bits in (4, 8):
        by_weights = [plain[f"INT{bits} × W{w} symmetric"] for w in (2, 4, 8)]
        assert by_weights == sorted(by_weights)
    for w in (2, 4, 8):
        assert plain[f"INT4 × W{w} symmetric"] < plain[f"INT8 × W{w} symmetric"]
    assert len(report.rows) == 6 * 4
    assert json.loads(report.json())["rows"][0]["sqnr_db"]["scores"] > 0


def test_on_rtl_every_product_is_the_reference(bert: Bert, model: Model, tmp_path: Path) -> None:
    (alone,), _ = measure(
        SPEC, bert, bits=4, group=64, layer=0, text=TEXT, treated=treatments(16)[3:]
    )
    (row,), failures = measure(
        SPEC, bert, bits=4, group=64, layer=0, text=TEXT, treated=treatments(16)[3:], model=model
    )
    assert failures == []
    assert row.mismatches == 0
    assert row.results > 100_000
    assert row.cycles > 10_000
    assert row.sqnr_db == alone.sqnr_db
    assert row.layer_sqnr_db == alone.layer_sqnr_db


class Faulty:
    """A model with one wrong bit in its results."""

    def __init__(self, model: Model):
        self.model = model

    def run(self, inputs: Any, expect: Any) -> Any:
        run = self.model.run(inputs, expect)
        run.outputs["o"]["o"][0, 1, 3] ^= 4
        return run


def test_rtl_that_differs_is_named(bert: Bert, model: Model) -> None:
    faulty: Any = Faulty(model)
    (row,), failures = measure(
        SPEC, bert, bits=4, group=64, layer=0, text=TEXT, treated=treatments(16)[:1], model=faulty
    )
    # Six projections twice, and a product for the scores of every head.
    assert row.mismatches == len(failures) == 12 + bert.architecture.heads
    assert failures[0].startswith("four W4: q: 1 of ")
    assert "element (1, 3): got " in failures[0]


def test_a_rotation_that_does_not_fit_a_head_is_left_out(bert: Bert) -> None:
    report = accuracy([SPEC], model=bert, hadamard=64, text=TEXT, progress=False)
    data = json.loads(report.json())
    scores = {row["treatment"]: row["sqnr_db"]["scores"] for row in data["rows"]}
    assert scores["hadamard"] is scores["both"] is None
    assert scores["plain"] == pytest.approx(scores["sort"], abs=3)
    assert "–" in str(report)


def test_every_wrong_number_is_named(bert: Bert) -> None:
    tables = spec_from_dict({"block": "lut_tables", "name": "tables"})
    with pytest.raises(InputError) as caught:
        accuracy(
            [SPEC, tables], model=bert, layer=9, weight_bits=(9,), group=0, hadamard=12, text=TEXT
        )
    lines = str(caught.value).splitlines()
    assert "tables: block: must be a GEMM core to run a layer, got 'lut_tables'" in lines
    assert "layer: must lie in [0, 5], got 9" in lines
    assert "weight_bits: must lie in [1, 8], got 9" in lines
    assert "group: must lie in [1, 1048576], got 0" in lines
    assert "hadamard: must be a power of two from 2 to 128, got 12" in lines


def test_the_verb(tmp_path: Path) -> None:
    spec = tmp_path / "four.yaml"
    spec.write_text(
        "block: mac_core\nname: four\ntile: {m: 2, n: 16, k: 32}\n"
        "weights: {encoding: twos_complement, bits: 4}\n"
    )
    picture = tmp_path / "a.png"
    result = CliRunner().invoke(
        command, [str(spec), "--text", TEXT, "--picture", str(picture), "--json"]
    )
    assert result.exit_code == 0, result.output
    assert [row["treatment"] for row in json.loads(result.stdout)["rows"]] == [
        "plain", "hadamard", "sort", "both",
    ]  # fmt: skip
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_files_are_read_together(tmp_path: Path) -> None:
    good = "block: mac_core\nname: one\n"
    for name, text in (("a", good), ("b", good), ("c", "block: mac_core\n")):
        (tmp_path / f"{name}.yaml").write_text(text)
    paths = [tmp_path / f"{name}.yaml" for name in "abcd"]
    with pytest.raises(InputError) as caught:
        load_specs(paths)
    lines = str(caught.value).splitlines()
    assert lines[0] == f"{paths[1]}: name: must differ from that in {paths[0]}, got 'one'"
    assert lines[1].startswith(f"{paths[2]}:1:1: name: is required")
    assert lines[2].startswith(f"{paths[3]}: cannot be read")


def test_the_last_group_of_weights_dequantized_in_the_core_may_be_short() -> None:
    core = spec_of(
        "dequantizer",
        block="fp_core",
        tile={"m": 1, "n": 2, "k": 4},
        activations={"format": "fp16"},
        weights={"format": "int", "bits": 4, "encoding": "unsigned", "scale": "fp16", "group": 16},
        accumulator={"kind": "fp32"},
        max_k=64,
    )
    rng = np.random.default_rng(2)
    with verilate(core, effort=RUN_SHORT, progress=False) as made:
        for k in (10, 40, 48):
            x, w = (rng.normal(size=(rows, k)).astype(np.float32) for rows in (3, 5))
            prepared = prepare(core, x, w, bits=4, group=64)
            (plan,) = prepared.plans
            run = made.run(plan.inputs, plan.expect)
            found = plan.assemble(run.outputs["o"])
            wanted = plan.assemble(plan.expected())
            assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
            assert np.allclose(prepared.finish([found]), prepared.a @ prepared.w.T, atol=1e-2)

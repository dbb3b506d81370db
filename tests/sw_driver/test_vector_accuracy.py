"""Errors of the vector unit: their references, their command, and the encoder on the unit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from hw.block import spec_from_dict
from hw.blocks.vector_unit.spec import VectorUnitSpec
from rtl_gen.errors import InputError
from sw_driver.measure import vector_accuracy
from sw_driver.runner.run import cosine
from sw_driver.text.bert import Bert, model_folder


def _spec(**data: object) -> VectorUnitSpec:
    spec = spec_from_dict({"block": "vector_unit", "name": "dut", **data})
    assert isinstance(spec, VectorUnitSpec)
    return spec


def _model() -> Path:
    try:
        return model_folder("minilm")
    except InputError as error:
        pytest.skip(str(error))


def test_references_by_their_definitions() -> None:
    x = np.array([-9.0, -3.0, -0.5, 0.0, 0.1, 2.0, 7.0])
    phi = np.array([0.5 * (1 + math.erf(each / math.sqrt(2))) for each in x])
    np.testing.assert_allclose(vector_accuracy.gelu(x), x * phi, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(vector_accuracy.silu(x), x / (1 + np.exp(-x)), rtol=1e-14)
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    np.testing.assert_allclose(
        vector_accuracy.gelu_tanh(x), x / 2 * (1 + np.tanh(inner)), rtol=1e-9, atol=1e-15
    )
    # To full relative precision where 1 + erf has none left.
    assert vector_accuracy.gelu(np.array([-12.0]))[0] == pytest.approx(-2.131778e-32, rel=1e-6)
    turned, scale = vector_accuracy.rotary(x[:2], np.cos([0.3, 0.3]), np.sin([0.3, 0.3]))
    whole = complex(*x[:2]) * complex(math.cos(0.3), math.sin(0.3))
    np.testing.assert_allclose(turned, [whole.real, whole.imag], rtol=1e-14)
    assert (scale >= np.abs(turned)).all()


def test_an_error_is_seen() -> None:
    spec = _spec()
    wanted = np.array([1.0, 2.0, -4.0, 1e-40])
    right = vector_accuracy.errors(spec, "add", "some", [(wanted, wanted, wanted)])
    assert (right.places, right.relative, right.absolute) == (0, 0, 0)
    off = wanted + np.array([0.0, 0.0, 0.03125, 0.0])
    wrong = vector_accuracy.errors(spec, "add", "some", [(off, wanted, wanted)])
    assert wrong.places == 1.0
    assert wrong.absolute == 0.03125
    assert wrong.relative == 0.03125 / 4
    lost = vector_accuracy.errors(spec, "add", "some", [(wanted * 0, wanted, wanted)])
    assert lost.places == 128


def test_the_command_prints_every_function(tmp_path: Path) -> None:
    file = tmp_path / "unit.yaml"
    file.write_text("block: vector_unit\nname: unit\nfunctions: [silu, add]\n")
    done = CliRunner().invoke(vector_accuracy.main, [str(file)])
    assert done.exit_code == 0, done.output
    assert all(word in done.output for word in ("silu", "add", "1/√y", "65,279"))
    data = json.loads(CliRunner().invoke(vector_accuracy.main, [str(file), "--json"]).output)
    assert [each["function"] for each in data["functions"]] == ["silu", "add"]
    assert data["cosines"] == {}


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        ("block: hadamard\nname: a\n", [], "must be vector_unit"),
        ("block: vector_unit\nname: a\nlanes: 3\n", [], "must be a power of two"),
        ("block: vector_unit\nname: a\nfunctions: [add]\n", ["--model", "minilm"], "softmax"),
        ("block: vector_unit\nname: a\n", ["--model", "/none"], "must be minilm or a folder"),
    ],
)
def test_the_command_refuses(tmp_path: Path, text: str, options: list[str], message: str) -> None:
    if "minilm" in options:
        _model()
    file = tmp_path / "unit.yaml"
    file.write_text(text)
    done = CliRunner().invoke(vector_accuracy.main, [str(file), *options])
    assert done.exit_code == 2
    assert message in " ".join(done.output.split())


def test_an_encoder_keeps_its_embeddings() -> None:
    _model()
    found = vector_accuracy.embedding_cosines(_spec(), vector_accuracy.SENTENCES[:2])
    assert all(0.999 <= value < 1 for value in found), found


def test_an_encoder_runs_on_the_unit_and_nothing_else() -> None:
    _model()
    text = vector_accuracy.SENTENCES[2]
    plain = Bert().embedding(text)
    coarse = _spec(format="fixed", fixed={"bits": 8, "fraction": 5})
    off = cosine(plain, vector_accuracy.VectorBert(coarse).embedding(text))
    near = cosine(plain, vector_accuracy.VectorBert(_spec()).embedding(text))
    assert off < 0.99 < near

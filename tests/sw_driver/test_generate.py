"""Text with its linear layers on the RTL: bit-exact, in the mapper's cycles, mistakes noticed."""

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
from sim.harness import Model, verilate
from sim.harness.compile import RUN_SHORT
from sw_driver.commands.generate import generate as verb
from sw_driver.forward import Decoder
from sw_driver.language.generate import Sampling, choose, generate
from sw_driver.tiny import FOLDER

SPEC: Any = spec_from_dict(
    {
        "block": "lut_core",
        "name": "writes",
        "tile": {"m": 2, "n": 32, "k": 16},
        "weights": {"encoding": "unsigned", "max_bits": 4},
        "max_k": 64,
    }
)
TOKENS = 12


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(FOLDER)


@pytest.fixture(scope="module")
def simulator() -> Iterator[Model]:
    with verilate(SPEC, effort=RUN_SHORT, progress=False) as model:
        yield model


def test_a_dozen_tokens_on_the_rtl(decoder: Decoder, simulator: Model) -> None:
    pieces: list[bytes] = []
    found = generate(
        SPEC,
        model=decoder,
        prompt="Return the ",
        tokens=TOKENS,
        simulator=simulator,
        show=pieces.append,
        progress=False,
    )
    assert found.failures == ()
    assert b"".join(pieces).decode() == "Return the " + found.text
    assert len(pieces) == 1 + TOKENS
    given = len(found.tokens) - TOKENS
    assert {item.phase for item in found.operators} == {"prefill", "decode"}
    for item in found.operators:
        assert item.exact
        assert item.observed == item.predicted == item.mapped > 0
        once = 1 if item.name == "lm_head" else decoder.architecture.layers
        assert item.products == once * (1 if item.phase == "prefill" else TOKENS - 1)
    # By hand: a row is one tile, 128 columns are 4, 128 elements of K 8 steps of 4 planes.
    (q,) = [item for item in found.operators if (item.phase, item.name) == ("decode", "q")]
    assert q.observed == (TOKENS - 1) * 3 * (2 + 4 * 8 * 4)
    data = json.loads(found.json())
    assert data["tokens_per_second"] == pytest.approx(
        (TOKENS - 1) * SPEC.clock_mhz * 1e6 / data["decode_cycles"]
    )
    assert data["tokens"][:given] == list(found.tokens[:given])

    golden = generate(
        SPEC, model=decoder, prompt="Return the ", tokens=TOKENS, on="golden", progress=False
    )
    assert golden.tokens == found.tokens
    assert golden.operators == ()


def test_formats_with_scales_of_their_own(decoder: Decoder) -> None:
    spec: Any = spec_from_dict(
        {"block": "mx_core", "name": "writes_mx", "tile": {"m": 1, "n": 16, "k": 32}}
    )
    with verilate(spec, effort=RUN_SHORT, progress=False) as model:
        found = generate(spec, model=decoder, tokens=2, simulator=model, progress=False)
    assert found.failures == ()
    assert all(item.exact for item in found.operators)
    golden = generate(spec, model=decoder, tokens=2, on="golden", progress=False)
    assert golden.tokens == found.tokens


class Faulty:
    """A model with one wrong bit in its results, or one cycle too many."""

    def __init__(self, model: Model, *, bit: bool):
        self.model, self.bit = model, bit

    def run(self, inputs: Any, expect: Any) -> Any:
        run = self.model.run(inputs, expect)
        if self.bit:
            run.outputs["o"]["o"][0, 0, 1] ^= 1
        else:
            run.__dict__["cycles"] = run.cycles + 1
        return run


@pytest.mark.parametrize("bit", [True, False])
def test_a_wrong_bit_or_cycle_is_noticed(decoder: Decoder, simulator: Model, bit: bool) -> None:
    faulty: Any = Faulty(simulator, bit=bit)
    found = generate(SPEC, model=decoder, tokens=2, simulator=faulty, progress=False)
    assert len(found.failures) == 16
    text = "results differ, group 0, job 0" if bit else "cycles observed"
    assert all(text in line for line in found.failures)


def test_tokens_are_drawn_by_their_shares() -> None:
    logits = np.log(np.array([0.5, 0.2, 0.3]))
    rng = np.random.default_rng(0)
    assert choose(logits, 0.0, rng) == 0
    drawn = np.bincount([choose(logits, 1.0, rng) for _ in range(4000)], minlength=3) / 4000
    assert np.abs(drawn - [0.5, 0.2, 0.3]).max() < 0.03
    cold = [choose(logits, 0.05, rng) for _ in range(200)]
    assert set(cold) == {0}
    assert choose(np.array([1.0, 3.0, 3.0]), 0.0, rng) == 1


def test_a_seed_is_a_text(decoder: Decoder) -> None:
    def text(seed: int) -> str:
        return generate(
            SPEC,
            model=decoder,
            tokens=30,
            sampling=Sampling(temperature=1.0, seed=seed),
            on="float32",
            progress=False,
        ).text

    assert text(1) == text(1) != text(2)


def test_the_cache_is_the_whole_input(decoder: Decoder) -> None:
    found = generate(SPEC, model=decoder, tokens=6, on="float32", progress=False)
    for place in range(len(found.tokens) - 6, len(found.tokens)):
        logits = decoder.logits(decoder.hidden(found.tokens[:place])[-1:])[0]
        assert int(np.argmax(logits)) == found.tokens[place]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--tokens", "0"], "tokens: must be positive, got 0"),
        (["--tokens", "300"], "must be at most 257, one more than the model's positions, got "),
        (["--prompt", "a\udcff"], "prompt: must be UTF-8, letter 1 is not"),
        (["--temperature", "-1"], "temperature: must lie in [0, 100], got -1.0"),
        (["--temperature", "nan"], "temperature: must lie in [0, 100], got nan"),
        (["--seed", "-1"], "seed: must lie in [0, 2^63), got -1"),
        (["--weight-bits", "5"], "weight_bits: must lie in [1, 4] for writes, got 5"),
        (["--model", "nowhere"], "model: must be tiny, a folder or a file, got 'nowhere'"),
    ],
)
def test_mistakes_are_said_in_a_line(tmp_path: Path, options: list[str], message: str) -> None:
    file = tmp_path / "core.yaml"
    file.write_text(json.dumps(SPEC.model_dump(mode="json")))
    result = CliRunner().invoke(verb, [str(file), *options])
    assert result.exit_code == 2, result.output
    assert message in result.stderr


def test_a_model_without_a_vocabulary(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((FOLDER / name).read_bytes())
    with pytest.raises(InputError, match=r"tokenizer\.json: is required"):
        generate(SPEC, model=tmp_path, progress=False)


def test_the_verb_writes_text_and_report(tmp_path: Path) -> None:
    file = tmp_path / "core.yaml"
    file.write_text(json.dumps(SPEC.model_dump(mode="json")))
    asked = [str(file), "--prompt", "If *", "--tokens", "5", "--on", "golden"]
    result = CliRunner().invoke(verb, asked)
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("If *")
    assert "tiny_pydoc on writes (golden model)" in result.stdout
    as_json = CliRunner().invoke(verb, [*asked, "--json"])
    data = json.loads(as_json.stdout)
    assert result.stdout.startswith("If *" + data["text"])

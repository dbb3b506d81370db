"""Real runs: weights as stored, several instances, whole models, inputs of every kind."""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from click.testing import CliRunner

from hw.block import spec_from_dict
from rtl_gen.errors import InputError
from sim.harness import Model, verilate
from sim.harness.compile import RUN_SHORT
from sw_driver.architecture import Storage
from sw_driver.checkpoint.weights import GroupedWeights
from sw_driver.commands.run import run
from sw_driver.forward import Decoder
from sw_driver.mapper.core import core_of
from sw_driver.runner.instances import Instances, checked_jobs
from sw_driver.runner.linear import LayerRunner
from sw_driver.runner.operands import reference
from sw_driver.runner.run import run_layer, run_model
from sw_driver.runner.stored_operands import prepare_stored, takes_stored
from sw_driver.text.bert import Bert
from sw_driver.text.prompts import load_transformer, prompts_of, texts_in, token_numbers

SENTENCE = "A man is eating food."

CORES: dict[str, dict[str, Any]] = {
    "unsigned": {
        "block": "lut_core",
        "tile": {"m": 2, "n": 8, "k": 8},
        "weights": {"encoding": "unsigned", "max_bits": 8},
        "max_k": 64,
    },
    "twos_complement": {
        "block": "mac_core",
        "tile": {"m": 1, "n": 4, "k": 8},
        "weights": {"encoding": "twos_complement", "bits": 8},
    },
    "bipolar": {
        "block": "lut_core",
        "tile": {"m": 1, "n": 4, "k": 8},
        "weights": {"encoding": "bipolar", "max_bits": 8},
    },
    "ternary": {
        "block": "lut_core",
        "tile": {"m": 1, "n": 4, "k": 5},
        "weights": {"encoding": "ternary", "packing": "base3"},
    },
}


def spec_of(name: str) -> Any:
    return spec_from_dict({**CORES[name], "name": f"real_{name}"})


@pytest.fixture(scope="module")
def models() -> Iterator[Callable[[str], Model]]:
    """Verilated cores by name, made when they are asked for."""
    made: dict[str, Model] = {}

    def model(name: str) -> Model:
        if name not in made:
            made[name] = verilate(spec_of(name), effort=RUN_SHORT, progress=False)
        return made[name]

    yield model
    for item in made.values():
        item.close()


# Stored weights as operands ------------------------------------------------------------


def stored(kind: str, rng: np.random.Generator, n: int = 20, k: int = 80) -> GroupedWeights:
    """Random weights of a form that files have, the last group short."""
    group = 32
    groups = -(-k // group)
    scale = (rng.standard_normal((n, groups)) / 8).astype(np.float32)
    low, high, more = {
        "signed": (-16, 15, {}),
        "zeros": (0, 15, {"zero": rng.integers(0, 16, (n, groups)).astype(np.int16)}),
        # GPTQ adds one to what it stores.
        "beyond": (0, 15, {"zero": rng.integers(14, 17, (n, groups)).astype(np.int16)}),
        "offset": (0, 15, {"offset": rng.standard_normal((n, groups)).astype(np.float32)}),
        "order": (
            0,
            15,
            {"order": rng.permutation(k), "zero": np.full((n, groups), 7, dtype=np.int16)},
        ),
        "ternary": (-1, 1, {}),
        "mxfp4": (-12, 12, {}),
    }[kind]
    bits = {"signed": 5, "ternary": 2}.get(kind, 4)
    storage = Storage(
        name=kind,
        bits=bits,
        group=group,
        signed=kind in ("signed", "ternary", "mxfp4"),
        offset=kind == "offset",
        ternary=kind == "ternary",
        float_format="mxfp4" if kind == "mxfp4" else "",
    )
    codes = rng.integers(low, high + 1, (n, k)).astype(np.int8)
    return GroupedWeights(storage=storage, group=group, codes=codes, scale=scale, **more)


KINDS = ("signed", "zeros", "beyond", "offset", "order", "ternary", "mxfp4")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", CORES)
def test_stored_weights_are_multiplied_with_as_they_are(name: str, kind: str) -> None:
    spec, rng = spec_of(name), np.random.default_rng(5)
    weights = stored(kind, rng)
    x = rng.standard_normal((4, 80)).astype(np.float32)
    fits = kind == "ternary" or name != "ternary"
    assert takes_stored(spec, weights) == fits
    if not fits:
        with pytest.raises(ValueError, match="cannot take weights stored as"):
            prepare_stored(spec, x, weights)
        return
    made = prepare_stored(spec, x, weights)
    assert made.groups == 3
    found = made.finish([reference(spec, plan) for plan in made.plans])
    # Activations are eight bits a token; with their values the product is that of the file.
    order = slice(None) if weights.order is None else weights.order
    a = np.empty_like(made.a)
    a[:, order] = made.a
    wanted = a @ weights.dequantized().astype(np.float64).T
    assert np.allclose(found, wanted, rtol=1e-5, atol=1e-5 * np.abs(wanted).max())
    assert np.abs(a - x).max() < 0.02
    # No code is changed on its way: the plans' weights are theirs, up to the encoding.
    unit = 2 if name == "bipolar" else 1
    for g, plan in enumerate(made.plans):
        columns = weights.columns(g)
        own = weights.codes[:, columns].astype(int)
        sent = plan.w[: len(own), : own.shape[1]]
        difference = sent - unit * own
        assert (difference == difference[:1, :1]).all(), "codes are shifted by one number at most"


def test_mxfp4_goes_to_its_own_core(root: Path) -> None:
    from rtl_gen.specfile import load_spec

    spec: Any = load_spec(root / "hw/configs/density/mx_fp4.yaml")
    rng = np.random.default_rng(1)
    scale = 2.0 ** rng.integers(-6, 3, (24, 2)).astype(np.float32) / 2
    levels = np.array([0, 1, 2, 3, 4, 6, 8, 12])
    codes = levels[rng.integers(0, 8, (24, 64))] * rng.choice([-1, 1], (24, 64))
    weights = GroupedWeights(
        storage=Storage(name="MXFP4", bits=4, group=32, float_format="mxfp4"),
        group=32,
        codes=codes.astype(np.int8),
        scale=scale.astype(np.float32),
    )
    made = prepare_stored(spec, rng.standard_normal((3, 64)).astype(np.float32), weights)
    assert np.array_equal(made.w, weights.dequantized())
    found = made.finish([plan.assemble(plan.expected()) for plan in made.plans])
    wanted = made.a @ made.w.T
    assert np.allclose(found, wanted, rtol=1e-2, atol=1e-2 * np.abs(wanted).max())


# Small checkpoints of every kind, a layer each ----------------------------------------------


def gguf(kind: str, tmp_path: Path, files: SimpleNamespace) -> Path:
    def formats(name: str) -> str:
        return "F16" if "token" in name else kind

    file = tmp_path / "m.gguf"
    files.gguf(file, "llama", files.llama_keys, files.llama_shapes(), formats)
    if kind == "MXFP4":
        # Scales of any size would leave float32.
        import gguf as library

        for tensor in library.GGUFReader(file, "r+").tensors:
            if tensor.tensor_type == library.GGMLQuantizationType.MXFP4:
                blocks = tensor.data.reshape(-1, 17)
                blocks[:, 0] = 118 + blocks[:, 0] % 8
    return file


_SHAPES = {
    "self_attn.q_proj": (64, 64), "self_attn.k_proj": (32, 64), "self_attn.v_proj": (32, 64),
    "self_attn.o_proj": (64, 64), "mlp.gate_proj": (96, 64), "mlp.up_proj": (96, 64),
    "mlp.down_proj": (64, 96),
}  # fmt: skip
_LLAMA = {
    "architectures": ["LlamaForCausalLM"], "hidden_size": 64, "intermediate_size": 96,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50,
    "max_position_embeddings": 128, "tie_word_embeddings": True,
}  # fmt: skip


def folder(kind: str, tmp_path: Path, files: SimpleNamespace) -> Path:
    """A small Llama, or BitNet, whose projections are packed as a kind says."""
    rng = np.random.default_rng(3)
    settings: dict[str, dict[str, Any]] = {
        "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True},
        "awq": {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True},
        "bitnet": {"quant_method": "bitnet"},
        "fp8": {"quant_method": "fp8", "weight_block_size": [32, 32]},
    }
    config = dict(_LLAMA)
    if kind == "bitnet":
        config["architectures"] = ["BitNetForCausalLM"]
    if kind in settings:
        config["quantization_config"] = settings[kind]
    (tmp_path / "config.json").write_text(json.dumps(config))
    arrays: dict[str, np.ndarray] = {
        "model.embed_tokens.weight": rng.standard_normal((50, 64)).astype(np.float32),
        "model.norm.weight": np.ones(64, np.float32),
    }
    for layer in range(2):
        at = f"model.layers.{layer}"
        for norm in ("input_layernorm", "post_attention_layernorm"):
            arrays[f"{at}.{norm}.weight"] = np.ones(64, np.float32)
        if kind == "bitnet":
            arrays[f"{at}.self_attn.attn_sub_norm.weight"] = np.ones(64, np.float32)
            arrays[f"{at}.mlp.ffn_sub_norm.weight"] = np.ones(96, np.float32)
        for name, (n, k) in _SHAPES.items():
            arrays |= _packed(kind, f"{at}.{name}", n, k, rng, files)
    files.safetensors(tmp_path / "model.safetensors", arrays)
    return tmp_path


def _packed(
    kind: str, name: str, n: int, k: int, rng: np.random.Generator, files: SimpleNamespace
) -> dict[str, np.ndarray]:
    groups = k // 32
    scales = (0.02 + rng.random((groups, n)) / 50).astype(np.float16)
    codes, zeros = rng.integers(0, 16, (k, n)), rng.integers(5, 11, (groups, n))
    if kind == "gptq":
        return {
            f"{name}.qweight": files.stream(codes, 4),
            f"{name}.qzeros": np.ascontiguousarray(files.stream((zeros - 1).T, 4).T),
            f"{name}.scales": scales,
            f"{name}.g_idx": rng.permutation(np.arange(k) // 32).astype(np.int32),
        }
    if kind == "awq":
        return {
            f"{name}.qweight": files.awq(codes),
            f"{name}.qzeros": files.awq(zeros),
            f"{name}.scales": scales,
        }
    if kind == "bitnet":
        return {
            f"{name}.weight": files.trits(rng.integers(-1, 2, (n, k))),
            f"{name}.weight_scale": np.array([0.1], dtype=np.float32),
        }
    w = rng.standard_normal((n, k)) / 8
    if kind == "fp8":
        return {
            f"{name}.weight": w.astype(ml_dtypes.float8_e4m3fn),
            f"{name}.weight_scale_inv": np.full((-(-n // 32), groups), 0.5, dtype=np.float32),
        }
    return {f"{name}.weight": w.astype(ml_dtypes.bfloat16)}


@pytest.mark.parametrize(
    ("kind", "core", "bits"),
    [
        ("Q4_0", "unsigned", 4),
        ("Q8_0", "twos_complement", 8),
        ("Q5_1", "twos_complement", 5),
        ("Q4_K", "unsigned", 4),
        ("Q6_K", "bipolar", 6),
        ("Q2_K", "unsigned", 2),
        ("TQ2_0", "ternary", 2),
        ("MXFP4", "unsigned", 5),
        ("gptq", "unsigned", 4),
        ("gptq", "twos_complement", 4),
        ("awq", "unsigned", 4),
        ("bitnet", "ternary", 2),
        ("bitnet", "unsigned", 2),
        ("fp8", "unsigned", 4),
        ("bf16", "bipolar", 4),
    ],
)
def test_a_layer_of_every_kind_of_checkpoint(
    kind: str,
    core: str,
    bits: int,
    tmp_path: Path,
    files: SimpleNamespace,
    models: Callable[[str], Model],
) -> None:
    made = (gguf if kind[0].isupper() else folder)(kind, tmp_path, files)
    floats = kind in ("fp8", "bf16")
    model = models(core)
    report = run_layer(
        model.spec,
        model=made,
        layer=0 if kind[0].isupper() else 1,
        weight_bits=[bits] if floats else None,
        group=32,
        tokens=[[3, 14, 15, 9, 26]],
        simulator=model,
        progress=False,
    )
    assert report.failures == ()
    assert [item.name for item in report.runs] == ["q", "k", "v", "o", "gate", "up", "down"]
    loaded = Decoder(made)
    for item in report.runs:
        assert item.exact
        kept = loaded.stored(0, item.name)
        assert (kept is None) == floats
        assert item.asked == (bits if floats else 0)
        # Mixtures of formats are files of their own kind: K-quants are 4 and 6 bits together.
        wide = max(item.weight_bits, bits) if kept is None else kept.bits
        assert item.weight_bits == max(wide, model.spec.weight_widths[0])
        assert item.scheme.endswith("as stored") != floats
        assert item.cosine > (0.95 if floats else 0.998)
    assert json.loads(report.json())["bit_exact"] is True


def test_experts_are_those_that_tokens_take(
    models: Callable[[str], Model], tmp_path: Path, files: SimpleNamespace
) -> None:
    spec = importlib.util.spec_from_file_location(
        "reference", Path(__file__).parent / "forward/reference.py"
    )
    assert spec is not None
    assert spec.loader is not None
    made: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    golden = json.loads((Path(__file__).parent / "forward/golden.json").read_text())
    (case,) = [item for item in golden["cases"] if item["name"] == "deepseek_v3"]
    (tmp_path / "config.json").write_text(json.dumps(case["config"]))
    arrays = {name: made.tensor(name, tuple(shape)) for name, shape in case["tensors"].items()}
    files.safetensors(tmp_path / "model.safetensors", arrays)
    model = models("unsigned")
    report = run_layer(
        model.spec,
        model=tmp_path,
        layer=1,
        weight_bits=[6],
        group=16,
        tokens=[[3]],
        simulator=model,
        progress=False,
    )
    assert report.failures == ()
    experts = {item.name.split()[1] for item in report.runs if item.name.startswith("expert")}
    assert len(experts) == 2, "one token takes two experts"
    names = [item.name for item in report.runs if not item.name.startswith("expert")]
    assert names == [
        "q_a", "q_b", "kv_a", "kv_b", "o", "shared gate", "shared up", "shared down",
    ]  # fmt: skip


def test_codes_that_a_core_does_not_take_are_refused(
    tmp_path: Path, files: SimpleNamespace
) -> None:
    spec = spec_from_dict(
        {**CORES["unsigned"], "name": "narrow", "weights": {"encoding": "unsigned", "max_bits": 4}}
    )
    file = gguf("Q6_K", tmp_path, files)
    with pytest.raises(InputError) as caught:
        run_layer(spec, model=file, tokens=[[1]], progress=False)
    assert str(caught.value) == (
        "weight_bits: q, k, v, o, gate, up, down: stored as Q6_K, 6-bit codes that are no weights "
        "of narrow; a width for them requantizes"
    )


# Instances ---------------------------------------------------------------------------------


def test_shares_are_the_whole(models: Callable[[str], Model]) -> None:
    model = models("unsigned")
    rng = np.random.default_rng(4)
    x, w = rng.standard_normal((7, 72)).astype(np.float32), rng.standard_normal((50, 72))
    w = w.astype(np.float32)
    found = []
    for jobs in (1, 3):
        with Instances(model, jobs) as instances:
            runner = LayerRunner(model.spec, instances, group=32)
            output, item = runner.linear("x", x, w, None, 4)
            assert item.exact
            # Seven tiles of columns: a share of three is two or three of them.
            assert len(item.instance_cycles) == jobs
            found.append((output, item.cycles, item.predicted, item.jobs, item.results))
            if jobs == 3:
                one = np.array(item.instance_cycles)
                assert (one[:, 0] == one[:, 1]).all()
                latency = core_of(model.spec).latency
                assert sorted((one[:, 0] - latency) // ((item.cycles - latency) // 7)) == [2, 2, 3]
    assert np.array_equal(found[0][0], found[1][0])
    assert found[0][1:] == found[1][1:]


def test_fewer_tiles_than_instances(models: Callable[[str], Model]) -> None:
    model = models("unsigned")
    x, w = np.ones((1, 8), np.float32), np.eye(8, dtype=np.float32)
    with Instances(model, 4) as instances:
        _, item = LayerRunner(model.spec, instances, group=8).linear("x", x, w, None, 2)
        assert item.exact
        assert len(item.instance_cycles) == 1
        assert instances._pool is None, "one tile needs no process"


def test_an_instance_that_errs_is_noticed(models: Callable[[str], Model]) -> None:
    model = models("unsigned")
    x = np.ones((3, 16), np.float32)
    w = np.random.default_rng(0).standard_normal((24, 16)).astype(np.float32)

    class Late:
        """One cycle more than there should be."""

        def run(self, inputs: Any, expect: Any) -> Any:
            found = model.run(inputs, expect)
            found.__dict__["cycles"] = found.cycles + 1
            return found

    _, item = LayerRunner(model.spec, Late(), group=16).linear("x", x, w, None, 3)
    assert item.mismatches == 0
    assert not item.exact


def test_jobs_are_checked() -> None:
    assert checked_jobs(None) >= 1
    assert checked_jobs(3) == 3
    for jobs in (0, -1, 2000):
        with pytest.raises(InputError, match=f"jobs: must lie in \\[1, 1024\\], got {jobs}"):
            checked_jobs(jobs)


_SLEEPER = """
import signal, time
from pathlib import Path
import numpy as np
from hw.block import spec_from_dict
from sim.gemm import tile
from sim.harness import verilate
from sim.harness.compile import RUN_SHORT
from sw_driver.runner.instances import Instances

if __name__ == "__main__":
    # Whoever runs the tests may ignore interrupts, which children inherit.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    spec = spec_from_dict({spec!r})
    model = verilate(spec, effort=RUN_SHORT, progress=False)
    plan = tile(spec, np.ones((3, 16), int), np.ones((48, 16), int), z=np.zeros(48, int))
    with Instances(model, 2) as instances:
        instances.run([plan])
        pids = [str(pid) for pid in instances._pool._processes]
        print(*pids, flush=True)
        {end}
"""


def _alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize("how", ["error", "interrupt", "kill"])
def test_no_process_is_left(
    how: str, tmp_path: Path, root: Path, models: Callable[[str], Model]
) -> None:
    models("unsigned")  # compiled
    end = "raise ValueError('on purpose')" if how == "error" else "time.sleep(600)"
    script = tmp_path / "script.py"
    spec = {**CORES["unsigned"], "name": "real_unsigned"}
    script.write_text(_SLEEPER.replace("{spec!r}", repr(spec)).replace("{end}", end))
    child = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdout is not None
    pids = [int(word) for word in child.stdout.readline().split()]
    assert len(pids) == 2
    if how == "interrupt":
        # What a terminal does: everyone of the group is told.
        os.killpg(child.pid, signal.SIGINT)
    elif how == "kill":
        child.kill()
    _, errors = child.communicate(timeout=60)
    assert child.returncode != 0
    assert errors.count("Traceback") == (how != "kill"), errors
    end_of_wait = time.monotonic() + 30
    while any(map(_alive, pids)) and time.monotonic() < end_of_wait:
        time.sleep(0.05)
    assert not any(map(_alive, pids))


# Whole models ------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_whole_encoder_is_bit_exact(root: Path) -> None:
    from rtl_gen.specfile import load_spec

    spec = load_spec(root / "hw/configs/lut_core.yaml")
    report = run_model(spec, weight_bits=[4], text=SENTENCE, jobs=2, progress=False)
    assert report.failures == ()
    assert len(report.runs) == 6 * 6 + 1
    assert all(item.exact for item in report.runs)
    assert all(len(item.instance_cycles) == 2 for item in report.runs)
    # By hand: 8 tokens are 4 tiles of rows; a layer's weights are 1,728 tiles of 64 × 16 a step.
    layers = 6 * (4 * 1728 * 4 + 6 * 3)
    assert report.cycles == layers + (4 * 0 + 1 * 144 * 4 + 3)
    (measured,) = report.measured
    assert 0.94 < measured.cosines[0] < 0.999
    assert 0.9 < measured.pooled[0] < 0.9999
    data = json.loads(report.json())
    assert data["bit_exact"]
    assert data["cycles_exact"]
    assert data["widths"][0]["cosine"] == [measured.cosines[0]]
    assert data["inputs"][0]["text"] == SENTENCE


def test_a_whole_decoder(
    tmp_path: Path, files: SimpleNamespace, models: Callable[[str], Model]
) -> None:
    model = models("twos_complement")
    made = folder("gptq", tmp_path, files)
    inputs = [[3, 14, 15], [9, 26, 5, 3, 5]]
    report = run_model(model.spec, model=made, tokens=inputs, simulator=model, progress=False)
    assert report.failures == ()
    assert [item.name for item in report.runs[-8:]] == [
        "q", "k", "v", "o", "gate", "up", "down", "lm_head",
    ]  # fmt: skip
    assert report.runs[-1].shape == (2, 50, 64)
    assert report.runs[-1].scheme == "symmetric", "the head is stored in floats"
    (measured,) = report.measured
    assert measured.asked == 0
    assert min(measured.cosines) > 0.99
    assert min(measured.logits) > 0.9
    # Far away from float32 if a projection goes wrong on its way.
    plain = Decoder(made)
    wanted = plain.final(plain.hidden(inputs[1]))[-1]
    cosine = wanted @ measured.vectors[1]
    cosine /= np.linalg.norm(wanted) * np.linalg.norm(measured.vectors[1])
    assert measured.cosines[1] == pytest.approx(cosine, abs=1e-5)
    text = str(report)
    assert "as stored" in text
    assert "same next token" in text
    picture = report.save_picture(tmp_path / "x.png")
    assert picture.stat().st_size > 1000


# Inputs ----------------------------------------------------------------------------------


def test_inputs_of_every_kind(tmp_path: Path, files: SimpleNamespace) -> None:
    decoder = load_transformer(folder("bf16", tmp_path, files))
    found, note = prompts_of(decoder)
    assert len(found[0].tokens) == 16
    assert note == "16 random tokens of seed 0, no tokenizer that is read here"
    assert prompts_of(decoder)[0] == found, "the same ones every time"
    found, note = prompts_of(decoder, tokens=[[1, 2], [3]])
    assert ([prompt.tokens for prompt in found], note) == ([(1, 2), (3,)], "")
    assert found[0].name == "tokens 1, 2"
    for arguments, text in (
        ({"texts": ["x"]}, "text: .* has no tokenizer that is read here"),
        ({"tokens": [[50]]}, r"tokens: tokens must lie in \[0, 49\], got 50"),
        ({"tokens": [[]]}, "tokens: must give one token at least"),
        ({"tokens": [[1] * 129]}, "tokens: must be at most 128 tokens, got 129"),
        ({"tokens": [[1]], "texts": ["x"]}, "text: give texts or tokens, not both"),
    ):
        with pytest.raises(InputError, match=text):
            prompts_of(decoder, **arguments)  # type: ignore[arg-type]


def test_texts_of_a_file(tmp_path: Path) -> None:
    file = tmp_path / "texts"
    file.write_text("one\n\n  two  \n")
    assert texts_in(file) == ["one", "two"]
    file.write_bytes(b"\xff")
    with pytest.raises(InputError, match="texts: must be UTF-8 text"):
        texts_in(file)
    file.write_text("\n")
    with pytest.raises(InputError, match="must have 1 to 4096 lines of text, got 0"):
        texts_in(file)
    with pytest.raises(InputError, match="none: cannot be read, no such file"):
        texts_in(tmp_path / "none")


def test_token_numbers() -> None:
    assert token_numbers("1, 2,3") == [1, 2, 3]
    with pytest.raises(InputError, match="tokens: must be numbers with commas, got '1,x'"):
        token_numbers("1,x")


def test_cased_encoders_are_not_lowered(tmp_path: Path) -> None:
    packaged = Bert().folder
    for item in packaged.iterdir():
        if item.name != "tokenizer_config.json" and item.is_file():
            (tmp_path / item.name).symlink_to(item)
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    model = load_transformer(tmp_path)
    with pytest.raises(InputError, match="do_lower_case: must be true for texts"):
        prompts_of(model, ["x"])
    assert prompts_of(model)[1].startswith("16 random tokens of seed 0")


@pytest.mark.parametrize("good", [True, False])
def test_a_tokenizer_file(good: bool, tmp_path: Path, files: SimpleNamespace) -> None:
    path = folder("bf16", tmp_path, files)
    words = {"[UNK]": 0, "tables": 7, "of": 8, "sums": 9}
    told = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [],
        "normalizer": {"type": "Lowercase"},
        "pre_tokenizer": {"type": "Whitespace"},
        "post_processor": None,
        "decoder": None,
        "model": {"type": "WordLevel", "vocab": words, "unk_token": "[UNK]"},
    }
    (path / "tokenizer.json").write_text(json.dumps(told) if good else "{}")
    model = load_transformer(path)
    if importlib.util.find_spec("tokenizers") is None:
        with pytest.raises(InputError, match=r"needs the extra text to be read .* token numbers"):
            prompts_of(model, ["x"])
        assert "needs the extra text" in prompts_of(model)[1]
    elif good:
        assert prompts_of(model, ["Tables of sums"])[0][0].tokens == (7, 8, 9)
    else:
        with pytest.raises(InputError, match=r"tokenizer\.json: is no tokenizer"):
            prompts_of(model, ["x"])


# The command -----------------------------------------------------------------------------


def test_the_command_says_what_is_wrong(root: Path, tmp_path: Path) -> None:
    core = str(root / "hw/configs/lut_core.yaml")
    invoke = functools.partial(CliRunner().invoke, run)
    (tmp_path / "texts").write_text("a\n")
    for arguments, text in (
        (["--layer", "first"], "layer: must be a number or all, got 'first'"),
        (["--layer", "-1"], "layer: must lie in [0, 5], got -1"),
        (["--jobs", "0"], "jobs: must lie in [1, 1024], got 0"),
        (["--tokens", "1;2"], "tokens: must be numbers with commas, got '1;2'"),
        (["--tokens", "999999"], "tokens: tokens must lie in [0, 30521], got 999999"),
        (["--tokens", "1", "--text", "a"], "text: give texts or tokens, not both"),
        (["--text", "a", "--text-file", str(tmp_path / "texts")], "not both"),
        (["--text", "a", "--text", " "], "text: must not be empty"),
        (["--layers", "all", "--weight-bits", "9"], "weight_bits: must lie in [1, 4]"),
        (["--model", str(tmp_path / "no.gguf")], "model: must be minilm or a checkpoint"),
    ):
        result = invoke([core, *arguments])
        assert result.exit_code == 2, (arguments, result.output)
        assert text in result.output, (arguments, result.output)
        assert len(result.output.strip().splitlines()) == 1


def test_text_of_a_gguf_file(tmp_path: Path, files: SimpleNamespace) -> None:
    import gguf as library

    # By number: unknown, begin, bytes, pieces with scores, one that somebody added.
    pieces = ["<unk>", "<s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    pieces += ["▁", "a", "b", "ab", "▁ab", "ba", "  "]
    kinds = [2, 3, *[6] * 256, *[1] * 6, 4]
    scores = [0.0] * 258 + [-1.0, -1.0, -1.0, -2.0, -4.0, -3.0, 0.0]
    file = tmp_path / "m.gguf"
    writer = library.GGUFWriter(file, "llama")
    for key, value in files.llama_keys.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_string("tokenizer.ggml.model", "llama")
    writer.add_array("tokenizer.ggml.tokens", pieces)
    writer.add_array("tokenizer.ggml.scores", scores)
    writer.add_array("tokenizer.ggml.token_type", kinds)
    writer.add_uint32("tokenizer.ggml.bos_token_id", 1)
    for name, shape in files.llama_shapes().items():
        writer.add_tensor(name, np.ones(shape, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    model = load_transformer(file)

    def encoded(text: str) -> list[str | int]:
        (prompt,) = prompts_of(model, [text])[0]
        return [pieces[token] for token in prompt.tokens]

    # A space comes first; ab is joined before ba, then with the space.
    assert encoded("aba") == ["<s>", "▁ab", "a"]
    assert encoded("bab") == ["<s>", "▁", "b", "ab"]
    assert encoded("ba") == ["<s>", "▁", "ba"]
    assert encoded("é") == ["<s>", "▁", "<0xC3>", "<0xA9>"]
    assert encoded("a  b") == ["<s>", "▁", "a", "  ", "▁", "b"]
    assert prompts_of(model)[0][0].text is not None, "the default is a text"


def test_rows_are_filled_up_to_whole_blocks(root: Path) -> None:
    from rtl_gen.specfile import load_spec
    from sw_driver.runner.operands import prepare

    spec: Any = load_spec(root / "hw/configs/mx_core.yaml")
    rng = np.random.default_rng(2)
    x, w = (rng.standard_normal((rows, 48)).astype(np.float32) for rows in (3, 20))
    made = prepare(spec, x, w, bits=8, group=32)
    found = made.finish([plan.assemble(plan.expected()) for plan in made.plans])
    assert np.allclose(made.a[:, :48], x, atol=0.05)
    assert not made.a[:, 48:].any()
    assert np.allclose(found, made.a @ made.w.T, rtol=1e-4, atol=1e-4)


def test_a_core_that_rounds_takes_a_projection_in_one_piece(
    tmp_path: Path, files: SimpleNamespace, root: Path
) -> None:
    from rtl_gen.specfile import load_spec

    spec: Any = load_spec(root / "hw/configs/fp_core.yaml")
    short = spec.model_copy(update={"max_k": 64})
    made = folder("bf16", tmp_path, files)
    with pytest.raises(InputError, match=r"max_k: must be at least the K .* is 64, down has 96"):
        run_layer(short, model=made, tokens=[[1]], progress=False)

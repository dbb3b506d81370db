"""Chunks, riders, speculation and routing against the same work, step by step."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

from hw.block import spec_from_dict
from rtl_gen.errors import InputError
from sw_driver.architecture import Architecture, LayerGroup, Mlp, load_architecture
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.cost import Line
from sw_driver.mapper.many import evaluate_many
from sw_driver.mapper.mapping import Choices, Mapping, OperatorCost, map_workload
from sw_driver.mapper.routing import (
    UNIFORM,
    Routing,
    counted_rows,
    expected_experts,
    expected_rows,
    load_routing,
)
from sw_driver.mapper.workload import (
    Attention,
    Linear,
    Workload,
    decode_workload,
    draft_workload,
    expected_tokens,
    prefill_workload,
    verify_workload,
)

SUMMED = (
    *("macs", "jobs", "cycles", "weight_bytes", "scale_bytes", "activation_bytes"),
    *("output_bytes", "outside"),
)


def core(**more: Any) -> Core:
    settings: dict[str, Any] = {
        "block": "lut_core",
        "name": "c",
        "tile": {"m": 2, "n": 8, "k": 16},
        "weights": {"encoding": "unsigned", "max_bits": 4},
        "max_k": 256,
        "clock_mhz": 500.0,
        "memory": {"bandwidth_gb_s": 25.6},
    }
    return core_of(spec_from_dict({**settings, **more}))  # type: ignore[arg-type]


def small(window: int | None = None, mlp: Mlp | None = None) -> Architecture:
    """A decoder of three layers, of which the last one has a window."""
    arch = load_architecture("llama-2-70b")
    mlp = mlp or Mlp(gated=True, width=96)
    groups = (
        LayerGroup(count=2, window=None, mlp=mlp),
        LayerGroup(count=1, window=window, mlp=mlp),
    )
    if window is None:
        groups = (LayerGroup(count=3, window=None, mlp=mlp),)
    norms = (("input_norm", 64), ("post_norm", 64))
    return replace(
        arch,
        name="small",
        hidden=64,
        heads=6,
        kv_heads=2,
        head_dim=16,
        vocab=50,
        layer_groups=groups,
        norms=norms,
        rotary=16,
    )


def latent() -> Architecture:
    arch = load_architecture("deepseek-v2")
    assert arch.latent is not None
    part = replace(arch.latent, q_rank=24, kv_rank=32, nope=8, rope=4, value=12)
    groups = (LayerGroup(count=2, window=None, mlp=Mlp(gated=True, width=96)),)
    return replace(
        arch,
        hidden=64,
        heads=4,
        kv_heads=4,
        head_dim=12,
        latent=part,
        layer_groups=groups,
        vocab=50,
    )


MIXTURE = Mlp(gated=True, width=32, experts=6, active=2)


def by_role(mappings: list[Mapping]) -> dict[str, Counter[str]]:
    """Sums over operators of a role, scores and values."""
    found: dict[str, Counter[str]] = {}
    for mapping in mappings:
        operators = mapping.workload.operators
        for at, item in enumerate(mapping.operators):
            operator = operators[at] if at < len(operators) else None
            role = operator.role if isinstance(operator, Linear) else item.kind
            if isinstance(operator, Attention) and operator.window:
                role += " window"
            found.setdefault(role, Counter()).update({n: getattr(item, n) for n in SUMMED})
    return found


def mapped(works: list[Workload], **choices: Any) -> list[Mapping]:
    # Scale and zero point in 16 bits: no bytes that steps share.
    return [map_workload(work, core(), Choices(scale_bits=12, **choices)) for work in works]


def row(mapping: Mapping, name: str) -> OperatorCost:
    (item,) = [item for item in mapping.operators if item.name == name]
    return item


def linear(work: Workload, name: str) -> Linear:
    (item,) = [item for item in work.operators if item.name == name]
    assert isinstance(item, Linear)
    return item


@pytest.mark.parametrize("buffer", [0, 900, 1 << 21])
@pytest.mark.parametrize(
    ("tokens", "chunk", "context", "batch"),
    [(37, 8, 0, 1), (40, 8, 5, 3), (7, 1, 3, 2), (9, 9, 0, 1)],
)
def test_chunks_are_prefills_one_after_another(
    tokens: int, chunk: int, context: int, batch: int, buffer: int
) -> None:
    arch = small(window=11)
    whole = prefill_workload(arch, tokens, chunk=chunk, context=context, batch=batch)
    parts = [
        prefill_workload(arch, min(chunk, tokens - at), context=context + at, batch=batch)
        for at in range(0, tokens, chunk)
    ]
    assert (whole.steps, whole.tokens, whole.new_tokens) == (len(parts), tokens, tokens * batch)
    found = by_role(mapped([whole], buffer_bytes=buffer))
    counted = by_role(mapped(parts, buffer_bytes=buffer))
    # Logits are made once, of the last token.
    once = by_role(mapped(parts[-1:], buffer_bytes=buffer))
    assert found["lm_head"] == once["lm_head"]
    del found["lm_head"], counted["lm_head"]
    assert found == counted
    vector = {item.name: item.elements for item in whole.vector}
    for name in ("softmax", "residual", "rotary"):
        every = [{item.name: item.elements for item in part.vector} for part in parts]
        assert vector[name] == sum(one[name] for one in every)


def test_riders_share_the_rows_of_a_chunk() -> None:
    arch = small()
    work = prefill_workload(arch, 20, chunk=8, batch=2, riders=3, rider_context=30)
    # Two chunks of 8 and one of 4 of two prompts, a token of each of three riders beside each.
    assert [(linear(work, n).m, linear(work, n).runs) for n in ("q", "q (last chunk)")] == [
        (2 * 8 + 3, 2 * 3),
        (2 * 4 + 3, 3),
    ]
    # Logits: of the riders in every step, of the prompts in the last one.
    heads = [linear(work, name) for name in ("lm_head (riders)", "lm_head")]
    assert [(item.m, item.runs) for item in heads] == [(3, 2), (2 + 3, 1)]
    assert work.new_tokens == 2 * 20 + 3 * 3
    alone = map_workload(decode_workload(arch, 3, context=30, batch=3), core())
    found = map_workload(work, core())
    for kind in ("scores", "values"):
        for name in SUMMED:
            assert getattr(row(found, f"{kind} (riders)"), name) == getattr(row(alone, kind), name)
    # The chunks' own attention is that of a prefill without riders.
    without = map_workload(prefill_workload(arch, 20, chunk=8, batch=2), core())
    for name in SUMMED:
        assert getattr(row(found, "scores"), name) == getattr(row(without, "scores"), name)
    # What riders share are the weights: read once for both.
    assert row(found, "q").weight_bytes == row(without, "q").weight_bytes
    assert found.cache_bytes == without.cache_bytes + alone.cache_bytes
    assert found.tokens_per_second == pytest.approx(49 / found.seconds)


@pytest.mark.parametrize("expanded", [False, True])
def test_chunks_of_latents(expanded: bool) -> None:
    arch = latent()
    whole = prefill_workload(arch, 21, chunk=6, context=3, expanded=expanded)
    parts = [
        prefill_workload(arch, min(6, 21 - at), context=3 + at, expanded=expanded)
        for at in range(0, 21, 6)
    ]
    found, counted = (by_role(mapped(works)) for works in ([whole], parts))
    del found["lm_head"], counted["lm_head"]
    assert found == counted
    # Riders decode with absorbed projections beside chunks that expand.
    work = prefill_workload(arch, 21, chunk=6, riders=2, rider_context=9, expanded=expanded)
    names = {item.name for item in work.operators}
    assert ("k_up (riders)" in names) is not expanded
    assert "kv_b" in names
    if not expanded:
        alone = map_workload(decode_workload(arch, 4, context=9, batch=2), core())
        found_riders = map_workload(work, core())
        for name in ("k_up", "scores", "values", "v_up"):
            assert row(found_riders, f"{name} (riders)").cycles == row(alone, name).cycles


@pytest.mark.parametrize(("drafted", "accept"), [(1, 0.5), (3, 0.8), (4, 0.0), (2, 1.0), (7, 0.71)])
def test_expected_tokens(drafted: int, accept: float) -> None:
    line = expected_tokens(drafted, accept)
    exact = drafted + 1 if accept == 1 else (1 - accept ** (drafted + 1)) / (1 - accept)
    assert line.up / line.down == pytest.approx(exact, rel=2e-3)
    assert line.down <= 256
    # By cases: the first rejected token is the i-th, or none is.
    chance = Fraction(str(accept))
    by_cases = sum(
        (i + 1) * chance**i * (1 - chance if i < drafted else 1) for i in range(drafted + 1)
    )
    assert Fraction(line.up, line.down) == by_cases.limit_denominator(256)


@pytest.mark.parametrize("buffer", [0, 1 << 21])
def test_verified_steps_one_by_one(buffer: int) -> None:
    arch, context, batch, tokens = small(window=13), 9, 2, 25
    work = verify_workload(arch, tokens, drafted=3, accept=0.8, context=context, batch=batch)
    expected = expected_tokens(3, 0.8)
    assert expected == Line(369, 125)  # 1 + 0.8 + 0.64 + 0.512 = 2.952
    steps = math.ceil(25 / 2.952)
    assert (work.steps, work.new_tokens) == (steps, 50)
    # A step is a prefill of four tokens, after as many as it is expected to come after.
    parts = [
        prefill_workload(arch, 4, context=context + math.floor(step * 2.952), batch=batch)
        for step in range(steps)
    ]
    found, counted = (by_role(mapped(w, buffer_bytes=buffer)) for w in ([work], parts))
    assert linear(work, "lm_head").m == batch * 4
    assert found["lm_head"]["macs"] == 4 * counted["lm_head"]["macs"]
    del found["lm_head"], counted["lm_head"]
    assert found == counted


def test_drafted_tokens_one_by_one() -> None:
    arch = small(window=13)
    work = draft_workload(arch, 25, drafted=3, accept=0.8, context=9, batch=2)
    steps = math.ceil(25 / 2.952)
    parts = [
        decode_workload(arch, 1, context=9 + math.floor(step * 2.952) + token, batch=2)
        for step in range(steps)
        for token in range(3)
    ]
    assert work.steps == 3 * steps
    assert by_role(mapped([work])) == by_role(mapped(parts))


def test_latents_are_verified_absorbed() -> None:
    arch = latent()
    work = verify_workload(arch, 5, drafted=2, accept=0.5, context=7, batch=2)
    assert (linear(work, "k_up").m, linear(work, "k_up").instances) == (2 * 3, 4)
    (scores,) = [i for i in work.operators if isinstance(i, Attention) and i.kind == "scores"]
    assert (scores.group, scores.tokens, scores.instances) == (4, 3, 2)
    drafts = draft_workload(arch, 5, drafted=2, accept=0.5, context=7, batch=2)
    parts = [
        decode_workload(arch, 1, context=7 + math.floor(step * 1.75) + token, batch=2)
        for step in range(3)
        for token in range(2)
    ]
    assert by_role(mapped([drafts])) == by_role(mapped(parts))


def every_routing(tokens: int, mlp: Mlp) -> list[list[int]]:
    """Rows of the experts, of every way to route: all alike likely."""
    choices = list(itertools.combinations(range(mlp.experts), mlp.active))
    found = []
    for way in itertools.product(choices, repeat=tokens):
        rows = [0] * mlp.experts
        for taken in way:
            for expert in taken:
                rows[expert] += 1
        found.append(rows)
    return found


@pytest.mark.parametrize("tokens", [1, 2, 4])
def test_random_routing_is_the_mean_of_every_routing(tokens: int) -> None:
    mlp = replace(MIXTURE, experts=5)
    every = every_routing(tokens, mlp)
    counted: Counter[int] = Counter()
    for rows in every:
        counted.update(value for value in rows if value)
    expected = {rows: Fraction(count, len(every)) for rows, count in counted.items()}
    found = dict(expected_rows(tokens, mlp))
    assert {rows: pytest.approx(float(count)) for rows, count in expected.items()} == found
    touched = Fraction(sum(sum(map(bool, rows)) for rows in every), len(every))
    assert expected_experts(tokens, mlp) == pytest.approx(float(touched))
    # Cycles and bytes: the mean over every routing, each as a histogram.
    arch = small(mlp=mlp)
    totals: Counter[str] = Counter()
    ways: Counter[tuple[int, ...]] = Counter(tuple(rows) for rows in every)
    for rows, count in ways.items():
        routing = Routing(kind="histogram", layers=(tuple(map(Fraction, rows)),), file="h")
        work = prefill_workload(arch, tokens, routing=routing)
        one = row(map_workload(work, core(), Choices(buffer_bytes=0)), "expert down")
        totals.update({name: count * getattr(one, name) for name in SUMMED})
    work = prefill_workload(arch, tokens, routing=UNIFORM)
    mean = row(map_workload(work, core(), Choices(buffer_bytes=0)), "expert down")
    for name in SUMMED:
        assert abs(getattr(mean, name) - totals[name] / len(every)) <= 0.5 + 1e-6, name
    assert mean.macs == 3 * tokens * 2 * 64 * 32


def test_binomial_rows_of_many_tokens() -> None:
    mlp = Mlp(gated=True, width=1, experts=128, active=8)
    found = dict(expected_rows(5000, mlp))
    exact = {
        rows: float(
            128
            * math.comb(5000, rows)
            * Fraction(1, 16) ** rows
            * Fraction(15, 16) ** (5000 - rows)
        )
        for rows in (200, 312, 313, 400, 450)
    }
    assert {rows: found[rows] for rows in exact} == pytest.approx(exact, rel=1e-9)
    assert sum(rows * count for rows, count in found.items()) == pytest.approx(5000 * 8)
    assert len(found) < 500
    assert dict(expected_rows(3, replace(mlp, experts=8))) == {3: 8}


def test_histogram_by_largest_remainders() -> None:
    mlp = Mlp(gated=True, width=1, experts=4, active=2)
    shares = tuple(map(Fraction, (4, 3, 2, 1)))
    # Ten tokens: 20 assignments in the shares 8, 6, 4, 2; three tokens: 2.4, 1.8, 1.2, 0.6.
    assert counted_rows(10, mlp, shares) == [8, 6, 4, 2]
    assert counted_rows(3, mlp, shares) == [2, 2, 1, 1]
    for tokens in range(1, 40):
        rows = counted_rows(tokens, mlp, tuple(map(Fraction, (5, 5, 0, 0))))
        assert rows == [tokens, tokens, 0, 0]
        rows = counted_rows(tokens, mlp, tuple(map(Fraction, (5, 4, 3, 7))))
        assert sum(rows) == 2 * tokens
        assert max(rows) <= tokens


def test_histogram_by_layer_costs_whole_cycles() -> None:
    """Each layer's experts one by one, in integers."""
    arch = small(mlp=MIXTURE)
    layers = ((1, 2, 3, 3, 2, 1), (6, 6, 0, 0, 0, 0), (1, 2, 3, 3, 2, 1))
    routing = Routing(
        kind="histogram", layers=tuple(tuple(map(Fraction, item)) for item in layers), file="h"
    )
    work = prefill_workload(arch, 6, batch=2, routing=routing)
    item = linear(work, "expert gate")
    # 24 assignments; the layers have 2, 4, 6, 6, 4, 2 twice and 12, 12.
    assert item.ragged == ((12, 2), (6, 4), (4, 4), (2, 4))
    assert work.experts_touched == 6
    found = row(map_workload(work, core(), Choices(group=32)), "expert gate")
    tiles = sum(math.ceil(rows / 2) for rows in (2, 4, 6, 6, 4, 2, 12, 12, 2, 4, 6, 6, 4, 2))
    # 32 columns in 4 tiles, 64 of K in 4 steps of 4 planes; a latency for each layer.
    assert found.cycles == 3 * core().latency + tiles * 4 * 4 * 4
    assert found.gemms == 14
    assert isinstance(found.cycles, int)
    assert found.macs == 3 * 24 * 32 * 64


def test_wrong_histograms(tmp_path: Path) -> None:
    def load(content: Any) -> Routing:
        path = tmp_path / "h.json"
        path.write_text(json.dumps(content))
        return load_routing(str(path))

    for content, text in (
        ({"experts": []}, r"h.json: experts: must be a list of numbers, one for each expert"),
        ({"experts": [1, -1]}, r"h.json: experts\[1\]: must be a number from 0 to 2\^62, got -1"),
        ({"experts": [0, 0]}, "experts: must not be all 0"),
        ({"experts": [1, "2"]}, r"experts\[1\]: must be a number from 0 to 2\^62, got '2'"),
        ({"experts": [1, True]}, r"experts\[1\]: must be a number .*, got True"),
        ({"experts": [1] * 5000}, "experts: must be at most 4096 numbers, got 5000"),
        ({"experts": [1] * 600_000}, "h.json: must be at most 1024 KiB"),
        ({"layers": []}, "layers: must be a list of lists"),
        ({"layers": [[1], 3]}, r"layers\[1\]: must be a list of numbers"),
        ({"tokens": [1]}, r"must have the field experts, or layers, alone, got \['tokens'\]"),
    ):
        with pytest.raises(InputError, match=text):
            load(content)
    with pytest.raises(InputError, match=r"routing: must be balanced, uniform or a \.json file"):
        load_routing("skewed")
    with pytest.raises(InputError, match=r"none.json: cannot be read"):
        load_routing(str(tmp_path / "none.json"))
    arch = small(mlp=MIXTURE)
    for content, text in (
        ({"experts": [1, 1]}, "small: routing: h.json: experts: must be 6 numbers, got 2"),
        ({"layers": [[1] * 6] * 2}, "layers: must be 3 lists, one for each layer .*, got 2"),
        ({"experts": [9, 1, 1, 1, 1, 1]}, r"experts\[0\]: must be at most 1/2 of all, .* 0.6429"),
    ):
        with pytest.raises(InputError, match=text):
            prefill_workload(arch, 4, routing=load(content))
    with pytest.raises(InputError, match="uniform: must be of at most 67108864 tokens a step"):
        prefill_workload(arch, 1 << 20, batch=65, routing=UNIFORM)
    with pytest.raises(InputError, match="must not be given for a model without experts"):
        prefill_workload(small(), 4, routing=UNIFORM)
    assert load({"experts": [0.25, 0.75]}).layers == ((Fraction(1, 4), Fraction(3, 4)),)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        ({"chunk": 0}, r"small: chunk: must lie in \[1, 9\], got 0"),
        ({"chunk": 10}, r"chunk: must lie in \[1, 9\], got 10"),
        ({"riders": 2}, "piggyback: must come with chunk, got 2"),
        ({"chunk": 3, "riders": -1}, r"piggyback: must lie in \[0, 65536\], got -1"),
        ({"chunk": 3, "rider_context": 4}, "piggyback_context: must come with piggyback"),
        ({"chunk": 3, "riders": 1, "rider_context": -1}, r"piggyback_context: must lie in \[0, "),
    ],
)
def test_chunks_out_of_range(more: dict[str, Any], text: str) -> None:
    with pytest.raises(InputError, match=text):
        prefill_workload(small(), 9, **more)


def test_phases_that_a_model_cannot_do() -> None:
    bert = load_architecture("bert-base-uncased")
    with pytest.raises(InputError, match="chunk: must not be given for an encoder"):
        prefill_workload(bert, 9, chunk=3)
    with pytest.raises(InputError, match="verify: is an encoder"):
        verify_workload(bert, 9, drafted=1, accept=0.5, context=1)
    gpt2 = load_architecture("gpt2")
    with pytest.raises(InputError, match=r"verify: must be at most 1024 .* 1000 \+ 22 \+ 3"):
        verify_workload(gpt2, 22, drafted=3, accept=0.5, context=1000)
    with pytest.raises(InputError, match=r"piggyback: must be at most 1024 tokens .* 1020 \+ 5"):
        prefill_workload(gpt2, 10, chunk=2, riders=1, rider_context=1020)
    for more, text in (
        ({"drafted": 0, "accept": 0.5}, r"speculate: must lie in \[1, 64\], got 0"),
        ({"drafted": 2, "accept": 1.5}, r"accept: must lie in \[0, 1\], got 1.5"),
        ({"drafted": 2, "accept": math.nan}, r"accept: must lie in \[0, 1\], got nan"),
    ):
        with pytest.raises(InputError, match=text):
            verify_workload(gpt2, 9, context=1, **more)  # type: ignore[arg-type]


def test_many_points_equal_single_mappings_in_every_phase() -> None:
    plain, mixture = small(window=11), small(mlp=MIXTURE)
    layers = (tuple(map(Fraction, (1, 2, 3, 3, 2, 1))),)
    routing = Routing(kind="histogram", layers=layers, file="h")
    works = [
        prefill_workload(plain, 37, chunk=8, batch=2, riders=3, rider_context=5),
        prefill_workload(plain, 37, chunk=1, context=4),
        verify_workload(plain, 25, drafted=3, accept=0.8, context=9, batch=2),
        draft_workload(plain, 25, drafted=3, accept=0.8, context=9),
        prefill_workload(mixture, 5, routing=routing),
        decode_workload(mixture, 5, context=4, batch=3, routing=routing),
        prefill_workload(latent(), 21, chunk=6, riders=2, expanded=True),
        verify_workload(latent(), 9, drafted=2, accept=0.5, context=7),
    ]
    cores = [
        core(),
        core(tile={"m": 4, "n": 16, "k": 8}),
        core(tile={"m": 1, "n": 8, "k": 16}, weights={"encoding": "ternary"}),
        core(block="mac_core", weights={"encoding": "twos_complement", "bits": 8}),
        core(table={"source": "port"}),
        core(pipeline={"heap": 2}),
    ]
    for choices in (Choices(), Choices(buffer_bytes=700, kv_bits=3)):
        many = evaluate_many(cores, works, choices)
        for i, on in enumerate(cores):
            for j, work in enumerate(works):
                one = map_workload(work, on, choices)
                assert many.cycles[i, j] == one.cycles
                assert many.bytes[i, j] == one.bytes
                assert many.seconds[i, j] == pytest.approx(one.seconds)
                assert many.tokens_per_second[i, j] == pytest.approx(one.tokens_per_second)
                assert many.utilisation[i, j] == pytest.approx(one.utilisation)
    with pytest.raises(InputError, match="routing: small: must be balanced or a histogram here"):
        evaluate_many(cores, [prefill_workload(mixture, 5, routing=UNIFORM)])
    with pytest.raises(InputError, match=r"chunk: .*: must not be given with latents"):
        evaluate_many(cores, [prefill_workload(latent(), 21, chunk=6)])

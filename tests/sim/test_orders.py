"""Inputs that come one after another: which orders there are, and what they find."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest

from hw.block import spec_from_dict
from hw.blocks.mac_core.spec import MacCoreSpec
from sim import check_verilog, stimulus
from sim.compiled import Tally, plan_scenarios, run_scenario
from sim.harness import Model
from sim.stimulus import Failure, Scenario


@pytest.fixture
def chosen(spec: MacCoreSpec) -> list[Scenario]:
    return list(stimulus.orders(spec, np.random.default_rng(0)))


def test_every_order_is_there_and_the_addend_comes_last(chosen: list[Scenario]) -> None:
    seen = [tuple(name for name in item.order if name != "i_c") for item in chosen]
    assert sorted(seen) == sorted(itertools.permutations(("i_job", "i_a", "i_w")))
    with_addend = [item.order[-1] == "i_c" for item in chosen]
    assert with_addend == [item.works[0].job.accumulate for item in chosen]
    assert any(with_addend)
    assert not all(with_addend)


def test_a_quick_check_tries_them(spec: MacCoreSpec, chosen: list[Scenario]) -> None:
    tried = {scenario.name for scenario in plan_scenarios(spec, (0,), "quick")}
    assert {item.name for item in chosen} <= tried


def test_blocks_that_are_no_cores_have_none() -> None:
    tables = spec_from_dict({"block": "lut_tables", "name": "tables"})
    assert list(stimulus.orders(tables, np.random.default_rng(0))) == []


def test_they_pass_and_are_counted(spec: MacCoreSpec, model: Model, chosen: list[Scenario]) -> None:
    tally = Tally()
    for scenario in chosen:
        assert run_scenario(model, stimulus.stimulus(spec, scenario), tally) is None
    assert (tally.scenarios, tally.works) == (6, 6)
    assert tally.vectors == 6 * spec.tile.m * spec.tile.n
    assert tally.cycles > 6 * 4
    # They show neither what a run without stalls shows nor how long one takes.
    assert not tally.coverage
    assert not tally.contracts


def found(text: str, spec: MacCoreSpec, chosen: list[Scenario]) -> Failure:
    failure = check_verilog(spec, text, scenarios=chosen).failure
    assert failure is not None
    return failure


@pytest.mark.parametrize(
    ("stream", "old", "condition", "order"),
    [
        ("i_a", "i_a__ready = ~a_full | fire", "active", "first i_a, then i_job, then i_w"),
        ("i_w", "i_w__ready = ~w_full | fire", "i_job__valid", "first i_job, then i_a, then i_w"),
        ("i_job", "i_job__ready = ~active | finish", "o__ready", "first i_job, then i_a, then i_w"),
    ],
)
def test_an_input_that_waits_for_another_stream_is_named(
    behavioural: Callable[[MacCoreSpec], str],
    spec: MacCoreSpec,
    chosen: list[Scenario],
    stream: str,
    old: str,
    condition: str,
    order: str,
) -> None:
    text = behavioural(spec)
    assert text.count(old) == 1
    target, value = old.split(" = ")
    failure = found(text.replace(old, f"{target} = ({value}) & {condition}"), spec, chosen)
    assert (failure.kind, failure.stream, failure.scenario) == ("input", stream, order)
    assert (failure.expected, failure.observed) == (1, 0)
    assert f"while {stream} is offered: 0 of 1 beats were taken within 64 cycles" in failure.text


def test_a_wrong_result_and_a_missing_one_are_told_apart(
    behavioural: Callable[[MacCoreSpec], str], spec: MacCoreSpec, chosen: list[Scenario]
) -> None:
    text = behavioural(spec)
    failure = found(
        text.replace("total = total + $signed", "total = total - $signed"), spec, chosen
    )
    assert (failure.kind, failure.stream) == ("value", "o")
    assert "when results are taken" in failure.text
    failure = found(text.replace("assign o__valid = o_full", "assign o__valid = 0"), spec, chosen)
    assert failure.kind == "hang"
    # Gone before anybody could take it.
    failure = found(text.replace("(o_full & ~o__ready)", "1'b0"), spec, chosen)
    assert failure.kind == "protocol"
    assert "while results wait: o: valid fell before beat 0 was transferred" in failure.text

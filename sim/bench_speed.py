"""Simulated cycles per second of both benches on one core, measured in one run.

``python -m sim.bench_speed SPEC.yaml [--cycles N] [--json]``

All simulate the same works of the same emitted Verilog without stalls and check every result;
compilation and packing are not counted on any side. The cocotb bench is timed as ``rtlgen verify``
runs it, whose simulator is compiled quickly, and with the optimisation that Verilator's makefile
asks for. In both it is shown the ports alone: with every wire public, as cocotb's runner has it,
large designs run about a tenth as fast.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from hw.spec import BlockSpec
from rtl_gen import console
from rtl_gen.build import verilog
from sim import cocotb_run, stimulus
from sim.harness import Model, verilate


def measure(spec: BlockSpec, *, cocotb_cycles: int, seconds: float = 1.0) -> dict[str, Any]:
    """Cycles per second of the cocotb bench, plain and optimised, and of the compiled harness.

    ``ratio`` is what the harness is to the bench, ``optimised_ratio`` to its optimised build.

    Args:
        cocotb_cycles: least cycles for the cocotb bench.
        seconds: least time for the compiled harness.
    """
    began = time.perf_counter()
    model = verilate(spec)
    compile_seconds = time.perf_counter() - began
    rows = {"cocotb": _cocotb(spec, cocotb_cycles, fast=False)}
    rows["cocotb, optimised"] = _cocotb(spec, cocotb_cycles, fast=True)
    rows["compiled"] = _rate(*_compiled(model, seconds))
    return {
        "spec": spec.name,
        "digest": spec.digest,
        **rows,
        "ratio": rows["compiled"]["rate"] / rows["cocotb"]["rate"],
        "optimised_ratio": rows["compiled"]["rate"] / rows["cocotb, optimised"]["rate"],
        "compile_seconds": compile_seconds,
    }


def _rate(cycles: int, seconds: float) -> dict[str, float]:
    return {"cycles": cycles, "seconds": seconds, "rate": cycles / seconds}


def _cocotb(spec: BlockSpec, cycles: int, *, fast: bool) -> dict[str, float]:
    found = cocotb_run.run(spec, verilog(spec), speed_cycles=cycles, fast=fast)
    if found.failure is not None:
        raise RuntimeError(found.failure.text)
    return _rate(found.tally.cycles, found.seconds)


def _compiled(model: Model, seconds: float) -> tuple[int, float]:
    rng = np.random.default_rng(0)
    stim = stimulus.stimulus(model.spec, stimulus.speed(model.spec, rng, 2_000))
    cycles, spent = 0, 0.0
    while spent < seconds:
        began = time.perf_counter()
        run = model.run(stim.inputs, stim.expect)
        spent += time.perf_counter() - began
        cycles += run.total_cycles
        failure = stimulus.compare(stim, run.packed, run.output_cycles)
        if failure is not None:
            raise RuntimeError(failure.text)
    return cycles, spent


@console.command("bench-speed")
@console.spec_argument
@click.option("--cycles", default=3_000, show_default=True, help="Cycles for the cocotb bench.")
@console.json_option
def main(spec_file: Path, cycles: int, as_json: bool) -> None:
    """Cycles per second of the compiled harness against the cocotb bench."""
    from rtl_gen.specfile import load_spec

    report = measure(load_spec(spec_file), cocotb_cycles=cycles)
    if as_json:
        console.echo_json(report)
        return
    console.echo_table(
        ["bench", "cycles", "seconds", "cycles/s"],
        [
            [
                name,
                report[name]["cycles"],
                f"{report[name]['seconds']:.2f}",
                f"{report[name]['rate']:,.0f}",
            ]
            for name in ("cocotb", "cocotb, optimised", "compiled")
        ],
        title=f"{report['spec']}: compiled is {report['ratio']:.1f} times as fast as the cocotb "
        f"bench, {report['optimised_ratio']:.1f} times as its optimised build",
    )


if __name__ == "__main__":
    main()

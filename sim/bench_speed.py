"""Simulated cycles per second of both benches on one core, measured in one run.

``python -m sim.bench_speed SPEC.yaml [--cycles N] [--json]``

Both simulate the same works of the same emitted Verilog without stalls and check every result;
compilation and packing are not counted on either side.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click
import numpy as np

from hw.spec import BlockSpec
from rtl_gen import console
from sim import cocotb_run, source, stimulus
from sim.harness import Model, verilate


def measure(spec: BlockSpec, *, cocotb_cycles: int, seconds: float = 1.0) -> dict[str, Any]:
    """Cycles per second of the cocotb bench and of the compiled harness, and their ratio.

    Args:
        cocotb_cycles: least cycles for the cocotb bench.
        seconds: least time for the compiled harness.
    """
    began = time.perf_counter()
    model = verilate(spec)
    compile_seconds = time.perf_counter() - began
    slow = cocotb_run.run(spec, source.design_verilog(spec), speed_cycles=cocotb_cycles)
    if slow.failure is not None:
        raise RuntimeError(slow.failure.text)
    cycles, spent = _compiled(model, seconds)
    rates = (slow.tally.cycles / slow.seconds, cycles / spent)
    return {
        "spec": spec.name,
        "digest": spec.digest,
        "cocotb": {"cycles": slow.tally.cycles, "seconds": slow.seconds, "rate": rates[0]},
        "compiled": {"cycles": cycles, "seconds": spent, "rate": rates[1]},
        "ratio": rates[1] / rates[0],
        "compile_seconds": compile_seconds,
    }


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
            for name in ("cocotb", "compiled")
        ],
        title=f"{report['spec']}: compiled is {report['ratio']:.1f} times as fast as cocotb",
    )


if __name__ == "__main__":
    main()

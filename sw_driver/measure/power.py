"""Power of a block's netlist at work: synthesized, simulated gate by gate, and added up.

The layers below give the parts: :mod:`flows.synthesis` the netlist, :mod:`sim.harness` its run with
every toggle counted, :mod:`flows.power` the energies. What the operands are is decided here.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from flows import energies, memories
from flows.command import implement_verilog
from flows.models import GUARD
from flows.power import PowerReport, power
from flows.saif import read_saif
from hw.gemm import GemmSpec
from hw.spec import BlockSpec
from rtl_gen import __version__
from rtl_gen.build import verilog
from rtl_gen.console import Progress
from rtl_gen.errors import InputError, VerificationError
from sim import stimulus
from sim.harness.compile import RUN_NETLIST
from sim.harness.model import Model, load
from sim.stimulus import Scenario
from sw_driver import report as lay
from sw_driver.mapper.core import core_of
from sw_driver.report import Report, Table
from sw_driver.runner.operands import prepare

if TYPE_CHECKING:
    from flows.synthesis import Implementation

_TILES = 4
"""Tiles of results a side of the product that is run."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """What a netlist did.

    Attributes:
        label: of the run. weight_bits: 0 of a block without weights.
        macs: multiplications of operands of the core's own shape; 0 of other blocks.
        cycles: of the run by the block's timing, which it took.
        found: the energies.
    """

    label: str
    weight_bits: int
    macs: int
    cycles: int
    found: PowerReport

    @property
    def pj_per_mac(self) -> float:
        """Dynamic energy of a MAC, pJ; 0 of a block without."""
        return self.found.total.dynamic * self.cycles / self.macs * 1e-3 if self.macs else 0.0


def measure_power(
    spec: BlockSpec,
    liberty: Path,
    *,
    clock_ns: float | None = None,
    weight_bits: Sequence[int] = (),
    activation_bits: int | None = None,
    cycles: int = 1000,
    seed: int = 0,
    effort: str = "normal",
    wire_cap: float = 0.0,
    progress: bool = False,
) -> Report:
    """Power of a block in a cell library, running without a stall.

    Args:
        liberty: a library with energies (NLPM).
        clock_ns: period to meet and to run at; the specification's if None.
        weight_bits: widths to run a GEMM core at; its narrowest and its widest if none.
        activation_bits: width of the activations, where jobs choose it; the widest if None.
        cycles: clock cycles to simulate, at least.
        seed: of the operands.
        effort, wire_cap: as of :func:`flows.synthesis.implement`.

    Raises:
        InputError: a width is none of the core's, or the design holds memories, which a netlist of
            cells leaves out.
        LibertyError: the library states no energies. FlowError, ToolError: a tool failed.
        VerificationError: the netlist is not its reference, or takes other cycles.
    """
    widths = _widths(spec, weight_bits, activation_bits)
    clock = clock_ns or 1000.0 / spec.clock_mhz
    # A synthesis takes minutes: what it cannot change is refused before it.
    energies.check(liberty)
    sources = verilog(spec)
    _, left_out = memories.leave_out([sources], spec.name)
    if left_out:
        names = ", ".join(str(item) for item in left_out)
        raise InputError(
            f"{spec.name}: must hold no memories to be simulated as cells, has {names}"
        )
    mapped: Implementation = implement_verilog(
        sources,
        spec.name,
        liberty=liberty,
        clock_ns=clock,
        effort=effort,
        wire_cap=wire_cap,
        progress=progress,
    )
    table = energies.read(liberty, mapped.kinds)
    # Cells are traced from outside: what is inside of their models is no wire.
    models = f"`ifdef {GUARD}\n"
    text = f"`define {GUARD}\n" + mapped.verilog().replace(
        models, f"/*verilator tracing_off*/\n{models}"
    )
    runs: list[Run] = []
    with (
        Progress(f"compiling the netlist of {spec.name}", enabled=progress) as shown,
        load(spec, text, effort=RUN_NETLIST, trace="saif") as model,
    ):
        for bits in widths:
            shown.describe(f"simulating the netlist of {spec.name}")
            runs.append(_run(spec, model, mapped, table, bits, activation_bits, cycles, seed))
    return _report(spec, mapped, runs, clock, seed, table.voltage)


def _widths(
    spec: BlockSpec, weight_bits: Sequence[int], activation_bits: int | None
) -> Sequence[int]:
    if not isinstance(spec, GemmSpec):
        if weight_bits or activation_bits is not None:
            raise InputError(f"weight_bits: {spec.name} is no GEMM core and has no widths")
        return [0]
    core = core_of(spec, activation_bits)
    for bits in weight_bits:
        if bits not in core.widths:
            least, most = core.widths[0], core.widths[-1]
            rule = f"must lie in [{least}, {most}] for {core.name}, got {bits}"
            raise InputError(f"weight_bits: {rule}")
    return list(dict.fromkeys(weight_bits or (core.widths[0], core.widths[-1])))


def _run(
    spec: BlockSpec,
    model: Model,
    mapped: Implementation,
    table: energies.Energies,
    bits: int,
    activation_bits: int | None,
    cycles: int,
    seed: int,
) -> Run:
    rng = np.random.default_rng(seed)
    macs = 0
    if isinstance(spec, GemmSpec):
        core = core_of(spec, activation_bits)
        start, step = core.job_cycles[bits - 1]
        steps = min(core.max_k_steps, max(1, cycles // (_TILES * _TILES * step)))
        jobs = max(_TILES * _TILES, -(-cycles // (start + steps * step)))
        m, n, k = core.m * _TILES, core.n * -(-jobs // _TILES), core.k * steps
        x, w = rng.standard_normal((m, k)), rng.standard_normal((n, k))
        prepared = prepare(
            spec,
            x.astype(np.float32),
            w.astype(np.float32),
            bits=bits,
            group=k,
            activation_bits=activation_bits,
        )
        (plan,) = prepared.plans
        stim = stimulus.stimulus(spec, Scenario(name="power", plan=plan))
        macs, label = m * n * k, f"W{bits}, {prepared.quantizer}"
    else:
        works: list[Any] = []
        while True:
            works += [stimulus.random_work(spec, rng, "large") for _ in range(8)]
            stim = stimulus.stimulus(spec, Scenario(name="power", works=tuple(works)))
            if stim.predicted_cycles() >= cycles:
                break
        label = "random works"
    with tempfile.TemporaryDirectory(prefix="rtlgen-power-") as folder:
        file = Path(folder, "activity.saif")
        model.wave(file)
        # Nothing after the last result: idle cycles are no work.
        run = model.run(stim.inputs, stim.expect, drain=0)
        model.wave(None)
        failure = stimulus.compare(stim, run.packed, run.output_cycles) or stimulus.check_cycles(
            stim, run.cycles, run.last_output
        )
        if failure is not None:
            raise VerificationError(f"netlist of {spec.name}: {failure.text}")
        activity = read_saif(file, spec.name)
    found = power(mapped.modules, spec.name, mapped.tables, table, activity, mapped.boundary)
    return Run(
        label=label, weight_bits=bits, macs=macs, cycles=stim.predicted_cycles(), found=found
    )


def _report(
    spec: BlockSpec,
    mapped: Implementation,
    runs: Sequence[Run],
    clock_ns: float,
    seed: int,
    voltage: float,
) -> Report:
    synthesis = mapped.report
    clock_mhz = 1000.0 / clock_ns
    leakage = runs[0].found.total.leakage_mw

    def row(name: str, run: Run) -> tuple[str, ...]:
        energy = run.found.total
        dynamic = energy.dynamic or 1.0
        return (
            name,
            lay.fixed(energy.dynamic_mw(clock_mhz), 4),
            f"{energy.switching / dynamic:.0%}",
            f"{energy.clock / dynamic:.0%}",
            lay.fixed(energy.dynamic * 1e-3, 4),
            lay.fixed(run.pj_per_mac, 4) if run.macs else "",
            f"{run.found.toggles:.3f}",
            lay.count(run.cycles),
        )

    whole = Table(
        columns=(
            "run", "dynamic mW", "of it nets", "of it clock", "pJ a cycle", "pJ a MAC",
            "toggles a net and cycle", "cycles",
        ),
        rows=[row(run.label, run) for run in runs],
    )  # fmt: skip
    last = runs[-1].found
    parts = sorted(last.by_module.items(), key=lambda item: -item[1].dynamic)
    blocks = Table(
        title=f"by sub-block, {runs[-1].label}",
        columns=("sub-block", "copies", "dynamic mW", "share", "leakage mW"),
        rows=[
            (
                name,
                lay.count(last.copies[name]),
                lay.fixed(energy.dynamic_mw(clock_mhz), 4),
                f"{energy.dynamic / (last.total.dynamic or 1.0):.1%}",
                lay.fixed(energy.leakage_mw, 4),
            )
            for name, energy in parts
        ],
    )
    facts = [
        f"{synthesis.technology}, {voltage:g} V, {clock_mhz:g} MHz, effort {synthesis.effort}: "
        f"{synthesis.area:,.1f} {synthesis.area_unit}, critical delay {synthesis.delay_ns:.3f} ns, "
        + ("met" if synthesis.met else "missed"),
        f"leakage {leakage:.4g} mW",
    ]
    notes = [
        "activity: gate-level simulation without delays, so glitches are not in it",
        "loads: cells' pins"
        + (f" and {synthesis.wire_cap_ff:g} fF of wire a pin" if synthesis.wire_cap_ff else "")
        + "; neither a clock tree's buffers nor, beyond that, wires are in it",
    ]
    if not synthesis.met:
        notes.append(
            f"the clock is missed: at {clock_ns:g} ns these figures are of a circuit that is late"
        )
    return Report(
        title=f"power of {spec.name} ({spec.block})",
        facts=facts,
        tables=[whole, blocks],
        notes=notes,
        data={
            "rtlgen": __version__,
            "spec": spec.name,
            "spec_digest": spec.digest,
            "technology": synthesis.technology,
            "technology_digest": synthesis.technology_digest,
            "voltage": voltage,
            "clock_mhz": clock_mhz,
            "met": synthesis.met,
            "effort": synthesis.effort,
            "area": synthesis.area,
            "wire_cap_ff": synthesis.wire_cap_ff,
            "seed": seed,
            "leakage_mw": leakage,
            "runs": [
                {
                    "weight_bits": run.weight_bits or None,
                    "label": run.label,
                    "cycles": run.cycles,
                    "macs": run.macs,
                    "dynamic_mw": run.found.total.dynamic_mw(clock_mhz),
                    "pj_per_cycle": run.found.total.dynamic * 1e-3,
                    "pj_per_mac": run.pj_per_mac if run.macs else None,
                    "toggles": run.found.toggles,
                    "total": asdict(run.found.total),
                    "by_module": {
                        name: {"copies": run.found.copies[name], **asdict(energy)}
                        for name, energy in run.found.by_module.items()
                    },
                }
                for run in runs
            ],
            "unit": "fJ a cycle; leakage nW",
            "tools": synthesis.tools,
        },
    )

"""Energy of a phase on a system, from the measured power of each kind of core at work.

The formula is that of :mod:`sw_driver.mapper.energy` for one core: dynamic energy of a cycle, at
the width of each operator's weights, for the cycles in which a core has work, and leakage of all
cores over all seconds. DRAM is charged where its energy a bit is given; SRAM, vector units and the
units that scale are not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rtl_gen.errors import InputError
from sw_driver.config_file import read_json, shown
from sw_driver.mapper.energy import MAX_REPORT_BYTES, Energy, Power, read_power
from sw_driver.system.mapping import SystemMapping, SystemOperator
from sw_driver.system.schedule import compute_cycles
from sw_driver.system.spec import System


def read_powers(paths: Sequence[Path | str], system: System) -> dict[str, Power]:
    """The power of every kind of core, by its name.

    Args:
        paths: JSON of ``rtlgen power``, one file a kind, found by the specification's digest.

    Raises:
        InputError: a file is malformed, or of no kind, or of one that another is of; a kind has
            none. One line per problem.
    """
    found: dict[str, Power] = {}
    files: dict[str, Path | str] = {}
    problems: list[str] = []
    kinds = {kind.core.digest: kind.core for kind in system.kinds}
    for path in paths:
        try:
            digest = read_json(Path(path), limit=MAX_REPORT_BYTES).get("spec_digest")
            core = kinds.get(digest) if isinstance(digest, str) else None
            if core is None:
                names = ", ".join(f"{item.name} {key[:12]}…" for key, item in kinds.items())
                problems.append(
                    f"{path}: spec_digest: must be of a core of {system.name} ({names}), got "
                    f"{shown(digest)}"
                )
                continue
            if core.name in files:
                problems.append(
                    f"{path}: spec_digest: must be given once for {core.name}, which has "
                    f"{files[core.name]}"
                )
                continue
            files[core.name] = path
            found[core.name] = read_power(path, core)
        except InputError as error:
            problems.append(str(error))
    without = [core.name for core in kinds.values() if core.name not in files]
    if without and not problems:
        problems.append(
            f"power_report: must be given for every kind of core of {system.name}, there is none "
            f"of {', '.join(without)}"
        )
    if problems:
        raise InputError("\n".join(problems))
    return found


def core_cycles(item: SystemOperator) -> int:
    """Cycles that an operator's cores have work, added over the cores."""
    # Its blocks one after another on a single core: every tile once, however they are shared out.
    return sum(
        part.times * compute_cycles(part.gemm, part.cut._replace(pm=1, pn=1, pi=1))
        for part in item.pieces
    )


def energy(
    mapping: SystemMapping, powers: Mapping[str, Power], dram_pj_per_bit: float | None = None
) -> Energy:
    """What a phase takes.

    Args:
        powers: by the name of the kind, of :func:`read_powers`.

    Raises:
        InputError: an operator has a width of weights that no run of its kind's report has.
    """
    dynamic = 0.0
    for item in mapping.operators:
        if not item.pieces:
            continue
        power = powers[item.kind]
        each = power.pj_per_cycle.get(item.bits, power.pj_per_cycle.get(0))
        if each is None:
            known = ", ".join(f"W{bits}" for bits in sorted(power.pj_per_cycle))
            raise InputError(
                f"power report of {item.kind}: runs: must have one at the width of {item.name}, "
                f"W{item.bits}, got {known}"
            )
        dynamic += core_cycles(item) * each * 1e-12
    kinds = mapping.system.kinds
    milliwatts = sum(kind.count * powers[kind.core.name].leakage_mw for kind in kinds)
    dram = None
    if dram_pj_per_bit is not None:
        dram = mapping.bytes * 8 * dram_pj_per_bit * 1e-12
    return Energy(
        dynamic=dynamic,
        leakage=milliwatts * 1e-3 * mapping.seconds,
        dram=dram,
        tokens=mapping.workload.new_tokens,
    )


def charged(powers: Mapping[str, Power], dram_pj_per_bit: float | None) -> str:
    """What energies are of."""
    parts = [
        f"{name} at {power.clock_mhz:g} MHz"
        + (f" in {power.technology}" if power.technology else "")
        for name, power in powers.items()
    ]
    dram = (
        "DRAM is not charged"
        if dram_pj_per_bit is None
        else f"DRAM at {dram_pj_per_bit:g} pJ a bit"
    )
    return (
        f"energy: measured power of the cores at work, {'; '.join(parts)}; {dram}; buffers, vector "
        "units and units that scale are not charged, nor is the clock of a core that waits"
    )

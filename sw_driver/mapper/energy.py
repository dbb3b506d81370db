"""Energy of a phase from the measured power of a core at work.

``cycles · dynamic power / clock`` of the report, at the width of each operator's weights, and
leakage over all seconds. While a core waits for memory its dynamic power is taken for 0. DRAM is
charged where its energy a bit is given. Nothing else is: neither buffers nor vector work.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rtl_gen.errors import InputError
from sw_driver.config_file import ConfigError, read_json, shown
from sw_driver.mapper.core import Core
from sw_driver.mapper.mapping import Mapping

MAX_REPORT_BYTES = 64 << 20
MAX_DRAM_PJ = 1e4
"""Largest energy of a bit that is believed; DDR takes about 20 pJ."""


@dataclass(frozen=True, kw_only=True)
class Power:
    """A core's power at work.

    Attributes:
        pj_per_cycle: dynamic energy of a cycle, by weight width; width 0 stands for every one.
        leakage_mw: at all times.
        clock_mhz: of the run. technology: what it was measured on, where the report says.
        spec_digest: of the specification that was measured.
    """

    pj_per_cycle: dict[int, float]
    leakage_mw: float
    clock_mhz: float
    spec_digest: str
    technology: str = ""


@dataclass(frozen=True, kw_only=True)
class Energy:
    """Joules of a phase; ``dram`` is None where nothing says what a bit takes."""

    dynamic: float
    leakage: float
    dram: float | None
    tokens: int

    @property
    def total(self) -> float:
        return self.dynamic + self.leakage + (self.dram or 0.0)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "core_dynamic_j": self.dynamic,
            "core_leakage_j": self.leakage,
            "dram_j": self.dram,
            "total_j": self.total,
            "j_per_token": self.total / self.tokens,
        }


def read_power(path: Path | str, core: Core) -> Power:
    """The JSON of ``rtlgen power``.

    ``clock_mhz``, ``leakage_mw``, ``spec_digest``, and the dynamic power of runs at one weight
    width each, ``runs: [{weight_bits, dynamic_mw}, ...]``, or one ``dynamic_mw`` for every width.

    Raises:
        ConfigError: it is malformed, or of another design.
    """
    data = read_json(Path(path), limit=MAX_REPORT_BYTES)
    problems: list[str] = []

    def number(source: dict[str, Any], name: str, place: str, least: float) -> float:
        value = source.get(name)
        if value is None:
            problems.append(f"{place}{name}: is required")
        elif isinstance(value, bool) or not isinstance(value, (int, float)):
            problems.append(f"{place}{name}: must be a number, got {shown(value)}")
        elif not least <= value < float("inf"):
            problems.append(f"{place}{name}: must be at least {least:g}, got {shown(value)}")
        else:
            return float(value)
        return 1.0

    clock = number(data, "clock_mhz", "", 1e-6)
    leakage = number(data, "leakage_mw", "", 0.0)
    digest = data.get("spec_digest")
    if not isinstance(digest, str):
        problems.append(f"spec_digest: must be a text, got {shown(digest)}")
    name = data.get("spec")
    if name is not None and name != core.name:
        problems.append(f"spec: must be {core.name}, the core that is mapped, got {shown(name)}")
    found: dict[int, list[float]] = {}
    runs = data.get("runs")
    if runs is None:
        # mW by MHz is nJ a cycle.
        found[0] = [number(data, "dynamic_mw", "", 0.0) / clock * 1e3]
    elif not isinstance(runs, list) or not runs:
        problems.append(f"runs: must be a list of runs, got {shown(runs)}")
    else:
        for index, run in enumerate(runs):
            place = f"runs[{index}]: "
            if not isinstance(run, dict):
                problems.append(f"{place}must be a run, got {shown(run)}")
                continue
            bits = run.get("weight_bits")
            if isinstance(bits, bool) or not isinstance(bits, int) or not 1 <= bits <= 16:
                problems.append(f"{place}weight_bits: must lie in [1, 16], got {shown(bits)}")
                continue
            milliwatts = number(run, "dynamic_mw", place, 0.0)
            found.setdefault(bits, []).append(milliwatts / clock * 1e3)
    if problems:
        raise ConfigError(str(path), problems)
    return Power(
        pj_per_cycle={bits: sum(each) / len(each) for bits, each in found.items()},
        leakage_mw=leakage,
        clock_mhz=clock,
        spec_digest=str(digest),
        technology=str(data.get("technology", "")),
    )


def check_dram(pj_per_bit: float | None) -> None:
    """That an energy a bit is one.

    Raises:
        InputError: it is not.
    """
    if pj_per_bit is not None and not 0 <= pj_per_bit <= MAX_DRAM_PJ:
        raise InputError(f"dram_pj_per_bit: must lie in [0, {MAX_DRAM_PJ:g}], got {pj_per_bit:g}")


def energy(mapping: Mapping, power: Power, dram_pj_per_bit: float | None = None) -> Energy:
    """What a phase takes.

    Raises:
        InputError: an operator has a width of weights that no run of the report has.
    """
    dynamic = 0.0
    for item in mapping.operators:
        if not item.cycles:
            continue
        each = power.pj_per_cycle.get(item.bits, power.pj_per_cycle.get(0))
        if each is None:
            known = ", ".join(f"W{bits}" for bits in sorted(power.pj_per_cycle))
            raise InputError(
                f"power report: runs: must have one at the width of {item.name}, W{item.bits}, "
                f"got {known}"
            )
        dynamic += item.cycles * each * 1e-12
    dram = None
    if dram_pj_per_bit is not None:
        dram = mapping.bytes * 8 * dram_pj_per_bit * 1e-12
    return Energy(
        dynamic=dynamic,
        leakage=power.leakage_mw * 1e-3 * mapping.seconds,
        dram=dram,
        tokens=mapping.workload.new_tokens,
    )

"""Energies of library cells: leakage, and what a transition costs inside of a cell (Liberty NLPM).

Kept apart from :mod:`flows.liberty`, which mapping and timing read: no area or delay depends on
these, and most runs need none of them.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from flows import liberty
from flows.errors import LibertyError
from flows.liberty import Table

_LEAKAGE_UNITS = {"1w": 1e9, "1mw": 1e6, "100uw": 1e5, "10uw": 1e4, "1uw": 1e3, "100nw": 100.0,
                  "10nw": 10.0, "1nw": 1.0, "100pw": 0.1, "10pw": 0.01, "1pw": 1e-3}  # fmt: skip


@dataclass(frozen=True)
class InternalEnergy:
    """What a transition of a pin costs inside of its cell.

    Attributes:
        related: the input that causes the transition of an output; "" for an input pin.
        rise, fall: fJ by the transition of the related input (of the pin itself, for an input) in
            ns and the load in fF; the mean over the states that a library tells apart.
    """

    related: str
    rise: tuple[Table, ...]
    fall: tuple[Table, ...]

    def at(self, slew: np.ndarray, load: np.ndarray) -> np.ndarray:
        """Mean of a rising and a falling transition, fJ."""
        sides = [
            np.mean([interpolated(table, slew, load) for table in tables], axis=0)
            for tables in (self.rise, self.fall)
            if tables
        ]
        return np.asarray(np.mean(sides, axis=0))


@dataclass(frozen=True)
class CellEnergy:
    """A cell: leakage in nW, and the energies of its pins."""

    leakage: float
    pins: dict[str, tuple[InternalEnergy, ...]]


@dataclass(frozen=True)
class Energies:
    """A library's voltage in V, and its cells' energies."""

    voltage: float
    cells: dict[str, CellEnergy]

    @cached_property
    def transition(self) -> float:
        """fJ of one transition of a net, for each fF: ``V²/2``."""
        return self.voltage * self.voltage / 2


def interpolated(table: Table, row: np.ndarray, column: np.ndarray) -> np.ndarray:
    """Bilinear interpolation; beyond a table its outermost values hold.

    Unlike delays, energies are not extrapolated: a flat table's noise would become a slope.
    """
    i, fr, di = _places(table.rows, row)
    j, fc, dj = _places(table.columns, column)
    v = table.values
    low = v[i, j] * (1 - fc) + v[i, j + dj] * fc
    high = v[i + di, j] * (1 - fc) + v[i + di, j + dj] * fc
    return np.asarray(low * (1 - fr) + high * fr)


def _places(index: np.ndarray, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    if len(index) < 2:
        return np.zeros(len(x), dtype=np.int64), np.zeros(len(x)), 0
    inside = np.clip(x, index[0], index[-1])
    i = np.clip(np.searchsorted(index, inside, side="right") - 1, 0, len(index) - 2)
    return i, (inside - index[i]) / (index[i + 1] - index[i]), 1


_LACKING = "must state energies of its cells (NLPM), lacks: {}"


def read(path: Path, kinds: Iterable[str]) -> Energies:
    """Energies of some cells of a Liberty file.

    Raises:
        LibertyError: it is malformed, states no voltage or units, or a cell has no energies.
    """
    root = liberty.tree(liberty.text_of(path), path, keep=("internal_power", "leakage_power"))
    try:
        return _energies(root, path, set(kinds))
    except (ValueError, IndexError) as error:
        if isinstance(error, LibertyError):
            raise
        raise LibertyError(path, f"malformed Liberty: {error}") from None


def check(path: Path) -> None:
    """Refuse a library of which no cell states energies, before a synthesis for it.

    Raises:
        LibertyError: it is malformed, or has no ``internal_power``.
    """
    root = liberty.tree(liberty.text_of(path), path, keep=("internal_power",))
    pins = (pin for cell in root.all("cell") for pin in cell.all("pin"))
    if not any(pin.all("internal_power") for pin in pins):
        raise LibertyError(path, _LACKING.format("internal_power"))


def _energies(root: liberty.Group, path: Path, kinds: set[str]) -> Energies:
    time, load = liberty.units(root, path)
    voltage = float(root.values.get("nom_voltage", 0) or 0)
    if not voltage > 0:
        raise LibertyError(path, "nom_voltage: is required for energies")
    if root.values.get("voltage_unit", "1V").replace(" ", "").lower() != "1v":
        given = root.values["voltage_unit"]
        raise LibertyError(path, f"voltage_unit: must be 1V for energies, got {given!r}")
    unit = liberty.unit_of(
        _LEAKAGE_UNITS, root.values.get("leakage_power_unit", ""), "leakage_power_unit", path
    )
    # Energies are in the unit of load times voltage squared: fF · V² is fJ.
    templates = liberty.templates(root, "power_lut_template")
    cells = {}
    bare = []
    for group in root.all("cell"):
        if group.args not in kinds:
            continue
        stated = [float(item.values["value"]) for item in group.all("leakage_power")
                  if "value" in item.values]  # fmt: skip
        leakage = group.values.get("cell_leakage_power")
        pins = {
            pin.args: _pin(pin, templates, time, load)
            for pin in group.all("pin")
            if pin.all("internal_power")
        }
        if leakage is None and not stated:
            bare.append(group.args)
        nanowatts = float(leakage) if leakage is not None else float(np.mean(stated or [0.0]))
        cells[group.args] = CellEnergy(nanowatts * unit, pins)
    if not any(cell.pins for cell in cells.values()) or bare:
        lacking = ", ".join(sorted(bare)[:5]) or "internal_power"
        raise LibertyError(path, _LACKING.format(lacking))
    return Energies(voltage, cells)


def _pin(
    pin: liberty.Group, templates: liberty.Templates, time: float, load: float
) -> tuple[InternalEnergy, ...]:
    found: dict[str, tuple[list[Table], list[Table]]] = {}
    for group in pin.all("internal_power"):
        for related in group.values.get("related_pin", "").split() or [""]:
            sides = found.setdefault(related, ([], []))
            for side, name in zip(sides, ("rise_power", "fall_power"), strict=True):
                for item in [*group.all(name), *group.all("power")]:
                    table = liberty.table(item, templates, time, load, value=load)
                    if table is not None:
                        side.append(table)
    return tuple(
        InternalEnergy(related, tuple(rise), tuple(fall))
        for related, (rise, fall) in found.items()
        if rise or fall
    )

"""Where operators and phases lie under the roof of a core and its DRAM.

An operator of ``2 · MACs`` operations and so many bytes has an intensity in operations a byte. The
roof is ``min(peak, intensity · bandwidth)``, the peak that of the core at the width of the
operator's weights; the two meet at the ridge, ``peak / bandwidth``. Operators that the core does
not do have no place: their bytes alone are in the seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sw_driver import report as lay
from sw_driver.mapper.mapping import Mapping, OperatorCost


@dataclass(frozen=True, kw_only=True)
class Position:
    """A place under the roof.

    Attributes:
        operations: multiplications and additions. intensity: operations a byte of DRAM traffic.
        ridge: operations a byte from which computing binds; of a phase, of its operations' mean
            peak.
        roof, achieved: operations a second.
        fraction: of the roof that is achieved; of a phase the time that its operators would take at
            their roofs by the time that they take, memory traffic without a product included.
    """

    name: str
    bits: int | None
    operations: int
    intensity: float
    ridge: float
    roof: float
    achieved: float
    fraction: float

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return asdict(self)


def position(mapping: Mapping, item: OperatorCost) -> Position | None:
    """Of an operator; None where the core multiplies nothing."""
    if not item.covered or not item.macs:
        return None
    operations = 2 * item.macs
    bandwidth = mapping.core.bandwidth_gb_s * 1e9
    peak = operations / item.peak_seconds
    least = max(item.peak_seconds, item.memory_seconds)
    return Position(
        name=item.name,
        bits=item.bits,
        operations=operations,
        # Of operands that are on the chip already there may be no traffic.
        intensity=operations / max(item.bytes, 1),
        ridge=peak / bandwidth,
        roof=operations / least,
        achieved=operations / item.seconds,
        fraction=least / item.seconds,
    )


def phase_position(mapping: Mapping) -> Position:
    """Of all operators of a phase together."""
    operations = 2 * (mapping.macs - mapping.uncovered_macs)
    peak_seconds = sum(item.peak_seconds for item in mapping.operators)
    least = sum(max(item.peak_seconds, item.memory_seconds) for item in mapping.operators)
    bandwidth = mapping.core.bandwidth_gb_s * 1e9
    return Position(
        name=mapping.workload.phase,
        bits=None,
        operations=operations,
        intensity=operations / mapping.bytes,
        ridge=operations / peak_seconds / bandwidth if peak_seconds else 0.0,
        roof=operations / least,
        achieved=operations / mapping.seconds,
        fraction=least / mapping.seconds,
    )


def draw_roofline(axes: Any, mappings: Sequence[Mapping]) -> None:
    """Roofs of every width in use, and every operator of every phase."""
    core = mappings[0].core
    bandwidth = core.bandwidth_gb_s * 1e9
    colors = (lay.BLUE, lay.ORANGE, lay.GREEN, lay.RED)
    marks = ("o", "s", "^", "D")
    found = [
        (mapping, [place for item in mapping.operators if (place := position(mapping, item))])
        for mapping in mappings
    ]
    places = [place for _, each in found for place in each]
    if not places:
        axes.text(0.5, 0.5, "the core multiplies nothing", ha="center", transform=axes.transAxes)
        return
    widths = sorted({place.bits for place in places if place.bits is not None})
    peaks = {bits: 2 * core.peak_macs(bits) * core.clock_mhz * 1e6 for bits in widths}
    left = min(min(place.intensity for place in places), min(peaks.values()) / bandwidth) / 2
    right = max(max(place.intensity for place in places), max(peaks.values()) / bandwidth) * 2
    for peak in sorted(set(peaks.values())):
        ridge = peak / bandwidth
        of = ", ".join(f"W{bits}" for bits in widths if peaks[bits] == peak)
        axes.plot(
            [left, ridge, right], [left * bandwidth, peak, peak], color=lay.GREY, linewidth=1.2
        )
        axes.annotate(
            f"{of}: {lay.engineering(peak, 'op/s')}, ridge {ridge:.3g}",
            (right, peak),
            xytext=(0, 7),
            textcoords="offset points",
            ha="right",
            fontsize=8,
            color="#444444",
        )
    for index, (mapping, each) in enumerate(found):
        axes.scatter(
            [place.intensity for place in each],
            [place.achieved for place in each],
            s=22,
            marker=marks[index % 4],
            color=colors[index % 4],
            alpha=0.8,
            label=f"{mapping.workload.phase} ({mapping.workload.name})",
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.minorticks_off()
    axes.set_xlim(left, right)
    axes.set_ylim(min(place.achieved for place in places) / 2, max(peaks.values()) * 2.5)
    axes.set_xlabel("operations a byte")
    axes.set_ylabel("operations a second")
    axes.set_title(f"roofline, DRAM {core.bandwidth_gb_s:g} GB/s")
    axes.legend(frameon=False, loc="lower right", fontsize=8)

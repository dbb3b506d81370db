"""What a mapping of several phases comes to: times a user waits, memory, roofline, energy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sw_driver import report as lay
from sw_driver.mapper.energy import Energy, Power, energy
from sw_driver.mapper.mapping import Mapping
from sw_driver.mapper.memory import PeakMemory, peak_memory
from sw_driver.mapper.roofline import Position, phase_position
from sw_driver.report import Table


def phase_name(mappings: Sequence[Mapping], mapping: Mapping) -> str:
    """The phase, and whose it is if not the first one's model's."""
    work = mapping.workload
    if work.architecture is mappings[0].workload.architecture:
        return work.phase
    return work.phase if work.phase == "draft" else f"draft {work.phase}"


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Phases of a model, and of what drafts for it.

    The time to the first token is that of the model's prefill: its last step makes the logits that
    the token is chosen from. The tokens after it take the time of the decoding, and of the draft
    where one is charged.

    Attributes:
        positions, memory, energies: one for each mapping; no energies without a power report.
    """

    mappings: tuple[Mapping, ...]
    positions: tuple[Position, ...]
    memory: tuple[PeakMemory, ...]
    energies: tuple[Energy, ...]
    power: Power | None
    dram_pj_per_bit: float | None

    @classmethod
    def of(
        cls, mappings: Sequence[Mapping], power: Power | None, dram_pj_per_bit: float | None
    ) -> Figures:
        """The figures of phases.

        Raises:
            InputError: the power report lacks a width.
        """
        return cls(
            mappings=tuple(mappings),
            positions=tuple(map(phase_position, mappings)),
            memory=tuple(map(peak_memory, mappings)),
            energies=tuple(energy(item, power, dram_pj_per_bit) for item in mappings)
            if power
            else (),
            power=power,
            dram_pj_per_bit=dram_pj_per_bit,
        )

    @property
    def _decoding(self) -> list[Mapping]:
        return [item for item in self.mappings if item.workload.phase != "prefill"]

    @property
    def first_token_seconds(self) -> float | None:
        """Seconds of the model's prefill; None of an encoder, or without a prefill."""
        first = self.mappings[0]
        if first.workload.phase != "prefill" or not first.workload.architecture.causal:
            return None
        return first.seconds

    @property
    def decode_seconds(self) -> float | None:
        """Seconds of the decoding with its draft; None without one."""
        items = self._decoding
        return sum(item.seconds for item in items) if items else None

    @property
    def next_token_seconds(self) -> float | None:
        """Seconds between two tokens of a sequence, on average."""
        seconds = self.decode_seconds
        return None if seconds is None else seconds / self._decoding[0].workload.tokens

    @property
    def peak_bytes(self) -> int:
        """Memory at the peak: that of the phase that takes most, a draft's beside it."""
        arch = self.mappings[0].workload.architecture
        own, drafts = [0], [0]
        for item, memory in zip(self.mappings, self.memory, strict=True):
            (own if item.workload.architecture is arch else drafts).append(memory.total)
        return max(own) + max(drafts)

    def facts(self) -> list[str]:
        """Lines under the title."""
        found = []
        first, later = self.first_token_seconds, self.next_token_seconds
        if first is not None:
            found.append(f"time to first token {lay.engineering(first, 's')}")
        if later is not None:
            work = self._decoding[0].workload
            rate = work.batch / later
            found.append(
                f"then {lay.engineering(later, 's')} a token, {lay.fixed(rate, 4)} tokens/s"
                + (" with the draft" if len(self._decoding) > 1 else "")
            )
        found.append(f"peak memory {lay.engineering(self.peak_bytes, 'B')}")
        return ["; ".join(found)]

    def table(self) -> Table:
        """A row for each phase."""
        columns = ["phase", "ms", "tokens/s", "DRAM", "util.", "ops/B", "ridge", "of roof"]
        columns += ["parameters", "cache", "activations", "peak memory"]
        if self.energies:
            columns += ["core J", "leakage J", "DRAM J", "J/token"]
        rows = []
        for index, item in enumerate(self.mappings):
            place, memory = self.positions[index], self.memory[index]
            cells = [
                phase_name(self.mappings, item),
                lay.fixed(item.seconds * 1e3, 4),
                lay.fixed(item.tokens_per_second, 4),
                lay.engineering(item.bytes, "B"),
                f"{item.utilisation:.1%}",
                lay.fixed(place.intensity, 3),
                lay.fixed(place.ridge, 3),
                f"{place.fraction:.1%}",
                *(lay.engineering(size, "B") for size in (memory.parameters, memory.cache)),
                *(lay.engineering(size, "B") for size in (memory.activations, memory.total)),
            ]
            if self.energies:
                joules = self.energies[index]
                cells += [lay.fixed(joules.dynamic, 3), lay.fixed(joules.leakage, 3)]
                cells.append("-" if joules.dram is None else lay.fixed(joules.dram, 3))
                cells.append(lay.fixed(joules.total / joules.tokens, 3))
            rows.append(tuple(cells))
        return Table(title="figures", columns=tuple(columns), rows=rows)

    def charged(self) -> str:
        """What energies are of."""
        power = self.power
        if power is None:
            return "no energies: there is no power report"
        of = f" in {power.technology}" if power.technology else ""
        dram = (
            "DRAM is not charged"
            if self.dram_pj_per_bit is None
            else f"DRAM at {self.dram_pj_per_bit:g} pJ a bit"
        )
        return (
            f"energy: measured power of the core at work{of}, at {power.clock_mhz:g} MHz; {dram}; "
            "buffers and vector work are not charged, nor is the clock of a core that waits"
        )

    def of_phase(self, index: int) -> dict[str, Any]:
        """Plain data of one phase."""
        return {
            "roofline": self.positions[index].as_dict(),
            "memory": self.memory[index].as_dict(),
            "energy": self.energies[index].as_dict() if self.energies else None,
        }

    def totals(self) -> dict[str, Any]:
        """Plain data of all phases."""
        later = self.next_token_seconds
        batch = self._decoding[0].workload.batch if self._decoding else 0
        return {
            "time_to_first_token": self.first_token_seconds,
            "time_per_output_token": later,
            "output_tokens_per_second": batch / later if later else None,
            "peak_memory_bytes": self.peak_bytes,
            "dram_pj_per_bit": self.dram_pj_per_bit,
        }

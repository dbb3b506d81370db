"""Scales in hardware: a core's partial sums through ``scale_accumulate``, group by group.

What ``rtlgen run`` otherwise does in float32 is done here on RTL, too: every group's integers times
their scales (and their rows' powers of two, of floating activations), summed over the groups in
FP32, times the rows' scales, plus the bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hw.block import block, spec_from_dict
from hw.formats import FP16, FP32
from hw.gemm import GemmSpec
from sim import source
from sim.harness import Model, Packed, verilate
from sim.harness.beats import pack
from sim.harness.compile import RUN_SHORT
from sw_driver.mapper.core import core_of
from sw_driver.runner.companions import lanes_for, partial_sums
from sw_driver.runner.operands import Groups

MAX_GROUPS = 128


@dataclass(frozen=True, kw_only=True)
class Scaled:
    """Results of the unit.

    Attributes:
        o: ``(M, N)`` ``float32``. results, mismatches: FP32 codes, compared with the reference.
        cycles: observed; predicted: by the unit's timing model.
    """

    o: np.ndarray
    results: int
    mismatches: int
    cycles: int
    predicted: int
    first_mismatch: str | None


class Scaler:
    """Scale-and-accumulate units for the results of one core, Verilated.

    Args:
        spec: the core. group: elements of K that share a scale.
    """

    def __init__(self, spec: GemmSpec, *, group: int, bits: int, progress: bool = True):
        self.spec, self.group, self.bits = spec, group, bits
        self.progress = progress
        self._models: dict[str, Model] = {}

    def close(self) -> None:
        """Free the models."""
        for model in self._models.values():
            model.close()
        self._models = {}

    def unit(self, groups: Groups, max_groups: int, biased: bool) -> Any:
        """The unit's specification: as fast as the core at this width of weights."""
        core = core_of(self.spec)
        start, slope = core.job_cycles[self.bits - 1]
        cycles = start + -(-self.group // core.k) * slope
        return spec_from_dict(
            {
                "block": "scale_accumulate",
                "name": f"{core.name}_scales",
                "clock_mhz": core.clock_mhz,
                "tile": {"m": core.m, "n": core.n},
                **partial_sums(self.spec, groups.factor, groups.offset, self.group),
                "activation_scale": {
                    "format": "none" if groups.a_scale is None else "fp32",
                    "per": "job",
                },
                "bias": "fp32" if biased else "none",
                "lanes": lanes_for(core.m * core.n, cycles),
                "max_groups": max(MAX_GROUPS, max_groups),
            }
        )

    def run(
        self,
        tiles: Sequence[Mapping[str, np.ndarray]],
        groups: Groups,
        bias: np.ndarray | None,
        m: int,
        n: int,
    ) -> Scaled:
        """A product's partial sums, and what becomes of them.

        Args:
            tiles: every group's results by field, as of a job ``(m, n)``, in the order of jobs, of
                which tiles of N are the outermost.
            bias: ``(N,)``. m, n: rows and columns of the product.
        """
        unit = self.unit(groups, len(tiles), bias is not None)
        golden: Any = block(unit.block).golden
        timing: Any = block(unit.block).timing
        m_tile, n_tile = unit.tile.m, unit.tile.n
        m_tiles, n_tiles = -(-m // m_tile), -(-n // n_tile)
        fields = {
            name: np.stack([tile[name] for tile in tiles]).reshape(
                len(tiles), n_tiles, m_tiles, *tiles[0][name].shape[1:]
            )
            for name in tiles[0]
        }
        p = fields.pop("o") * groups.factor
        scale = _rows(FP16.encode(groups.scale).astype(np.int64), n_tiles * n_tile)
        a_scale = None
        if groups.a_scale is not None:
            a_scale = _rows(FP32.encode(groups.a_scale).astype(np.int64), m_tiles * m_tile)
        sums = _rows(groups.row_sums.astype(np.int64), m_tiles * m_tile)
        # The zero point is not negative: the sums take its sign.
        zero = abs(groups.offset)
        sums = sums if groups.offset < 0 else -sums
        codes = None
        if bias is not None:
            codes = _rows(FP32.encode(bias).astype(np.int64)[:, None], n_tiles * n_tile)[:, 0]
        works = []
        for j in range(n_tiles):
            columns = slice(j * n_tile, (j + 1) * n_tile)
            for i in range(m_tiles):
                lines = slice(i * m_tile, (i + 1) * m_tile)
                works.append(
                    golden.ScaleWork(
                        p=p[:, j, i],
                        w_scale=scale[columns].T,
                        **{name: array[:, j, i] for name, array in fields.items()},
                        z=np.full((len(tiles), n_tile), zero) if zero else None,
                        r=sums[lines].T if zero else None,
                        a_scale=None if a_scale is None else a_scale[lines].T,
                        bias=None if codes is None else codes[columns],
                    )
                )
        key = unit.digest
        if key not in self._models:
            self._models[key] = verilate(unit, effort=RUN_SHORT, progress=self.progress)
        beats = [golden.beats(unit, work) for work in works]
        inputs: dict[str, Packed] = {}
        for stream in source.streams(unit):
            if stream.direction == "in":
                parts = [item[stream.name] for item in beats]
                whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
                inputs[stream.name] = pack(stream, whole)
        run = self._models[key].run(inputs, {"o": len(works)})
        found = run.outputs["o"]["o"]
        wanted = np.stack([golden.results(unit, work) for work in works])
        wrong = found != wanted
        first = None
        if wrong.any():
            job, row, column = (int(value) for value in np.argwhere(wrong)[0])
            inside = golden.explain(unit, works[job], "o", "o", (0, row, column))
            first = (
                f"scales, job {job}, element ({row}, {column}): got {int(found[job, row, column])}"
                f", expected {int(wanted[job, row, column])}; {inside}"
            )
        values = FP32.decode(found).astype(np.float32)
        grid = values.reshape(n_tiles, m_tiles, m_tile, n_tile).transpose(1, 2, 0, 3)
        return Scaled(
            o=grid.reshape(m_tiles * m_tile, n_tiles * n_tile)[:m, :n],
            results=found.size,
            mismatches=int(wrong.sum()),
            cycles=run.cycles,
            predicted=int(timing.cycles(unit, works)),
            first_mismatch=first,
        )


def _rows(array: np.ndarray, rows: int) -> np.ndarray:
    """An array with zeros for the rows of a tile that are not there."""
    padded = np.zeros((rows, *array.shape[1:]), dtype=array.dtype)
    padded[: len(array)] = array
    return padded

"""A GEMM of any size as jobs of one core: padding, tiling, packing, and putting together again.

Built on the block's golden model alone: of each tile of rows of A the activation side of one job
is packed once, of each tile of rows of W the weight side; jobs refer to those beats by index, so
that a large layer costs no more packing than its operands have tiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from hw import gemm
from hw.block import block
from hw.gemm import GemmSpec, GemmWork, Job
from sim import source
from sim.harness.beats import Packed, Run


@dataclass(frozen=True, kw_only=True)
class GemmResult:
    """What a GEMM on a model gave.

    Attributes:
        o: ``(M, N)`` ``int64``.
        cycles: first input transfer to last output transfer, both counted.
        predicted_cycles: the same by the block's timing model; equal unless streams stalled.
        jobs: jobs that it took.
        run: everything else.
    """

    o: np.ndarray
    cycles: int
    predicted_cycles: int
    jobs: int
    run: Run


@dataclass(frozen=True, kw_only=True)
class GemmPlan:
    """A GEMM laid out as jobs, in the order N tiles, M tiles, parts of K (innermost).

    Attributes:
        a, w, z, c: operands padded to whole tiles.
        parts: K steps of each part of K.
        inputs: packed beats by stream, for :meth:`sim.harness.Model.run`.
        add_after: addend that is added to the results by numpy, None if the core adds it.
        job: what all jobs have in common.
    """

    spec: GemmSpec
    shape: tuple[int, int, int]
    a: np.ndarray
    w: np.ndarray
    z: np.ndarray | None
    c: np.ndarray | None
    add_after: np.ndarray | None
    job: Job
    extra: Mapping[str, np.ndarray]
    parts: tuple[int, ...]
    inputs: Mapping[str, Packed]

    @property
    def m_tiles(self) -> int:
        return len(self.a) // self.spec.tile.m

    @property
    def n_tiles(self) -> int:
        return len(self.w) // self.spec.tile.n

    @property
    def jobs(self) -> int:
        return self.m_tiles * self.n_tiles * len(self.parts)

    @property
    def expect(self) -> dict[str, int]:
        """Beats of each output."""
        return {"o": self.jobs}

    @cached_property
    def predicted_cycles(self) -> int:
        """Cycles by the block's timing model, nothing stalling."""
        light = [
            GemmWork(job=self.job_of(part), a=self.a[:0], w=self.w[:0])
            for part in range(len(self.parts))
        ]
        works = light * (self.m_tiles * self.n_tiles)
        return int(block(self.spec.block).timing.cycles(self.spec, works))

    def job_of(self, part: int) -> Job:
        """The descriptor of the jobs of one part of K."""
        accumulate = self.c is not None and part == 0
        return replace(self.job, k_steps=self.parts[part], accumulate=accumulate)

    def work(self, number: int) -> GemmWork:
        """The job of that number, with its operands."""
        rest, part = divmod(number, len(self.parts))
        j, i = divmod(rest, self.m_tiles)
        return self._work(i, j, part)

    def _work(self, i: int, j: int, part: int) -> GemmWork:
        tile = self.spec.tile
        start = sum(self.parts[:part]) * tile.k
        stop = start + self.parts[part] * tile.k
        m = slice(i * tile.m, (i + 1) * tile.m)
        n = slice(j * tile.n, (j + 1) * tile.n)
        addend = self.c[m, n] if self.c is not None and part == 0 else None
        return GemmWork(
            job=self.job_of(part),
            a=self.a[m, start:stop],
            w=self.w[n, start:stop],
            z=None if self.z is None else self.z[n],
            c=addend,
            extra=self.extra,
        )

    def expected(self) -> np.ndarray:
        """Every job's result by the golden model, ``(jobs, tile.m, tile.n)``.

        The golden model works on a tile as large as the whole GEMM: what it says of an element does
        not depend on the number of its neighbours.
        """
        tile = self.spec.tile
        big = self.spec.model_copy(
            update={"tile": tile.model_copy(update={"m": len(self.a), "n": len(self.w)})}
        )
        results = []
        start = 0
        for part, steps in enumerate(self.parts):
            stop = start + steps * tile.k
            addend = self.c if part == 0 else None
            work = GemmWork(
                job=self.job_of(part),
                a=self.a[:, start:stop],
                w=self.w[:, start:stop],
                z=self.z,
                c=addend,
                extra=self.extra,
            )
            results.append(block(self.spec.block).golden.expected(big, work)["o"]["o"][0])
            start = stop
        tiles = np.stack(results).reshape(
            len(self.parts), self.m_tiles, tile.m, self.n_tiles, tile.n
        )
        return tiles.transpose(3, 1, 0, 2, 4).reshape(self.jobs, tile.m, tile.n)

    def assemble(self, tiles: np.ndarray) -> np.ndarray:
        """Results of all jobs ``(jobs, tile.m, tile.n)`` to ``(M, N)``."""
        tile = self.spec.tile
        m, n, _ = self.shape
        parts = tiles.reshape(self.n_tiles, self.m_tiles, len(self.parts), tile.m, tile.n)
        whole = parts.sum(axis=2).transpose(1, 2, 0, 3).reshape(len(self.a), len(self.w))
        result = whole[:m, :n]
        return result if self.add_after is None else result + self.add_after

    def result(self, run: Run) -> GemmResult:
        """The GEMM's result out of a run of :attr:`inputs`."""
        return GemmResult(
            o=self.assemble(run.outputs["o"]["o"]),
            cycles=run.cycles,
            predicted_cycles=self.predicted_cycles,
            jobs=self.jobs,
            run=run,
        )


def tile(
    spec: GemmSpec,
    a: np.ndarray,
    w: np.ndarray,
    *,
    z: np.ndarray | None = None,
    c: np.ndarray | None = None,
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    skip_planes: bool = False,
    extra: Mapping[str, np.ndarray] | None = None,
) -> GemmPlan:
    """Lay out ``A·(W − z)ᵀ + C``.

    Rows beyond M and N, and elements beyond K, are filled with activations of 0, so that they
    change no result; what ±1 in the place of a 0 adds, where activations have none, is taken off
    outside. With ``skip_planes`` planes that are zero in the whole operand are left out. A K beyond
    ``spec.max_k`` is split, and the parts are added outside. ``c`` goes through the core's addend
    port if it has one and cannot overflow there.

    Raises:
        ValueError: an operand has the wrong shape, type or range.
    """
    a, w = np.asarray(a), np.asarray(w)
    if a.ndim != 2 or w.ndim != 2 or a.shape[1] != w.shape[1] or not a.size or not w.size:
        raise ValueError(f"a and w: must be (M, K) and (N, K), got {a.shape} and {w.shape}")
    m, k = a.shape
    n = w.shape[0]
    bits = spec.max_weight_bits if weight_bits is None else weight_bits
    if not 1 <= bits <= spec.max_weight_bits:
        raise ValueError(f"weight_bits: must lie in [1, {spec.max_weight_bits}], got {bits}")
    _shape("z", z, (n,), required=spec.zero_point)
    _shape("c", c, (m, n), required=False)
    for name, array in (("a", a), ("w", w), ("z", z), ("c", c)):
        if array is not None and not np.issubdtype(np.asarray(array).dtype, np.integer):
            raise ValueError(f"{name}: must hold integers, got {np.asarray(array).dtype}")
    core = spec.tile
    rows, columns = -(-m // core.m) * core.m, -(-n // core.n) * core.n
    steps = -(-k // core.k)
    parts = tuple(min(spec.max_k_steps, steps - done) for done in range(0, steps, spec.max_k_steps))
    # Bipolar numbers are odd: 1 stands where the other operand is 0 or the element is not there.
    filler = 1 if spec.weight_encoding == "bipolar" else 0
    a_filler = 1 if spec.activations.code == "bipolar" else 0
    outside = np.zeros((m, n), dtype=np.int64) - a_filler * filler * (steps * core.k - k)
    inside = False
    if c is not None and spec.addend:
        reach = parts[0] * spec.step_magnitude + int(np.abs(np.asarray(c, dtype=np.int64)).max())
        inside = reach < 1 << (spec.result_bits - 1)
    if c is not None and not inside:
        outside += np.asarray(c, dtype=np.int64)
    job = Job(k_steps=1, weight_bits=bits, activation_bits=activation_bits)
    if skip_planes:
        if not spec.skips_planes:
            raise ValueError(f"skip_planes: {spec.block} leaves out no planes")
        golden: Any = block(spec.block).golden
        job = golden.without_zero_planes(spec, GemmWork(job=job, a=a, w=w, z=z)).job
    plan = GemmPlan(
        spec=spec,
        shape=(m, n, k),
        a=_padded(a, (rows, steps * core.k), a_filler),
        w=_padded(w, (columns, steps * core.k), filler),
        z=None if z is None else _padded(np.asarray(z), (columns,), 0),
        c=_padded(np.asarray(c), (rows, columns), 0) if inside else None,
        add_after=outside if outside.any() else None,
        job=job,
        extra=dict(extra or {}),
        parts=parts,
        inputs={},
    )
    object.__setattr__(plan, "inputs", _beats(plan))
    return plan


def _shape(name: str, array: np.ndarray | None, shape: tuple[int, ...], *, required: bool) -> None:
    if array is None:
        if required:
            raise ValueError(f"{name}: is required")
    elif np.asarray(array).shape != shape:
        raise ValueError(f"{name}: shape must be {shape}, got {np.asarray(array).shape}")


def _padded(array: np.ndarray, shape: tuple[int, ...], value: int) -> np.ndarray:
    result = np.full(shape, value, dtype=np.int64)
    result[tuple(slice(0, size) for size in array.shape)] = array
    return result


def _beats(plan: GemmPlan) -> dict[str, Packed]:
    """Packed beats of every input stream.

    By the contract of :mod:`hw.gemm`, ``i_w`` depends on the weights and their zero points,
    ``i_job`` and ``i_c`` on the job, and the remaining stream on the activations.
    """
    spec = plan.spec
    golden = block(spec.block).golden
    ports = {item.name: item for item in source.streams(spec) if item.direction == "in"}
    (a_side,) = [name for name in ports if name not in ("i_job", "i_w", "i_c")]
    parts = range(len(plan.parts))
    m_tiles, n_tiles = range(plan.m_tiles), range(plan.n_tiles)
    a_spec, a_lanes = _narrow(spec, a_side, "n")
    w_spec, w_lanes = _narrow(spec, "i_w", "m")
    job_rows = [ports["i_job"].pack(gemm.job_beats(spec, plan.job_of(part))) for part in parts]
    a_rows = [
        ports[a_side].pack(golden.beats(a_spec, _lanes(plan._work(i, 0, part), n=a_lanes))[a_side])
        for i in m_tiles
        for part in parts
    ]
    w_rows = [
        ports["i_w"].pack(golden.beats(w_spec, _lanes(plan._work(0, j, part), m=w_lanes))["i_w"])
        for j in n_tiles
        for part in parts
    ]
    # Beats of one tile, all parts of K, as row numbers; then one such list per job in order.
    a_index = _tile_rows(a_rows, len(plan.parts))
    w_index = _tile_rows(w_rows, len(plan.parts))
    jobs = plan.m_tiles * plan.n_tiles
    values = {
        "i_job": Packed(np.concatenate(job_rows), np.tile(np.arange(len(parts)), jobs)),
        a_side: Packed(np.concatenate(a_rows), np.tile(a_index.reshape(-1), plan.n_tiles)),
        "i_w": Packed(np.concatenate(w_rows), np.repeat(w_index, plan.m_tiles, axis=0).reshape(-1)),
    }
    if spec.addend and plan.c is not None:
        core = spec.tile
        grid = plan.c.reshape(plan.m_tiles, core.m, plan.n_tiles, core.n)
        tiles = grid.transpose(2, 0, 1, 3).reshape(jobs, core.m, core.n)
        values["i_c"] = Packed(ports["i_c"].pack({"c": tiles}))
    return values


def _narrow(spec: GemmSpec, stream: str, side: str) -> tuple[GemmSpec, int | None]:
    """The core with one row on the side that a stream does not depend on: less to pack."""
    narrow = spec.model_copy(update={"tile": spec.tile.model_copy(update={side: 1})})
    same: Any = [
        next((item for item in source.streams(which) if item.name == stream), None)
        for which in (spec, narrow)
    ]
    return (narrow, 1) if same[0] == same[1] else (spec, None)


def _lanes(work: GemmWork, *, m: int | None = None, n: int | None = None) -> GemmWork:
    return GemmWork(
        job=work.job,
        a=work.a[:m],
        w=work.w[:n],
        z=None if work.z is None else work.z[:n],
        c=None if work.c is None else work.c[:m, :n],
        extra=work.extra,
    )


def _tile_rows(rows: list[np.ndarray], parts: int) -> np.ndarray:
    """``(tiles, beats of a tile)``: row numbers in the concatenation of ``rows``."""
    total = sum(map(len, rows))
    return np.arange(total, dtype=np.int32).reshape(len(rows) // parts, -1)

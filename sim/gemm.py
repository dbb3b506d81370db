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
from hw.gemm import Further, GemmSpec, GemmWork, Job
from hw.integers import is_exact
from hw.streams import Stream
from sim import source
from sim.harness.beats import Packed, Run


@dataclass(frozen=True, kw_only=True)
class GemmResult:
    """What a GEMM on a model gave.

    Attributes:
        o: ``(M, N)`` ``int64``: exact integers, or codes of the core's result format.
        fields: every field of the results, ``o`` among them; what rows share is ``(M,)``.
        cycles: first input transfer to last output transfer, both counted.
        predicted_cycles: the same by the block's timing model; equal unless streams stalled.
        jobs: jobs that it took.
        run: everything else.
    """

    fields: Mapping[str, np.ndarray]
    cycles: int
    predicted_cycles: int
    jobs: int
    run: Run

    @property
    def o(self) -> np.ndarray:
        return self.fields["o"]


@dataclass(frozen=True, kw_only=True)
class GemmPlan:
    """A GEMM laid out as jobs, in the order N tiles, M tiles, parts of K (innermost).

    Attributes:
        a, w, z, c, extra: operands padded to whole tiles.
        parts: K steps of each part of K.
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

    @cached_property
    def inputs(self) -> dict[str, Packed]:
        """Packed beats by stream, for :meth:`sim.harness.Model.run`."""
        return _beats(self)

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
        if self.job.reuse:
            every = [self.work(number) for number in range(self.jobs)]
            return int(block(self.spec.block).timing.cycles(self.spec, every))
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
        m = slice(i * tile.m, (i + 1) * tile.m)
        n = slice(j * tile.n, (j + 1) * tile.n)
        return self._slice(part, m, n)

    def _slice(self, part: int, m: slice, n: slice) -> GemmWork:
        """Rows of A and of W in one part of K."""
        start = sum(self.parts[:part]) * self.spec.tile.k
        stop = start + self.parts[part] * self.spec.tile.k
        extra = {}
        for name, array in self.extra.items():
            further = self.spec.further.get(name, Further())
            if further.side is not None:
                array = array[m if further.side == "m" else n]
                if further.per:
                    array = array[:, start // further.per : -(-stop // further.per)]
            extra[name] = array
        return GemmWork(
            job=self.job_of(part),
            a=self.a[m, start:stop],
            w=self.w[n, start:stop],
            z=None if self.z is None else self.z[n],
            c=self.c[m, n] if self.c is not None and part == 0 else None,
            extra=extra,
        )

    def columns(self, start: int, stop: int) -> GemmPlan:
        """The part of the GEMM in some tiles of columns; its jobs follow one another in the whole.

        Args:
            start, stop: numbers of tiles along N.
        """
        tile = self.spec.tile
        m, n, k = self.shape
        rows = slice(start * tile.n, stop * tile.n)
        inside = slice(start * tile.n, min(stop * tile.n, n))
        extra = {
            name: array[rows] if self.spec.further.get(name, Further()).side == "n" else array
            for name, array in self.extra.items()
        }
        return replace(
            self,
            shape=(m, inside.stop - inside.start, k),
            w=self.w[rows],
            z=None if self.z is None else self.z[rows],
            c=None if self.c is None else self.c[:, rows],
            add_after=None if self.add_after is None else self.add_after[:, inside],
            extra=extra,
        )

    def expected(self) -> dict[str, np.ndarray]:
        """Every job's results by the golden model, ``(jobs, tile.m, tile.n, …)`` by field.

        The golden model works on a tile as large as the whole GEMM: what it says of an element does
        not depend on the number of its neighbours.
        """
        tile = self.spec.tile
        big = self.spec.model_copy(
            update={"tile": tile.model_copy(update={"m": len(self.a), "n": len(self.w)})}
        )
        golden = block(self.spec.block).golden
        every = slice(None)
        results = [
            golden.expected(big, self._slice(part, every, every))["o"]
            for part in range(len(self.parts))
        ]
        found = {}
        for item in self.spec.results:
            whole = np.stack([result[item.name][0] for result in results])
            if len(item.shape) == 1:
                rows = whole.reshape(len(self.parts), self.m_tiles, tile.m).transpose(1, 0, 2)
                found[item.name] = np.tile(rows.reshape(-1, tile.m), (self.n_tiles, 1))
                continue
            rest = item.shape[2:]
            tiles = whole.reshape(
                len(self.parts), self.m_tiles, tile.m, self.n_tiles, tile.n, *rest
            )
            tiles = np.moveaxis(tiles, (3, 1, 0, 2, 4), (0, 1, 2, 3, 4))
            found[item.name] = tiles.reshape(self.jobs, tile.m, tile.n, *rest)
        return found

    def product(self) -> np.ndarray:
        """``A·(W − z)ᵀ`` in integers, without tiles and without the addend: ``(M, N)``."""
        m, n, k = self.shape
        w = self.w[:n, :k] if self.z is None else self.w[:n, :k] - self.z[:n, None]
        product: np.ndarray = self.a[:m, :k] @ w.T
        return product

    def assemble(self, tiles: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Results of all jobs ``(jobs, tile.m, tile.n, …)`` to ``(M, N, …)``, field by field."""
        tile = self.spec.tile
        m, n, _ = self.shape
        found = {}
        for item in self.spec.results:
            array = tiles[item.name]
            if len(item.shape) == 1:
                rows = array[: self.m_tiles * len(self.parts)]
                rows = rows.reshape(self.m_tiles, len(self.parts), tile.m)
                found[item.name] = rows[:, 0].reshape(-1)[:m]
                continue
            rest = item.shape[2:]
            grid = array.reshape(self.n_tiles, self.m_tiles, len(self.parts), tile.m, tile.n, *rest)
            # A K of several parts comes from cores alone whose results may be added.
            whole = np.moveaxis(grid.sum(axis=2), (1, 2, 0, 3), (0, 1, 2, 3))
            found[item.name] = whole.reshape(len(self.a), len(self.w), *rest)[:m, :n]
        if self.add_after is not None:
            found["o"] = found["o"] + self.add_after
        return found

    def result(self, run: Run) -> GemmResult:
        """The GEMM's result out of a run of :attr:`inputs`."""
        return GemmResult(
            fields=self.assemble(run.outputs["o"]),
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
    reuse: bool = False,
    extra: Mapping[str, np.ndarray] | None = None,
) -> GemmPlan:
    """Lay out ``A·(W − z)ᵀ + C``.

    Rows beyond M and N, and elements beyond K, are filled with what changes no result; what ±1 in
    the place of a 0 adds, where activations have none, is taken off outside. With ``skip_planes``
    planes that are zero in the whole operand are left out; with ``reuse`` rows of A with the same
    pattern share a lookup. Where results are exact integers a K beyond ``spec.max_k`` is split, and
    the parts are added outside; ``c`` goes through the core's addend port if it has one and cannot
    overflow there.

    Args:
        extra: further operands of the core; those of ``spec.further`` that go along rows are
            ``(M or N, K / per)``.

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
    if steps > spec.max_k_steps and not spec.summable:
        raise ValueError(
            f"K: must be at most {spec.max_k_steps * core.k}, parts of a rounded sum cannot be "
            f"added outside, got {k}"
        )
    parts = tuple(min(spec.max_k_steps, steps - done) for done in range(0, steps, spec.max_k_steps))
    a_filler, w_filler = spec.fillers
    outside, inside = _addend(spec, c, (m, n), parts[0])
    if is_exact(spec):
        # The fillers' product is 0, or ±1 · ±1.
        outside = outside - a_filler * w_filler * (steps * core.k - k)
    if reuse and not spec.timed_by_operands:
        raise ValueError(f"reuse: {spec.block} has no pattern reuse table")
    job = Job(k_steps=1, weight_bits=bits, activation_bits=activation_bits, reuse=reuse)
    if skip_planes:
        if not spec.skips_planes:
            raise ValueError(f"skip_planes: {spec.block} leaves out no planes")
        golden: Any = block(spec.block).golden
        job = golden.without_zero_planes(spec, GemmWork(job=job, a=a, w=w, z=z)).job
    return GemmPlan(
        spec=spec,
        shape=(m, n, k),
        a=_padded(a, (rows, steps * core.k), a_filler),
        w=_padded(w, (columns, steps * core.k), w_filler),
        z=None if z is None else _padded(np.asarray(z), (columns,), 0),
        c=_padded(np.asarray(c), (rows, columns), 0) if inside else None,
        add_after=outside if outside.any() else None,
        job=job,
        extra=_extra(spec, extra or {}, (m, n, k), (rows, columns, steps * core.k)),
        parts=parts,
    )


def _addend(
    spec: GemmSpec, c: np.ndarray | None, shape: tuple[int, int], steps: int
) -> tuple[np.ndarray, bool]:
    """What is added outside of the core, and whether the addend goes in."""
    nothing = np.zeros(shape, dtype=np.int64)
    if c is None:
        return nothing, False
    if not is_exact(spec):
        if not spec.addend:
            raise ValueError("c: the specification has no addend")
        return nothing, True
    whole = np.asarray(c, dtype=np.int64)
    reach = steps * spec.step_magnitude + int(np.abs(whole).max())
    inside = spec.addend and reach < 1 << (spec.result_bits - 1)
    return (nothing, True) if inside else (whole, False)


def _extra(
    spec: GemmSpec,
    extra: Mapping[str, np.ndarray],
    shape: tuple[int, int, int],
    padded: tuple[int, int, int],
) -> dict[str, np.ndarray]:
    """Further operands, padded.

    Raises:
        ValueError: one is missing or has the wrong shape.
    """
    found = dict(extra)
    k = shape[2]
    for name, further in spec.further.items():
        if further.side is None:
            continue
        side = 0 if further.side == "m" else 1
        # The last group may be short.
        width = (-(-k // further.per),) if further.per else ()
        to = (-(-padded[2] // further.per),) if further.per else ()
        _shape(name, extra.get(name), (shape[side], *width), required=True)
        found[name] = _padded(np.asarray(extra[name]), (padded[side], *to), further.filler)
    return found


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
    # Descriptors of a tile of columns that carries operands differ from those of the others.
    job_tiles = n_tiles if spec.job_operands else range(1)
    job_rows = [
        ports["i_job"].pack(gemm.job_beats(spec, plan.job_of(part), plan._work(0, j, part).extra))
        for j in job_tiles
        for part in parts
    ]
    a_rows = [
        ports[a_side].pack(
            golden.beats(a_spec, _lanes(spec, plan._work(i, 0, part), n=a_lanes))[a_side]
        )
        for i in m_tiles
        for part in parts
    ]
    w_rows = [
        ports["i_w"].pack(
            golden.beats(w_spec, _lanes(spec, plan._work(0, j, part), m=w_lanes))["i_w"]
        )
        for j in n_tiles
        for part in parts
    ]
    # Beats of one tile, all parts of K, as row numbers; then one such list per job in order.
    a_index = _tile_rows(a_rows, len(plan.parts))
    w_index = _tile_rows(w_rows, len(plan.parts))
    jobs = plan.m_tiles * plan.n_tiles
    job_index = np.repeat(_tile_rows(job_rows, len(parts)), plan.m_tiles, axis=0).reshape(-1)
    values = {
        "i_job": Packed(
            np.concatenate(job_rows), np.tile(job_index, plan.n_tiles // len(job_tiles))
        ),
        a_side: Packed(np.concatenate(a_rows), np.tile(a_index.reshape(-1), plan.n_tiles)),
        "i_w": Packed(np.concatenate(w_rows), np.repeat(w_index, plan.m_tiles, axis=0).reshape(-1)),
    }
    if spec.addend and plan.c is not None:
        core = spec.tile
        grid = plan.c.reshape(plan.m_tiles, core.m, plan.n_tiles, core.n)
        tiles = grid.transpose(2, 0, 1, 3).reshape(jobs, core.m, core.n)
        values["i_c"] = Packed(ports["i_c"].pack({"c": tiles}))
    return values


def _side(spec: GemmSpec, work: GemmWork, port: Stream) -> np.ndarray:
    """Packed beats of one stream."""
    return port.pack(block(spec.block).golden.beats(spec, work)[port.name])


def _narrow(spec: GemmSpec, stream: str, side: str) -> tuple[GemmSpec, int | None]:
    """The core with one row on the side that a stream does not depend on: less to pack."""
    narrow = spec.model_copy(update={"tile": spec.tile.model_copy(update={side: 1})})
    same: Any = [
        next((item for item in source.streams(which) if item.name == stream), None)
        for which in (spec, narrow)
    ]
    return (narrow, 1) if same[0] == same[1] else (spec, None)


def _lanes(
    spec: GemmSpec, work: GemmWork, *, m: int | None = None, n: int | None = None
) -> GemmWork:
    sides = {name: further.side for name, further in spec.further.items()}
    limits = {"m": m, "n": n}
    return GemmWork(
        job=work.job,
        a=work.a[:m],
        w=work.w[:n],
        z=None if work.z is None else work.z[:n],
        c=None if work.c is None else work.c[:m, :n],
        extra={
            name: array[: limits[side]] if (side := sides.get(name)) is not None else array
            for name, array in work.extra.items()
        },
    )


def _tile_rows(rows: list[np.ndarray], parts: int) -> np.ndarray:
    """``(tiles, beats of a tile)``: row numbers in the concatenation of ``rows``."""
    total = sum(map(len, rows))
    return np.arange(total, dtype=np.int32).reshape(len(rows) // parts, -1)

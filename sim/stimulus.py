"""What the benches try, and what they hold the results against.

A :class:`Scenario` is work with stalls and resets; its :class:`Stimulus` is the beats that go in
and the beats that must come out. Both benches, cocotb's and the compiled one, take the same
scenarios, so that what one finds the other can repeat.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from hw import gemm as contract
from hw import integers
from hw.block import block
from hw.gemm import GemmSpec, Job
from hw.integers import IntegerGemmSpec
from hw.spec import BlockSpec
from sim import gemm, source, stalls
from sim.harness.beats import Packed, pack
from sim.stalls import Stalls


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """Works offered back to back.

    Attributes:
        name: for messages; unique in one verification.
        works: plain data of the block's own kind.
        stalls: who holds back; None never.
        seed: of the stall patterns.
        reset_at: a reset in mid-job in this cycle; everything is offered again afterwards.
        plan: instead of ``works``: a whole GEMM (exhaustive operands).
        order: the inputs one after another: each offers its beats once all beats of the one before
            were taken, and nothing is taken from the outputs until the last one is through.
    """

    name: str
    works: tuple[Any, ...] = ()
    stalls: Stalls | None = None
    seed: int = 0
    reset_at: int | None = None
    plan: gemm.GemmPlan | None = None
    order: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Failure:
    """The first thing that was wrong.

    Attributes:
        kind: ``value``, ``protocol``, ``cycles``, ``hang``, ``input`` or ``build``.
        scenario: where.
        text: all of it in words: element, expected, observed, inputs, cycle.
    """

    kind: str
    scenario: str
    text: str
    stream: str | None = None
    field: str | None = None
    beat: int | None = None
    index: tuple[int, ...] | None = None
    expected: int | None = None
    observed: int | None = None
    inputs: str | None = None
    cycle: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """Plain data for a report."""
        return {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in vars(self).items()
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Failure:
        """The inverse of :meth:`as_dict`."""
        index = data["index"]
        return cls(**{**data, "index": None if index is None else tuple(index)})


@dataclass(frozen=True)
class Stimulus:
    """Beats of a scenario.

    Attributes:
        inputs: packed, by input stream.
        expected: values, by output stream and field.
        sizes: per work the beats of every output stream, to find the work of a beat.
    """

    spec: BlockSpec
    scenario: Scenario
    inputs: Mapping[str, Packed]
    expected: Mapping[str, Mapping[str, np.ndarray]]
    sizes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def expect(self) -> dict[str, int]:
        """Beats of every output."""
        return {name: len(next(iter(fields.values()))) for name, fields in self.expected.items()}

    @cached_property
    def expected_packed(self) -> dict[str, np.ndarray]:
        """``uint8`` ``(beats, nbytes)`` by output stream."""
        ports = {item.name: item for item in source.streams(self.spec)}
        return {name: ports[name].pack(fields) for name, fields in self.expected.items()}

    @property
    def vectors(self) -> int:
        """Output elements that are compared."""
        return sum(int(array.size) for item in self.expected.values() for array in item.values())

    @property
    def works(self) -> int:
        """Works offered."""
        plan = self.scenario.plan
        return plan.jobs if plan is not None else len(self.scenario.works)

    def predicted_cycles(self) -> int:
        """Cycles by the timing model, nothing stalling."""
        if self.scenario.plan is not None:
            return self.scenario.plan.predicted_cycles
        return int(block(self.spec.block).timing.cycles(self.spec, self.scenario.works))

    def explain(self, stream: str, name: str, beat: int, index: tuple[int, ...]) -> str:
        """The inputs of one expected element."""
        golden = block(self.spec.block).golden
        if self.scenario.plan is not None:
            return str(
                golden.explain(self.spec, self.scenario.plan.work(beat), stream, name, (0, *index))
            )
        start = 0
        for work, size in zip(self.scenario.works, self.sizes[stream], strict=True):
            if beat < start + size:
                return str(golden.explain(self.spec, work, stream, name, (beat - start, *index)))
            start += size
        raise IndexError(f"{stream}: no beat {beat}")


def stimulus(spec: BlockSpec, scenario: Scenario) -> Stimulus:
    """The beats of a scenario, by the block's golden model."""
    if scenario.plan is not None:
        plan = scenario.plan
        return Stimulus(spec, scenario, plan.inputs, {"o": plan.expected()})
    golden = block(spec.block).golden
    ports = source.streams(spec)
    beats = [golden.beats(spec, work) for work in scenario.works]
    results = [golden.expected(spec, work) for work in scenario.works]
    inputs = {
        item.name: pack(item, _joined([entry[item.name] for entry in beats]))
        for item in ports
        if item.direction == "in" and item.name in beats[0]
    }
    outputs = [item for item in ports if item.direction == "out" and item.name in results[0]]
    expected = {item.name: _joined([entry[item.name] for entry in results]) for item in outputs}
    sizes = {
        item.name: tuple(len(next(iter(entry[item.name].values()))) for entry in results)
        for item in outputs
    }
    return Stimulus(spec, scenario, inputs, expected, sizes)


def _joined(parts: Sequence[Mapping[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def compare(
    stim: Stimulus,
    packed: Mapping[str, np.ndarray],
    cycles: Mapping[str, np.ndarray],
    *,
    when: str = "",
) -> Failure | None:
    """The first element, in the order of cycles, that differs from the golden model.

    Args:
        packed: observed beats by output stream; may be fewer than expected (before a reset).
        cycles: cycle of every one of them.
        when: said in the message.
    """
    first: tuple[int, str, int] | None = None
    for name, observed in packed.items():
        wanted = stim.expected_packed[name][: len(observed)]
        if np.array_equal(wanted, observed):
            continue
        beat = int(np.flatnonzero((wanted != observed).any(axis=1))[0])
        found = (int(cycles[name][beat]), name, beat)
        first = found if first is None else min(first, found)
    if first is None:
        return None
    cycle, name, beat = first
    item = next(item for item in source.streams(stim.spec) if item.name == name)
    values = item.unpack(packed[name][beat : beat + 1])
    for port_field in item.fields:
        got = values[port_field.name][0]
        want = np.asarray(stim.expected[name][port_field.name][beat])
        different = np.argwhere(np.atleast_1d(got != want))
        if not len(different):
            continue
        index = tuple(int(i) for i in different[0]) if got.ndim else ()
        inputs = stim.explain(name, port_field.name, beat, index)
        element = f"{name}.{port_field.name}[{', '.join(map(str, (beat, *index)))}]"
        expected, observed_value = int(want[index]), int(got[index])
        return Failure(
            kind="value",
            scenario=stim.scenario.name,
            text=(
                f"{stim.scenario.name}{when}: {element} (beat {beat}): expected {expected}, "
                f"observed {observed_value} in cycle {cycle}\n  inputs: {inputs}"
            ),
            stream=name,
            field=port_field.name,
            beat=beat,
            index=index,
            expected=expected,
            observed=observed_value,
            inputs=inputs,
            cycle=cycle,
        )
    raise AssertionError("packed beats differ, their fields do not")


def check_cycles(stim: Stimulus, observed: int, last_output: int | None) -> Failure | None:
    """The cycle contract, for a run that nothing stalled."""
    predicted = stim.predicted_cycles()
    if observed == predicted:
        return None
    return Failure(
        kind="cycles",
        scenario=stim.scenario.name,
        text=(
            f"{stim.scenario.name}: {stim.works} works back to back took {observed} cycles, "
            f"the timing model says {predicted} (last output in cycle {last_output})"
        ),
        expected=predicted,
        observed=observed,
        cycle=last_output,
    )


def check_accepted(stim: Stimulus, accepted: Mapping[str, int]) -> Failure | None:
    """Every beat that was offered has to be taken."""
    for name, packed in stim.inputs.items():
        if accepted.get(name, 0) != packed.beats:
            return Failure(
                kind="input",
                scenario=stim.scenario.name,
                text=(
                    f"{stim.scenario.name}: {name}: {accepted.get(name, 0)} of {packed.beats} "
                    "beats were taken"
                ),
                stream=name,
                expected=packed.beats,
                observed=accepted.get(name, 0),
            )
    return None


# Coverage ------------------------------------------------------------


def coverage_points(spec: BlockSpec) -> tuple[str, ...]:
    """Every point that a verification has to hit: the block's own, and those of its streams."""
    points = list(block(spec.block).golden.coverage_points(spec))
    for item in source.streams(spec):
        points.append(f"held back={item.name}")
    points += ["no stall", "reset=in mid-job", "works=back to back"]
    if isinstance(spec, GemmSpec) and spec.max_passes > 1:
        points.append("works=back to back, widths differ")
    return tuple(points)


def coverage(stim: Stimulus, *, total_cycles: int, reset_in_work: bool) -> set[str]:
    """Points that a run of a scenario hit.

    Args:
        total_cycles: of the run; a stall that lay beyond its end was none.
        reset_in_work: whether the reset came when some, but not all, beats had been transferred.
    """
    scenario, spec = stim.scenario, stim.spec
    golden = block(spec.block).golden
    found: set[str] = set()
    works = scenario.works if scenario.plan is None else (scenario.plan.work(0),)
    for work in works:
        found.update(golden.coverage(spec, work))
    names = tuple(item.name for item in source.streams(spec))
    patterns = scenario.stalls.patterns(names, scenario.seed) if scenario.stalls else {}
    held = {name for name, bits in patterns.items() if bits[:total_cycles].any()}
    found.update(f"held back={name}" for name in held)
    if not held:
        found.add("no stall")
    if reset_in_work:
        found.add("reset=in mid-job")
    if stim.works > 1:
        found.add("works=back to back")
    if isinstance(spec, GemmSpec):
        widths = [
            (work.job.weight_bits, contract.activation_bits(spec, work.job)) for work in works
        ]
        if any(a != b for a, b in itertools.pairwise(widths)):
            found.add("works=back to back, widths differ")
    return found & set(coverage_points(spec))


# Scenarios ------------------------------------------------------------


def scenarios(spec: BlockSpec, seed: int, *, works: int = 12, large: int = 2) -> Iterator[Scenario]:
    """One seed's scenarios: every kind of stall, resets, back-to-back works, corners.

    Args:
        works: works of a scenario; fewer under stalls, which make each of them long.
        large: works of the largest size.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    ports = source.streams(spec)
    inputs, outputs = source.names(ports, "in"), source.names(ports, "out")

    def some(count: int, *sizes: str) -> tuple[Any, ...]:
        return tuple(random_work(spec, rng, sizes[i % len(sizes)]) for i in range(count))

    tag = f"seed {seed}"
    yield Scenario(name=f"{tag}, no stall", works=some(works, "small", "minimum"), seed=seed)
    directed = corners(spec, rng)
    if directed:
        yield Scenario(name=f"{tag}, corners", works=directed, seed=seed)
    few = max(3, works // 2)
    for name, pattern in (
        ("light stalls", stalls.light()),
        ("heavy stalls", stalls.heavy()),
        ("stalls in bursts", stalls.bursts()),
    ):
        yield Scenario(
            name=f"{tag}, {name}", works=some(few, "small", "minimum"), stalls=pattern, seed=seed
        )
    for name in inputs:
        yield Scenario(
            name=f"{tag}, {name} starved",
            works=some(3, "small", "minimum"),
            stalls=stalls.starved(name),
            seed=seed,
        )
    for name in outputs:
        yield Scenario(
            name=f"{tag}, {name} blocked",
            works=some(few, "minimum", "small"),
            stalls=stalls.blocked(name),
            seed=seed,
        )
    timing = block(spec.block).timing
    for stall_name, pattern_or_none in (("", None), (" under stalls", stalls.light())):
        chosen = some(4, "small")
        # Anywhere in the works: in the first step, between two works, in the last result's wait.
        length = int(timing.cycles(spec, chosen))
        yield Scenario(
            name=f"{tag}, reset in mid-job{stall_name}",
            works=chosen,
            stalls=pattern_or_none,
            seed=seed,
            reset_at=int(rng.integers(2, max(3, length - 1))),
        )
    if large:
        yield Scenario(name=f"{tag}, large", works=some(large, "large"), seed=seed)


def random_work(spec: BlockSpec, rng: np.random.Generator, size: str) -> Any:
    """Corner-heavy random work of the block."""
    return block(spec.block).golden.random_work(spec, rng, size=size)


def corners(spec: BlockSpec, rng: np.random.Generator) -> tuple[Any, ...]:
    """Works that hit what chance may not: for GEMM cores every width, with constant extremes.

    Where jobs choose both widths, each width of one operand meets some of the other's.
    """
    golden: Any = block(spec.block).golden
    if not integers.is_exact(spec):
        return tuple(getattr(golden, "corner_works", lambda *_: ())(spec, rng))
    works = []
    widths, a_widths = range(1, spec.max_weight_bits + 1), spec.activation_bits
    turns = range(max(len(widths), len(a_widths)))
    pairs = [(widths[i % len(widths)], a_widths[i % len(a_widths)]) for i in turns]
    # Down and up again, so that every width follows a wider and a narrower one.
    for position, (bits, a_bits) in enumerate(pairs[::-1] + pairs):
        a_ends = integers.activation_range(spec, a_bits)
        low, high = integers.weight_range(spec.weight_encoding, bits)
        for number, (a, w) in enumerate(itertools.product(a_ends, (low, high))):
            steps = min(spec.max_k_steps, 1 + (number + position) % 2)
            job = Job(
                k_steps=steps,
                weight_bits=bits,
                accumulate=bool(spec.addend and (number + position) % 2),
                activation_bits=a_bits,
            )
            work = golden.random_operands(spec, rng, job)
            z = work.z
            if z is not None:
                z = np.full_like(z, 0 if number % 2 else 2**bits - 1)
            works.append(
                contract.GemmWork(
                    job=job,
                    a=np.full_like(work.a, a),
                    w=np.full_like(work.w, w),
                    z=z,
                    c=work.c,
                    extra=work.extra,
                )
            )
    return tuple(works)


def deepest(spec: BlockSpec, rng: np.random.Generator, *, most_cycles: int) -> Scenario | None:
    """Jobs of the largest K with the operands that drive the accumulator furthest, both ways."""
    if not integers.is_exact(spec):
        return None
    golden: Any = block(spec.block).golden
    bits = spec.max_weight_bits
    job = Job(k_steps=spec.max_k_steps, weight_bits=bits)
    if 2 * contract.job_cycles(spec, job.k_steps, bits) > most_cycles:
        return None
    works = []
    for largest in (True, False):
        base = golden.random_operands(spec, rng, job)
        low, high = integers.weight_range(spec.weight_encoding, bits)
        z = None
        if base.z is not None:
            z = np.full_like(base.z, 0 if largest else 2**bits - 1)
            low, high = 0, 2**bits - 1
        strong = max((spec.activations.low, spec.activations.high), key=abs)
        # Positive sums where largest: strongest activation times the weight of its sign.
        weight = high if (strong > 0) == largest or base.z is not None else low
        if base.z is not None:
            weight = high if largest else low
        elif abs(low) > abs(high) and (strong < 0) == largest:
            weight = low
        works.append(
            contract.GemmWork(
                job=job,
                a=np.full_like(base.a, strong),
                w=np.full_like(base.w, weight),
                z=z,
                extra=base.extra,
            )
        )
    return Scenario(name="largest K, extreme operands", works=tuple(works))


def boundaries(
    spec: BlockSpec, rng: np.random.Generator, *, most_values: int = 64
) -> Iterator[Scenario]:
    """Every lane at the values around each power of two, its neighbours held at a few others.

    Clips, roundings and widths have their limits at such values and at sums of a few of them. A
    random step meets one given sum of two 8 bit operands once in hundreds of steps, and where it
    also takes a given shift and given weights, once in tens of thousands. Here one lane in four
    goes through its values while the others stand at an end, at zero or at one beside it; first
    the activations, against constant and random weights and under each further operand, then the
    weights of every width with their zero points, against constant and random activations. One job
    a step; nothing for blocks that are no GEMM cores.

    Args:
        most_values: an operand that has no more values than this goes through all of them.
    """
    if not integers.is_exact(spec):
        return
    tile, top = spec.tile, spec.max_weight_bits
    a_low, a_high = spec.activations.low, spec.activations.high
    w_low, w_high = integers.weight_range(spec.weight_encoding, top)
    w_step = 2 if spec.weight_encoding == "bipolar" else 1
    a_step = 2 if spec.activations.code == "bipolar" else 1
    a = _ladders(a_low, a_high, a_step, tile.k, most_values)
    # The first rows show one operand as it is: each constant, −1 as the code of all ones.
    w_held = _held(w_low, w_high, w_step)[:, None].repeat(tile.k, axis=1)
    w = _with_random(rng, w_held, w_low, w_high, w_step, 2 * tile.n)
    z = None
    if spec.zero_point:
        z = rng.integers(0, 2**top, size=len(w))
        z[: len(w_held)] = np.where(w_held[:, 0] == w_high, 0, 2**top - 1)
    for extra in _extras(spec):
        yield Scenario(
            name=f"boundary values of A{_named(extra)}",
            plan=gemm.tile(spec, a, w, z=z, weight_bits=top, extra=extra),
        )
    a_held = _held(a_low, a_high, a_step)[:, None].repeat(tile.k, axis=1)
    a = _with_random(rng, a_held, a_low, a_high, a_step, 2 * tile.m)
    # Where all widths make the same single pass, narrow weights are wide ones of small values.
    for bits in range(1 if spec.max_passes > 1 else top, top + 1):
        low, high = integers.weight_range(spec.weight_encoding, bits)
        w = _ladders(low, high, w_step, tile.k, most_values)
        z = None
        if spec.zero_point:
            zeros = np.unique([0, 1, 2 ** (bits - 1), 2**bits - 1])
            z = np.tile(zeros, len(w))
            w = np.repeat(w, len(zeros), axis=0)
        extra = next(iter(_extras(spec)))
        yield Scenario(
            name=f"boundary values of W, {bits} bit",
            plan=gemm.tile(spec, a, w, z=z, weight_bits=bits, extra=extra),
        )


def orders(spec: BlockSpec, rng: np.random.Generator) -> Iterator[Scenario]:
    """One job of one beat an operand, whose inputs come one after another, in every order.

    A GEMM core takes the first beat of its job, of its activations and of its weights each without
    the others and without anybody who takes results: a sender that waits for one of them to be
    taken before it offers the next may not hang. The addend comes last, when a step asks for it.
    Nothing for other blocks.
    """
    if not isinstance(spec, GemmSpec):
        return
    golden: Any = block(spec.block).golden
    names = [name for name in source.names(source.streams(spec), "in") if name != "i_c"]
    bits = min(spec.max_weight_bits, spec.planes_per_cycle)
    for number, order in enumerate(itertools.permutations(names)):
        accumulate = spec.addend and number % 2 == 0
        job = Job(
            k_steps=1,
            weight_bits=bits,
            accumulate=accumulate,
            activation_bits=spec.activation_bits[0],
        )
        yield Scenario(
            name=f"first {', then '.join(order)}",
            works=(golden.random_operands(spec, rng, job),),
            order=(*order, "i_c") if accumulate else order,
        )


def boundary_values(low: int, high: int, step: int = 1, most_values: int = 0) -> np.ndarray:
    """Ascending values of ``low, low + step, …, high``: all if few, else those near a limit.

    A limit is an end of the range, zero, or a power of two of either sign; near it is what lies no
    more than one step away.
    """
    values = np.arange(low, high + 1, step)
    if len(values) <= most_values:
        return values
    reach = max(abs(low), abs(high))
    powers = 2 ** np.arange(int(reach).bit_length() + 1)
    limits = np.concatenate([[low, 0, high], powers, -powers])
    near = np.abs(values[:, None] - limits).min(axis=1)
    return values[near <= step]


def _held(low: int, high: int, step: int) -> np.ndarray:
    """What neighbours stand at: the ends, and zero and the values beside it (odd ones alone)."""
    wanted = np.array([high, low, -1, 0, 1])
    inside = wanted[(wanted >= low) & (wanted <= high) & ((wanted - low) % step == 0)]
    return inside[np.sort(np.unique(inside, return_index=True)[1])]


def _ladders(low: int, high: int, step: int, lanes: int, most_values: int) -> np.ndarray:
    """``(rows, lanes)``: of every four lanes one at each of the boundary values in its turn."""
    values, held = boundary_values(low, high, step, most_values), _held(low, high, step)
    turns = min(lanes, 4)
    moving = np.arange(lanes) % turns == np.arange(turns)[:, None]
    rows = np.where(
        moving[:, None, None, :], values[None, None, :, None], held[None, :, None, None]
    )
    return rows.reshape(-1, lanes)


def _with_random(
    rng: np.random.Generator, rows: np.ndarray, low: int, high: int, step: int, count: int
) -> np.ndarray:
    """The rows, and random ones behind them up to at least ``count``."""
    more = max(0, count - len(rows))
    drawn = low + step * rng.integers(0, (high - low) // step + 1, size=(more, rows.shape[1]))
    return np.concatenate([rows, drawn])


def exhaustive(spec: BlockSpec, *, most_jobs: int) -> Iterator[Scenario]:
    """Every operand of one step, where they are few enough: nothing yielded otherwise.

    For a GEMM core every pair of a row of A and a row of W (with its zero point) of every width,
    each pair at every place of the tile if that stays within ``most_jobs``, else at one. Other
    blocks may offer ``golden.exhaustive_works(spec)``, None if there are too many, and other GEMM
    cores ``golden.exhaustive_gemms(spec)``, pairs of a name and arguments of ``sim.gemm.tile``.
    """
    if not integers.is_exact(spec):
        works = getattr(block(spec.block).golden, "exhaustive_works", lambda _: None)(spec)
        if works is not None:
            yield Scenario(name="exhaustive", works=tuple(works))
        if isinstance(spec, GemmSpec):
            whole = getattr(block(spec.block).golden, "exhaustive_gemms", lambda _: ())
            for name, operands in whole(spec):
                yield Scenario(name=f"exhaustive, {name}", plan=gemm.tile(spec, **operands))
        return
    tile = spec.tile
    a_step = 2 if spec.activations.code == "bipolar" else 1
    for bits, a_bits in itertools.product(range(1, spec.max_weight_bits + 1), spec.activation_bits):
        a_low, a_high = integers.activation_range(spec, a_bits)
        a_values = np.arange(a_low, a_high + 1, a_step)
        a_count = len(a_values) ** tile.k
        low, high = integers.weight_range(spec.weight_encoding, bits)
        step = 2 if spec.weight_encoding == "bipolar" else 1
        w_values = np.arange(low, high + 1, step)
        zeros = 2**bits if spec.zero_point else 1
        w_count = len(w_values) ** tile.k * zeros
        jobs = -(-a_count // tile.m) * -(-w_count // tile.n)
        if a_count > 1 << 16 or w_count > 1 << 16 or jobs > most_jobs:
            continue
        a = _every(a_values, tile.k)
        w = np.repeat(_every(w_values, tile.k), zeros, axis=0)
        z = np.tile(np.arange(zeros), len(w) // zeros) if spec.zero_point else None
        turns = tile.m * tile.n if jobs * tile.m * tile.n <= most_jobs else 1
        for extra in _extras(spec):
            for turn in range(turns):
                down, right = divmod(turn, tile.n)
                yield Scenario(
                    name=f"exhaustive, {bits} bit weights, {a_bits} bit activations"
                    f"{_named(extra)}, turn {turn}",
                    plan=gemm.tile(
                        spec,
                        np.roll(a, down, axis=0),
                        np.roll(w, right, axis=0),
                        z=None if z is None else np.roll(z, right),
                        weight_bits=bits,
                        activation_bits=a_bits,
                        extra=extra,
                    ),
                )


def _every(values: np.ndarray, lanes: int) -> np.ndarray:
    """``(len(values) ** lanes, lanes)``: every vector over some values."""
    grids = np.meshgrid(*([values] * lanes), indexing="ij")
    return np.stack([grid.reshape(-1) for grid in grids], axis=1)


def _extras(spec: IntegerGemmSpec) -> Sequence[Mapping[str, np.ndarray]]:
    """Every setting of a core's further operands that an exhaustive run goes through."""
    if getattr(spec, "quantized", False):
        shifts = range(getattr(spec, "exact_entry_bits", 1))
        return [{"entry_shift": np.array(shift)} for shift in shifts]
    return [{}]


def _named(extra: Mapping[str, np.ndarray]) -> str:
    return "".join(f", {name} {int(value)}" for name, value in extra.items())


def speed(spec: BlockSpec, rng: np.random.Generator, cycles: int) -> Scenario:
    """Random works without a stall that take at least so many cycles."""
    works: list[Any] = []
    timing = block(spec.block).timing
    while True:
        works += [random_work(spec, rng, "large") for _ in range(max(1, len(works)))]
        if timing.cycles(spec, works) >= cycles:
            return Scenario(name="speed", works=tuple(works))

"""RTL of scale-and-accumulate."""

from __future__ import annotations

from collections.abc import Sequence

from amaranth.hdl import Cat, ClockSignal, Instance, Module, Mux, ResetSignal, Signal, Value
from amaranth.lib import wiring

from hw.block import Design
from hw.blocks.scale_accumulate import golden
from hw.blocks.scale_accumulate.lane import Lane
from hw.blocks.scale_accumulate.spec import ScaleAccumulateSpec
from hw.lib.gemm_shell import component_streams, field_slice
from hw.lib.heap import LIBRARY
from hw.lib.select import choice


class ScaleAccumulate(wiring.Component):
    """Partial sums and scales in, FP32 results out, ``lanes`` outputs a cycle.

    Streams are those of ``golden``. Every input is registered at its port. A job is a sequence of
    rounds, one a group and then one for each scale that closes it; in a round every lane works on
    one output after the other. A round begins when its operands are there and the sums that it
    reads have been written. Results stand in the lanes until they are taken; the next job is then
    taken in the same cycle.

    Latency and interval: see ``timing``. Part by name: ``<name>_lane``.
    """

    def __init__(self, spec: ScaleAccumulateSpec, lane: Lane):
        self.spec = spec
        self.lane = lane
        self.streams = {item.name: item for item in golden.streams(spec)}
        super().__init__(component_streams(tuple(self.streams.values())))

    def elaborate(self, platform: object) -> Module:
        m = Module()
        spec, lane = self.spec, self.lane
        closing = spec.closing

        # Job: counters of what is left, and which round is next.
        active, draining = Signal(), Signal()
        taken, begin = Signal(), Signal()
        job = self.streams["i_job"]
        groups_left = Signal(job.fields[0].width)
        m.d.comb += [
            taken.eq(self.o.valid & self.o.ready),
            self.i_job.ready.eq(~active | taken),
            begin.eq(self.i_job.valid & self.i_job.ready),
        ]
        if spec.tensor_scale:
            tensor = Signal(32, reset_less=True)
            with m.If(begin):
                m.d.sync += tensor.eq(field_slice(job, self.i_job.payload, "tensor_scale"))

        # Round 0 is a group, the others are those of `closing` in their order.
        rounds = Signal(max(1, len(closing).bit_length()), name="round")
        first = Signal()
        turn = Signal(lane.turn_bits)
        wait = Signal(range(max(spec.turns, lane.depth) + 1))
        fire, last_turn, last_group, last = Signal(), Signal(), Signal(), Signal()
        in_group = Signal()
        m.d.comb += [
            in_group.eq(~rounds.any()),
            last_turn.eq(turn == spec.turns - 1),
            last_group.eq(~groups_left.any()),
            last.eq(last_turn & last_group & (rounds == len(closing))),
        ]

        # Operands at the ports.
        held: dict[str, Signal] = {}
        full: dict[str, Signal] = {}
        release: dict[str, Signal] = {}
        for name, item in self.streams.items():
            if name in ("i_job", "o"):
                continue
            port = getattr(self, name)
            held[name] = Signal(item.width, name=f"{name}_held", reset_less=True)
            full[name] = Signal(name=f"{name}_full")
            release[name] = Signal(name=f"{name}_release")
            m.d.comb += port.ready.eq(~full[name] | release[name])
            m.d.sync += full[name].eq(port.valid | (full[name] & ~release[name]))
            with m.If(port.valid & port.ready):
                m.d.sync += held[name].eq(port.payload)

        groupwise = ["i_p", "i_s"]
        groupwise += ["i_r"] if spec.zero_point_bits else []
        groupwise += ["i_a"] if spec.scales_groups else []
        ready = Signal()
        m.d.comb += ready.eq(Cat(*(full[name] for name in groupwise)).all())
        for index, what in enumerate(closing, 1):
            needed = ["i_a"] if what == "activation" else []
            needed += ["i_b"] if spec.bias_format is not None and index == len(closing) else []
            with m.If(rounds == index):
                m.d.comb += ready.eq(Cat(*(full[name] for name in needed)).all())
        m.d.comb += fire.eq(active & ~draining & ~wait.any() & ready)
        for name in groupwise:
            m.d.comb += release[name].eq(fire & last_turn & in_group)

        with m.If(wait.any()):
            m.d.sync += wait.eq(wait - 1)
        with m.If(fire):
            m.d.sync += turn.eq(Mux(last_turn, 0, turn + 1))
            with m.If(last_turn):
                m.d.sync += first.eq(0)
                with m.If(last):
                    m.d.sync += draining.eq(1)
                with m.Elif(in_group & ~last_group):
                    m.d.sync += [
                        groups_left.eq(groups_left - 1),
                        wait.eq(max(lane.depth + 1 - lane.add_at - spec.turns, 0)),
                    ]
                with m.Else():
                    read_at = lane.multiply_at if lane.closes else lane.add_at
                    m.d.sync += [
                        rounds.eq(rounds + 1),
                        wait.eq(max(lane.depth + 1 - read_at - spec.turns, 0)),
                    ]
        with m.If(taken):
            m.d.sync += [active.eq(0), draining.eq(0)]
        with m.If(begin):
            m.d.sync += [
                active.eq(1),
                first.eq(1),
                rounds.eq(0),
                groups_left.eq(field_slice(job, self.i_job.payload, "groups_m1")),
            ]

        # What goes with an output down the lanes.
        slots = {"valid": fire, "turn": turn, "first": first, "round": rounds, "last": last}
        staged: list[dict[str, Value]] = [dict(slots)]
        for stage in range(1, lane.depth + 1):
            following: dict[str, Value] = {}
            for name, value in staged[-1].items():
                register = Signal(value.shape(), name=f"{name}_{stage}", reset_less=name != "valid")
                m.d.sync += register.eq(value)
                following[name] = register
            staged.append(following)
        write = staged[-1]
        m.d.sync += self.o.valid.eq(
            (write["valid"] & write["last"]) | (self.o.valid & ~self.o.ready)
        )
        # What closes a job is used behind the first stage; it is kept until then.
        for name, stage, index in (
            ("i_a", lane.multiply_at, closing.index("activation") + 1 if spec.scales_jobs else 0),
            ("i_b", lane.bias_at, len(closing)),
        ):
            if name in release and name not in groupwise:
                slot = staged[stage]
                at_end = slot["turn"] == spec.turns - 1
                m.d.comb += release[name].eq(slot["valid"] & at_end & (slot["round"] == index))

        self._lanes(m, held, staged, tensor if spec.tensor_scale else None)
        return m

    def _lanes(
        self,
        m: Module,
        held: dict[str, Signal],
        staged: list[dict[str, Value]],
        tensor: Value | None,
    ) -> None:
        spec, lane = self.spec, self.lane
        close, adding, write = staged[lane.multiply_at], staged[lane.add_at], staged[-1]
        shared: dict[str, Value] = {
            "first": adding["first"],
            "write": write["valid"] & ~self.o.valid,
        }
        for name, slot in (("turn_close", close), ("turn_add", adding), ("turn_write", write)):
            shared[name] = slot["turn"]
        if lane.closes:
            shared["close"] = close["round"].any()
        if tensor is not None:
            shared["tensor"] = tensor
        shared["close_tensor"] = close["round"] == len(spec.closing)
        shared["closing"] = adding["round"].any()
        shared["bias_turn"] = adding["round"] == len(spec.closing)

        columns = [lane_index(spec, number) for number in range(spec.lanes)]
        results: list[Signal] = []
        made: dict[tuple[object, ...], Value] = {}

        def choose(name: str, stream: str, field: str, places: Sequence[int], at: int) -> Value:
            """One element of a field in every turn, ``at`` so many stages."""
            key = (stream, field, tuple(places), at)
            if key in made:
                return made[key]
            item = self.streams[stream]
            bits = next(entry.width for entry in item.fields if entry.name == field)
            words = field_slice(item, held[stream], field)
            value: Value = words.word_select(places[0], bits)
            if len(set(places)) > 1:
                chosen = Signal(bits, name=name)
                with m.Switch(staged[at]["turn"]):
                    for number, place in enumerate(places):
                        with choice(m, number, len(places)):
                            m.d.comb += chosen.eq(words.word_select(place, bits))
                value = chosen
            made[key] = value
            return value

        members = set(lane.signature.members)
        for number, outputs in enumerate(columns):
            rows = [output // spec.tile.n for output in outputs]
            cols = [output % spec.tile.n for output in outputs]
            own = {
                "p": choose(f"p_{number}", "i_p", "p", outputs, 0),
                "w_scale": choose(f"w_scale_{number}", "i_s", "w_scale", cols, 0),
            }
            for name in ("exponent", "invalid") if spec.partial_exponent_bits else ():
                own[name] = choose(f"{name}_{number}", "i_p", name, rows, 0)
            if spec.zero_point_bits:
                own["z"] = choose(f"z_{number}", "i_s", "z", cols, 0)
                own["r"] = choose(f"r_{number}", "i_r", "r", rows, 0)
            if spec.scales_groups:
                own["a_scale"] = choose(f"a_scale_{number}", "i_a", "a_scale", rows, 0)
            if spec.scales_jobs:
                own["a_scale"] = choose(
                    f"a_scale_{number}", "i_a", "a_scale", rows, lane.multiply_at
                )
            if spec.bias_format is not None:
                own["bias"] = choose(f"bias_{number}", "i_b", "bias", cols, lane.bias_at)
            result = Signal(spec.turns * 32, name=f"result_{number}")
            m.submodules[f"lane_{number}"] = Instance(
                f"{spec.name}_lane",
                i_clk=ClockSignal(),
                i_rst=ResetSignal(),
                o_o=result,
                **{f"i_{k}": v for k, v in {**shared, **own}.items() if k in members},
            )
            results.append(result)
        words = [
            results[output % spec.lanes].word_select(output // spec.lanes, 32)
            for output in range(spec.outputs)
        ]
        m.d.comb += self.o.payload.eq(Cat(*words))


def lane_index(spec: ScaleAccumulateSpec, lane: int) -> list[int]:
    """Outputs of a lane, turn by turn."""
    return [turn * spec.lanes + lane for turn in range(spec.turns)]


def build(spec: ScaleAccumulateSpec) -> Design:
    """The design of a specification."""
    lane = Lane(spec)
    return Design(
        top=ScaleAccumulate(spec, lane), parts={f"{spec.name}_lane": lane}, library=LIBRARY
    )

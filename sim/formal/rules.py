"""Monitors of the stream rules, written from the list of a block's ports."""

from __future__ import annotations

from collections.abc import Sequence

from hw.streams import Stream, Wire
from sim.formal.prove import Monitor

WAITING = ("i_c",)
"""Inputs that are ready only when a job asks for them; all others are when a block is idle.

Blocks can name others, as ``golden.WAITING``.
"""


def header(
    top: str,
    streams: Sequence[Stream],
    *,
    driven: bool = False,
    extra: Sequence[str] = (),
    wires: Sequence[Wire] = (),
) -> str:
    """The beginning of a monitor: its ports, the design, and the first cycle in reset.

    Inputs of the design are inputs of the monitor, so a proof is about all of their values.

    Args:
        driven: the monitor itself drives the design; its streams are wires.
        extra: further inputs of the monitor.
        wires: ports of the design beside its streams.
    """
    inputs = ["input clk", "input rst", *extra]
    lines: list[str] = []
    ports = [".clk(clk)", ".rst(rst)"]
    own = "wire" if driven else "input"
    given = lines if driven else inputs
    for stream in streams:
        payload = f"[{stream.width - 1}:0] {stream.name}__payload"
        valid, ready = f"{stream.name}__valid", f"{stream.name}__ready"
        if stream.direction == "in":
            given += [f"{own} {payload}", f"{own} {valid}"]
            lines.append(f"(* keep *) wire {ready}")
        else:
            given.append(f"{own} {ready}")
            lines += [f"wire {payload}", f"(* keep *) wire {valid}"]
        ports += [f".{stream.name}__{kind}({stream.name}__{kind})" for kind in KINDS]
    for wire in wires:
        named = f"[{wire.width - 1}:0] {wire.name}"
        (inputs if wire.direction == "in" else lines).append(
            f"{'input' if wire.direction == 'in' else 'wire'} {named}"
        )
        ports.append(f".{wire.name}({wire.name})")
    text = [
        f"module monitor({', '.join(inputs)});",
        *(f"{line};" for line in lines),
        f"{top} dut({', '.join(ports)});",
        "reg started = 0;",
        "always @(posedge clk) started <= 1;",
        "always @* if (!started) assume(rst);",
    ]
    return "\n".join(text) + "\n"


KINDS = ("payload", "valid", "ready")


def footer(names: Sequence[str]) -> str:
    """The end of a monitor: one assertion a check."""
    lines = [f"always @* assert(ok_{name});" for name in names]
    return "\n".join([*lines, "endmodule"]) + "\n"


def stream_rules(
    top: str,
    streams: Sequence[Stream],
    *,
    latency: int,
    waiting: Sequence[str] = WAITING,
    wires: Sequence[Wire] = (),
) -> Monitor:
    """Results hold until they are taken, whatever the producers do; reset empties the block.

    Every check speaks of two cycles that follow one another and assumes nothing of the state
    before: reset is shown from every state, reachable or not.

    Args:
        latency: cycles from the first input transfer to the transfer of a result, both counted.
        waiting: inputs that are ready only when they are asked for.
        wires: ports beside the streams; those that are inputs may do anything.
    """
    text = [header(top, streams, wires=wires)]
    checks: dict[str, str] = {}
    outs = [stream for stream in streams if stream.direction == "out"]
    text.append("reg was_reset = 0;\nalways @(posedge clk) was_reset <= rst;\n")
    for stream in outs:
        name = stream.name
        text.append(
            f"reg stalled_{name} = 0;\n"
            f"reg [{stream.width - 1}:0] before_{name};\n"
            "always @(posedge clk) begin\n"
            f"  stalled_{name} <= {name}__valid & ~{name}__ready & ~rst;\n"
            f"  before_{name} <= {name}__payload;\n"
            "end\n"
            f"(* keep *) wire ok_valid_holds_{name} = ~stalled_{name} | {name}__valid;\n"
            f"(* keep *) wire ok_payload_holds_{name} ="
            f" ~stalled_{name} | {name}__payload == before_{name};\n"
            f"(* keep *) wire ok_reset_empties_{name} = ~was_reset | ~{name}__valid;\n"
        )
        checks |= {
            f"valid_holds_{name}": f"a result on {name} stays valid until it is taken",
            f"payload_holds_{name}": f"the payload of {name} stays until it is taken",
            f"reset_empties_{name}": "one cycle of reset from any state leaves no result",
        }
    for stream in streams:
        if stream.direction == "in":
            name = stream.name
            wanted = f"~{name}__ready" if name in waiting else f"{name}__ready"
            text.append(f"(* keep *) wire ok_reset_idles_{name} = ~was_reset | {wanted};\n")
            state = "asks for none" if name in waiting else "is ready"
            checks[f"reset_idles_{name}"] = f"one cycle of reset from any state, and {name} {state}"
    # A result that has stalled for a cycle.
    stalls = " | ".join(f"stalled_{stream.name}" for stream in outs)
    text.append(f"(* keep *) reg witness = 0;\nalways @(posedge clk) if ({stalls}) witness <= 1;\n")
    text.append(footer(list(checks)))
    return Monitor(
        text="".join(text),
        checks=checks,
        witness="witness",
        # Reset, the transfers, a result that stalls, and two registers to say so.
        witness_by=latency + 5,
        streams=tuple(streams),
    )

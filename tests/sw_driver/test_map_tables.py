"""Where the tables of a LUT core come from: cycles and bytes, beat by beat."""

from __future__ import annotations

import itertools
import math
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hw.block import block, spec_from_dict
from hw.blocks.fused_tables.spec import FusedTablesSpec
from hw.blocks.lut_tables.spec import LutTablesSpec
from rtl_gen.build import verilog
from rtl_gen.errors import InputError
from sim.toolchain import verilator_binary, verilator_environment
from sw_driver.architecture import Architecture, LayerGroup, Mlp, load_architecture
from sw_driver.mapper.cache_format import parse_cache
from sw_driver.mapper.choices import FUSED_BITS
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.many import evaluate_many
from sw_driver.mapper.mapping import Choices, Mapping, OperatorCost, map_workload
from sw_driver.mapper.operator_cost import FUSED_FACTOR_BITS
from sw_driver.mapper.workload import decode_workload, draft_workload, prefill_workload

LAYERS, HEADS, GROUP, DIM, HIDDEN = 3, 2, 3, 16, 64


def spec(source: str = "port", **more: Any) -> Any:
    settings: dict[str, Any] = {
        "block": "lut_core",
        "name": "c",
        "tile": {"m": 2, "n": 8, "k": 16},
        "weights": {"encoding": "unsigned", "max_bits": 4},
        "table": {"source": source, "group": 4},
        "max_k": 256,
    }
    return spec_from_dict({**settings, **more})


def core(source: str = "port", **more: Any) -> Core:
    return core_of(spec(source, **more))


def small() -> Architecture:
    arch = load_architecture("llama-2-70b")
    group = LayerGroup(count=LAYERS, window=None, mlp=Mlp(gated=True, width=96))
    sizes = {"hidden": HIDDEN, "heads": HEADS * GROUP, "kv_heads": HEADS, "head_dim": DIM}
    return replace(arch, name="small", vocab=50, layer_groups=(group,), rotary=DIM, **sizes)


def mapped(tables: str | None, work: Any = None, **more: Any) -> Mapping:
    work = work or prefill_workload(small(), 5, context=20, batch=2)
    return map_workload(work, core(), Choices(tables=tables, **more))  # type: ignore[arg-type]


def row(mapping: Mapping, name: str) -> OperatorCost:
    (item,) = [item for item in mapping.operators if item.name == name]
    return item


def test_a_unit_in_front_adds_its_latency_and_no_bytes() -> None:
    inside = map_workload(mapped(None).workload, core("internal"))
    unit, default = mapped("unit"), mapped(None)
    assert (unit.cycles, unit.bytes) == (default.cycles, default.bytes)
    assert unit.bytes == inside.bytes
    runs = 3 * 9 + 1  # nine products of three layers, and the logits
    assert unit.cycles - inside.cycles == 2 * runs
    # By the blocks' own timing: a table a step goes through the unit into the core's first.
    tables: Any = block("lut_tables")
    one = LutTablesSpec(name="t", tile={"m": 2, "k": 16})
    beats = [type("Work", (), {"a": [0] * 7})]
    assert tables.timing.cycles(one, beats) - 7 == core().table_latency == 2


def test_a_fused_unit_takes_floats() -> None:
    assert FusedTablesSpec(name="f").source.width == FUSED_BITS
    assert FusedTablesSpec(name="f").factor.width == FUSED_FACTOR_BITS
    found, plain = mapped("fused"), mapped("unit")
    assert found.cycles - plain.cycles == (core().fused_latency - core().table_latency) * 28
    q = row(found, "q")
    # Ten rows of 64 elements at 16 bits, 96 results too; 96 scales of weights with a zero point,
    # a multiplier a row in FP32, 64 gains.
    assert q.activation_bytes == LAYERS * 10 * HIDDEN * 2
    assert q.output_bytes == LAYERS * 10 * 96 * 2
    assert q.scale_bytes == LAYERS * (math.ceil(96 * 20 / 8) + 10 * 4 + HIDDEN * 2)
    assert row(found, "scores").activation_bytes == LAYERS * 2 * HEADS * 5 * GROUP * DIM * 2
    assert "quantize activations" not in dict(found.vector)
    assert "quantize activations" in dict(plain.vector)


def test_tables_in_memory_linear() -> None:
    """A pass of table beats before the product, its tables written, then read as A."""
    (port,) = [s for s in block("lut_core").golden.streams(spec()) if s.name == "i_t"]
    assert core().table_step_bits == port.width // 2
    found, plain = row(mapped("memory"), "gate"), row(mapped("unit"), "gate")
    beats = LAYERS * math.ceil(10 / 2) * math.ceil(HIDDEN / 16)
    assert found.cycles == plain.cycles + beats
    table_row = HIDDEN // 16 * core().table_step_bits
    written = math.ceil(10 * table_row / 8)
    assert found.activation_bytes == LAYERS * (10 * HIDDEN + 2 * written)
    assert found.weight_bytes == plain.weight_bytes
    # Without a buffer the tables are read again for every tile of columns and every pass.
    tight = row(mapped("memory", buffer_bytes=0), "gate")
    assert tight.activation_reads == 96 // 8 * 4
    assert tight.activation_bytes == LAYERS * (10 * HIDDEN + (1 + 48) * written)


@pytest.mark.parametrize("kind", ["prefill", "decode", "draft"])
def test_tables_in_memory_attention(kind: str) -> None:
    arch = small()
    if kind == "prefill":
        work = prefill_workload(arch, 5, context=20, batch=2)
        steps = [[20 + token + 1 for token in range(5)]]
    elif kind == "decode":
        work = decode_workload(arch, 4, context=20, batch=2)
        steps = [[20 + step + 1] for step in range(4)]
    else:
        work = draft_workload(arch, 3, drafted=2, accept=0.0, context=20, batch=2)
        steps = [[20 + step + token + 1] for step in range(3) for token in range(2)]
    found, plain = mapped("memory", work), mapped("unit", work)
    step_bits = core().table_step_bits
    times = LAYERS * 2 * HEADS
    beats = sum(math.ceil(len(seen) * GROUP / 2) for seen in steps)
    scores, before = row(found, "scores"), row(plain, "scores")
    assert scores.cycles == before.cycles + times * beats
    rows = sum(len(seen) * GROUP for seen in steps)
    size = rows * DIM + math.ceil(rows * step_bits / 8)
    read = rows * math.ceil(step_bits / 8)
    assert scores.activation_bytes == times * (size + read)
    # Probabilities: a tile of two rows has a beat for every 16 tokens that one of them sees.
    beats = 0
    for seen in steps:
        every = [tokens for tokens in seen for _ in range(GROUP)]
        for first in range(0, len(every), 2):
            beats += math.ceil(max(every[first : first + 2]) / 16)
    values, before = row(found, "values"), row(plain, "values")
    assert values.cycles == before.cycles + times * beats
    moved = 2 * times * math.ceil(beats * 2 * step_bits / 8)
    assert values.activation_bytes == before.activation_bytes + moved


CHAIN = """
module chain(input clk, input rst, input [{job}:0] job, output taken, output given);
  wire [{t}:0] t;
  wire valid, ready, {wires};
  assign taken = !rst & ({taken});
  unit u(.clk(clk), .rst(rst), {inputs}, .o__valid(valid), .o__ready(ready), .o__payload(t));
  c core(.clk(clk), .rst(rst), .i_job__valid(1'b1), .i_job__payload(job), .i_w__valid(1'b1),
    .i_w__payload({w}'h5), .i_t__valid(valid), .i_t__ready(ready), .i_t__payload(t),
    .o__valid(given), .o__ready(1'b1));
endmodule
"""

RUN = """
#include "Vchain.h"
#include <cstdio>
#include <cstdlib>
int main(int count, char **words) {
  int job = atoi(words[1]), jobs = atoi(words[2]), first = -1, done = 0;
  Vchain chain;
  for (int cycle = -3; done < jobs && cycle < 9999; cycle++) {
    chain.rst = cycle < 0;
    chain.job = job;
    chain.clk = 0;
    chain.eval();
    if (first < 0 && chain.taken) first = cycle;
    if (chain.given && cycle >= 0 && ++done == jobs) printf("%d", cycle - first + 1);
    chain.clk = 1;
    chain.eval();
  }
}
"""


@pytest.mark.slow
@pytest.mark.parametrize("tables", ["unit", "fused"])
def test_cycles_of_a_unit_in_front_are_the_rtl_s(tables: str, tmp_path: Path) -> None:
    """The emitted unit and core, one behind the other: first input to last result."""
    tile = {"m": 1, "n": 2, "k": 4}
    weights = {"encoding": "unsigned", "max_bits": 2}
    behind = spec(tile=tile, weights=weights, table={"source": "port", "group": 2}, max_k=64)
    unit: Any = LutTablesSpec if tables == "unit" else FusedTablesSpec
    before = unit(name="unit", tile={"m": 1, "k": 4})
    ports = {port.name: port for port in block(behind.block).golden.streams(behind)}
    inputs = [port for port in block(before.block).golden.streams(before) if port.name != "o"]
    text = CHAIN.format(
        job=ports["i_job"].width - 1,
        t=ports["i_t"].width - 1,
        w=ports["i_w"].width,
        wires=", ".join(f"r_{port.name}" for port in inputs),
        taken=" | ".join(f"r_{port.name}" for port in inputs),
        inputs=", ".join(
            f".{port.name}__valid(!rst), .{port.name}__ready(r_{port.name}), "
            f".{port.name}__payload({port.width}'d0)"
            for port in inputs
        ),
    )
    sources = {"u.v": verilog(before), "c.v": verilog(behind), "t.v": text, "main.cpp": RUN}
    for name, content in sources.items():
        (tmp_path / name).write_text(content)
    words = ["--cc", "--exe", "--build", "--top-module", "chain", "-Wno-fatal", "-Wno-lint"]
    subprocess.run(
        [str(verilator_binary()), *words, *sources, "--Mdir", "made", "-o", "chain"],
        cwd=tmp_path,
        env=verilator_environment(),
        check=True,
        capture_output=True,
    )
    on = core_of(behind)
    latency = {"unit": on.table_latency, "fused": on.fused_latency}[tables]
    for bits, jobs, steps in itertools.product((1, 2), (1, 3), (1, 5, 16)):
        job = (bits - 1) << ports["i_job"].fields[0].bits | (steps - 1)
        done = subprocess.run(
            [str(tmp_path / "made/chain"), str(job), str(jobs)],
            check=True,
            capture_output=True,
            text=True,
        )
        start, step = on.job_cycles[bits - 1]
        assert int(done.stdout) == on.latency + latency + jobs * (start + step * steps)


def test_tables_that_do_not_fit() -> None:
    work = decode_workload(small(), 1, context=3)
    mac = core_of(spec_from_dict({"block": "mac_core", "name": "mac"}))
    unsigned = core(activations={"bits": 8, "signed": False})
    for on, tables, text in (
        (mac, "core", "must not be given for mac, a mac_core that takes no tables, got core"),
        (core("internal"), "unit", "must be core for c, .* no port for tables, got unit"),
        (core(), "core", "must be unit, fused, memory for c, .*, got core"),
        (unsigned, "fused", "fused: needs signed activations, c has unsigned ones"),
    ):
        with pytest.raises(InputError, match=f"tables: {text}"):
            map_workload(work, on, Choices(tables=tables))  # type: ignore[arg-type]
    inputs = decode_workload(small(), 1, context=3, inputs_cached=True)
    with pytest.raises(InputError, match="tables: memory: must not be asked beside kv xquant"):
        map_workload(inputs, core(), Choices(tables="memory", kv=parse_cache("xquant:4")[1]))
    with pytest.raises(InputError, match="tables: fused: must be core or unit here"):
        evaluate_many([core()], [work], Choices(tables="fused"))
    many = evaluate_many([core()], [work], Choices(tables="unit"))
    assert many.cycles[0, 0] == map_workload(work, core()).cycles

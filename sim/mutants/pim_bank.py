"""Mutants of a bank's unit."""

from __future__ import annotations

from sim.mutants.entry import Entry, Specs

RTL = "hw.blocks.pim_bank.rtl"

CONTROL = "integers"

_MAC = {"block": "mac_core", "activations": {"bits": 4}, "weights": {"bits": 4}, "max_k": 64}

SPECS: Specs = {
    # Sums in a cycle, a table of two columns.
    "integers": {
        "column_bits": 64,
        "unit": {
            "arithmetic": _MAC,
            "accumulators": 4,
            "accumulator_bits": 20,
            "activation": {"segments": 4, "segment_log2": 6, "fraction": 5},
        },
    },
    # Sums in three cycles, a table of one column.
    "floats": {
        "column_bits": 64,
        "unit": {
            "arithmetic": {
                "block": "fp_core",
                "activations": {"format": "fp8_e4m3"},
                "weights": {"format": "bf16"},
                "max_k": 32,
            },
            "activation": {"segments": 8, "segment_log2": 0},
        },
    },
    # Two passes.
    "tables": {
        "column_bits": 64,
        "unit": {
            "arithmetic": {
                "block": "lut_core",
                "activations": {"bits": 2},
                "weights": {"encoding": "twos_complement", "max_bits": 2},
                "max_k": 256,
            },
            "accumulators": 1,
            "activation": {"segments": 0},
        },
    },
}


def _on(spec: str) -> dict[str, str]:
    return {"pim_bank": spec}


INTEGERS, FLOATS, TABLES = _on("integers"), _on("floats"), _on("tables")

MUTANTS: tuple[Entry, ...] = (
    ("op_ready_early", RTL, INTEGERS, "an operation is taken over one that waits",
     "self.i_op.ready.eq(~op_full | begin)", "self.i_op.ready.eq(1)"),
    ("op_ready_late", RTL, INTEGERS, "a bubble between operations",
     "self.i_op.ready.eq(~op_full | begin)", "self.i_op.ready.eq(~op_full)"),
    ("op_not_held", RTL, INTEGERS, "an operation is loaded without ready",
     "with m.If(self.i_op.valid & self.i_op.ready):", "with m.If(self.i_op.valid):"),
    ("op_never_ends", RTL, INTEGERS, "an operation is done twice",
     "op_full.eq(self.i_op.valid | (op_full & ~begin))", "op_full.eq(self.i_op.valid | op_full)"),
    ("pair_alone", RTL, INTEGERS, "a column goes without its operand",
     "i_i_w__valid=pair & core_a_ready,", "i_i_w__valid=self.i_w.valid & some & ~for_table,"),
    ("operand_alone", RTL, INTEGERS, "an operand goes without its column",
     "self.i_a.ready.eq(core_a_ready & core_w_ready & self.i_w.valid & some & ~for_table)",
     "self.i_a.ready.eq(core_a_ready & core_w_ready & some & ~for_table)"),
    ("table_to_core", RTL, INTEGERS, "a table's columns wait for operands",
     "some & (for_table | (core_a_ready & core_w_ready & self.i_a.valid))",
     "some & (core_a_ready & core_w_ready & self.i_a.valid)"),
    ("columns_beyond", RTL, INTEGERS, "columns are taken before their operation",
     "some & (for_table | (core_a_ready & core_w_ready & self.i_a.valid))",
     "(for_table | (core_a_ready & core_w_ready & self.i_a.valid))"),
    ("jobs_without_end", RTL, INTEGERS, "a job goes when there is none",
     "jobs.pop.eq(job_ready & jobs.some)", "jobs.pop.eq(job_ready)"),
    ("steps_short", RTL, INTEGERS, "a dot product lacks its last column",
     'steps.eq(op["k_steps_m1"] + 1)', 'steps.eq(op["k_steps_m1"])'),
    ("passes_forgotten", RTL, TABLES, "a dot product has one pass",
     "left.eq(steps * len(spec.passes))", "left.eq(steps)"),
    ("bits_narrow", RTL, TABLES, "the core is told of narrower weights",
     "job = Job(k_steps=1, weight_bits=core.max_weight_bits)",
     "job = Job(k_steps=1, weight_bits=core.max_weight_bits - 1)"),
    ("mac_early", RTL, FLOATS, "a dot product begins in the last one's sum",
     "m.d.sync += gap.eq(timing.turn(spec) - 2)", "m.d.sync += gap.eq(0)"),
    ("mac_late", RTL, INTEGERS, "a bubble between dot products",
     "free.eq(~some | (last & taken))", "free.eq(~some)"),
    ("mac_ignores_table", RTL, INTEGERS, "a dot product does not wait for a table's value",
     "op_full & is_mac & free & ~busy & jobs.room & tags.room",
     "op_full & is_mac & free & jobs.room & tags.room"),
    ("quiet_results", RTL, INTEGERS, "a read does not wait for results",
     "quiet.eq(~tags.some & ~adding & ~busy)", "quiet.eq(~adding & ~busy)"),
    ("quiet_sums", RTL, FLOATS, "a read does not wait for sums",
     "quiet.eq(~tags.some & ~adding & ~busy)", "quiet.eq(~tags.some & ~busy)"),
    ("quiet_table", RTL, INTEGERS, "a read does not wait for a table's value",
     "quiet.eq(~tags.some & ~adding & ~busy)", "quiet.eq(~tags.some & ~adding)"),
    ("read_over", RTL, INTEGERS, "a read does not wait for the one before",
     "op_full & is_read & quiet & (~self.o.valid | self.o.ready)", "op_full & is_read & quiet"),
    ("read_late", RTL, INTEGERS, "a bubble between reads",
     "op_full & is_read & quiet & (~self.o.valid | self.o.ready)",
     "op_full & is_read & quiet & ~self.o.valid"),
    ("result_dropped", RTL, INTEGERS, "a result does not wait to be taken",
     "self.o.valid.eq(read_begins | (self.o.valid & ~self.o.ready))",
     "self.o.valid.eq(read_begins)"),
    ("keep_lost", RTL, INTEGERS, "a dot product always replaces",
     "i_b=summand & keep.replicate(bits),", "i_b=Const(0, bits),"),
    ("keep_always", RTL, INTEGERS, "a dot product is always added",
     "i_b=summand & keep.replicate(bits),", "i_b=summand,"),
    ("float_keep_always", RTL, FLOATS, "a dot product is always added",
     "right: Value = Mux(keep, summand, MINUS_ZERO)", "right: Value = summand"),
    ("tag_order", RTL, INTEGERS, "a result goes by its operation's flag as its accumulator",
     'tags.data.eq(Cat(op["keep"], op["accumulator"]))',
     'tags.data.eq(Cat(op["accumulator"], op["keep"]))'),
    ("result_unsigned", RTL, INTEGERS, "a negative result is positive",
     "i_a=Cat(result, result[-1].replicate(bits - len(result)))",
     "i_a=Cat(result, Const(0, bits - len(result)))"),
    ("bias_unsigned", RTL, INTEGERS, "a negative bias is positive",
     "Cat(code, code[15].replicate(bits - 16))", "Cat(code, Const(0, bits - 16))"),
    ("float_bias_low", RTL, FLOATS, "a bias is taken for a small number",
     "bias: Value = Cat(Const(0, 16), code) if", "bias: Value = Cat(code, Const(0, 16)) if"),
    ("relu_positive", RTL, INTEGERS, "ReLU keeps what is negative",
     'chosen[-1] & (op["function"] == golden.RELU)',
     '~chosen[-1] & (op["function"] == golden.RELU)'),
    ("relu_always", RTL, INTEGERS, "identity is ReLU",
     'chosen[-1] & (op["function"] == golden.RELU)', "chosen[-1]"),
    ("segment_low", RTL, INTEGERS, "a segment is half as wide",
     "top = x[log2:].as_signed()", "top = x[log2 - 1 :].as_signed()"),
    ("segment_wraps", RTL, INTEGERS, "beyond the table it begins again",
     "inside.eq(~(beyond.any() & ~beyond.all()))", "inside.eq(1)"),
    ("segment_end", RTL, INTEGERS, "beyond the table the other end counts",
     "(~x[-1]).replicate(bits),", "x[-1].replicate(bits),"),
    ("float_floor", RTL, FLOATS, "a negative number goes by the segment above",
     "Mux(sign, half - whole - part, half + whole)", "Mux(sign, half - whole, half + whole)"),
    ("float_whole", RTL, FLOATS, "the leading one is no part of a number",
     "significand = Cat(mantissa, Const(1, 1))", "significand = Cat(mantissa, Const(0, 1))"),
    ("float_outside", RTL, FLOATS, "the table ends a power of two later",
     "outside.eq(stored >= max(reach, 0))", "outside.eq(stored > max(reach, 0))"),
    ("entry_neighbour", RTL, INTEGERS, "the wrong entry of a column",
     'word_of(m, "picked", self.i_w.payload, 32, wanted[:low])',
     'word_of(m, "picked", self.i_w.payload, 32, wanted[:low] ^ 1)'),
    ("column_off", RTL, INTEGERS, "the wrong column of a table",
     "(spec.table_columns - left)[: len(wanted) - low]",
     "(left - 1)[: len(wanted) - low]"),
    ("entry_last", RTL, INTEGERS, "the entry of the last column",
     "with m.If(taken & for_table & here):", "with m.If(taken & for_table):"),
    ("slope_unsigned", RTL, INTEGERS, "a negative slope is positive",
     "product.eq(x * entry[:16].as_signed())", "product.eq(x * entry[:16])"),
    ("offset_unsigned", RTL, INTEGERS, "a negative offset is positive",
     "i_b=Cat(entry[16:], entry[31].replicate(bits - 16))",
     "i_b=Cat(entry[16:], Const(0, bits - 16))"),
    ("fraction_lost", RTL, INTEGERS, "a slope's point is elsewhere",
     "product.as_unsigned()[fraction : fraction + bits]", "product.as_unsigned()[:bits]"),
    ("line_elsewhere", RTL, INTEGERS, "a table's value goes to another accumulator",
     "m.d.comb += [write.eq(1), value.eq(line), where.eq(place)]",
     "m.d.comb += [write.eq(1), value.eq(line), where.eq(index)]"),
    ("float_slope_offset", RTL, FLOATS, "slope and offset are exchanged",
     'unpack(m, "line_slope", BF16, entry[:16])', 'unpack(m, "line_slope", BF16, entry[16:])'),
    ("float_line_early", RTL, FLOATS, "a product is taken a cycle early",
     "for number in range(3):", "for number in range(2):"),
    ("float_sum_elsewhere", RTL, FLOATS, "a sum goes where the next one does",
     "value.eq(total), where.eq(stages[2][1])]", "value.eq(total), where.eq(stages[1][1])]"),
)  # fmt: skip

"""What a pattern reuse table saves on real activations, and what a model takes with it.

``python -m sw_driver.measure.pattern_reuse SPEC.yaml [--rtl] [--map llama-2-7b] [--json]``

Measured on a real encoder: the inputs of every projection of every layer, quantized per token as a
run on a core quantizes them. A batch is one token of each of several sentences, as tokens of a step
of decoding are. What is counted is what the core does (``hw.blocks.sram_lut_gemv.patterns``), and
with ``--rtl`` some of it is run on the core's RTL, cycles and results compared.

The shares so measured are then laid on the linear layers of another model, as the share that its
paper reports (SAIL, arXiv 2509.25853) is: an assumption, stated where it is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtl_gen import console
from rtl_gen.errors import InputError
from sw_driver import report as lay
from sw_driver.report import Report, Table

if TYPE_CHECKING:
    import numpy as np

    from hw.blocks.sram_lut_gemv.spec import SramLutGemvSpec
    from sw_driver.text.bert import Bert

PUBLISHED_SHARE = 0.138
"""Share of all cycles that pattern reuse saves in SAIL."""

BATCHES = (1, 2, 4, 8, 16, 32)
WEIGHT_BITS = (2, 4, 8)

INPUTS = {"q": "q, k, v", "o": "o", "up": "up", "down": "down"}
"""Projections with inputs of their own, and all that share them."""

SENTENCES = (
    "The ferry to the northern islands leaves the harbour at seven in the morning.",
    "A low-bit language model trades a little precision for memory bandwidth.",
    "Please send the signed contract back before the end of next week.",
    "Heavy rain is expected over the coast tonight, with wind from the west.",
    "She plays the second violin in an orchestra that meets on Thursdays.",
    "The committee rejected the proposal because its budget was incomplete.",
    "How long does it take to roast a chicken of two kilograms?",
    "Photosynthesis turns carbon dioxide and water into sugar and oxygen.",
    "The old bridge across the river was closed for repairs in the spring.",
    "Customers reported that the new version crashes when a file is saved.",
    "In the final minute the goalkeeper stopped a penalty and the game was won.",
    "A table of partial sums replaces many multiplications by one lookup.",
    "The museum shows paintings of the seventeenth century on its upper floor.",
    "My grandmother used to tell us stories about the winter of the great snow.",
    "Interest rates rose by a quarter of a point, as most banks had expected.",
    "The patient was given antibiotics and left the hospital after three days.",
    "Two trains collided near the station, but nobody was seriously hurt.",
    "Prime numbers have no divisors other than one and themselves.",
    "He painted the kitchen door green and forgot to close the tin.",
    "The spacecraft entered the orbit of Mars after a voyage of seven months.",
    "What is the difference between a lease and a licence in property law?",
    "Goats were brought to the valley by shepherds many hundred years ago.",
    "An engineer measured the current with an instrument that drew almost none.",
    "The recipe asks for flour, butter, four eggs and the peel of a lemon.",
    "Our flight was cancelled, so we stayed another night in the city.",
    "The novel describes the childhood of a boy on a farm without neighbours.",
    "Volunteers planted three thousand young trees along the motorway.",
    "This warranty does not cover damage that is caused by improper use.",
    "The senator answered every question of the press without giving details.",
    "Bees find their way back to the hive by the position of the sun.",
    "Turn left at the second traffic light and follow the signs to the stadium.",
    "The experiment was repeated with fresh samples, and the effect disappeared.",
)


@dataclass(frozen=True, kw_only=True)
class Share:
    """Lookups of batches of one size at one sort of input.

    Attributes:
        batch: rows that are there. groups: K steps of all batches together.
        tiles: row tiles of the core that a batch takes.
        rows: lookups without reuse, one for each row, plane and K step.
        zeros, hits: those that pattern 0, and another row's lookup, spare.
        cycles: cycles of lookups with reuse.
    """

    name: str
    batch: int
    groups: int
    tiles: int
    rows: int
    zeros: int
    hits: int
    cycles: int

    def saved_lookups(self) -> float:
        """Share of the cycles of lookups that reuse saves."""
        return 1 - self.cycles / self.rows

    def saved(self, words: int) -> float:
        """Share of all cycles, those of writing tables among them."""
        tables = self.groups * self.tiles * words
        return 1 - (tables + self.cycles) / (tables + self.rows)

    def as_dict(self, words: int) -> dict[str, Any]:
        """Plain data."""
        return {
            **vars(self),
            "saved_lookups": self.saved_lookups(),
            "saved_cycles": self.saved(words),
        }


def inputs(bert: Bert, sentences: Sequence[str]) -> dict[str, list[list[np.ndarray]]]:
    """Inputs of the projections: by name of :data:`INPUTS`, per layer, per sentence ``(T, K)``."""
    layers = bert.architecture.layers
    found: dict[str, list[list[np.ndarray]]] = {
        name: [[] for _ in range(layers)] for name in INPUTS
    }
    for sentence in sentences:
        x = bert.embed(bert.tokens(sentence))
        for layer in range(layers):

            def project(name: str, value: np.ndarray, layer: int = layer) -> np.ndarray:
                if name in found:
                    found[name][layer].append(value)
                w, b = bert.weight(layer, name)
                return value @ w.T + b

            x = bert.layer(layer, x, project)
    return found


def batches(parts: Sequence[np.ndarray], batch: int) -> list[np.ndarray]:
    """Batches ``(batch, K)``: the tokens at one place of ``batch`` sentences, every place in turn.

    Places are those that all sentences have, without the marks at both ends.
    """
    import numpy as np

    places = range(1, min(map(len, parts)) - 1)
    return [
        np.stack([part[place] for part in parts[start : start + batch]])
        for start in range(0, len(parts) - batch + 1, batch)
        for place in places
    ]


def share(
    spec: SramLutGemvSpec, name: str, layers: Sequence[Sequence[np.ndarray]], batch: int, bits: int
) -> Share:
    """Lookups of every batch of a size, of all layers."""
    import numpy as np

    from hw.blocks.sram_lut_gemv.patterns import lookups
    from sw_driver.quantize import quantize_activations

    tile = spec.tile
    totals = np.zeros(5, dtype=np.int64)
    tiles = -(-batch // tile.m)
    for parts in layers:
        for rows in batches(parts, batch):
            codes = quantize_activations(rows, bits).codes.astype(np.int64)
            steps = -(-codes.shape[1] // tile.k)
            padded = np.zeros((tiles * tile.m, steps * tile.k), dtype=np.int64)
            padded[:batch, : codes.shape[1]] = codes
            count = lookups(padded, tile.k, bits, spec.reuse.capacity)
            absent = (len(padded) - batch) * steps * bits
            totals += (
                steps,
                count.rows - absent,
                count.zeros - absent,
                count.hits,
                count.cycles,
            )
    groups, rows_, zeros, hits, cycles = (int(total) for total in totals)
    return Share(
        name=name,
        batch=batch,
        groups=groups,
        tiles=tiles,
        rows=rows_,
        zeros=zeros,
        hits=hits,
        cycles=cycles,
    )


def measure(
    spec: SramLutGemvSpec, bert: Bert, sizes: Sequence[int], bits: int
) -> dict[int, list[Share]]:
    """By batch the share of every input, and of all together (last), weighted as they occur.

    The input of q, k and v counts three times: each of them looks it up.
    """
    captured = inputs(bert, SENTENCES)
    found = {}
    for batch in sizes:
        shares = [share(spec, name, captured[name], batch, bits) for name in INPUTS]
        weights = [3 if name == "q" else 1 for name in INPUTS]

        def total(field: str, shares: list[Share] = shares, weights: list[int] = weights) -> int:
            return sum(w * getattr(s, field) for s, w in zip(shares, weights, strict=True))

        every = Share(
            name="all",
            batch=batch,
            tiles=shares[0].tiles,
            **{field: total(field) for field in ("groups", "rows", "zeros", "hits", "cycles")},
        )
        found[batch] = [*shares, every]
    return found


@dataclass(frozen=True, kw_only=True)
class OnRtl:
    """One batch of a projection on the RTL, with and without reuse.

    Attributes:
        plain, reused: cycles observed; predicted: those that the timing model says with reuse.
        wrong: results that differ from the plain product.
    """

    name: str
    shape: tuple[int, int, int]
    plain: int
    reused: int
    predicted: int
    wrong: int


def on_rtl(
    spec: SramLutGemvSpec, bert: Bert, bits: int, weight_bits: int, *, progress: bool
) -> list[OnRtl]:
    """A full batch of the first layer's projections on the RTL.

    Raises:
        InputError: the RTL is wrong, in its results or its cycles.
    """
    import numpy as np

    from rtl_gen.errors import VerificationError
    from sim.harness import verilate
    from sw_driver.quantize import SCHEMES, quantize_activations
    from sw_driver.runner.operands import operand_for, scheme_for

    batch = min(spec.tile.m, len(SENTENCES))
    captured = inputs(bert, SENTENCES[:batch])
    rows = []
    with verilate(spec, progress=progress) as model:
        for name in INPUTS:
            x = batches(captured[name][0], batch)[0]
            a = quantize_activations(x, bits).codes.astype(np.int64)
            weight, _ = bert.weight(0, name)
            # One scale a row, so that a projection is one GEMM.
            scheme = scheme_for(spec.weight_encoding, weight_bits)
            quantized = SCHEMES[scheme](weight[: spec.tile.n], weight_bits, weight.shape[1])
            operand = operand_for(quantized, spec.weight_encoding)
            w, z = operand.w, None if operand.z is None else operand.z[:, 0]
            chosen: dict[str, Any] = {"z": z, "weight_bits": weight_bits, "activation_bits": bits}
            plain = model.gemm(a, w, **chosen)
            reused = model.gemm(a, w, **chosen, reuse=True)
            exact = a @ (w if z is None else w - z[:, None]).T
            rows.append(
                OnRtl(
                    name=INPUTS[name],
                    shape=(len(a), len(w), a.shape[1]),
                    plain=plain.cycles,
                    reused=reused.cycles,
                    predicted=reused.predicted_cycles,
                    wrong=int((plain.o != exact).sum() + (reused.o != exact).sum()),
                )
            )
    bad = [row for row in rows if row.wrong or row.reused != row.predicted]
    if bad:
        raise VerificationError("\n".join(f"{spec.name}: {row}" for row in bad))
    return rows


@dataclass(frozen=True, kw_only=True)
class Step:
    """One step of decoding through all linear layers of a model.

    Attributes:
        plain: cycles of jobs without reuse, by the mapper. reused: with the measured share of
            lookups. published: by SAIL's own model of a bit-serial array of as many columns, with
            the share that its paper reports.
        memory: cycles of the clock in which memory gives weights, activations and the rest.
    """

    batch: int
    weight_bits: int
    plain: int
    reused: int
    published: int
    memory: int


def decode_step(
    spec: SramLutGemvSpec,
    model: str,
    shares: dict[int, list[Share]],
    sizes: Sequence[int],
    widths: Sequence[int],
    *,
    bits: int,
    context: int,
) -> list[Step]:
    """Steps of all batches and widths; see :class:`Step`."""
    from hw.blocks.sram_lut_gemv import timing
    from sw_driver.architecture import load_architecture
    from sw_driver.mapper.core import core_of
    from sw_driver.mapper.mapping import Choices, map_workload
    from sw_driver.mapper.workload import Linear, decode_workload

    core = core_of(spec, bits)
    architecture = load_architecture(model)
    tile = spec.tile
    found = []
    for width in widths:
        for batch in sizes:
            work = decode_workload(architecture, 1, context=context, batch=batch)
            mapping = map_workload(work, core, Choices(weight_bits=width))
            mapped = [item for item in mapping.operators if item.kind == "linear"]
            every = shares[batch][-1]
            kept = every.cycles / every.rows
            reused = 0
            published = 0.0
            for item in work.operators:
                if not isinstance(item, Linear):
                    continue
                steps, columns = -(-item.k // tile.k), -(-item.n // tile.n)
                tables = steps * -(-item.m // tile.m) * spec.words
                looked = steps * item.m * bits * kept
                reused += item.runs * item.instances * columns * round(tables + looked)
                serial = timing.published(
                    k=item.k,
                    group=tile.k,
                    weight_bits=width,
                    activation_bits=bits,
                    batch=item.m,
                )
                published += item.runs * item.instances * columns * serial * (1 - PUBLISHED_SHARE)
            found.append(
                Step(
                    batch=batch,
                    weight_bits=width,
                    plain=sum(item.cycles for item in mapped),
                    reused=reused,
                    published=round(published),
                    memory=round(
                        sum(item.memory_seconds for item in mapped) * spec.clock_mhz * 1e6
                    ),
                )
            )
    return found


def pattern_reuse(
    spec: object,
    *,
    model: Path | str = "minilm",
    mapped: str = "llama-2-7b",
    sizes: Sequence[int] = BATCHES,
    widths: Sequence[int] = WEIGHT_BITS,
    activation_bits: int | None = None,
    context: int = 1024,
    rtl: bool = False,
    progress: bool = True,
) -> Report:
    """The report of the command; see the module.

    Args:
        model: the encoder, as for :class:`sw_driver.text.bert.Bert`.
        mapped: the model whose decoding is laid out.
        sizes, widths: batches and weight widths.
        activation_bits: width of the activations; the specification's widest if None.

    Raises:
        InputError: the specification is none of a table array that reuses patterns, or a number is
            wrong.
        VerificationError: ``rtl``, and the RTL is wrong.
    """
    from hw.blocks.sram_lut_gemv.spec import SramLutGemvSpec
    from sw_driver.text.bert import Bert

    if not isinstance(spec, SramLutGemvSpec) or not spec.reuses:
        name = getattr(spec, "name", "specification")
        raise InputError(f"{name}: must be a sram_lut_gemv with reuse.capacity of at least 2")
    bits = spec.activations.max_bits if activation_bits is None else activation_bits
    problems = []
    if not spec.signed:
        problems.append(f"{spec.name}: activations: must be signed, the layer's are of both signs")
    if bits not in spec.activation_bits or bits < 2:
        most = spec.activations.max_bits
        problems.append(f"activation_bits: must lie in [2, {most}] for {spec.name}, got {bits}")
    problems += [
        f"batch: must lie in [1, {len(SENTENCES)}], got {size}"
        for size in sizes
        if not 1 <= size <= len(SENTENCES)
    ]
    problems += [
        f"weight_bits: must lie in [1, {spec.max_weight_bits}] for {spec.name}, got {width}"
        for width in widths
        if not 1 <= width <= spec.max_weight_bits
    ]
    if rtl and not spec.exact:
        problems.append(f"rtl: needs exact results, {spec.name} converts them")
    if problems:
        raise InputError("\n".join(problems))

    bert = Bert(model)
    shares = measure(spec, bert, sizes, bits)
    runs = on_rtl(spec, bert, bits, min(4, spec.max_weight_bits), progress=progress) if rtl else []
    steps = decode_step(spec, mapped, shares, sizes, widths, bits=bits, context=context)
    return _report(spec, bert, mapped, shares, runs, steps, bits, context)


def _percent(value: float) -> str:
    return f"{100 * value:.1f}"


def _report(
    spec: SramLutGemvSpec,
    bert: Bert,
    mapped: str,
    shares: dict[int, list[Share]],
    runs: Sequence[OnRtl],
    steps: Sequence[Step],
    bits: int,
    context: int,
) -> Report:
    tile = spec.tile
    measured = Table(
        title="measured on the encoder: share of lookups, and of all cycles, that reuse saves",
        columns=(
            "batch",
            "input of",
            "lookups without",
            "pattern 0 %",
            "hits %",
            "lookup cycles saved %",
            "all cycles saved %",
        ),
        rows=[
            (
                str(batch),
                INPUTS.get(item.name, "all projections"),
                lay.count(item.rows),
                _percent(item.zeros / item.rows),
                _percent(item.hits / item.rows),
                _percent(item.saved_lookups()),
                _percent(item.saved(spec.words)),
            )
            for batch, items in shares.items()
            for item in items
        ],
    )
    tables = [measured]
    if runs:
        tables.append(
            Table(
                title="on the RTL: one batch, the first columns of layer 0, results exact",
                columns=("projection", "M×N×K", "cycles without", "with reuse", "predicted"),
                rows=[
                    (
                        row.name,
                        "×".join(map(str, row.shape)),
                        lay.count(row.plain),
                        lay.count(row.reused),
                        lay.count(row.predicted),
                    )
                    for row in runs
                ],
            )
        )
    tables.append(
        Table(
            title=f"{mapped}, linear layers of one decoded token a sequence, context {context}",
            columns=(
                "weights",
                "batch",
                "Mcycles without",
                "with reuse",
                "memory Mcycles",
                "tokens/s",
                "SAIL's model Mcycles",
            ),
            rows=[
                (
                    f"W{step.weight_bits}",
                    str(step.batch),
                    f"{step.plain / 1e6:,.1f}",
                    f"{step.reused / 1e6:,.1f}",
                    f"{step.memory / 1e6:,.1f}",
                    lay.fixed(step.batch * spec.clock_mhz * 1e6 / max(step.reused, step.memory), 3),
                    f"{step.published / 1e6:,.0f}",
                )
                for step in steps
            ],
        )
    )
    return Report(
        title=f"pattern reuse of {spec.name} on {bert.architecture.name}",
        facts=(
            f"core: {tile.m} × {tile.n} × {tile.k} a step, tables of {spec.words} words, reuse "
            f"table of {spec.reuse.capacity} rows, {spec.clock_mhz:g} MHz; activations INT{bits} "
            "per token",
            f"activations: {len(SENTENCES)} sentences, every layer; a batch is the token at one "
            "place of each sentence",
            f"published (SAIL): {100 * PUBLISHED_SHARE:.1f} % of all cycles saved",
        ),
        tables=tables,
        notes=(
            "measured: without reuse a lookup is made for every row that is there; saved shares "
            "are against that, rows of a tile that are not there count on neither side",
            f"{mapped}: without reuse as `rtlgen map` counts, whole tiles of {tile.m} rows; with "
            "reuse at the share of lookups measured on the encoder, absent rows free",
            "SAIL's model: an array of as many columns whose adders take a bit a cycle, less its "
            "published share; words here are written and added whole, so widths of weights cost "
            "memory, not cycles",
            "tokens/s: the larger of the cycles with reuse and the memory's, linear layers alone",
        ),
        data={
            "spec": spec.name,
            "spec_digest": spec.digest,
            "model": bert.architecture.name,
            "mapped": mapped,
            "activation_bits": bits,
            "published_share": PUBLISHED_SHARE,
            "measured": [item.as_dict(spec.words) for items in shares.values() for item in items],
            "rtl": [{**vars(row), "shape": list(row.shape)} for row in runs],
            "decode": [vars(step) for step in steps],
        },
    )


@console.command("pattern-reuse")
@click.argument("spec_file", metavar="SPEC.yaml", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--model", default="minilm", show_default=True, help="Folder of a BERT checkpoint, or minilm."
)
@click.option(
    "--map",
    "mapped",
    default="llama-2-7b",
    show_default=True,
    help="Model whose decoding is laid out.",
)
@click.option("--batch", metavar="B", type=int, multiple=True, help="Batch; may be repeated.")
@click.option(
    "--weight-bits", metavar="BITS", type=int, multiple=True, help="Width; may be repeated."
)
@click.option("--activation-bits", metavar="BITS", type=int, help="Width of activations.")
@click.option(
    "--context", metavar="L", type=int, default=1024, show_default=True, help="Tokens before."
)
@click.option("--rtl/--no-rtl", default=False, show_default=True, help="Run a batch on the RTL.")
@console.json_option
def main(
    spec_file: Path,
    model: str,
    mapped: str,
    batch: tuple[int, ...],
    weight_bits: tuple[int, ...],
    activation_bits: int | None,
    context: int,
    rtl: bool,
    as_json: bool,
) -> None:
    """Measure what pattern reuse saves on a real encoder's activations."""
    from rtl_gen.specfile import load_spec

    report = pattern_reuse(
        load_spec(spec_file),
        model=model,
        mapped=mapped,
        sizes=batch or BATCHES,
        widths=weight_bits or WEIGHT_BITS,
        activation_bits=activation_bits,
        context=context,
        rtl=rtl,
        progress=not as_json,
    )
    click.echo(report.json() if as_json else str(report))


if __name__ == "__main__":
    main()

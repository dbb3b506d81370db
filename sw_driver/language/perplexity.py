"""Perplexity of a language model whose linear layers are computed in a core's formats.

Every product of activations and weights goes through the golden model of a core
(:mod:`sw_driver.runner.products`); norms, attention, rotations and sums are float32, as is the
model that the others are compared with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hw.gemm import GemmSpec
from rtl_gen import __version__
from rtl_gen.console import Progress
from rtl_gen.errors import InputError
from sw_driver import report as lay
from sw_driver.forward import Decoder
from sw_driver.language.quantized_caches import CacheKind, QuantizedCache
from sw_driver.language.scoring import (
    Score,
    Text,
    batch_of,
    first_token,
    in_format,
    read_text,
    score,
    score_data,
    score_with_cache,
)
from sw_driver.mapper.core import core_of
from sw_driver.quantize import Clip
from sw_driver.quantize.treatments import Treatment
from sw_driver.report import Report, Table
from sw_driver.runner.linear import check_request
from sw_driver.runner.products import ProductFormat, check_operands
from sw_driver.text.tokenizer import tokenizer_of
from sw_driver.tiny import EVALUATION, PACKAGED, language_model_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_CONTEXT = 256
DEFAULT_GROUP = 64


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A format and its score.

    Attributes:
        formats: of activations and weights, or of the cache. treatment: what was done before.
        weight_bits_each, activation_bits_each: memory an element takes, scales included.
        cache_bits_each: of an element of the cache, 32 where it is float32.
    """

    spec: str
    block: str
    digest: str
    formats: str
    treatment: str
    weight_bits: int
    weight_bits_each: float
    activation_bits_each: float
    score: Score
    cache_bits_each: float = 32.0


@dataclass(frozen=True, kw_only=True)
class PerplexityReport(Report):
    """``plain``: all in float32. ``rows``: every format. ``caches``: of the cache alone."""

    plain: Score
    rows: tuple[Measured, ...]
    caches: tuple[Measured, ...]


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is asked for, beside cores and their widths.

    Attributes:
        treatment: of both operands of every product. head: quantize the product with the
            vocabulary. grouped: a scale for each group of integer activations.
    """

    group: int = DEFAULT_GROUP
    activation_bits: int | None = None
    clip: Clip = "absmax"
    hadamard: int = 0
    head: bool = True
    grouped: bool = False

    @property
    def treatment(self) -> Treatment:
        if not self.hadamard:
            return Treatment(name="plain")
        return Treatment(name=f"hadamard {self.hadamard}", hadamard=self.hadamard)


def perplexity(
    specs: Sequence[object],
    *,
    model: Path | str | Decoder = PACKAGED,
    widths: Mapping[str, Sequence[int]] | None = None,
    weight_bits: Sequence[int] = (),
    wanted: Wanted | None = None,
    caches: Sequence[CacheKind] = (),
    text_file: Path | None = None,
    context: int | None = None,
    progress: bool = True,
) -> PerplexityReport:
    """Perplexity in float32 and in the formats of cores.

    Args:
        specs: GEMM cores.
        model: ``tiny``, or a folder with a checkpoint and ``tokenizer.json``.
        widths: of integer weights, by name of the core; ``weight_bits`` of the others, as far as
            they have them; a core's widest up to 8 by default.
        caches: formats of the cache, each by itself.
        text_file: UTF-8; by default the held-out text that is kept with the model ``tiny``.
        context: tokens of a window; 256 by default, or the model's positions if they are fewer.

    Raises:
        InputError: a specification, the model, the text or a number is wrong.
    """
    wanted = wanted or Wanted()
    decoder = model if isinstance(model, Decoder) else Decoder(language_model_folder(model))
    arch = decoder.architecture
    text = read_text(EVALUATION if text_file is None else text_file)
    most = min(arch.max_positions, 1 << 15)
    if context is not None and not 2 <= context <= most:
        raise InputError(f"context: must lie in [2, {most}] for {arch.name}, got {context}")
    folder = decoder.checkpoint.path
    tokenizer = tokenizer_of(folder if folder.is_dir() else folder.parent)
    if tokenizer.size > arch.vocab:
        raise InputError(
            f"{folder}: tokenizer.json: must have at most {arch.vocab} tokens, the vocabulary of "
            f"the model, got {tokenizer.size}"
        )
    windows = Text(text, tokenizer, first_token(decoder), context or min(DEFAULT_CONTEXT, most))
    forms = _forms(specs, decoder, widths or {}, weight_bits, wanted)
    kept = [(kind, QuantizedCache(decoder, kind)) for kind in caches]

    rows: list[Measured] = []
    cached: list[Measured] = []
    total = windows.tokens * (1 + len(forms) + len(kept))
    with Progress("measuring", total=total, enabled=progress) as shown:
        shown.describe("measuring float32")
        plain_score = score(decoder, windows, advance=shown.advance)
        for form in forms:
            name = _formats(form)
            shown.describe(f"measuring {form.spec.name}, {name}")
            found = score(
                decoder,
                windows,
                in_format(decoder, form, head=wanted.head),
                batch=batch_of(form),
                advance=shown.advance,
            )
            rows.append(
                Measured(
                    spec=form.spec.name,
                    block=form.spec.block,
                    digest=form.spec.digest,
                    formats=name,
                    treatment=_treatment(wanted, form),
                    weight_bits=form.bits,
                    weight_bits_each=form.weight_bits_each,
                    activation_bits_each=form.activation_bits_each,
                    score=found,
                )
            )
        for kind, _ in kept:
            shown.describe(f"measuring the cache {kind.name}")
            found, bits = score_with_cache(
                decoder,
                windows,
                lambda kind=kind: QuantizedCache(decoder, kind),  # type: ignore[misc]
                advance=shown.advance,
            )
            cached.append(
                Measured(
                    spec="",
                    block="",
                    digest="",
                    formats=kind.name,
                    treatment="",
                    weight_bits=32,
                    weight_bits_each=32.0,
                    activation_bits_each=32.0,
                    score=found,
                    cache_bits_each=bits,
                )
            )
    return _report(decoder, windows, wanted, text_file, plain_score, rows, cached)


def _forms(
    specs: Sequence[object],
    decoder: Decoder,
    widths: Mapping[str, Sequence[int]],
    weight_bits: Sequence[int],
    wanted: Wanted,
) -> list[ProductFormat]:
    """Every core at its widths.

    Raises:
        InputError: with every problem.
    """
    problems = []
    forms = []
    size = wanted.hadamard
    if size and size not in (2, 4, 8, 16, 32, 64, 128):
        problems.append(f"hadamard: must be a power of two from 2 to 128, got {size}")
    elif size:
        for name in ("q", "o", "down"):
            k = decoder.shape(0, name)[1] if decoder.tensors.has(0, name) else 0
            if k % size:
                problems.append(f"hadamard: must divide {k}, K of {name}, got {size}")
    asked = wanted.activation_bits
    if asked is not None and not any(_chooses_activations(spec) for spec in specs):
        problems.append(
            f"activation_bits: must not be given where no core's jobs choose it, got {asked}"
        )
    for spec in specs:
        name = getattr(spec, "name", "")
        try:
            checked = check_request(
                spec,
                decoder.architecture.layers,
                0,
                widths.get(name, ()),
                wanted.group,
                _activations(spec, wanted.activation_bits),
            )
        except InputError as error:
            problems.append(str(error))
            continue
        for bits in widths.get(name) or _default_widths(checked, weight_bits):
            forms.append(
                ProductFormat(
                    spec=checked,
                    bits=bits,
                    group=wanted.group,
                    activation_bits=_activations(spec, wanted.activation_bits),
                    grouped=wanted.grouped,
                    clip=wanted.clip,
                    treatment=wanted.treatment,
                )
            )
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    for form in forms:
        check_operands(form, decoder.architecture.hidden)
    return forms


def _activations(spec: object, bits: int | None) -> int | None:
    """A width of activations for cores whose jobs choose one; others have theirs."""
    return bits if _chooses_activations(spec) else None


def _chooses_activations(spec: object) -> bool:
    return isinstance(spec, GemmSpec) and len(spec.activation_bits) > 1


def _default_widths(spec: GemmSpec, asked: Sequence[int]) -> list[int]:
    widths = core_of(spec).widths
    if len(widths) == 1:
        return list(widths)
    return [bits for bits in asked if bits in widths] or [min(8, widths[-1])]


def _formats(form: ProductFormat) -> str:
    """``INT8 × W4 asymmetric``."""
    core = core_of(form.spec, form.activation_bits)
    w_format = form.spec.operand_formats[1]
    if w_format is not None:
        return f"{core.activation_name} × {w_format.name}"
    scheme = form.scheme
    weights = "ternary" if scheme == "ternary" else f"W{form.bits} {scheme}"
    return f"{core.activation_name} × {weights}"


def _treatment(wanted: Wanted, form: ProductFormat) -> str:
    parts = []
    if wanted.hadamard:
        parts.append(wanted.treatment.name)
    if wanted.clip != "absmax" and form.spec.operand_formats[1] is None:
        parts.append(f"clip {wanted.clip}")
    if wanted.grouped and form.spec.operand_formats == (None, None):
        parts.append("scales of A by group")
    return ", ".join(parts) or "plain"


def _report(
    decoder: Decoder,
    text: Text,
    wanted: Wanted,
    text_file: Path | None,
    plain_score: Score,
    rows: Sequence[Measured],
    cached: Sequence[Measured],
) -> PerplexityReport:
    arch = decoder.architecture

    def figures(found: Score) -> tuple[str, str, str]:
        ratio = found.perplexity / plain_score.perplexity
        growth = f"{100 * (ratio - 1):+.2f} %" if ratio < 10 else f"× {ratio:,.0f}"
        return f"{found.perplexity:.3f}", growth, f"{found.bits_per_byte:.4f}"

    tables = [
        Table(
            columns=(
                "core", "formats", "treatment", "bits W", "A", "perplexity", "to float32",
                "bits a byte",
            ),
            rows=[
                ("float32", "", "", "32.00", "32.00", *figures(plain_score)),
                *(
                    (
                        row.spec,
                        row.formats,
                        row.treatment,
                        f"{row.weight_bits_each:.2f}",
                        f"{row.activation_bits_each:.2f}",
                        *figures(row.score),
                    )
                    for row in sorted(rows, key=lambda row: row.score.nats)
                ),
            ],
        )
    ]  # fmt: skip
    if cached:
        tables.append(
            Table(
                columns=("cache", "bits", "perplexity", "to float32", "bits a byte"),
                rows=[
                    (row.formats, f"{row.cache_bits_each:.2f}", *figures(row.score))
                    for row in sorted(cached, key=lambda row: row.score.nats)
                ],
            )
        )
    source = "held-out documentation of Python" if text_file is None else str(text_file)
    first = first_token(decoder)
    most = max(len(row) - 1 for row in text.rows)
    facts = [
        f"text: {source}, {lay.count(text.bytes)} bytes, {lay.count(text.tokens)} tokens predicted "
        f"in {len(text.rows)} windows of up to {most}"
        + ("" if first is None else f", each after token {first}"),
    ]
    head = "" if wanted.head else " but the product with the vocabulary"
    notes = []
    if rows:
        notes.append(
            f"every product of activations and weights{head} by the core's golden model; integer "
            f"weights in groups of {wanted.group} along K; norms, attention, sums are float32"
        )
        notes.append(
            "bits: memory an element takes, scales included; of integer and floating activations "
            "one scale a token not counted"
        )
    if cached:
        notes.append(
            "cache: linear layers in float32, tokens one by one; bits of an element of keys and "
            "values, what is kept plain in 16 bits, at the end of a window"
        )

    def plain_data(row: Measured) -> dict[str, Any]:
        return {**asdict(row), "score": score_data(row.score)}

    return PerplexityReport(
        title=f"perplexity of {arch.name}, {lay.count(arch.parameters)} parameters",
        facts=facts,
        tables=tables,
        notes=notes,
        data={
            "rtlgen": __version__,
            "model": arch.name,
            "parameters": arch.parameters,
            "text": None if text_file is None else str(text_file),
            "bytes": text.bytes,
            "tokens": text.tokens,
            "windows": len(text.rows),
            "group": wanted.group,
            "activation_bits": wanted.activation_bits,
            "clip": wanted.clip,
            "hadamard": wanted.hadamard,
            "head": wanted.head,
            "float32": score_data(plain_score),
            "rows": [plain_data(row) for row in rows],
            "caches": [plain_data(row) for row in cached],
        },
        draw=(lambda figure: draw_perplexities(figure, plain_score, rows)) if rows else None,
        size=(8.0, 6.0),
        plain=plain_score,
        rows=tuple(rows),
        caches=tuple(cached),
    )


_LEAST_LOSS = 1e-4
"""What a loss that is smaller, or a gain, is drawn as."""

_LINE = 0.027
"""Height of a label, as a share of the axis."""

_WIDTH = 0.9
"""Width of a label, in bits."""


def draw_perplexities(figure: Figure, plain_score: Score, rows: Sequence[Measured]) -> None:
    """What perplexity grows by against bits a weight, a colour for each block."""
    axes = figure.subplots()
    colours = (lay.BLUE, lay.ORANGE, lay.GREEN, lay.RED, lay.PURPLE, lay.SKY, lay.YELLOW)
    markers = ("o", "s", "^", "D", "v", "P", "X")

    def loss(row: Measured) -> float:
        return max(row.score.perplexity / plain_score.perplexity - 1, _LEAST_LOSS)

    blocks = list(dict.fromkeys(row.block for row in rows))
    for index, name in enumerate(blocks):
        some = [row for row in rows if row.block == name]
        axes.scatter(
            [row.weight_bits_each for row in some],
            [100 * loss(row) for row in some],
            color=colours[index % len(colours)],
            marker=markers[index % len(markers)],
            label=name,
            zorder=3,
        )
    low = math.log10(min(map(loss, rows))) - 0.3
    span = math.log10(max(map(loss, rows))) + 0.3 - low
    # From below: a label that would lie on another goes above it.
    taken: list[tuple[float, float]] = []
    for row in sorted(rows, key=loss):
        at = (math.log10(loss(row)) - low) / span
        for bits, height in taken:
            if abs(bits - row.weight_bits_each) < _WIDTH:
                at = max(at, height + _LINE)
        taken.append((row.weight_bits_each, at))
        label = (row.weight_bits_each + 0.3, 100 * 10 ** (low + at * span))
        axes.plot(
            (row.weight_bits_each, label[0]), (100 * loss(row), label[1]), color=lay.GREY, lw=0.5
        )
        axes.text(*label, f" {_short(row.formats)}", fontsize=6.5, va="center")
    axes.set_yscale("log")
    axes.set_ylim(100 * 10**low, 100 * 10 ** (low + span))
    axes.set_xlim(right=max(row.weight_bits_each for row in rows) + 1.2)
    axes.set_xlabel("bits a weight, scales included")
    axes.set_title(f"growth of perplexity over float32 ({plain_score.perplexity:.2f}), %")
    axes.legend(frameon=False)


def _short(formats: str) -> str:
    """``mxfp4 × mxfp4`` as ``mxfp4``, and quantizers by their first letters."""
    first, _, second = formats.partition(" × ")
    return first if first == second else formats.replace("symmetric", "sym")

"""Text from a language model whose linear layers run on the simulated RTL.

A prompt goes through the model at once, then token by token with a cache of keys and values. Every
product of activations and weights, that with the vocabulary included, is quantized, packed and run
on the Verilated core, and compared bit for bit with the golden model; norms, attention, rotations
and sums are float32. So the text is that of the golden model, which ``on="golden"`` computes alone.

Cycles are counted by operator, and have to be those of the block's timing model and of the mapper's
workload for the same model, prompt and number of tokens.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from rtl_gen import __version__
from rtl_gen.console import Progress
from rtl_gen.errors import InputError
from sim.harness import Model, verilate
from sw_driver import report as lay
from sw_driver.forward import Decoder, KvCache, Project
from sw_driver.language.scoring import first_token, in_format, plain
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.mapping import Choices, OperatorCost, map_workload
from sw_driver.mapper.workload import Linear, decode_workload, prefill_workload
from sw_driver.report import Report, Table
from sw_driver.runner.linear import LayerRunner, ProjectionRun, check_request
from sw_driver.runner.products import ProductFormat, check_operands
from sw_driver.text.tokenizer import Tokenizer, check_text, tokenizer_of
from sw_driver.tiny import PACKAGED, language_model_folder

On = Literal["rtl", "golden", "float32"]

DEFAULT_PROMPT = "Return a string "
DEFAULT_TOKENS = 48
DEFAULT_GROUP = 64


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: of the softmax that a token is drawn from; 0 takes the most probable.
        seed: of the draws.
    """

    temperature: float = 0.0
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class OperatorRun:
    """An operator of the model in one phase, on the RTL.

    Attributes:
        products: how many. observed: cycles of the RTL; predicted: by the timing model; mapped: by
            the mapper for the whole phase.
    """

    phase: str
    name: str
    shape: tuple[int, int, int]
    products: int
    observed: int
    predicted: int
    mapped: int
    results: int
    mismatches: int

    @property
    def exact(self) -> bool:
        return self.mismatches == 0 and self.observed == self.predicted == self.mapped


@dataclass(frozen=True, kw_only=True)
class GenerateReport(Report):
    """What was written, and how.

    Attributes:
        prompt, text: the text before, and what the model wrote after it.
        tokens: prompt first, the model's own after it. operators: empty but on RTL.
        failures: what differed, one line each.
    """

    prompt: str
    text: str
    tokens: tuple[int, ...]
    operators: tuple[OperatorRun, ...]
    failures: tuple[str, ...]


class _Counts:
    """What the products of a phase took, by operator."""

    def __init__(self) -> None:
        self.runs: dict[tuple[str, str], list[ProjectionRun]] = defaultdict(list)
        self.phase = "prefill"

    def add(self, name: str, run: ProjectionRun) -> None:
        self.runs[self.phase, name].append(run)


def generate(
    spec: object,
    *,
    model: Path | str | Decoder = PACKAGED,
    prompt: str = DEFAULT_PROMPT,
    tokens: int = DEFAULT_TOKENS,
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    group: int = DEFAULT_GROUP,
    sampling: Sampling | None = None,
    on: On = "rtl",
    simulator: Model | None = None,
    show: Callable[[bytes], None] | None = None,
    progress: bool = True,
) -> GenerateReport:
    """Text after a prompt.

    Args:
        spec: a GEMM core.
        model: ``tiny``, or a folder with a decoder and its ``tokenizer.json``.
        tokens: how many are written.
        weight_bits: of integer weights; by default 4, or the widest if the core has no 4.
        on: ``rtl``, ``golden`` (the same numbers without the RTL), ``float32``.
        simulator: the core's Verilated model, if there is one already.
        show: is given the bytes of every piece as it comes, the prompt's first.
        progress: show progress on standard error; of the writing only where nothing is shown.

    Raises:
        InputError: a specification, the model, the prompt or a number is wrong.
        ToolError: the simulator could not be built.
    """
    sampling = sampling or Sampling()
    check_text("prompt", prompt)
    decoder = model if isinstance(model, Decoder) else Decoder(language_model_folder(model))
    arch = decoder.architecture
    widths = [] if weight_bits is None else [weight_bits]
    checked = check_request(spec, arch.layers, 0, widths, group, activation_bits)
    core = core_of(checked, activation_bits)
    # Formats of floats and blocks have one width, integers are quantized to eight bits at most.
    widest = core.widths[-1] if len(core.widths) == 1 else min(8, core.widths[-1])
    bits = weight_bits or (4 if 4 in core.widths else widest)
    folder = decoder.checkpoint.path
    tokenizer = tokenizer_of(folder if folder.is_dir() else folder.parent)
    start = first_token(decoder)
    given = tokenizer.encode(prompt).tolist()
    listed = given if start is None else [start, *given]
    _check(arch.max_positions, listed, tokens, sampling, tokenizer, arch.vocab)
    if arch.layer_groups and any(part.mlp.experts for part in arch.layer_groups):
        raise InputError(f"{arch.name}: has experts, whose rows the mapper knows on average only")
    if arch.latent is not None:
        raise InputError(f"{arch.name}: has latent attention, which the mapper decodes absorbed")

    form = ProductFormat(spec=checked, bits=bits, group=group, activation_bits=activation_bits)
    if on != "float32":
        check_operands(form, arch.hidden)
    counts = _Counts()
    with ExitStack() as stack:
        if on == "rtl":
            # A simulator that was given stays open.
            made = simulator or stack.enter_context(verilate(checked, progress=progress))
            runner = LayerRunner(checked, made, group=group, activation_bits=activation_bits)
            stack.callback(runner.close)
            projections = _on_rtl(decoder, runner, bits, counts)
        else:
            projections = in_format(decoder, form) if on == "golden" else _floats(decoder)
        quiet = progress and show is None
        shown = stack.enter_context(Progress("writing", total=tokens, enabled=quiet))

        def told(token: int) -> None:
            if show is not None:
                show(tokenizer.decode([token]))
            shown.advance()

        if show is not None:
            show(prompt.encode())
        began = time.perf_counter()
        written = _write(decoder, listed, tokens, sampling, told, projections, counts)
        seconds = time.perf_counter() - began
    operators, failures = _operators(decoder, core, bits, group, len(listed), tokens, counts)
    return _report(
        decoder, core, form, prompt, tokenizer, listed, written, sampling, on, operators, failures,
        seconds,
    )  # fmt: skip


def _check(
    positions: int,
    listed: Sequence[int],
    tokens: int,
    sampling: Sampling,
    tokenizer: Tokenizer,
    vocab: int,
) -> None:
    """The numbers that a person gave.

    Raises:
        InputError: with every problem.
    """
    problems = []
    if tokenizer.size > vocab:
        problems.append(
            f"tokenizer.json: must have at most the model's {vocab} tokens, got {tokenizer.size}"
        )
    if not listed:
        problems.append("prompt: must have a token, the model has none to begin with")
    if tokens < 1:
        problems.append(f"tokens: must be positive, got {tokens}")
    # The last token that is written is not read again.
    elif len(listed) + tokens - 1 > positions:
        problems.append(
            f"tokens: with the prompt's {len(listed)} must be at most {positions + 1}, one more "
            f"than the model's positions, got {len(listed) + tokens}"
        )
    if not 0 <= sampling.temperature <= 100:
        problems.append(f"temperature: must lie in [0, 100], got {sampling.temperature}")
    if not 0 <= sampling.seed < 1 << 63:
        problems.append(f"seed: must lie in [0, 2^63), got {sampling.seed}")
    if problems:
        raise InputError("\n".join(problems))


def _write(
    decoder: Decoder,
    listed: Sequence[int],
    tokens: int,
    sampling: Sampling,
    told: Callable[[int], None],
    project: Callable[[int | None], Project],
    counts: _Counts,
) -> list[int]:
    """The tokens that follow those that are given."""
    rng = np.random.default_rng(sampling.seed)
    cache = KvCache()
    written: list[int] = []
    following = list(listed)
    while True:
        x = decoder.embed(following, cache.length())
        for layer in range(decoder.architecture.layers):
            x = decoder.layer(layer, x, project(layer), cache)
        logits = decoder.logits(x[-1:], project(None))[0]
        written.append(choose(logits, sampling.temperature, rng))
        told(written[-1])
        if len(written) == tokens:
            return written
        following = written[-1:]
        counts.phase = "decode"


def choose(logits: np.ndarray, temperature: float, rng: np.random.Generator) -> int:
    """A token by its logits ``(vocab,)``: the first of the largest at temperature 0, else drawn."""
    if not temperature:
        return int(np.argmax(logits))
    wide = logits.astype(np.float64) / temperature
    shares = np.exp(wide - wide.max())
    bounds = np.cumsum(shares)
    return int(np.searchsorted(bounds, rng.random() * bounds[-1], side="right"))


def _floats(decoder: Decoder) -> Callable[[int | None], Project]:
    return lambda layer: plain(decoder, layer)


def _on_rtl(
    decoder: Decoder, runner: LayerRunner, bits: int, counts: _Counts
) -> Callable[[int | None], Project]:
    """The projections on the RTL, biases added outside."""

    def of_layer(layer: int | None) -> Project:
        def project(name: str, x: np.ndarray) -> np.ndarray:
            w, b = decoder.weight(layer, name)
            try:
                found, run = runner.linear(name, x, w, b, bits)
            except ValueError as error:
                where = name if layer is None else f"layer {layer}: {name}"
                raise InputError(f"{runner.spec.name}: {where}: {error}") from None
            counts.add(name, run)
            return found

        return project

    return of_layer


def _operators(
    decoder: Decoder,
    core: Core,
    bits: int,
    group: int,
    given: int,
    tokens: int,
    counts: _Counts,
) -> tuple[list[OperatorRun], list[str]]:
    """Every operator of both phases beside what the mapper says of it; and what differs."""
    if not counts.runs:
        return [], []
    arch = decoder.architecture
    workloads = {"prefill": prefill_workload(arch, given)}
    if tokens > 1:
        workloads["decode"] = decode_workload(arch, tokens - 1, context=given)
    found, failures = [], []
    for phase, workload in workloads.items():
        mapped: dict[str, list[OperatorCost]] = defaultdict(list)
        by_name = {item.name: item for item in workload.operators if isinstance(item, Linear)}
        # The mapper is asked for this width, whatever the checkpoint stores.
        choices = Choices(weight_bits=bits, group=None if core.own_scales else group)
        for cost in map_workload(workload, core, choices).operators:
            if cost.name in by_name:
                mapped[by_name[cost.name].role].append(cost)
        roles = {role for part, role in counts.runs if part == phase}
        for role in dict.fromkeys((*mapped, *sorted(roles))):
            runs = counts.runs.get((phase, role), [])
            item = OperatorRun(
                phase=phase,
                name=role,
                shape=runs[0].shape if runs else (0, 0, 0),
                products=len(runs),
                observed=sum(run.cycles for run in runs),
                predicted=sum(run.predicted for run in runs),
                mapped=sum(cost.cycles for cost in mapped[role]),
                results=sum(run.results for run in runs),
                mismatches=sum(run.mismatches for run in runs),
            )
            found.append(item)
            wrong = next((run for run in runs if run.mismatches), None)
            if wrong is not None:
                failures.append(
                    f"{phase}: {role}: {item.mismatches} of {item.results} results differ, "
                    f"{wrong.first_mismatch}"
                )
            if not item.observed == item.predicted == item.mapped:
                failures.append(
                    f"{phase}: {role}: {item.observed} cycles observed, {item.predicted} by the "
                    f"timing model, {item.mapped} by the mapper"
                )
    return found, failures


def _report(
    decoder: Decoder,
    core: Core,
    form: ProductFormat,
    prompt: str,
    tokenizer: Tokenizer,
    listed: Sequence[int],
    written: Sequence[int],
    sampling: Sampling,
    on: On,
    operators: Sequence[OperatorRun],
    failures: Sequence[str],
    seconds: float,
) -> GenerateReport:
    arch = decoder.architecture
    text = tokenizer.decode(written).decode(errors="replace")
    how = (
        "the most probable token"
        if not sampling.temperature
        else f"drawn at temperature {sampling.temperature:g}, seed {sampling.seed}"
    )
    facts = [
        f"{len(listed)} tokens given, {len(written)} written, {how}; {seconds:.1f} s",
    ]
    tables, notes = [], []
    decode = sum(item.observed for item in operators if item.phase == "decode")
    prefill = sum(item.observed for item in operators if item.phase == "prefill")
    rate = None
    if on != "float32":
        facts.insert(
            0,
            f"core: {core.name} ({core.block}), {core.m} × {core.n} × {core.k} a step, "
            f"{core.clock_mhz:g} MHz; activations {core.activation_name}, weights "
            f"{core.weight_format or f'W{form.bits} {form.scheme}, groups of {form.group}'}",
        )
    if operators:
        results = sum(item.results for item in operators)
        wrong = sum(item.mismatches for item in operators)
        facts.append(
            f"{lay.count(results)} results, {lay.count(wrong)} of them wrong; "
            f"{lay.count(prefill)} cycles for the prompt, {lay.count(decode)} for the "
            f"{len(written) - 1} tokens after the first"
        )
        if decode:
            rate = (len(written) - 1) * core.clock_mhz * 1e6 / decode
            facts.append(
                f"{lay.count(round(decode / (len(written) - 1)))} cycles a token, "
                f"{lay.count(round(rate))} tokens/s at {core.clock_mhz:g} MHz, linear layers "
                "alone, operands at hand (`rtlgen map` charges memory and attention)"
            )
        tables.append(
            Table(
                columns=(
                    "phase", "operator", "M×N×K", "products", "cycles observed", "predicted",
                    "mapped", "bit-exact",
                ),
                rows=[
                    (
                        item.phase,
                        item.name,
                        "×".join(map(str, item.shape)),
                        lay.count(item.products),
                        lay.count(item.observed),
                        lay.count(item.predicted),
                        lay.count(item.mapped),
                        "yes" if item.mismatches == 0 else f"no, {item.mismatches}",
                    )
                    for item in operators
                ],
            )
        )  # fmt: skip
        notes.append(
            "scales of integers and the sum over their groups, norms, attention, rotations and "
            "sums are float32 in software and take no cycles here"
        )
    return GenerateReport(
        title={
            "rtl": f"{arch.name} on {core.name} (RTL)",
            "golden": f"{arch.name} on {core.name} (golden model)",
            "float32": f"{arch.name} in float32",
        }[on],
        facts=facts,
        tables=tables,
        notes=notes,
        data={
            "rtlgen": __version__,
            "model": arch.name,
            "on": on,
            "spec": core.name,
            "spec_digest": core.digest,
            "weight_bits": form.bits,
            "group": form.group,
            "temperature": sampling.temperature,
            "seed": sampling.seed,
            "prompt": prompt,
            "text": text,
            "tokens": [*listed, *written],
            "prefill_cycles": prefill,
            "decode_cycles": decode,
            "tokens_per_second": rate,
            "operators": [{**asdict(item), "shape": list(item.shape)} for item in operators],
            "failures": list(failures),
        },
        prompt=prompt,
        text=text,
        tokens=(*listed, *written),
        operators=tuple(operators),
        failures=tuple(failures),
    )

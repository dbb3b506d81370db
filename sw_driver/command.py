"""The verbs that map, run, measure, compare and search: ``map`` to ``explore``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtl_gen import console
from rtl_gen.errors import InputError

if TYPE_CHECKING:
    from sw_driver.report import Report


def _widths(
    ctx: click.Context, parameter: click.Parameter, values: tuple[str, ...]
) -> tuple[int | None, dict[str, int]]:
    """``4`` and ``lm_head=8`` to a width for all and the exceptions."""
    every: int | None = None
    exceptions: dict[str, int] = {}
    for value in values:
        name, equals, text = value.rpartition("=")
        if not text.isdecimal() or len(text) > 3 or (equals and not name):
            raise click.BadParameter(
                f"must be a number of bits, or operator=bits, got {value!r}", ctx, parameter
            )
        if equals:
            exceptions[name] = int(text)
        else:
            every = int(text)
    return every, exceptions


@console.command("map")
@click.argument("model")
@click.option(
    "--core",
    "core_file",
    metavar="SPEC.yaml",
    type=click.Path(path_type=Path),
    help="Specification of the core.",
)
@click.option(
    "--system",
    metavar="SYSTEM.yaml",
    help="A system instead of one core: a file, or the name of a shipped one (edge_lut, "
    "server_lut). Blocks are scheduled on its cores, buffers and DRAM channel.",
)
@click.option("--prefill", metavar="N", type=int, help="Tokens of a prompt, all at once.")
@click.option("--decode", metavar="N", type=int, help="Tokens generated one by one.")
@click.option(
    "--context", metavar="L", type=int, help="Tokens before the decoded ones (default: the prompt)."
)
@click.option("--batch", metavar="B", type=int, default=1, show_default=True, help="Sequences.")
@click.option(
    "--weight-bits",
    metavar="BITS",
    multiple=True,
    callback=_widths,
    help="Width of weights; operator=BITS for one operator. Default: as the checkpoint stores "
    "them, else the core's widest, 2 for ternary models.",
)
@click.option(
    "--activation-bits",
    metavar="BITS",
    type=int,
    help="Width of activations, where jobs choose it.",
)
@click.option("--kv-bits", metavar="BITS", type=int, help="Width of the KV cache.")
@click.option(
    "--kv",
    metavar="FORMAT",
    help="Format of the KV cache: int4, fp16, bf16, fp8, kivi:2, xquant:4; kivi and xquant may "
    "have ,group=G,window=W behind them.",
)
@click.option("--chunk", metavar="C", type=int, help="Prefill the prompt C tokens at a time.")
@click.option(
    "--piggyback",
    metavar="D",
    type=int,
    default=0,
    help="Sequences that decode a token beside every chunk.",
)
@click.option(
    "--piggyback-context",
    metavar="L",
    type=int,
    help="Tokens before the first of these (default: the prompt).",
)
@click.option(
    "--speculate", metavar="G", type=int, help="Verify G drafted tokens in each decoding step."
)
@click.option(
    "--accept", metavar="P", type=float, help="Chance that a drafted token is accepted, 0 to 1."
)
@click.option("--draft", metavar="MODEL", help="What drafts, charged beside: named as MODEL is.")
@click.option(
    "--routing",
    metavar="ROUTING",
    default="balanced",
    show_default=True,
    help="Tokens over experts: balanced, uniform (random, expected costs), or a histogram's .json.",
)
@click.option(
    "--tables",
    type=click.Choice(["core", "unit", "fused", "memory"]),
    help="Where a lut_core's tables come from: made inside, streamed to its port by a unit or by a "
    "fused one, or written to and read from memory. Default: inside, or by a unit.",
)
@click.option(
    "--expand-latents",
    "expanded",
    is_flag=True,
    help="Of latent attention, cache keys and values of every head, not the latents.",
)
@click.option("--group", metavar="G", type=int, help="Elements of K that share a scale.")
@click.option(
    "--buffer-kib",
    metavar="KIB",
    type=click.IntRange(0, 1 << 30),
    help="On-chip operand buffer beside the core; 2048 by default.",
)
@click.option(
    "--synth-report",
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="Output of `rtlgen synth --json` for this core: adds its area.",
)
@click.option(
    "--power-report",
    metavar="FILE.json",
    type=click.Path(path_type=Path),
    help="Output of `rtlgen power --json` for this core: adds energies.",
)
@click.option(
    "--dram-pj-per-bit",
    metavar="PJ",
    type=float,
    help="Energy of a bit of DRAM traffic; not charged without it.",
)
@click.option(
    "--picture",
    metavar="FILE.png",
    type=click.Path(path_type=Path),
    help="Draw the times per operator and the roofline (.png, .svg, .pdf).",
)
@console.json_option
def map_model(
    model: str,
    core_file: Path | None,
    system: str | None,
    prefill: int | None,
    decode: int | None,
    context: int | None,
    batch: int,
    weight_bits: tuple[int | None, dict[str, int]],
    activation_bits: int | None,
    kv_bits: int | None,
    kv: str | None,
    chunk: int | None,
    piggyback: int,
    piggyback_context: int | None,
    speculate: int | None,
    accept: float | None,
    draft: str | None,
    routing: str,
    tables: str | None,
    expanded: bool,
    group: int | None,
    buffer_kib: int | None,
    synth_report: Path | None,
    power_report: Path | None,
    dram_pj_per_bit: float | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Map a model onto a core or a system: cycles, bytes, time, tokens/s.

    MODEL is a checkpoint (a Hugging Face folder with its safetensors files, or a GGUF file),
    whose weights are mapped as they are stored, a config.json, or the name of a shipped one
    (llama-2-7b, bitnet-b1.58-3b, gpt2, ...; any other name lists them).
    """
    from sw_driver.cache_format import parse_cache
    from sw_driver.choices import BUFFER_BYTES, Choices
    from sw_driver.map_report import map_model as mapped
    from sw_driver.report import check_picture

    if (core_file is None) == (system is None):
        raise InputError("map: must have one of --core and --system")
    if picture is not None:
        check_picture(picture)
    every, exceptions = weight_bits
    scheme = None
    if kv is not None:
        if kv_bits is not None:
            raise InputError("kv_bits: must not be given beside kv")
        kv_bits, scheme = parse_cache(kv)
    phases: dict[str, Any] = {
        "prefill": prefill,
        "decode": decode,
        "context": context,
        "batch": batch,
        "choices": Choices(
            weight_bits=every,
            operator_bits=exceptions,
            kv_bits=kv_bits,
            group=group,
            buffer_bytes=BUFFER_BYTES if buffer_kib is None else buffer_kib * 1024,
            kv=scheme,
            tables=tables,  # type: ignore[arg-type]
        ),
        "activation_bits": activation_bits,
        "expanded": expanded,
        "chunk": chunk,
        "piggyback": piggyback,
        "piggyback_context": piggyback_context,
        "speculate": speculate,
        "accept": accept,
        "routing": routing,
    }
    report: Report
    if core_file is not None:
        report = mapped(
            model,
            core_file,
            synth_report=synth_report,
            power_report=power_report,
            dram_pj_per_bit=dram_pj_per_bit,
            draft=draft,
            **phases,
        )
    else:
        from sw_driver.system.report import map_model_on_system

        own: dict[str, object] = {"--buffer-kib": buffer_kib, "--synth-report": synth_report}
        for option, value in own.items():
            if value is not None:
                raise InputError(f"{option}: must not be given with --system, whose file says it")
        others: dict[str, object] = {
            "--power-report": power_report,
            "--dram-pj-per-bit": dram_pj_per_bit,
            "--draft": draft,
        }
        for option, value in others.items():
            if value is not None:
                raise InputError(f"{option}: must come with --core, a system has no figures of it")
        report = map_model_on_system(model, str(system), **phases)
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))


@console.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--all", "every", is_flag=True, help="List every tensor, layer by layer.")
@console.json_option
def inspect(path: Path, every: bool, as_json: bool) -> None:
    """List what a checkpoint holds: tensors, formats, bits a weight.

    PATH is a Hugging Face folder with its safetensors files (plain, GPTQ, AWQ, BitNet or FP8), a
    safetensors file, or a GGUF file. Only headers are read.
    """
    from sw_driver.inspect_report import inspect_checkpoint

    report = inspect_checkpoint(path, every=every)
    click.echo(report.json() if as_json else str(report))


@console.command()
@console.spec_argument
@click.option(
    "--model",
    metavar="CHECKPOINT",
    default="minilm",
    show_default=True,
    help="A checkpoint: a folder, a safetensors or a GGUF file, or minilm for the packaged one.",
)
@click.option(
    "--layer",
    "--layers",
    "layer",
    metavar="N|all",
    default="0",
    show_default=True,
    help="Which layer, or all of them.",
)
@click.option(
    "--weight-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width that weights are quantized to; may be repeated. Default: as the checkpoint stores "
    "them; floats at 1, 2 and 4 bits (2 and 4 for all layers) as far as the core has them.",
)
@click.option(
    "--activation-bits",
    metavar="BITS",
    type=int,
    help="Width of activations, where jobs choose it.",
)
@click.option(
    "--group",
    metavar="G",
    type=int,
    default=64,
    show_default=True,
    help="Elements of K that share a scale of weights that are quantized here.",
)
@click.option(
    "--clip",
    type=click.Choice(["absmax", "mse"]),
    default="absmax",
    show_default=True,
    help="Codes of weights that are quantized here span a group, or err least in the square.",
)
@click.option(
    "--text",
    multiple=True,
    help="A text that the activations come from; may be repeated.",
)
@click.option(
    "--text-file",
    metavar="FILE",
    type=click.Path(path_type=Path),
    help="Texts, one a line.",
)
@click.option(
    "--tokens",
    metavar="1,2,3",
    multiple=True,
    help="Token numbers in the place of a text; may be repeated.",
)
@click.option(
    "--jobs",
    metavar="N",
    type=int,
    help="Instances of the core that share the work. Default: one for each core of this machine.",
)
@click.option(
    "--scales",
    type=click.Choice(["software", "rtl"]),
    default="software",
    show_default=True,
    help="Where the groups of integers are scaled and summed: in float32, or by scale_accumulate.",
)
@click.option(
    "--picture",
    metavar="FILE.png",
    type=click.Path(path_type=Path),
    help="Draw cycles and similarities (.png, .svg, .pdf).",
)
@console.json_option
def run(
    spec_file: Path,
    model: str,
    layer: str,
    weight_bits: tuple[int, ...],
    activation_bits: int | None,
    group: int,
    clip: str,
    text: tuple[str, ...],
    text_file: Path | None,
    tokens: tuple[str, ...],
    jobs: int | None,
    scales: str,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Run a layer or a model with real weights on the simulated RTL.

    The projections are packed, as the checkpoint stores them or quantized, and sent with a text's
    activations through the Verilated core. Results are compared bit for bit with the reference,
    and by cosine with float32.
    """
    from rtl_gen.errors import VerificationError
    from rtl_gen.specfile import load_spec
    from sw_driver.prompts import texts_in, token_numbers
    from sw_driver.report import check_picture
    from sw_driver.run import check_layers, run_layer, run_model

    if picture is not None:
        check_picture(picture)
    number = check_layers(layer)
    if not all(item.strip() for item in text):
        raise InputError("text: must not be empty")
    if text_file is not None and text:
        raise InputError("--text-file: give texts or a file of them, not both")
    texts = list(text) if text_file is None else texts_in(text_file)
    numbers = [token_numbers(item) for item in tokens]
    spec = load_spec(spec_file)
    settings: dict[str, Any] = {
        "model": model,
        "weight_bits": weight_bits or None,
        "activation_bits": activation_bits,
        "group": group,
        "text": texts or None,
        "tokens": numbers or None,
        "hardware_scales": scales == "rtl",
        "clip": clip,
        "jobs": jobs,
    }
    report: Any
    if number is None:
        report = run_model(spec, **settings)
    else:
        report = run_layer(spec, layer=number, **settings)
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))
    if report.failures:
        raise VerificationError("\n".join(report.failures))


@console.command()
@click.argument(
    "spec_files",
    metavar="SPEC.yaml...",
    nargs=-1,
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
)
@click.option(
    "--model",
    metavar="DIR",
    default="minilm",
    show_default=True,
    help="Folder of a BERT checkpoint, or minilm for the packaged one.",
)
@click.option("--layer", metavar="N", type=int, default=0, show_default=True, help="Which layer.")
@click.option(
    "--weight-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width of integer weights; may be repeated. Default: each core's widest up to 8.",
)
@click.option(
    "--activation-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width of activations where jobs choose it; may be repeated. Default: the widest.",
)
@click.option(
    "--group",
    metavar="G",
    type=int,
    default=64,
    show_default=True,
    help="Elements of K that share a scale of integer weights.",
)
@click.option(
    "--hadamard",
    metavar="SIZE",
    type=int,
    default=16,
    show_default=True,
    help="Size of the blocks that are rotated.",
)
@click.option("--text", help="The sentence that the activations come from.")
@click.option("--rtl", is_flag=True, help="Run every product on the simulated RTL and compare.")
@click.option(
    "--picture",
    metavar="FILE.png",
    type=click.Path(path_type=Path),
    help="Draw the errors (.png, .svg, .pdf).",
)
@console.json_option
def accuracy(
    spec_files: tuple[Path, ...],
    model: str,
    layer: int,
    weight_bits: tuple[int, ...],
    activation_bits: tuple[int, ...],
    group: int,
    hadamard: int,
    text: str | None,
    rtl: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Measure the error of cores' number formats on a real layer.

    Every projection of an encoder layer and the scores of its attention, quantized to what each
    core takes, against float32: plain, rotated by Hadamard blocks, with the elements of K sorted,
    and both.
    """
    from rtl_gen.errors import VerificationError
    from rtl_gen.specfile import load_specs
    from sw_driver.accuracy import accuracy as measured
    from sw_driver.report import check_picture
    from sw_driver.run import DEFAULT_TEXT

    if picture is not None:
        check_picture(picture)
    if text is not None and not text.strip():
        raise InputError("text: must not be empty")
    report = measured(
        load_specs(spec_files),
        model=model,
        layer=layer,
        weight_bits=weight_bits,
        activation_bits=activation_bits,
        group=group,
        hadamard=hadamard,
        text=DEFAULT_TEXT if text is None else text,
        rtl=rtl,
    )
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))
    if report.failures:
        raise VerificationError("\n".join(report.failures))


@console.command()
@click.argument(
    "spec_files",
    metavar="SPEC.yaml[@BITS,…]...",
    nargs=-1,
    required=True,
)
@click.option(
    "--model",
    default="llama-2-7b",
    show_default=True,
    help="Model to map: a config.json, its folder, or the name of a shipped one.",
)
@click.option("--prefill", metavar="N", type=int, help="Tokens of a prompt, all at once.")
@click.option("--decode", metavar="N", type=int, help="Tokens generated one by one.")
@click.option("--context", metavar="L", type=int, help="Tokens before the decoded ones.")
@click.option(
    "--weight-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width of integer weights; may be repeated. Default: 1, 2, 4, 6 and 8.",
)
@click.option(
    "--group",
    metavar="G",
    type=int,
    default=128,
    show_default=True,
    help="Elements of K that share a scale of integers.",
)
@click.option(
    "--liberty",
    metavar="FILE",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Cell library (.lib or .lib.gz); the embedded technology without one.",
)
@click.option(
    "--effort",
    type=click.Choice(["fast", "normal", "high"]),
    default="normal",
    show_default=True,
    help="How many recipes synthesis tries.",
)
@click.option(
    "--accuracy/--no-accuracy",
    "measure",
    default=True,
    show_default=True,
    help="Measure the error on a real layer.",
)
@click.option(
    "--picture",
    metavar="FILE.png",
    type=click.Path(path_type=Path),
    help="Draw areas and errors (.png, .svg, .pdf).",
)
@click.option(
    "-o", "--out", metavar="FILE", type=click.Path(path_type=Path), help="Write the JSON as well."
)
@console.json_option
def compare(
    spec_files: tuple[str, ...],
    model: str,
    prefill: int | None,
    decode: int | None,
    context: int | None,
    weight_bits: tuple[int, ...],
    group: int,
    liberty: Path | None,
    effort: str,
    measure: bool,
    picture: Path | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Compare cores: area, everything charged, cycles, bits and error.

    Every core goes through the same synthesis, with the units that scale its results and quantize
    its activations beside it, the same mapping of a model and the same real layer. A core is listed
    at the widths of --weight-bits, or at those behind its @: lut_core.yaml@2,4.
    """
    from contextlib import nullcontext

    from rtl_gen.specfile import load_specs
    from sw_driver.compare import compare as compared
    from sw_driver.report import check_picture

    if picture is not None:
        check_picture(picture)
    asked = widths_behind(spec_files)
    specs = load_specs(asked)
    with nullcontext() if out is None else console.output_file(out) as file:
        report = compared(
            specs,
            model=model,
            prefill=prefill,
            decode=decode,
            context=context,
            weight_bits=weight_bits,
            widths={
                spec.name: bits for spec, bits in zip(specs, asked.values(), strict=True) if bits
            },
            group=group,
            liberty=liberty,
            effort=effort,
            measure=measure,
        )
        if file is not None:
            file.write_text(report.json() + "\n", encoding="utf-8")
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))


@console.command()
@click.argument("model")
@click.option(
    "--system",
    metavar="SYSTEM.yaml",
    default="pim_gpt",
    show_default=True,
    help="The PIM system: a YAML file, or the name of a shipped one.",
)
@click.option(
    "--tokens",
    metavar="FIRST:LAST[:STEP]",
    default="1:1024",
    show_default=True,
    help="Tokens in the cache with the new one.",
)
@click.option(
    "--context",
    metavar="L",
    type=int,
    help="Tokens that space is reserved for (default: the model's positions).",
)
@click.option(
    "--placement",
    metavar="FILE.csv",
    type=click.Path(path_type=Path),
    help="Write what lies in which channel, bank and rows.",
)
@click.option(
    "--commands",
    metavar="FILE.csv",
    type=click.Path(path_type=Path),
    help="Write every command of the last token with its cycle.",
)
@click.option(
    "--picture",
    metavar="FILE.png",
    type=click.Path(path_type=Path),
    help="Draw times over tokens (.png, .svg, .pdf).",
)
@console.json_option
def pim(
    model: str,
    system: str,
    tokens: str,
    context: int | None,
    placement: Path | None,
    commands: Path | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Decode a model in memory: latency, row hits, bytes.

    MODEL is a Hugging Face config.json, the folder of one, or the name of a shipped one (gpt2-xl,
    gpt3-small, ...). Every command of every channel is scheduled, token after token from reset.
    """
    from sw_driver.pim_report import pim_model
    from sw_driver.report import check_picture

    if picture is not None:
        check_picture(picture)
    report = pim_model(
        model,
        system,
        tokens=tokens,
        context=context,
        placement_file=placement,
        commands_file=commands,
    )
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))


def widths_behind(files: Sequence[str]) -> dict[Path, tuple[int, ...]]:
    """By file the widths that its ``@`` names; none without one."""
    found: dict[Path, tuple[int, ...]] = {}
    for text in files:
        behind = re.fullmatch(r"(.+)@(\d{1,3}(?:,\d{1,3})*)", text)
        path = Path(behind[1] if behind else text)
        bits = tuple(map(int, behind[2].split(","))) if behind else ()
        found[path] = (*found.get(path, ()), *bits)
    return found


@console.command()
@click.argument("model")
@click.option(
    "--core",
    "core_files",
    metavar="SPEC.yaml[@BITS,…]",
    required=True,
    multiple=True,
    help="A core that layers may have; may be repeated. The first one does attention.",
)
@click.option(
    "--budget",
    "budgets",
    metavar="METRIC=AMOUNT",
    multiple=True,
    help="At most so many cycles, bytes, size, seconds or area; 0.6x: of the reference.",
)
@click.option("--prefill", metavar="N", type=int, help="Tokens of a prompt, all at once.")
@click.option("--decode", metavar="N", type=int, help="Tokens generated one by one.")
@click.option("--context", metavar="L", type=int, help="Tokens before the decoded ones.")
@click.option("--batch", metavar="B", type=int, default=1, show_default=True, help="Sequences.")
@click.option(
    "--weight-bits",
    metavar="BITS",
    type=int,
    multiple=True,
    help="Width of integer weights; may be repeated. Default: 2, 3, 4, 6 and 8.",
)
@click.option(
    "--group",
    metavar="G",
    type=int,
    default=64,
    show_default=True,
    help="Elements of K that share a scale of integers.",
)
@click.option(
    "--buffer-kib",
    metavar="KIB",
    type=click.IntRange(0, 1 << 30),
    default=2048,
    show_default=True,
    help="On-chip operand buffer beside the core.",
)
@click.option("--text", "texts", multiple=True, help="A sentence to calibrate on; may be repeated.")
@click.option(
    "--rows",
    metavar="N",
    type=int,
    default=512,
    show_default=True,
    help="Rows of a layer that are measured where there are no activations.",
)
@click.option(
    "--sensitivity",
    type=click.Choice(["auto", "model", "layer", "weights"]),
    default="auto",
    show_default=True,
    help="Whose error: the model's with one layer quantized, the layer's own, or its weights'; by "
    "default the first that a model is small enough for.",
)
@click.option(
    "--area",
    "areas",
    metavar="FILE.json",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="Areas of the cores: output of `rtlgen synth --json` or `rtlgen compare --json`.",
)
@click.option(
    "--efficiency",
    metavar="BETA",
    type=float,
    default=0.0,
    show_default=True,
    help="Weight of cycles in the objective, beside the error.",
)
@click.option(
    "--solver",
    type=click.Choice(["auto", "dp", "milp"]),
    default="auto",
    show_default=True,
    help="Dynamic programming for one budget, HiGHS (SciPy) for several.",
)
@click.option(
    "--points", type=int, default=12, show_default=True, help="Points of the curve of budgets."
)
@click.option(
    "--check/--no-check",
    default=True,
    show_default=True,
    help="Run an encoder with what was chosen, on texts that nothing was chosen on.",
)
@click.option(
    "--picture",
    metavar="FILE.png",
    type=click.Path(path_type=Path),
    help="Draw the curve and the bits (.png, .svg, .pdf).",
)
@console.json_option
def allot(
    model: str,
    core_files: tuple[str, ...],
    budgets: tuple[str, ...],
    prefill: int | None,
    decode: int | None,
    context: int | None,
    batch: int,
    weight_bits: tuple[int, ...],
    group: int,
    buffer_kib: int,
    texts: tuple[str, ...],
    rows: int,
    sensitivity: str,
    areas: tuple[Path, ...],
    efficiency: float,
    solver: str,
    points: int,
    check: bool,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Choose bits and core of each layer: the proven best in budgets.

    MODEL is minilm, a folder of a BERT encoder (errors are measured on real activations), or
    another checkpoint (errors of the weights alone). Cycles, bytes and memory are the
    mapper's, of all phases; the allotment of least summed error within the budgets is exact.
    """
    from rtl_gen.specfile import load_specs
    from sw_driver.allot.allotment import allot as allotted
    from sw_driver.allot.allotment import parse_budget
    from sw_driver.report import check_picture

    if picture is not None:
        check_picture(picture)
    if any(not text.strip() for text in texts):
        raise InputError("text: must not be empty")
    asked = widths_behind(core_files)
    wanted = [parse_budget(text) for text in budgets]
    specs = load_specs(asked)
    report = allotted(
        model,
        specs,
        budgets=wanted,
        widths=weight_bits,
        widths_of={spec.name: bits for spec, bits in zip(specs, asked.values(), strict=True)},
        prefill=prefill,
        decode=decode,
        context=context,
        batch=batch,
        group=group,
        buffer_bytes=buffer_kib * 1024,
        texts=texts,
        rows=rows,
        sensitivity=sensitivity,  # type: ignore[arg-type]
        areas=areas,
        efficiency=efficiency,
        solver=solver,  # type: ignore[arg-type]
        points=points,
        check=check,
    )
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))


@console.command()
@click.argument("space_file", metavar="SPACE.yaml", type=click.Path(path_type=Path))
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the journal, the tables, the picture and the page.",
)
@click.option("--resume", is_flag=True, help="Go on with the run that DIR holds.")
@click.option(
    "--jobs", metavar="N", type=int, help="Processes; 1 uses none beside this one. Default: cores."
)
@click.option("--trials", metavar="N", type=int, help="Points of a search, for the file's.")
@click.option(
    "--storage",
    metavar="URL",
    help="Storage of the search, any of Optuna's. Default: a journal file in DIR.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Measure on a Dask cluster instead of here.")
@console.json_option
def explore(
    space_file: Path,
    out: Path,
    resume: bool,
    jobs: int | None,
    trials: int | None,
    storage: str | None,
    scheduler: str | None,
    as_json: bool,
) -> None:
    """Explore a space of cores and mappings: the Pareto front.

    Every point of the space, or those that a search tries, goes through the mapper; designs that
    may be on the front are synthesized, and the front's RTL is tried. A run that was stopped goes
    on with --resume, nothing lost or done again. See docs/explore.md for SPACE.yaml.
    """
    from rtl_gen.errors import ToolError, VerificationError
    from sw_driver.explore.exploration import explore as explored

    report = explored(
        space_file,
        out,
        resume=resume,
        jobs=jobs,
        trials=trials,
        storage=storage,
        scheduler=scheduler,
    )
    click.echo(report.json() if as_json else str(report))
    if any(item.verified is False for item in report.front):
        raise VerificationError("\n".join(report.failures))
    if report.failures:
        raise ToolError("explore", "\n".join(report.failures))

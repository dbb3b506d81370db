"""The verb ``rtlgen map``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from rtl_gen import console
from rtl_gen.errors import InputError
from sw_driver.commands.options import activation_bits_option, picture_option, widths

if TYPE_CHECKING:
    from sw_driver.report import Report


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
@click.option(
    "--exact",
    is_flag=True,
    help="Of a system, search blocks until the best is proven, however long it takes.",
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
    callback=widths,
    help="Width of weights; operator=BITS for one operator. Default: as the checkpoint stores "
    "them, else the core's widest, 2 for ternary models.",
)
@activation_bits_option
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
    "power_reports",
    metavar="FILE.json",
    multiple=True,
    type=click.Path(path_type=Path),
    help="Output of `rtlgen power --json` for this core, or one for each kind of core of a system: "
    "adds energies.",
)
@click.option(
    "--dram-pj-per-bit",
    metavar="PJ",
    type=float,
    help="Energy of a bit of DRAM traffic; not charged without it.",
)
@picture_option("the times per operator and the roofline")
@console.json_option
def map_model(
    model: str,
    core_file: Path | None,
    system: str | None,
    exact: bool,
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
    power_reports: tuple[Path, ...],
    dram_pj_per_bit: float | None,
    picture: Path | None,
    as_json: bool,
) -> None:
    """Map a model onto a core or a system: cycles, bytes, tokens/s.

    MODEL is a checkpoint (a Hugging Face folder with its safetensors files, or a GGUF file),
    whose weights are mapped as they are stored, a config.json, or the name of a shipped one
    (llama-2-7b, bitnet-b1.58-3b, gpt2, ...; any other name lists them).
    """
    from sw_driver.mapper.cache_format import parse_cache
    from sw_driver.mapper.choices import BUFFER_BYTES, Choices
    from sw_driver.mapper.report import map_model as mapped
    from sw_driver.report import check_picture

    if (core_file is None) == (system is None):
        raise InputError("map: must have one of --core and --system")
    if exact and system is None:
        raise InputError("--exact: must come with --system, --core has no schedule to search")
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
        if len(power_reports) > 1:
            raise InputError(f"--power-report: must be one for --core, got {len(power_reports)}")
        report = mapped(
            model,
            core_file,
            synth_report=synth_report,
            power_report=power_reports[0] if power_reports else None,
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
        if draft is not None:
            raise InputError("--draft: must come with --core, a system has no figures of it")
        search: dict[str, Any] = {"gap": 0.0, "effort": None} if exact else {}
        report = map_model_on_system(
            model,
            str(system),
            power_reports=power_reports,
            dram_pj_per_bit=dram_pj_per_bit,
            **phases,
            **search,
        )
    if picture is not None:
        report.save_picture(picture)
    click.echo(report.json() if as_json else str(report))

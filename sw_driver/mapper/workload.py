"""A model as a list of operators with shapes, formats, repetition and phase.

Three kinds of operators carry the multiplications: linear layers on parameters, and the two
products of attention on the KV cache. Everything else (norms, softmax, rotary embedding, activation
functions, residual additions) is counted in elements as vector work that no GEMM core does.
"""

from __future__ import annotations

from sw_driver.architecture import Architecture
from sw_driver.mapper.cost import Line
from sw_driver.mapper.layers import Part, Phase, Plan, Rows, Workload, refuse, workload_of
from sw_driver.mapper.operator import Attention, Linear, Lookup, Operator, VectorWork
from sw_driver.mapper.routing import BALANCED, Routing, routed_rows

__all__ = [
    "Attention",
    "Linear",
    "Lookup",
    "Operator",
    "Phase",
    "VectorWork",
    "Workload",
    "decode_workload",
    "draft_workload",
    "expected_tokens",
    "prefill_workload",
    "routed_rows",
    "verify_workload",
]

MAX_TOKENS = 1 << 24
MAX_BATCH = 1 << 16
MAX_DRAFTED = 64
FINEST = 256
"""Largest denominator of the tokens that a step of speculation yields."""


def prefill_workload(
    architecture: Architecture,
    tokens: int,
    *,
    context: int = 0,
    batch: int = 1,
    expanded: bool = False,
    chunk: int | None = None,
    riders: int = 0,
    rider_context: int | None = None,
    routing: Routing = BALANCED,
    inputs_cached: bool = False,
) -> Workload:
    """All ``tokens`` of every sequence at once, after ``context`` tokens that are in the cache.

    Args:
        expanded: of latent attention, the cache keeps keys and values of every head. Without it,
            it keeps the latents, from which a prefill expands the keys and values of all tokens,
            those of the context included.
        chunk: the tokens come so many at a time, each chunk after those before it; the last one may
            be shorter.
        riders: sequences that decode a token each in the step of every chunk (Sarathi-Serve, arXiv
            2403.02310, section 4.2): their rows are rows of the chunk's linear layers, the
            attention of each is its own.
        rider_context: tokens before the first token of a rider; ``context + tokens`` if None.
        routing: how tokens are spread over experts.
        inputs_cached: the cache keeps the inputs of layers (XQuant, arXiv 2508.10395): keys and
            values of all tokens that are seen are computed again in every step.

    Raises:
        InputError: a number is out of range, or the model cannot hold so many tokens.
    """
    last = context + tokens
    at_riders = last if rider_context is None else rider_context
    size = tokens if chunk is None else chunk
    problems = _range("chunk", chunk, 1, tokens) if chunk is not None else []
    problems += _range("piggyback", riders, 0, MAX_BATCH)
    if chunk is not None and not architecture.causal:
        problems.append("chunk: must not be given for an encoder, a token sees those after it")
    if riders and chunk is None:
        problems.append(f"piggyback: must come with chunk, got {riders}")
    if not riders and rider_context is not None:
        problems.append("piggyback_context: must come with piggyback")
    if riders:
        problems += _range("piggyback_context", at_riders, 0, MAX_TOKENS)
    numbers = _numbers(architecture, "prefill", tokens, context, batch)
    if riders and not numbers and not problems:
        steps = -(-tokens // size)
        if architecture.positions and at_riders + steps > architecture.max_positions:
            problems.append(
                f"piggyback: must be at most {architecture.max_positions} tokens with those before "
                f"them, the model has no more positions, got {at_riders} + {steps}"
            )
    refuse(architecture, numbers + problems)
    full, rest = divmod(tokens, size)
    steps = full + bool(rest)
    rows = [Rows(batch * size + riders, full)]
    parts = [Part(batch, size, full, context)]
    if rest:
        tag = "last chunk"
        rows.append(Rows(batch * rest + riders, 1, tag))
        parts.append(Part(batch, rest, 1, context + full * size, tag=tag))
    heads = [Rows(batch + riders if architecture.causal else batch * tokens, 1)]
    if riders:
        parts.append(Part(riders, 1, steps, at_riders, decoding=True, tag="riders"))
        if steps > 1:
            heads.insert(0, Rows(riders, steps - 1, "riders"))
    plan = Plan(
        phase="prefill",
        tokens=tokens,
        rows=tuple(rows),
        heads=tuple(heads),
        parts=tuple(parts),
        chunk=chunk or 0,
        riders=riders,
        rider_context=at_riders if riders else 0,
    )
    return workload_of(architecture, plan, batch, context, expanded, routing, inputs_cached)


def decode_workload(
    architecture: Architecture,
    steps: int,
    *,
    context: int,
    batch: int = 1,
    expanded: bool = False,
    routing: Routing = BALANCED,
    inputs_cached: bool = False,
) -> Workload:
    """``steps`` steps of one token per sequence, the first after ``context`` tokens.

    Args:
        expanded: of latent attention, the cache keeps keys and values of every head. Without it,
            it keeps the latents, and the projection that would expand them is absorbed: queries
            are taken to the latents' space before the scores, results out of it after the values
            (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).
        routing, inputs_cached: as :func:`prefill_workload`.

    Raises:
        InputError: as :func:`prefill_workload`, or the model is an encoder.
    """
    _decoder(architecture, "decode")
    refuse(architecture, _numbers(architecture, "decode", steps, context, batch))
    rows = (Rows(batch, steps),)
    parts = (Part(batch, 1, steps, context, decoding=True),)
    plan = Plan(phase="decode", tokens=steps, rows=rows, heads=rows, parts=parts)
    return workload_of(architecture, plan, batch, context, expanded, routing, inputs_cached)


def expected_tokens(drafted: int, accept: float) -> Line:
    """Tokens that a step of speculation yields, ``Σ accept^i`` for i from 0 to ``drafted``.

    ``(1 − accept^(drafted + 1)) / (1 − accept)`` (Leviathan et al., arXiv 2211.17192, equation 1),
    as the nearest fraction whose denominator is at most 256: it is off by less than 1 in 500.
    """
    from fractions import Fraction

    chance = Fraction(str(accept))
    found = sum((chance**power for power in range(drafted + 1)), Fraction(0))
    near = found.limit_denominator(FINEST)
    return Line(near.numerator, near.denominator)


def verify_workload(
    architecture: Architecture,
    tokens: int,
    *,
    drafted: int,
    accept: float,
    context: int,
    batch: int = 1,
    expanded: bool = False,
    routing: Routing = BALANCED,
    inputs_cached: bool = False,
) -> Workload:
    """A decoding of ``tokens`` tokens by steps that verify ``drafted`` tokens and add one.

    A step computes ``drafted + 1`` tokens of every sequence. With ``E`` of
    :func:`expected_tokens`, step ``s`` comes after ``context + floor(s·E)`` tokens, and
    ``ceil(tokens / E)`` steps are done: every sequence grows as one does on average.

    Raises:
        InputError: as :func:`decode_workload`, or ``drafted`` or ``accept`` is out of range.
    """
    plan = _speculation(architecture, "verify", tokens, drafted, accept, context, batch)
    return workload_of(architecture, plan, batch, context, expanded, routing, inputs_cached)


def draft_workload(
    architecture: Architecture,
    tokens: int,
    *,
    drafted: int,
    accept: float,
    context: int,
    batch: int = 1,
    expanded: bool = False,
    routing: Routing = BALANCED,
) -> Workload:
    """What drafts for :func:`verify_workload`: ``drafted`` decoded tokens before each of its steps.

    Raises:
        InputError: as :func:`verify_workload`.
    """
    plan = _speculation(architecture, "draft", tokens, drafted, accept, context, batch)
    return workload_of(architecture, plan, batch, context, expanded, routing, False)


def _speculation(
    arch: Architecture,
    phase: Phase,
    tokens: int,
    drafted: int,
    accept: float,
    context: int,
    batch: int,
) -> Plan:
    _decoder(arch, phase)
    problems = _range("speculate", drafted, 1, MAX_DRAFTED)
    if not 0 <= accept <= 1:
        problems.append(f"accept: must lie in [0, 1], got {accept}")
    # Up to `drafted` tokens are computed beyond those that are kept.
    refuse(arch, _numbers(arch, phase, tokens, context, batch, drafted) + problems)
    rise = expected_tokens(drafted, accept)
    steps = -(-tokens * rise.down // rise.up)
    if phase == "verify":
        rows = (Rows(batch * (drafted + 1), steps),)
        part = Part(batch, drafted + 1, steps, context, rise, decoding=True)
    else:
        rows = (Rows(batch, steps * drafted),)
        part = Part(batch, drafted, steps, context, rise, serial=True, decoding=True)
    return Plan(
        phase=phase,
        tokens=tokens,
        rows=rows,
        heads=rows,
        parts=(part,),
        drafted=drafted,
        rise=rise,
    )


def _range(name: str, value: int, least: int, most: int) -> list[str]:
    return [] if least <= value <= most else [f"{name}: must lie in [{least}, {most}], got {value}"]


def _numbers(
    arch: Architecture, phase: Phase, tokens: int, context: int, batch: int, beyond: int = 0
) -> list[str]:
    """What is wrong with the numbers of a phase; ``beyond``: tokens that are computed in vain."""
    problems = _range(phase, tokens, 1, MAX_TOKENS)
    problems += _range("context", context, 0, MAX_TOKENS)
    if context and not arch.causal:
        problems.append(f"context: must be 0 for an encoder, got {context}")
    problems += _range("batch", batch, 1, MAX_BATCH)
    if not problems and arch.positions and context + tokens + beyond > arch.max_positions:
        drafted = f" + {beyond}" if beyond else ""
        problems.append(
            f"{phase}: must be at most {arch.max_positions} tokens with those before them, the "
            f"model has no more positions, got {context} + {tokens}{drafted}"
        )
    return problems


def _decoder(arch: Architecture, phase: Phase) -> None:
    if not arch.causal:
        refuse(arch, [f"{phase}: is an encoder, it can only be prefilled"])

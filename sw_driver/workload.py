"""A model as a list of operators with shapes, formats, repetition and phase.

Three kinds of operators carry the multiplications: linear layers on parameters, and the two
products of attention on the KV cache. Everything else (norms, softmax, rotary embedding, activation
functions, residual additions) is counted in elements as vector work that no GEMM core does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rtl_gen.errors import InputError
from sw_driver.architecture import Architecture, LayerGroup, Mlp, Storage
from sw_driver.cost import Line, Rising
from sw_driver.operator import Attention, Linear, Lookup, Operator, VectorWork
from sw_driver.routing import BALANCED, Routing, check_routing, ragged_rows, routed_rows

__all__ = [
    "Attention",
    "Linear",
    "Lookup",
    "Operator",
    "VectorWork",
    "Workload",
    "decode_workload",
    "draft_workload",
    "expected_tokens",
    "prefill_workload",
    "routed_rows",
    "verify_workload",
]

Phase = Literal["prefill", "decode", "verify", "draft"]

MAX_TOKENS = 1 << 24
MAX_BATCH = 1 << 16
MAX_DRAFTED = 64
FINEST = 256
"""Largest denominator of the tokens that a step of speculation yields."""


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One phase of a model.

    Attributes:
        tokens: new tokens per sequence in the phase; context: tokens before them.
        operators: matrix products; lookups: embedding tables; vector: everything else.
        experts_touched: most distinct experts that a layer of a step reads, 0 without experts; an
            expectation under random routing.
        cached: ``(heads, channels)`` of the vectors that the KV cache keeps of a token in a layer.
        inputs_cached: the cache keeps inputs of layers, of which keys and values are made again.
        steps: steps of the phase, each through all layers.
        chunk: new tokens of a step of a prefill in chunks, 0 for a prefill at once.
        riders: sequences of which a token is decoded in each step beside a chunk; rider_context:
            tokens before the first of these.
        drafted: tokens of a step that another model drafts.
        rise: tokens that a step adds where they are not those that it computes.
    """

    architecture: Architecture
    phase: Phase
    batch: int
    tokens: int
    context: int
    operators: tuple[Operator, ...]
    lookups: tuple[Lookup, ...]
    vector: tuple[VectorWork, ...]
    experts_touched: float = 0
    cached: tuple[tuple[int, int], ...] = ()
    inputs_cached: bool = False
    steps: int = 1
    chunk: int = 0
    riders: int = 0
    rider_context: int = 0
    drafted: int = 0
    rise: Line | None = None
    routing: Routing = BALANCED
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.architecture.name

    @property
    def macs(self) -> int:
        return sum(operator.macs for operator in self.operators)

    @property
    def new_tokens(self) -> int:
        """New tokens of all sequences, those that ride along included."""
        return self.batch * self.tokens + self.riders * self.steps


class _Rows(NamedTuple):
    """Rows of a linear layer in steps that are alike."""

    m: int
    steps: int
    tag: str = ""


class _Part(NamedTuple):
    """Sequences that attend alike; fields as those of :class:`Attention`."""

    sequences: int
    tokens: int
    steps: int
    past: int
    rise: Line | None = None
    serial: bool = False
    decoding: bool = False
    tag: str = ""

    @property
    def line(self) -> Line:
        return self.rise or Line(self.tokens)

    @property
    def seen(self) -> Rising:
        """Rows where every sequence has those of all tokens that it sees in a step."""
        return Rising(steps=self.steps, each=self.sequences, line=self.line)


class _Plan(NamedTuple):
    """What the steps of a phase are made of."""

    phase: Phase
    tokens: int
    """Of a sequence, in the phase."""
    rows: tuple[_Rows, ...]
    heads: tuple[_Rows, ...]
    """Of them those whose logits are wanted."""
    parts: tuple[_Part, ...]
    chunk: int = 0
    riders: int = 0
    rider_context: int = 0
    drafted: int = 0
    rise: Line | None = None


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
        problems.append("rider_context: must come with piggyback")
    if riders:
        problems += _range("rider_context", at_riders, 0, MAX_TOKENS)
    numbers = _numbers(architecture, "prefill", tokens, context, batch)
    if riders and not numbers and not problems:
        steps = -(-tokens // size)
        if architecture.positions and at_riders + steps > architecture.max_positions:
            problems.append(
                f"piggyback: must be at most {architecture.max_positions} tokens with those before "
                f"them, the model has no more positions, got {at_riders} + {steps}"
            )
    _refuse(architecture, numbers + problems)
    full, rest = divmod(tokens, size)
    steps = full + bool(rest)
    rows = [_Rows(batch * size + riders, full)]
    parts = [_Part(batch, size, full, context)]
    if rest:
        tag = "last chunk"
        rows.append(_Rows(batch * rest + riders, 1, tag))
        parts.append(_Part(batch, rest, 1, context + full * size, tag=tag))
    heads = [_Rows(batch + riders if architecture.causal else batch * tokens, 1)]
    if riders:
        parts.append(_Part(riders, 1, steps, at_riders, decoding=True, tag="riders"))
        if steps > 1:
            heads.insert(0, _Rows(riders, steps - 1, "riders"))
    plan = _Plan(
        phase="prefill",
        tokens=tokens,
        rows=tuple(rows),
        heads=tuple(heads),
        parts=tuple(parts),
        chunk=chunk or 0,
        riders=riders,
        rider_context=at_riders if riders else 0,
    )
    return _workload(architecture, plan, batch, context, expanded, routing, inputs_cached)


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
    _refuse(architecture, _numbers(architecture, "decode", steps, context, batch))
    rows = (_Rows(batch, steps),)
    parts = (_Part(batch, 1, steps, context, decoding=True),)
    plan = _Plan(phase="decode", tokens=steps, rows=rows, heads=rows, parts=parts)
    return _workload(architecture, plan, batch, context, expanded, routing, inputs_cached)


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
    return _workload(architecture, plan, batch, context, expanded, routing, inputs_cached)


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
    return _workload(architecture, plan, batch, context, expanded, routing, False)


def _speculation(
    arch: Architecture,
    phase: Phase,
    tokens: int,
    drafted: int,
    accept: float,
    context: int,
    batch: int,
) -> _Plan:
    _decoder(arch, phase)
    problems = _range("speculate", drafted, 1, MAX_DRAFTED)
    if not 0 <= accept <= 1:
        problems.append(f"accept: must lie in [0, 1], got {accept}")
    # Up to `drafted` tokens are computed beyond those that are kept.
    _refuse(arch, _numbers(arch, phase, tokens, context, batch, drafted) + problems)
    rise = expected_tokens(drafted, accept)
    steps = -(-tokens * rise.down // rise.up)
    if phase == "verify":
        rows = (_Rows(batch * (drafted + 1), steps),)
        part = _Part(batch, drafted + 1, steps, context, rise, decoding=True)
    else:
        rows = (_Rows(batch, steps * drafted),)
        part = _Part(batch, drafted, steps, context, rise, serial=True, decoding=True)
    return _Plan(
        phase=phase,
        tokens=tokens,
        rows=rows,
        heads=rows,
        parts=(part,),
        drafted=drafted,
        rise=rise,
    )


def _workload(
    arch: Architecture,
    plan: _Plan,
    batch: int,
    context: int,
    expanded: bool,
    routing: Routing,
    inputs_cached: bool,
) -> Workload:
    mixtures = _mlps(arch.layer_groups)
    problems = check_routing(routing, mixtures)
    if expanded and arch.latent is None:
        problems.append("expanded: must not be asked of a model without latent attention")
    if inputs_cached:
        problems += _without_inputs(arch)
    _refuse(arch, problems)
    notes: list[str] = []
    last = context + plan.tokens
    if last > arch.max_positions:
        notes.append(f"{last} tokens are more than the {arch.max_positions} it is published for")
    operators: list[Operator] = []

    def linear(
        name: str,
        out: int,
        into: int,
        layers: int,
        rows: Sequence[_Rows] = plan.rows,
        *,
        instances: int = 1,
        role: str = "",
        written: tuple[tuple[int, int], ...] = (),
        rising: Rising | None = None,
        ragged: tuple[tuple[int, float], ...] = (),
        remade: bool = False,
    ) -> None:
        role = role or name.split(" (")[0]
        short = role.removeprefix("expert ").removeprefix("shared ")
        shares = _shares(arch, role, name, layers)
        for m, steps, tag in rows:
            mark = f" ({tag})" if tag else ""
            for storage, count in shares:
                # Weights stored as codes are what they are; floats are as they were trained.
                trained = arch.ternary and short in _TERNARY
                coded = storage is not None and storage.bits > 0
                kind = f" ({storage.name})" if storage and len(shares) > 1 else ""
                operators.append(
                    Linear(
                        name=f"{name}{mark}{kind}",
                        runs=count * steps,
                        instances=instances,
                        m=m,
                        n=out,
                        k=into,
                        written=written if arch.causal else (),
                        bias=role in arch.biases,
                        ternary=storage.ternary if storage and coded else trained,
                        role=role,
                        storage=storage,
                        ragged=_part_of(ragged, count, layers),
                        rising=rising if rising and (remade or rising.steps > 1) else None,
                        remade=remade,
                    )
                )

    width = arch.embedding_width or arch.hidden
    if width != arch.hidden:
        linear("project_in", arch.hidden, width, 1)
    layers, heads, latent = arch.layers, arch.heads, arch.latent
    cached: tuple[tuple[int, int], ...] = ((arch.kv_heads, arch.head_dim),) * 2
    if latent is None:
        linear("q", arch.q_width, arch.hidden, layers)
        if inputs_cached:
            cached = ((1, arch.hidden),)
            for m, tag, rising in _seen(plan.parts):
                again = (_Rows(m, rising.steps, tag),)
                for name in ("k", "v"):
                    linear(
                        name, arch.kv_width, arch.hidden, layers, again, rising=rising, remade=True
                    )
        else:
            linear("k", arch.kv_width, arch.hidden, layers, written=cached[:1])
            linear("v", arch.kv_width, arch.hidden, layers, written=cached[1:])
        dims = (arch.head_dim, arch.head_dim)
        for part in plan.parts:
            operators += _attention(arch, part, arch.kv_heads, dims)
    else:
        every_head = ((heads, arch.head_dim), (heads, latent.value))
        cached = every_head if expanded else ((1, latent.kv_rank + latent.rope),)
        if latent.q_rank:
            linear("q_a", latent.q_rank, arch.hidden, layers)
        name = "q_b" if latent.q_rank else "q"
        linear(name, arch.q_width, latent.q_rank or arch.hidden, layers)
        kept = () if expanded else cached
        linear("kv_a", latent.kv_rank + latent.rope, arch.hidden, layers, written=kept)
        out = heads * (latent.nope + latent.value)
        whole = (arch.head_dim, latent.value)
        if expanded:
            linear("kv_b", out, latent.kv_rank, layers, written=every_head)
        for part in plan.parts:
            if expanded:
                operators += _attention(arch, part, heads, whole)
            elif part.decoding:
                # The draft's tokens of a step come one by one.
                runs = part.steps * (part.tokens if part.serial else 1)
                rows = part.sequences * (1 if part.serial else part.tokens)
                one = (_Rows(rows, runs, part.tag),)
                rank, rope = latent.kv_rank, latent.rope
                linear("k_up", rank, latent.nope, layers, one, instances=heads)
                operators += _attention(arch, part, 1, (rank + rope, rank))
                linear("v_up", latent.value, rank, layers, one, instances=heads)
            else:
                first = part.sequences * (part.past + part.tokens)
                rows_seen = (_Rows(first, part.steps, part.tag),)
                rank = latent.kv_rank
                linear("kv_b", out, rank, layers, rows_seen, written=every_head, rising=part.seen)
                operators += _attention(arch, part, heads, whole)
        absorbed = {part.decoding and not expanded for part in plan.parts}
        notes += [note for form in sorted(absorbed) for note in _across(arch, form)]
    linear("o", arch.hidden, arch.o_width, layers)
    touched = 0.0
    for mlp, layers in mixtures:
        if not mlp.experts:
            names = ("gate", "up") if mlp.gated else ("up",)
            for name in names:
                linear(name, mlp.width, arch.hidden, layers)
            linear("down", arch.hidden, mlp.width, layers)
            continue
        linear("router", mlp.experts, arch.hidden, layers)
        if mlp.shared:
            if mlp.gated:
                linear("shared gate", mlp.shared, arch.hidden, layers)
            linear("shared up", mlp.shared, arch.hidden, layers)
            linear("shared down", arch.hidden, mlp.shared, layers)
        sides = [("up", mlp.width, arch.hidden), ("down", arch.hidden, mlp.width)]
        if mlp.gated:
            sides.insert(0, ("gate", mlp.width, arch.hidden))
        for rows_here in plan.rows:
            if routing.kind == "balanced":
                shares = routed_rows(rows_here.m, mlp)
                touched = max(touched, sum(count for _, count in shares))
                for m, count in shares:
                    tags = [f"{m} rows"] if len(shares) > 1 else []
                    tag = ", ".join([rows_here.tag, *tags] if rows_here.tag else tags)
                    these = (_Rows(m, rows_here.steps, tag),)
                    for name, out, into in sides:
                        linear(f"expert {name}", out, into, layers, these, instances=count)
                continue
            ragged, most = ragged_rows(routing, rows_here.m, mlp, layers)
            touched = max(touched, most)
            these = (rows_here._replace(m=rows_here.m * mlp.active),)
            over = tuple((m, count * rows_here.steps) for m, count in ragged)
            for name, out, into in sides:
                linear(f"expert {name}", out, into, layers, these, ragged=over)
    if arch.pooler:
        linear("pooler", arch.hidden, arch.hidden, 1, (_Rows(batch, 1),))
    if arch.head_transform:
        linear("head_transform", arch.hidden, arch.hidden, 1, plan.heads)
    if arch.head:
        if width != arch.hidden:
            linear("project_out", width, arch.hidden, 1, plan.heads)
        linear("lm_head", arch.vocab, width, 1, plan.heads)
    every = sum(rows.m * rows.steps for rows in plan.rows)
    lookups = [Lookup(name="embedding", vectors=every, width=width)]
    if arch.positions:
        lookups.append(Lookup(name="positions", vectors=every, width=arch.hidden))
    if arch.token_types:
        lookups.append(Lookup(name="token_types", vectors=every, width=arch.hidden))
    logits = sum(rows.m * rows.steps for rows in plan.heads)
    return Workload(
        architecture=arch,
        phase=plan.phase,
        batch=batch,
        tokens=plan.tokens,
        context=context,
        operators=tuple(operators),
        lookups=tuple(lookups),
        vector=_vector_work(arch, operators, every, logits),
        experts_touched=touched,
        cached=cached if arch.causal else (),
        inputs_cached=inputs_cached,
        steps=sum(rows.steps for rows in plan.rows),
        chunk=plan.chunk,
        riders=plan.riders,
        rider_context=plan.rider_context,
        drafted=plan.drafted,
        rise=plan.rise,
        routing=routing,
        notes=(*arch.notes, *dict.fromkeys(notes)),
    )


def _seen(parts: Sequence[_Part]) -> list[tuple[int, str, Rising]]:
    """Rows of the first step, and how they grow, where every token that is seen is a row."""
    return [(part.sequences * (part.past + part.tokens), part.tag, part.seen) for part in parts]


def _part_of(
    ragged: tuple[tuple[int, float], ...], count: int, layers: int
) -> tuple[tuple[int, float], ...]:
    """What ``count`` of ``layers`` layers that are alike have of their experts."""
    if count == layers:
        return ragged
    found: list[tuple[int, float]] = []
    for rows, experts in ragged:
        if isinstance(experts, int):
            found.append((rows, experts * count // layers))
        else:
            found.append((rows, experts * count / layers))
    return tuple(found)


def _without_inputs(arch: Architecture) -> list[str]:
    """Why a model's cache does not keep inputs of layers."""
    name = "kv: xquant: must not be asked of"
    problems = []
    if not arch.causal:
        problems.append(f"{name} an encoder, it has no cache")
    if arch.latent is not None:
        problems.append(f"{name} latent attention, its cache keeps latents")
    if any(group.window for group in arch.layer_groups):
        problems.append(f"{name} a model with sliding windows")
    return problems


def _across(arch: Architecture, absorbed: bool) -> list[str]:
    """That keys of latents are stored with their groups along the other side than is multiplied."""
    whole, part = (
        any(item.bits for item, _ in arch.stored.get(role, ())) for role in ("kv_b", "k_up")
    )
    if absorbed and whole and "k_up" not in arch.stored:
        return [
            "k_up is stored within kv_b, with groups across its K: it is mapped as if it "
            "were floats"
        ]
    if not absorbed and part and "kv_b" not in arch.stored:
        return [
            "kv_b is stored as k_up and v_up, the former with groups across its K: it is mapped as "
            "if it were floats"
        ]
    return []


def _shares(
    arch: Architecture, role: str, name: str, layers: int
) -> list[tuple[Storage | None, int]]:
    """The formats that a role is stored in, and in how many of ``layers`` layers each."""
    stored = arch.stored
    if role == "lm_head" and role not in stored:
        role = "embedding"
    elif role == "v_up" and role not in stored:
        # A part of it along N: every row of it is stored as a row of the whole is.
        role = "kv_b"
    found: list[tuple[Storage | None, int]] = list(stored.get(role, ()))
    if not found:
        return [(None, layers)]
    total = sum(count for _, count in found)
    if total != layers:
        raise ValueError(f"{name}: is stored for {total} layers, got {layers}")
    return found


# Embeddings, the vocabulary and projections of embeddings stay in full precision in BitNet.
_TERNARY = frozenset({"q", "k", "v", "o", "gate", "up", "down"})


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
        raise InputError(f"{arch.name}: {phase}: is an encoder, it can only be prefilled")


def _refuse(arch: Architecture, problems: Sequence[str]) -> None:
    if problems:
        raise InputError("\n".join(f"{arch.name}: {problem}" for problem in problems))


def _attention(
    arch: Architecture, part: _Part, kv_heads: int, dims: tuple[int, int]
) -> list[Operator]:
    """Scores and values of every sort of layer; layers of one window are counted together.

    ``dims`` are the channels of a key and of a value.
    """
    windows: dict[int | None, int] = {}
    for group in arch.layer_groups:
        windows[group.window] = windows.get(group.window, 0) + group.count
    found: list[Operator] = []
    for window, layers in windows.items():
        tags = [part.tag] if part.tag else []
        if window is not None and len(windows) > 1:
            tags.append(f"window {window}")
        tag = f" ({', '.join(tags)})" if tags else ""
        kinds: tuple[Literal["scores", "values"], ...] = ("scores", "values")
        for kind, dim in zip(kinds, dims, strict=True):
            found.append(
                Attention(
                    name=f"{kind}{tag}",
                    kind=kind,
                    layers=layers,
                    instances=part.sequences * kv_heads,
                    group=arch.heads // kv_heads,
                    head_dim=dim,
                    tokens=part.tokens,
                    past=part.past,
                    steps=part.steps,
                    window=window,
                    causal=arch.causal,
                    heads=kv_heads,
                    hidden=arch.hidden,
                    rise=part.rise,
                    serial=part.serial,
                )
            )
    return found


def _mlps(groups: Sequence[LayerGroup]) -> list[tuple[Mlp, int]]:
    counts: dict[Mlp, int] = {}
    for group in groups:
        counts[group.mlp] = counts.get(group.mlp, 0) + group.count
    return list(counts.items())


def _vector_work(
    arch: Architecture, operators: Sequence[Operator], tokens: int, sequences: int
) -> tuple[VectorWork, ...]:
    """Elements outside the matrix products; ``tokens`` in all, ``sequences`` last ones."""
    layers = arch.layers
    norms = 0
    for name, size in arch.norms:
        heads = {"q_norm": arch.heads, "k_norm": arch.kv_heads}.get(name, 1)
        norms += layers * tokens * size * heads
    norms += (arch.final_norm + arch.embedding_norm) * tokens * arch.hidden
    norms += arch.head_transform * tokens * arch.hidden
    pairs = sum(
        item.layers * item.instances * item.group * item.visible
        for item in operators
        if isinstance(item, Attention) and item.kind == "scores"
    )
    activation = 0
    for item in operators:
        if isinstance(item, Linear) and item.role in ("up", "expert up", "shared up"):
            activation += item.total_rows * item.n
    # The rotated channels of a latent's key are one head's, which all share.
    turned = arch.heads + (1 if arch.latent else arch.kv_heads)
    rotary = layers * tokens * turned * arch.rotary
    again = [item for item in operators if isinstance(item, Linear) and item.remade]
    if again:
        # Keys that are made again are turned again.
        keys = sum(item.total_rows for item in again if item.role == "k")
        rotary = (layers * tokens * arch.heads + keys * arch.kv_heads) * arch.rotary
    quantized = pairs
    for item in operators:
        if isinstance(item, Linear):
            quantized += item.total_rows * item.k
        elif item.kind == "scores":
            quantized += item.runs * item.instances * item.rows * item.head_dim
    work = {
        "norm": norms,
        "rotary": rotary,
        "softmax": pairs,
        f"activation ({arch.activation})": activation,
        "residual": 2 * layers * tokens * arch.hidden,
        "quantize activations": quantized,
    }
    return tuple(VectorWork(name=name, elements=count) for name, count in work.items() if count)

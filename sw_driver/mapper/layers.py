"""What the steps of a phase are in operators: the layers of a model, one after another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from rtl_gen.errors import InputError
from sw_driver.architecture import Architecture, LayerGroup, Mlp, Storage
from sw_driver.mapper.cost import Line, Rising
from sw_driver.mapper.operator import Attention, Linear, Lookup, Operator, VectorWork
from sw_driver.mapper.routing import BALANCED, Routing, check_routing, ragged_rows, routed_rows

Phase = Literal["prefill", "decode", "verify", "draft"]


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


class Rows(NamedTuple):
    """Rows of a linear layer in steps that are alike."""

    m: int
    steps: int
    tag: str = ""


class Part(NamedTuple):
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


class Plan(NamedTuple):
    """What the steps of a phase are made of."""

    phase: Phase
    tokens: int
    """Of a sequence, in the phase."""
    rows: tuple[Rows, ...]
    heads: tuple[Rows, ...]
    """Of them those whose logits are wanted."""
    parts: tuple[Part, ...]
    chunk: int = 0
    riders: int = 0
    rider_context: int = 0
    drafted: int = 0
    rise: Line | None = None


def workload_of(
    arch: Architecture,
    plan: Plan,
    batch: int,
    context: int,
    expanded: bool,
    routing: Routing,
    inputs_cached: bool,
) -> Workload:
    """All steps of a plan; the arguments are those of :mod:`sw_driver.mapper.workload`.

    Raises:
        InputError: routing or cache do not fit the model.
    """
    mixtures = _mlps(arch.layer_groups)
    problems = check_routing(routing, mixtures)
    if expanded and arch.latent is None:
        problems.append("expanded: must not be asked of a model without latent attention")
    if inputs_cached:
        problems += _without_inputs(arch)
    refuse(arch, problems)
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
        rows: Sequence[Rows] = plan.rows,
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
                again = (Rows(m, rising.steps, tag),)
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
                one = (Rows(rows, runs, part.tag),)
                rank, rope = latent.kv_rank, latent.rope
                linear("k_up", rank, latent.nope, layers, one, instances=heads)
                operators += _attention(arch, part, 1, (rank + rope, rank))
                linear("v_up", latent.value, rank, layers, one, instances=heads)
            else:
                first = part.sequences * (part.past + part.tokens)
                rows_seen = (Rows(first, part.steps, part.tag),)
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
                    these = (Rows(m, rows_here.steps, tag),)
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
        linear("pooler", arch.hidden, arch.hidden, 1, (Rows(batch, 1),))
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


def _seen(parts: Sequence[Part]) -> list[tuple[int, str, Rising]]:
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


def refuse(arch: Architecture, problems: Sequence[str]) -> None:
    """``InputError`` with every problem, if there is one."""
    if problems:
        raise InputError("\n".join(f"{arch.name}: {problem}" for problem in problems))


def _attention(
    arch: Architecture, part: Part, kv_heads: int, dims: tuple[int, int]
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

"""A model as a list of operators with shapes, formats, repetition and phase.

Three kinds of operators carry the multiplications: linear layers on parameters, and the two
products of attention on the KV cache. Everything else (norms, softmax, rotary embedding, activation
functions, residual additions) is counted in elements as vector work that no GEMM core does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from rtl_gen.errors import InputError
from sw_driver.architecture import Architecture, LayerGroup, Mlp, Storage

Phase = Literal["prefill", "decode"]

MAX_TOKENS = 1 << 24
MAX_BATCH = 1 << 16


@dataclass(frozen=True, kw_only=True)
class Linear:
    """``O[m, n] = A[m, k]·W[n, k]ᵀ`` on parameters.

    Attributes:
        name: the projection.
        runs: how often it happens in the phase, each after what it depends on.
        instances: independent GEMMs of this shape in one run (experts).
        written: ``(heads, channels)`` of what each row of the result becomes in the KV cache (or,
            of keys and values that are expanded from latents for one phase, beside it): vectors at
            the cache's width, with a scale each. Nothing for results that go elsewhere.
        bias: whether a bias vector is read.
        ternary: the checkpoint's weights are {−1, 0, +1}.
        role: the parameter tensors that it multiplies with.
        storage: how the checkpoint stores them, where it was read.
    """

    name: str
    runs: int
    instances: int
    m: int
    n: int
    k: int
    written: tuple[tuple[int, int], ...] = ()
    bias: bool = False
    ternary: bool = False
    role: str = ""
    storage: Storage | None = None

    @property
    def macs(self) -> int:
        return self.runs * self.instances * self.m * self.n * self.k

    @property
    def to_cache(self) -> bool:
        """Whether the result goes to the KV cache."""
        return bool(self.written)


@dataclass(frozen=True, kw_only=True)
class Attention:
    """One product of attention in ``layers`` layers, on the KV cache of every sequence and KV head.

    ``scores``: ``S = Q·Kᵀ`` (N is the number of visible tokens, K is ``head_dim``); ``values``:
    ``O = P·V`` (N is ``head_dim``, K is the number of visible tokens). A's rows are the queries of
    one KV head: ``tokens`` new ones times ``group`` query heads, token by token.

    Attributes:
        instances: sequences times KV heads.
        tokens: new tokens of a step; step ``s`` comes after ``past + s`` tokens.
        steps: more than one only where ``tokens`` is 1.
        window: tokens that a query sees at most, itself included; None for all.
        causal: a query sees itself and what is before it; else all ``tokens``.
    """

    name: str
    kind: Literal["scores", "values"]
    layers: int
    instances: int
    group: int
    head_dim: int
    tokens: int
    past: int
    steps: int
    window: int | None
    causal: bool

    @property
    def runs(self) -> int:
        return self.layers * self.steps

    @property
    def rows(self) -> int:
        """Rows of A in one step of one instance."""
        return self.tokens * self.group

    @cached_property
    def visible(self) -> int:
        """Pairs of a new token and a token that it sees, over all steps, of one query head."""
        if not self.causal:
            return self.steps * self.tokens * (self.past + self.tokens)
        return _visible(self.past, self.tokens * self.steps, self.window)

    @property
    def macs(self) -> int:
        return self.layers * self.instances * self.group * self.head_dim * self.visible


def _visible(past: int, tokens: int, window: int | None) -> int:
    """``Σ min(past + t + 1, window)`` over ``tokens`` tokens."""
    growing = tokens if window is None else max(0, min(tokens, window - past))
    total = growing * past + growing * (growing + 1) // 2
    return total if window is None else total + (tokens - growing) * window


@dataclass(frozen=True, kw_only=True)
class Lookup:
    """Vectors gathered from a table of 16-bit parameters: memory traffic without a product."""

    name: str
    vectors: int
    width: int


@dataclass(frozen=True, kw_only=True)
class VectorWork:
    """Elements that go through something other than a matrix product in the whole phase."""

    name: str
    elements: int


Operator = Linear | Attention


@dataclass(frozen=True, kw_only=True)
class Workload:
    """One phase of a model.

    Attributes:
        tokens: new tokens per sequence in the phase; context: tokens before them.
        operators: matrix products; lookups: embedding tables; vector: everything else.
        experts_touched: distinct experts that a layer of a step reads, 0 without experts.
        cached: ``(heads, channels)`` of the vectors that the KV cache keeps of a token in a layer.
    """

    architecture: Architecture
    phase: Phase
    batch: int
    tokens: int
    context: int
    operators: tuple[Operator, ...]
    lookups: tuple[Lookup, ...]
    vector: tuple[VectorWork, ...]
    experts_touched: int = 0
    cached: tuple[tuple[int, int], ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        return self.architecture.name

    @property
    def macs(self) -> int:
        return sum(operator.macs for operator in self.operators)


def prefill_workload(
    architecture: Architecture,
    tokens: int,
    *,
    context: int = 0,
    batch: int = 1,
    expanded: bool = False,
) -> Workload:
    """All ``tokens`` of every sequence at once, after ``context`` tokens that are in the cache.

    Args:
        expanded: of latent attention, the cache keeps keys and values of every head. Without it,
            it keeps the latents, from which a prefill expands the keys and values of all tokens,
            those of the context included.

    Raises:
        InputError: a number is out of range, or the model cannot hold so many tokens.
    """
    return _workload(architecture, "prefill", tokens, 1, context, batch, expanded)


def decode_workload(
    architecture: Architecture,
    steps: int,
    *,
    context: int,
    batch: int = 1,
    expanded: bool = False,
) -> Workload:
    """``steps`` steps of one token per sequence, the first after ``context`` tokens.

    Args:
        expanded: of latent attention, the cache keeps keys and values of every head. Without it,
            it keeps the latents, and the projection that would expand them is absorbed: queries
            are taken to the latents' space before the scores, results out of it after the values
            (DeepSeek-V2, arXiv 2405.04434, section 2.1.2).

    Raises:
        InputError: as :func:`prefill_workload`, or the model is an encoder.
    """
    if not architecture.causal:
        raise InputError(f"{architecture.name}: decode: is an encoder, it can only be prefilled")
    return _workload(architecture, "decode", 1, steps, context, batch, expanded)


def _workload(
    arch: Architecture,
    phase: Phase,
    tokens: int,
    steps: int,
    context: int,
    batch: int,
    expanded: bool,
) -> Workload:
    _check(arch, phase, tokens * steps, context, batch, expanded)
    notes: list[str] = []
    last = context + tokens * steps
    if last > arch.max_positions:
        notes.append(f"{last} tokens are more than the {arch.max_positions} it is published for")
    rows = batch * tokens
    operators: list[Operator] = []

    def linear(
        name: str,
        out: int,
        into: int,
        layers: int,
        m: int = rows,
        *,
        instances: int = 1,
        role: str = "",
        written: tuple[tuple[int, int], ...] = (),
    ) -> None:
        role = role or name.split(" (")[0]
        short = role.removeprefix("expert ").removeprefix("shared ")
        shares = _shares(arch, role, name, layers)
        for storage, count in shares:
            # Weights that are stored as codes are what they are; floats are as they were trained.
            trained = arch.ternary and short in _TERNARY
            coded = storage is not None and storage.bits > 0
            operators.append(
                Linear(
                    name=f"{name} ({storage.name})" if storage and len(shares) > 1 else name,
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
                )
            )

    width = arch.embedding_width or arch.hidden
    if width != arch.hidden:
        linear("project_in", arch.hidden, width, 1)
    layers, heads, latent = arch.layers, arch.heads, arch.latent
    cached: tuple[tuple[int, int], ...] = ((arch.kv_heads, arch.head_dim),) * 2
    if latent is None:
        linear("q", arch.q_width, arch.hidden, layers)
        linear("k", arch.kv_width, arch.hidden, layers, written=cached[:1])
        linear("v", arch.kv_width, arch.hidden, layers, written=cached[1:])
        dims = (arch.head_dim, arch.head_dim)
        operators += _attention(arch, tokens, steps, context, batch, arch.kv_heads, dims)
    else:
        every_head = ((heads, arch.head_dim), (heads, latent.value))
        cached = every_head if expanded else ((1, latent.kv_rank + latent.rope),)
        absorbed = phase == "decode" and not expanded
        if latent.q_rank:
            linear("q_a", latent.q_rank, arch.hidden, layers)
        name = "q_b" if latent.q_rank else "q"
        linear(name, arch.q_width, latent.q_rank or arch.hidden, layers)
        kept = () if expanded else cached
        linear("kv_a", latent.kv_rank + latent.rope, arch.hidden, layers, written=kept)
        if absorbed:
            linear("k_up", latent.kv_rank, latent.nope, layers, instances=heads, role="k_up")
            dims = (latent.kv_rank + latent.rope, latent.kv_rank)
            operators += _attention(arch, tokens, steps, context, batch, 1, dims)
            linear("v_up", latent.value, latent.kv_rank, layers, instances=heads, role="v_up")
        else:
            seen = rows if expanded else batch * (context + tokens)
            out = heads * (latent.nope + latent.value)
            linear("kv_b", out, latent.kv_rank, layers, seen, written=every_head)
            dims = (arch.head_dim, latent.value)
            operators += _attention(arch, tokens, steps, context, batch, heads, dims)
        notes += _across(arch, absorbed)
    linear("o", arch.hidden, arch.o_width, layers)
    touched = 0
    for mlp, layers in _mlps(arch.layer_groups):
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
        shares = routed_rows(rows, mlp)
        touched = max(touched, sum(count for _, count in shares))
        for m, count in shares:
            tag = f" ({m} rows)" if len(shares) > 1 else ""
            if mlp.gated:
                linear(f"expert gate{tag}", mlp.width, arch.hidden, layers, m, instances=count)
            linear(f"expert up{tag}", mlp.width, arch.hidden, layers, m, instances=count)
            linear(f"expert down{tag}", arch.hidden, mlp.width, layers, m, instances=count)
    if arch.pooler:
        linear("pooler", arch.hidden, arch.hidden, 1, batch)
    head_rows = batch if arch.causal else rows
    if arch.head_transform:
        linear("head_transform", arch.hidden, arch.hidden, 1, head_rows)
    if arch.head:
        if width != arch.hidden:
            linear("project_out", width, arch.hidden, 1, head_rows)
        linear("lm_head", arch.vocab, width, 1, head_rows)
    every = rows * steps
    lookups = [Lookup(name="embedding", vectors=every, width=width)]
    if arch.positions:
        lookups.append(Lookup(name="positions", vectors=every, width=arch.hidden))
    if arch.token_types:
        lookups.append(Lookup(name="token_types", vectors=every, width=arch.hidden))
    return Workload(
        architecture=arch,
        phase=phase,
        batch=batch,
        tokens=tokens * steps,
        context=context,
        operators=tuple(operators),
        lookups=tuple(lookups),
        vector=_vector_work(arch, operators, every, batch * steps),
        experts_touched=touched,
        cached=cached if arch.causal else (),
        notes=(*arch.notes, *notes),
    )


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


def _check(
    arch: Architecture, phase: Phase, tokens: int, context: int, batch: int, expanded: bool
) -> None:
    problems = []
    if expanded and arch.latent is None:
        problems.append("expanded: must not be asked of a model without latent attention")
    if not 1 <= tokens <= MAX_TOKENS:
        problems.append(f"{phase}: must lie in [1, {MAX_TOKENS}], got {tokens}")
    if not 0 <= context <= MAX_TOKENS:
        problems.append(f"context: must lie in [0, {MAX_TOKENS}], got {context}")
    if context and not arch.causal:
        problems.append(f"context: must be 0 for an encoder, got {context}")
    if not 1 <= batch <= MAX_BATCH:
        problems.append(f"batch: must lie in [1, {MAX_BATCH}], got {batch}")
    if not problems and arch.positions and context + tokens > arch.max_positions:
        problems.append(
            f"{phase}: must be at most {arch.max_positions} tokens with those before them, the "
            f"model has no more positions, got {context} + {tokens}"
        )
    if problems:
        raise InputError("\n".join(f"{arch.name}: {problem}" for problem in problems))


def _attention(
    arch: Architecture,
    tokens: int,
    steps: int,
    context: int,
    batch: int,
    kv_heads: int,
    dims: tuple[int, int],
) -> list[Operator]:
    """Scores and values of every sort of layer; layers of one window are counted together.

    ``dims`` are the channels of a key and of a value.
    """
    windows: dict[int | None, int] = {}
    for group in arch.layer_groups:
        windows[group.window] = windows.get(group.window, 0) + group.count
    found: list[Operator] = []
    for window, layers in windows.items():
        tag = f" (window {window})" if window is not None and len(windows) > 1 else ""
        kinds: tuple[Literal["scores", "values"], ...] = ("scores", "values")
        for kind, dim in zip(kinds, dims, strict=True):
            found.append(
                Attention(
                    name=f"{kind}{tag}",
                    kind=kind,
                    layers=layers,
                    instances=batch * kv_heads,
                    group=arch.heads // kv_heads,
                    head_dim=dim,
                    tokens=tokens,
                    past=context,
                    steps=steps,
                    window=window,
                    causal=arch.causal,
                )
            )
    return found


def _mlps(groups: Sequence[LayerGroup]) -> list[tuple[Mlp, int]]:
    counts: dict[Mlp, int] = {}
    for group in groups:
        counts[group.mlp] = counts.get(group.mlp, 0) + group.count
    return list(counts.items())


def routed_rows(tokens: int, mlp: Mlp) -> list[tuple[int, int]]:
    """Rows that experts get: ``(rows, experts)``, under balanced routing.

    ``tokens · active`` assignments spread as evenly as they can over ``min(experts, assignments)``
    distinct experts: the most experts that can be touched, hence the most weight traffic.
    """
    assignments = tokens * mlp.active
    touched = min(mlp.experts, assignments)
    low, extra = divmod(assignments, touched)
    shares = [(low + 1, extra)] if extra else []
    return [*shares, (low, touched - extra)]


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
            activation += item.runs * item.instances * item.m * item.n
    # The rotated channels of a latent's key are one head's, which all share.
    turned = arch.heads + (1 if arch.latent else arch.kv_heads)
    rotary = layers * tokens * turned * arch.rotary
    quantized = pairs
    for item in operators:
        if isinstance(item, Linear):
            quantized += item.runs * item.instances * item.m * item.k
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

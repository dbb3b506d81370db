"""Which operator of an architecture a stored tensor belongs to, and every operator's formats."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from sw_driver.architecture import Architecture, Shares, Storage
from sw_driver.checkpoint.tensor import StoredTensor
from sw_driver.config_file import ConfigError

MAX_PROBLEMS = 20

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blk)\.(\d{1,5})\.(.+)$")
_EXPERT = re.compile(r"^(?:mlp|block_sparse_moe)\.experts\.(\d{1,5})\.(\w+)$")
_GGUF_EXPERT = re.compile(r"^ffn_(gate|up|down)\.(\d{1,5})$")

# Parts of multimodal models that are no operator of the text part.
OTHER_TOWER = re.compile(
    r"(?:^|\.)(?:vision|visual|audio|multi_modal|mm|image|embed_vision|v\.blk)"
)

_ATTENTION = ("q", "k", "v")
_IN_LAYER: dict[str, tuple[str, ...]] = {
    **{f"self_attn.{name}_proj": (name,) for name in ("q", "k", "v", "o")},
    "self_attn.out_proj": ("o",),
    "self_attn.dense": ("o",),
    "self_attn.qkv_proj": _ATTENTION,
    "self_attn.q_a_proj": ("q_a",),
    "self_attn.q_b_proj": ("q_b",),
    "self_attn.kv_a_proj_with_mqa": ("kv_a",),
    "self_attn.kv_b_proj": ("kv_b",),
    **{f"mlp.{name}_proj": (name,) for name in ("gate", "up", "down")},
    **{f"mlp.shared_experts.{name}_proj": (f"shared {name}",) for name in ("gate", "up", "down")},
    "mlp.gate_up_proj": ("gate", "up"),
    "mlp.fc1": ("up",),
    "mlp.fc2": ("down",),
    "fc1": ("up",),
    "fc2": ("down",),
    "mlp.gate": ("router",),
    "block_sparse_moe.gate": ("router",),
    "attn.c_attn": _ATTENTION,
    "attn.c_proj": ("o",),
    "mlp.c_fc": ("up",),
    "mlp.c_proj": ("down",),
    "attention.self.query": ("q",),
    "attention.self.key": ("k",),
    "attention.self.value": ("v",),
    "attention.output.dense": ("o",),
    "intermediate.dense": ("up",),
    "output.dense": ("down",),
    **{f"attn_{name}": (name,) for name in ("q", "k", "v", "q_a", "q_b", "kv_b")},
    "attn_output": ("o",),
    "attn_qkv": _ATTENTION,
    "attn_kv_a_mqa": ("kv_a",),
    "attn_k_b": ("k_up",),
    "attn_v_b": ("v_up",),
    "ffn_gate_inp": ("router",),
    **{f"ffn_{name}": (name,) for name in ("gate", "up", "down")},
    **{f"ffn_{name}_exps": (f"expert {name}",) for name in ("gate", "up", "down")},
    **{f"ffn_{name}_shexp": (f"shared {name}",) for name in ("gate", "up", "down")},
}
_EXPERT_PARTS = {
    **{f"{name}_proj": name for name in ("gate", "up", "down")},
    "w1": "gate",
    "w3": "up",
    "w2": "down",
}
_OUTSIDE = {
    "lm_head": "lm_head",
    "output": "lm_head",
    "cls.predictions.decoder": "lm_head",
    "cls.predictions.transform.dense": "head_transform",
    "token_embd": "embedding",
    "project_in": "project_in",
    "project_out": "project_out",
    "pooler.dense": "pooler",
    "cls": "pooler",
}
_EMBEDDINGS = ("embed_tokens", "wte", "word_embeddings")
_TRANSPOSED = ("attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj")


@dataclass(frozen=True, kw_only=True)
class Role:
    """What a tensor is to a model.

    Attributes:
        roles: the operators that its rows are, one after the other.
        layer: None outside of the layers. expert: None for what is no expert's, or a stack of all.
        transposed: it is stored ``(K, N)``.
    """

    roles: tuple[str, ...]
    layer: int | None = None
    expert: int | None = None
    transposed: bool = False


def role_of(name: str) -> Role | None:
    """The role that a tensor's name tells of; None for norms, biases and what is not known."""
    if not name.endswith(".weight") or OTHER_TOWER.search(name):
        return None
    stem = name.removesuffix(".weight")
    inside = _LAYER.search(stem)
    if inside is None:
        if stem.rpartition(".")[2] in _EMBEDDINGS:
            return Role(roles=("embedding",))
        for known, role in _OUTSIDE.items():
            if stem == known or (len(known) > 3 and stem.endswith(f".{known}")):
                return Role(roles=(role,))
        return None
    layer, rest = int(inside[1]), inside[2]
    expert = _EXPERT.match(rest)
    if expert is not None:
        part = _EXPERT_PARTS.get(expert[2])
        if part is None:
            return None
        return Role(roles=(f"expert {part}",), layer=layer, expert=int(expert[1]))
    expert = _GGUF_EXPERT.match(rest)
    if expert is not None:
        return Role(roles=(f"expert {expert[1]}",), layer=layer, expert=int(expert[2]))
    roles = _IN_LAYER.get(rest)
    if roles is None:
        return None
    return Role(roles=roles, layer=layer, transposed=rest in _TRANSPOSED)


def storage_of(
    arch: Architecture, tensors: Mapping[str, StoredTensor], file: str
) -> tuple[tuple[str, Shares], ...]:
    """How each operator of a model is stored.

    Layers beyond the architecture's (those that predict further tokens) are left out.

    Raises:
        ConfigError: a tensor has another shape than the architecture says, or an operator is not
            there in every layer.
    """
    shapes, wanted = _wanted(arch)
    problems: list[str] = []
    # By role and layer the formats; of experts all of them.
    formats: dict[str, dict[int | None, list[Storage]]] = {}
    for name, tensor in tensors.items():
        role = role_of(name)
        if role is None or (role.layer is not None and role.layer >= arch.layers):
            continue
        roles = role.roles
        if roles == ("up",) and "gate" in shapes and _is_fused(name, tensor, shapes):
            roles = ("gate", "up")
        known = [item for item in roles if item in shapes]
        if not known:
            continue
        n = sum(shapes[item][0] for item in known)
        k = shapes[known[0]][1]
        stack = wanted[known[0]][1]
        expected: tuple[int, ...] = (k, n) if role.transposed else (n, k)
        stacked = stack > 1 and role.expert is None
        if stacked:
            expected = (stack, *expected)
        if tensor.shape != expected:
            problems.append(
                f"{name}: shape must be {list(expected)} as the architecture has it, got "
                f"{list(tensor.shape)}"
            )
            continue
        for item in known:
            found = formats.setdefault(item, {}).setdefault(role.layer, [])
            found += [tensor.storage] * (stack if stacked else 1)
    storage: list[tuple[str, Shares]] = []
    for item, (layers, stack) in wanted.items():
        by_layer = formats.get(item, {})
        if not by_layer and item in _optional(arch):
            continue
        whole = sum(len(found) == stack for found in by_layer.values())
        if whole != layers or len(by_layer) != layers:
            problems.append(_missing(item, layers, stack, by_layer))
            continue
        mixed = [layer for layer, found in by_layer.items() if len(set(found)) > 1]
        if mixed:
            problems.append(f"layer {mixed[0]}: {item}: must be stored alike for all experts")
            continue
        counts = Counter(found[0] for found in by_layer.values())
        storage.append((item, tuple(counts.items())))
    if problems:
        raise ConfigError(file, problems[:MAX_PROBLEMS])
    return tuple(storage)


def _missing(
    item: str, layers: int, stack: int, by_layer: Mapping[int | None, list[Storage]]
) -> str:
    """Which of an operator's matrices are missing, or too many."""
    noun = "layer" if layers == 1 else "layers"
    if stack == 1:
        got = sum(len(found) for found in by_layer.values())
        return f"{item}: must be stored once for {layers} {noun}, got {got} matrices"
    full = sum(len(found) == stack for found in by_layer.values())
    return f"{item}: must be stored for {stack} experts in {layers} {noun}, got {full} such layers"


def matrix_shapes(arch: Architecture) -> dict[str, tuple[int, int]]:
    """By role the shape ``(N, K)`` of a matrix."""
    return _wanted(arch)[0]


def _wanted(arch: Architecture) -> tuple[dict[str, tuple[int, int]], dict[str, tuple[int, int]]]:
    """By role the shape ``(N, K)`` of a matrix, and ``(layers, matrices in each)``."""
    shapes: dict[str, tuple[int, int]] = {}
    wanted: dict[str, tuple[int, int]] = {}
    experts = max((group.mlp.experts for group in arch.layer_groups), default=0)
    for tensor in arch.tensors:
        role = tensor.role
        if len(tensor.shape) != 2 or role.endswith("norm") or role in ("positions", "token_types"):
            continue
        n, k = tensor.shape
        shapes[role] = (n, k)
        stack = experts if role.startswith("expert ") else 1
        layers, _ = wanted.get(role, (0, 0))
        wanted[role] = (layers + tensor.count // stack, stack)
    if arch.tied and arch.head:
        shapes["lm_head"], wanted["lm_head"] = shapes["embedding"], (1, 1)
    if arch.latent is not None:
        part = arch.latent
        shapes["k_up"], wanted["k_up"] = (part.kv_rank, part.nope), (arch.layers, arch.heads)
        shapes["v_up"], wanted["v_up"] = (part.value, part.kv_rank), (arch.layers, arch.heads)
    return shapes, wanted


def _optional(arch: Architecture) -> frozenset[str]:
    """Roles that a checkpoint may leave out."""
    found = {"k_up", "v_up"} if arch.latent is not None else set()
    if arch.tied or not arch.head:
        found.add("lm_head")
    if arch.latent is not None:
        # What is split into absorbed parts is not stored as a whole.
        found.add("kv_b")
    return frozenset({*found, "pooler"})


def _is_fused(name: str, tensor: StoredTensor, shapes: Mapping[str, tuple[int, int]]) -> bool:
    """Whether ``up`` holds ``gate`` before it, as GGUF files of Phi-3 have it."""
    both = shapes["gate"][0] + shapes["up"][0]
    return name.startswith("blk.") and tensor.shape == (both, shapes["up"][1])

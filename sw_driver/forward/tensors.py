"""Where the matrices, biases and norms of every layer lie in a checkpoint, by what they are."""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sw_driver.architecture import Architecture, Storage
from sw_driver.checkpoint import Checkpoint
from sw_driver.checkpoint.roles import OTHER_TOWER, matrix_shapes, role_of
from sw_driver.checkpoint.weights import BITNET, GroupedWeights
from sw_driver.config_file import ConfigError

_LAYER = re.compile(r"(?:^|\.)(?:layers|layer|h|blk)\.(\d{1,5})\.(.+)$")

_NORMS = {
    "input_layernorm": "input_norm",
    "ln_1": "input_norm",
    "self_attn_layer_norm": "input_norm",
    "attn_norm": "input_norm",
    "ln_2": "mlp_norm",
    "final_layer_norm": "mlp_norm",
    "ffn_norm": "mlp_norm",
    "pre_feedforward_layernorm": "mlp_norm",
    "post_attention_norm": "attention_out_norm",
    "attention.output.LayerNorm": "attention_out_norm",
    "attn_output_norm": "attention_out_norm",
    "post_feedforward_layernorm": "mlp_out_norm",
    "post_ffw_norm": "mlp_out_norm",
    "output.LayerNorm": "mlp_out_norm",
    "layer_output_norm": "mlp_out_norm",
    "self_attn.q_norm": "q_norm",
    "self_attn.q_layernorm": "q_norm",
    "attn_q_norm": "q_norm",
    "self_attn.k_norm": "k_norm",
    "self_attn.k_layernorm": "k_norm",
    "attn_k_norm": "k_norm",
    "self_attn.q_a_layernorm": "q_a_norm",
    "attn_q_a_norm": "q_a_norm",
    "self_attn.kv_a_layernorm": "kv_a_norm",
    "attn_kv_a_norm": "kv_a_norm",
    "self_attn.attn_sub_norm": "attention_sub_norm",
    "self_attn.inner_attn_ln": "attention_sub_norm",
    "attn_sub_norm": "attention_sub_norm",
    "mlp.ffn_sub_norm": "mlp_sub_norm",
    "mlp.ffn_layernorm": "mlp_sub_norm",
    "ffn_sub_norm": "mlp_sub_norm",
}
"""Norms in a layer by the end of their names; ``post_attention_layernorm`` has two meanings."""

_OUTSIDE = {
    "norm": "final_norm",
    "ln_f": "final_norm",
    "final_layernorm": "final_norm",
    "final_layer_norm": "final_norm",
    "output_norm": "final_norm",
    "embeddings.LayerNorm": "embedding_norm",
    "token_embd_norm": "embedding_norm",
    "embed_positions": "positions",
    "wpe": "positions",
    "position_embeddings": "positions",
    "position_embd": "positions",
    "token_type_embeddings": "token_types",
    "token_types": "token_types",
    "cls.predictions.transform.LayerNorm": "head_norm",
}

_CORRECTIONS = ("mlp.gate.e_score_correction_bias", "exp_probs_b.bias")
"""Biases of the routers of DeepSeek-V3."""


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Rows of a stored tensor that are a matrix or vector; ``(K, N)`` in the file if transposed."""

    name: str
    start: int
    stop: int
    transposed: bool = False

    @property
    def rows(self) -> int:
        return self.stop - self.start


MAX_PROBLEMS = 20

Key = tuple[int | None, str]
"""Layer, or None outside of the layers, and what it is."""


class Tensors:
    """The tensors of a model by layer and role, read when they are asked for.

    Roles are those of :class:`sw_driver.architecture.Architecture`, with ``expert N gate`` for the
    matrices of an expert, ``.bias`` behind the role of a bias, and norms by where they are.

    Args:
        keep: bytes of ``float32`` that are kept for the next use, the last used ones.

    Raises:
        ConfigError: on construction: a tensor is given twice under two names.
    """

    def __init__(self, checkpoint: Checkpoint, architecture: Architecture, keep: int):
        self.checkpoint, self.architecture, self.keep = checkpoint, architecture, keep
        self.shapes = matrix_shapes(architecture)
        self._kept: OrderedDict[object, np.ndarray] = OrderedDict()
        self._size = 0
        self._found: dict[Key, Piece] = {}
        for name in checkpoint.tensors:
            if not OTHER_TOWER.search(name):
                self._enter(name)

    def _enter(self, name: str) -> None:
        stem, _dot, last = name.rpartition(".")
        if name.endswith(_CORRECTIONS):
            inside = _LAYER.search(name)
            if inside is not None:
                self._add((int(inside[1]), "router.bias"), self._whole(name))
            return
        if name.endswith("cls.predictions.bias"):
            # Files of BERT have it under this name, another, or both.
            self._found.setdefault((None, "lm_head.bias"), self._whole(name))
            return
        if name.endswith("cls.predictions.decoder.bias"):
            self._found[None, "lm_head.bias"] = self._whole(name)
            return
        if last not in ("weight", "bias"):
            return
        tail = "" if last == "weight" else ".bias"
        role = role_of(f"{stem}.weight")
        if role is not None:
            self._matrix(name, role.roles, role.layer, role.expert, role.transposed, tail)
            return
        inside = _LAYER.search(stem)
        if inside is None:
            for known, what in _OUTSIDE.items():
                if stem == known or stem.endswith(f".{known}"):
                    self._add((None, what + tail), self._whole(name))
                    break
            return
        what = _NORMS.get(inside[2], "")
        if inside[2] == "post_attention_layernorm":
            sandwich = any(norm == "post_mlp_norm" for norm, _ in self.architecture.norms)
            what = "attention_out_norm" if sandwich else "mlp_norm"
        if what:
            self._add((int(inside[1]), what + tail), self._whole(name))

    def _matrix(
        self,
        name: str,
        roles: tuple[str, ...],
        layer: int | None,
        expert: int | None,
        transposed: bool,
        tail: str,
    ) -> None:
        shape = self.checkpoint.tensors[name].shape
        if roles == ("up",) and name.startswith("blk.") and "gate" in self.shapes:
            both = self.shapes["gate"][0] + self.shapes["up"][0]
            if shape[0] == both:
                roles = ("gate", "up")
        stacked = expert is None and roles[0].startswith("expert ")
        if stacked:
            if tail:
                return
            n = self.shapes[roles[0]][0]
            part = roles[0].removeprefix("expert ")
            for number in range(shape[0]):
                piece = Piece(name=name, start=number * n, stop=(number + 1) * n)
                self._add((layer, f"expert {number} {part}"), piece)
            return
        if expert is not None:
            part = roles[0].removeprefix("expert ")
            self._add((layer, f"expert {expert} {part}{tail}"), self._whole(name))
            return
        start = 0
        for role in roles:
            if len(roles) == 1:
                # The shape of the file counts; whether it is right is checked when it is read.
                stop = shape[-1 if transposed and not tail else 0] if shape else 0
                if role in ("k_up", "v_up"):
                    stop = shape[0] * shape[1] if len(shape) == 3 else stop
            else:
                stop = start + self.shapes[role][0]
            piece = Piece(name=name, start=start, stop=stop, transposed=transposed and not tail)
            self._add((layer, role + tail), piece)
            start = stop

    def _whole(self, name: str) -> Piece:
        shape = self.checkpoint.tensors[name].shape
        return Piece(name=name, start=0, stop=shape[0] if shape else 0)

    def _add(self, key: Key, piece: Piece) -> None:
        if key in self._found:
            other = self._found[key].name
            raise ConfigError(
                str(self.checkpoint.path), [f"{piece.name}: is the same as {other}; give one"]
            )
        self._found[key] = piece

    def check(self) -> None:
        """That every norm and bias of the architecture is there with its width, and no other bias.

        Raises:
            ConfigError: with a line for each that is not so, twenty at most.
        """
        arch = self.architecture
        problems: list[str] = []

        def wants(layer: int | None, role: str, width: int) -> None:
            piece = self._found.get((layer, role))
            if piece is None:
                where = role if layer is None else f"layer {layer}: {role}"
                problems.append(f"{where}: is required")
                return
            shape = self.checkpoint.tensors[piece.name].shape
            if len(shape) != 1 or piece.rows != width or piece.stop > shape[0]:
                problems.append(f"{piece.name}: shape must be {[width]}, got {list(shape)}")

        def norm(layer: int | None, role: str, width: int) -> None:
            if arch.norm_weight:
                wants(layer, role, width)
            if arch.norm_bias:
                wants(layer, f"{role}.bias", width)

        roles = norm_roles(arch)
        for layer in range(arch.layers):
            for name, width in arch.norms:
                norm(layer, roles.get(name, name), width)
        if arch.final_norm:
            norm(None, "final_norm", arch.hidden)
        if arch.embedding_norm:
            norm(None, "embedding_norm", arch.hidden)
        for place, role in list(self._found):
            # A projection of this architecture has a bias as long as its matrix has rows.
            if role in self.shapes or role.startswith("expert "):
                inside = place is None or place < arch.layers
                if inside and role_kind(role) in arch.biases and role != "router":
                    wants(place, f"{role}.bias", self._found[place, role].rows)
            stem, bias, _ = role.partition(".bias")
            known = stem in arch.biases or stem.endswith("norm") or role_kind(stem) in arch.biases
            if bias and not known and (place is None or place < arch.layers):
                name = self._found[place, role].name
                problems.append(f"{name}: is no tensor of the architecture")
        if problems:
            raise ConfigError(str(self.checkpoint.path), problems[:MAX_PROBLEMS])

    def has(self, layer: int | None, role: str) -> bool:
        return (layer, role) in self._found

    def piece(self, layer: int | None, role: str) -> Piece:
        """Where a matrix or vector lies.

        Raises:
            ConfigError: it is not there.
        """
        found = self._found.get((layer, role))
        if found is None:
            where = role if layer is None else f"layer {layer}: {role}"
            raise ConfigError(str(self.checkpoint.path), [f"{where}: is required"])
        return found

    def stem(self, layer: int | None, role: str) -> str:
        """The name of a norm's tensors, without ``.weight``.

        Raises:
            ConfigError: it has neither weight nor bias.
        """
        return self.piece(layer, role).name.removesuffix(".weight")

    def vector(self, layer: int | None, role: str, width: int) -> np.ndarray:
        """``float32`` ``(width,)``: a bias or the parameter of a norm.

        Raises:
            ConfigError: it is not there or has another width.
        """
        piece = self.piece(layer, role)
        shape = self.checkpoint.tensors[piece.name].shape
        if len(shape) != 1 or piece.rows != width or piece.stop > shape[0]:
            rule = f"{piece.name}: shape must be {[width]}, got {list(shape)}"
            raise ConfigError(str(self.checkpoint.path), [rule])
        return self.named(piece.name, shape)[piece.start : piece.stop]

    def named(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        """A whole tensor as ``float32``, kept."""

        def read() -> np.ndarray:
            return self.checkpoint.floats(name, shape)

        return self._keep(name, read)

    def matrix(self, layer: int | None, role: str, shape: tuple[int, int]) -> np.ndarray:
        """``float32`` ``(N, K)``, ternary where the model's layers round to that.

        Raises:
            ConfigError: it is not there, has another shape, or is of a format that is not read.
        """
        piece = self._checked(layer, role, shape)

        def read() -> np.ndarray:
            if self._rounded(layer, piece):
                return self.checkpoint.ternary(piece.name).dequantized()
            if piece.transposed:
                whole = self.checkpoint.floats(piece.name)
                return np.ascontiguousarray(whole[:, piece.start : piece.stop].T)
            return self.checkpoint.rows(piece.name, piece.start, piece.stop)

        return self._keep((layer, role), read)

    def stored(self, layer: int | None, role: str, shape: tuple[int, int]) -> GroupedWeights | None:
        """A matrix as codes with their scales, as the file has it; None if it is of floats.

        Raises:
            ConfigError: as :meth:`matrix`.
        """
        piece = self._checked(layer, role, shape)
        if self._rounded(layer, piece):
            return self.checkpoint.ternary(piece.name)
        if piece.transposed or not self.checkpoint.tensors[piece.name].storage.bits:
            return None
        return self.checkpoint.weights(piece.name, piece.start, piece.stop)

    def storage(self, layer: int | None, role: str) -> Storage:
        """How the file stores a matrix; three levels where the model rounds to them.

        Raises:
            ConfigError: it is not there.
        """
        piece = self.piece(layer, role)
        if self._rounded(layer, piece):
            return BITNET
        return self.checkpoint.tensors[piece.name].storage

    def rows(self, role: str, numbers: list[int], width: int) -> np.ndarray:
        """Some rows of a table outside of the layers, ``float32`` ``(len(numbers), width)``."""
        piece = self.piece(None, role)
        shape = self.checkpoint.tensors[piece.name].shape
        if len(shape) != 2 or shape[1] != width:
            rule = f"{piece.name}: shape must be [N, {width}], got {list(shape)}"
            raise ConfigError(str(self.checkpoint.path), [rule])
        if max(numbers) >= shape[0]:
            rule = f"{piece.name}: must have a row {max(numbers)}, got {shape[0]} rows"
            raise ConfigError(str(self.checkpoint.path), [rule])
        if 16 * shape[0] * shape[1] <= self.keep:
            return self.named(piece.name, shape)[numbers]
        found = {number: self._row(piece.name, number) for number in sorted(set(numbers))}
        return np.stack([found[number] for number in numbers])

    def _row(self, name: str, number: int) -> np.ndarray:
        return self._keep((name, number), lambda: self.checkpoint.rows(name, number, number + 1))[0]

    def _rounded(self, layer: int | None, piece: Piece) -> bool:
        """Whether a matrix of floats is used in three levels."""
        storage = self.checkpoint.tensors[piece.name].storage
        return self.architecture.ternary and layer is not None and not storage.bits

    def _checked(self, layer: int | None, role: str, shape: tuple[int, int]) -> Piece:
        piece = self.piece(layer, role)
        stored = self.checkpoint.tensors[piece.name].shape
        n, k = (stored[::-1] if piece.transposed else stored[-2:]) if len(stored) > 1 else (0, 0)
        rows = piece.rows
        if rows != shape[0] or k != shape[1] or (len(stored) == 2 and piece.stop > n):
            rule = f"{piece.name}: shape must give {list(shape)} for {role}, got {list(stored)}"
            raise ConfigError(str(self.checkpoint.path), [rule])
        return piece

    def _keep(self, key: object, read: Callable[[], np.ndarray]) -> np.ndarray:
        found = self._kept.get(key)
        if found is not None:
            self._kept.move_to_end(key)
            return found
        made = read()
        if made.nbytes <= self.keep // 2:
            self._kept[key] = made
            self._size += made.nbytes
            while self._size > self.keep:
                _, old = self._kept.popitem(last=False)
                self._size -= old.nbytes
        return made


def role_kind(name: str) -> str:
    """``expert 3 gate`` is an ``expert gate``."""
    words = name.split()
    return f"expert {words[2]}" if words[0] == "expert" and len(words) == 3 else name


def norm_roles(arch: Architecture) -> dict[str, str]:
    """The norms of an architecture by where they are: before or after which part."""
    names = {name for name, _ in arch.norms}
    if "post_mlp_norm" in names:
        return {
            "post_attention_norm": "attention_out_norm",
            "pre_mlp_norm": "mlp_norm",
            "post_mlp_norm": "mlp_out_norm",
        }
    if arch.embedding_norm:
        return {"input_norm": "attention_out_norm", "post_attention_norm": "mlp_out_norm"}
    return {"post_attention_norm": "mlp_norm"}

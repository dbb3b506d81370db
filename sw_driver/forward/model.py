"""The float32 forward pass of a model, layer by layer from its checkpoint, in numpy.

The projections can be computed elsewhere: ``project(name, x)`` takes the place of ``x·Wᵀ + b``.
What is around them (norms, attention, rotations, activation functions, residual sums, routing) is
float32 here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np

from rtl_gen.errors import InputError
from sw_driver.architecture import Architecture, Mlp, Storage
from sw_driver.checkpoint import Checkpoint
from sw_driver.checkpoint.weights import GroupedWeights
from sw_driver.config_file import ConfigError
from sw_driver.forward import activations
from sw_driver.forward.cache import KvCache
from sw_driver.forward.experts import choose
from sw_driver.forward.settings import Settings, gguf_settings, settings_of
from sw_driver.forward.tensors import Tensors, role_kind

Project = Callable[[str, np.ndarray], np.ndarray]
"""A projection's name and input ``(T, K)`` to its output ``(T, N)``, bias included."""

KEEP = 256 << 20
"""Bytes of float32 weights that a model keeps for their next use, unless told otherwise."""

ROWS = 1 << 13
"""Rows of the vocabulary that are multiplied with at a time."""


class Transformer:
    """A model of any architecture that :mod:`sw_driver.architecture` reads, with its weights.

    Weights are read when a layer needs them; the last used ``keep`` bytes stay. The names that
    ``project`` is called with are the roles of the architecture: ``q``, ``k``, ``v``, ``o`` (of
    latent attention ``q_a``, ``q_b``, ``kv_a``, ``kv_b``), ``gate``, ``up``, ``down``, of experts
    ``expert 3 gate`` and so on with the rows of the tokens that take it, ``shared gate``,
    ``router``, and outside of the layers ``lm_head``, ``pooler``, ``project_in``, ``project_out``.

    Args:
        model: a checkpoint as :class:`sw_driver.checkpoint.Checkpoint` reads it.
        keep: bytes of ``float32`` weights to keep. A decoder that generates is fast if they fit.

    Raises:
        ConfigError: the checkpoint, its configuration or its tensors break a rule.
        InputError: there is no such file.
    """

    def __init__(self, model: Path | str | Checkpoint, *, keep: int = KEEP):
        self.checkpoint = model if isinstance(model, Checkpoint) else Checkpoint(model)
        self.architecture: Architecture = self.checkpoint.architecture
        self.tensors = Tensors(self.checkpoint, self.architecture, keep)
        self.tensors.check()
        self.eps = self.settings.eps

    @cached_property
    def settings(self) -> Settings:
        """What the configuration says beside shapes.

        Raises:
            ConfigError: it asks for something that is not computed here.
        """
        file = str(self.checkpoint.config_file)
        header = self.checkpoint.header
        if header is not None:
            names = ("rope_freqs", "rope_factors_short", "rope_factors_long")
            factors = {
                name: tuple(self.checkpoint.floats(f"{name}.weight").ravel().tolist())
                for name in names
                if f"{name}.weight" in self.checkpoint.tensors
            }
            return gguf_settings(self.architecture, header.fields, file, factors)
        return settings_of(self.architecture, self.checkpoint.config or {}, file)

    # Weights ---------------------------------------------------------------------------

    def shape(self, layer: int | None, name: str) -> tuple[int, int]:
        """``(N, K)`` of a projection."""
        arch = self.architecture
        role = role_kind(name)
        n, k = self.tensors.shapes[role]
        if layer is not None and role.split()[-1] in ("gate", "up", "down"):
            # Dense layers of a mixture have a width of their own.
            width = _width(arch.group_of(layer).mlp, role)
            return (arch.hidden, width) if role.endswith("down") else (width, arch.hidden)
        return n, k

    def weight(self, layer: int | None, name: str) -> tuple[np.ndarray, np.ndarray | None]:
        """Weight ``(N, K)`` and bias ``(N,)`` of a projection, ``float32``; None for no bias.

        Raises:
            ConfigError: as :meth:`sw_driver.forward.tensors.Tensors.matrix`.
        """
        shape = self.shape(layer, name)
        if name == "kv_b" and not self.tensors.has(layer, name):
            return self._absorbed(layer), None
        tied = name == "lm_head" and not self.tensors.has(None, name)
        role = "embedding" if tied else name
        return self.tensors.matrix(layer, role, shape), self.bias(layer, name)

    def tensor(self, name: str, *shape: int) -> np.ndarray:
        """A tensor of the checkpoint by its name, as ``float32``."""
        return self.tensors.named(name, shape)

    def bias(self, layer: int | None, name: str) -> np.ndarray | None:
        """The bias ``(N,)`` of a projection, None if it has none."""
        # A router's bias corrects its choice, not its scores.
        if name not in self.architecture.biases or name == "router":
            return None
        return self.tensors.vector(layer, f"{name}.bias", self.shape(layer, name)[0])

    def stored(self, layer: int | None, name: str) -> GroupedWeights | None:
        """A projection's weights as the file stores them; None if those are floats.

        Raises:
            ConfigError: as :meth:`weight`.
        """
        if name == "kv_b" and not self.tensors.has(layer, name):
            return None
        tied = name == "lm_head" and not self.tensors.has(None, name)
        role = "embedding" if tied else name
        return self.tensors.stored(layer, role, self.shape(layer, name))

    def projections(self, layer: int) -> list[str]:
        """The names that :meth:`layer` calls ``project`` with, of experts every one's."""
        arch = self.architecture
        part, mlp = arch.latent, arch.group_of(layer).mlp
        if part is None:
            names = ["q", "k", "v", "o"]
        else:
            names = [*(("q_a", "q_b") if part.q_rank else ("q",)), "kv_a", "kv_b", "o"]
        inner = ("gate", "up", "down") if mlp.gated else ("up", "down")
        kinds = [""]
        if mlp.experts:
            names.append("router")
            kinds = [f"expert {number} " for number in range(mlp.experts)]
        if mlp.shared:
            kinds.append("shared ")
        return names + [kind + name for kind in kinds for name in inner]

    def storage(self, layer: int | None, name: str) -> Storage | None:
        """How the file stores a projection's weights; None where they are put together here."""
        if name == "kv_b" and not self.tensors.has(layer, name):
            return None
        tied = name == "lm_head" and not self.tensors.has(None, name)
        return self.tensors.storage(layer, "embedding" if tied else name)

    def plain(self, layer: int | None) -> Project:
        """The projections of a layer in float32."""

        def plain(name: str, value: np.ndarray) -> np.ndarray:
            w, b = self.weight(layer, name)
            found: np.ndarray = value @ w.T
            return found if b is None else found + b

        return plain

    def _absorbed(self, layer: int | None) -> np.ndarray:
        """``kv_b`` out of its halves, as GGUF files of DeepSeek split it."""
        part, heads = self.architecture.latent, self.architecture.heads
        if part is None:
            raise AssertionError("kv_b: of an architecture without latent attention")
        k = self.tensors.matrix(layer, "k_up", (heads * part.kv_rank, part.nope))
        v = self.tensors.matrix(layer, "v_up", (heads * part.value, part.kv_rank))
        k = k.reshape(heads, part.kv_rank, part.nope).transpose(0, 2, 1)
        v = v.reshape(heads, part.value, part.kv_rank)
        return np.concatenate([k, v], axis=1).reshape(-1, part.kv_rank)

    # The pass ---------------------------------------------------------------------------

    def embed(self, tokens: Sequence[int], start: int = 0) -> np.ndarray:
        """``(T, hidden)``: the input of the first layer.

        Args:
            start: position of the first token, where positions are learned vectors.

        Raises:
            InputError: there is no token, one is not in the vocabulary, or there are too many.
        """
        arch, settings = self.architecture, self.settings
        numbers = [int(token) for token in tokens]
        if not numbers:
            raise InputError("tokens: there must be one at least")
        wrong = [token for token in numbers if not 0 <= token < arch.vocab]
        if wrong:
            raise InputError(f"tokens: must lie in [0, {arch.vocab - 1}], got {wrong[0]}")
        if arch.positions:
            limit = arch.positions - settings.position_offset
            if start + len(numbers) > limit:
                raise InputError(
                    f"tokens: must be at most {limit}, the learned positions of "
                    f"{self.checkpoint.path}, got {start + len(numbers)}"
                )
        x = self.tensors.rows("embedding", numbers, arch.embedding_width or arch.hidden)
        if settings.embedding_scale != 1:
            x = x * np.float32(settings.embedding_scale)
        if arch.embedding_width and arch.embedding_width != arch.hidden:
            x = self.plain(None)("project_in", x)
        if arch.positions:
            first = start + settings.position_offset
            places = list(range(first, first + len(numbers)))
            x = x + self.tensors.rows("positions", places, arch.hidden)
        if arch.token_types:
            x = x + self.tensors.rows("token_types", [0], arch.hidden)
        return self._normed(None, "embedding_norm", x) if arch.embedding_norm else x

    def layer(
        self,
        layer: int,
        x: np.ndarray,
        project: Project | None = None,
        cache: KvCache | None = None,
        lengths: Sequence[int] | None = None,
    ) -> np.ndarray:
        """One layer, ``(T, hidden)`` to ``(T, hidden)``.

        Args:
            project: stands in for the projections: name and input to output, bias included.
            cache: keys and values of earlier tokens, which ``x`` comes after; they are extended.
            lengths: tokens of every input, where ``x`` holds several after one another that see
                nothing of each other; not with a cache.
        """
        block = self.settings.block
        project = project or self.plain(layer)

        def attend(value: np.ndarray) -> np.ndarray:
            return self._attention(layer, value, project, cache, lengths)

        def feed(value: np.ndarray) -> np.ndarray:
            return self._feed_forward(layer, value, project)

        def normed(role: str, value: np.ndarray) -> np.ndarray:
            return self._normed(layer, role, value)

        if block == "post":
            first, second = "attention_out_norm", "mlp_out_norm"
            if not self.tensors.has(layer, f"{first}.bias"):
                first, second = "input_norm", "mlp_norm"  # OPT calls them so wherever they are
            x = normed(first, self._add(x, attend(x)))
            return normed(second, self._add(x, feed(x)))
        if block == "parallel":
            inner = normed("input_norm", x)
            return self._add(x, self._add(attend(inner), feed(inner)))
        mixed = attend(normed("input_norm", x))
        if block == "sandwich":
            mixed = normed("attention_out_norm", mixed)
        x = self._add(x, mixed)
        fed = feed(normed("mlp_norm", x))
        if block == "sandwich":
            fed = normed("mlp_out_norm", fed)
        return self._add(x, fed)

    def final(self, x: np.ndarray) -> np.ndarray:
        """The last norm, ``(T, hidden)``; what a model without one has as it is."""
        return self._normed(None, "final_norm", x) if self.architecture.final_norm else x

    def hidden(
        self, tokens: Sequence[int], layers: int | None = None, cache: KvCache | None = None
    ) -> np.ndarray:
        """``(T, hidden)`` after some layers, all of them if None, before the last norm."""
        x = self.embed(tokens, 0 if cache is None else cache.length())
        for layer in range(self.architecture.layers if layers is None else layers):
            x = self.layer(layer, x, cache=cache)
        return x

    def embed_all(self, inputs: Sequence[Sequence[int]]) -> np.ndarray:
        """The embedded tokens of several inputs, one after another, for ``lengths``."""
        return np.concatenate([self.embed(tokens) for tokens in inputs])

    # Parts of a layer ---------------------------------------------------------------------

    def _attention(
        self,
        layer: int,
        x: np.ndarray,
        project: Project,
        cache: KvCache | None,
        lengths: Sequence[int] | None,
    ) -> np.ndarray:
        """Queries, keys and values of ``x``, and what attention makes of them."""
        arch = self.architecture
        if cache is not None and lengths is not None:
            raise ValueError("lengths: of one input alone where there is a cache")
        q, k, v = self._latent(layer, x, project) if arch.latent else self._heads(layer, x, project)
        parts = []
        start = 0
        for count in lengths or (len(x),):
            rows = slice(start, start + count)
            start += count
            past = 0 if cache is None else cache.length(layer)
            parts.append(self._mixed(layer, q[rows], k[rows], v[rows], past, cache))
        mixed = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if any(name == "attention_sub_norm" for name, _ in arch.norms):
            mixed = self._normed(layer, "attention_sub_norm", mixed)
        return project("o", mixed)

    def _heads(
        self, layer: int, x: np.ndarray, project: Project
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Queries ``(T, heads, d)``, keys and values ``(T, kv_heads, d)``, not yet turned."""
        arch = self.architecture
        q, k, v = (
            project(name, x).reshape(len(x), heads, arch.head_dim)
            for name, heads in (("q", arch.heads), ("k", arch.kv_heads), ("v", arch.kv_heads))
        )
        if any(name == "q_norm" for name, _ in arch.norms):
            q, k = self._normed(layer, "q_norm", q), self._normed(layer, "k_norm", k)
        return q, k, v

    def _latent(
        self, layer: int, x: np.ndarray, project: Project
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The same of latent attention; the turned channels come first."""
        arch, part = self.architecture, self.architecture.latent
        if part is None:
            raise AssertionError("latent: of an architecture without")
        if part.q_rank:
            narrow = self._normed(layer, "q_a_norm", project("q_a", x))
            q = project("q_b", narrow)
        else:
            q = project("q", x)
        q = q.reshape(len(x), arch.heads, part.nope + part.rope)
        q = np.concatenate([q[..., part.nope :], q[..., : part.nope]], axis=2)
        both = project("kv_a", x)
        latent = self._normed(layer, "kv_a_norm", both[:, : part.kv_rank])
        wide = project("kv_b", latent).reshape(len(x), arch.heads, part.nope + part.value)
        shared = np.repeat(both[:, None, part.kv_rank :], arch.heads, axis=1)
        k = np.concatenate([shared, wide[..., : part.nope]], axis=2)
        return q, k, np.ascontiguousarray(wide[..., part.nope :])

    def _mixed(
        self,
        layer: int,
        q: np.ndarray,
        k: np.ndarray,
        v: np.ndarray,
        past: int,
        cache: KvCache | None,
    ) -> np.ndarray:
        """Values mixed by scores, ``(T, heads · channels)``, of one input."""
        arch, settings = self.architecture, self.settings
        window = arch.group_of(layer).window
        rotary = settings.rotary
        if window is not None and settings.local_rotary is not None:
            rotary = settings.local_rotary
        if rotary is not None:
            total = past + len(q)
            q, k = rotary.turn(q, past, total), rotary.turn(k, past, total)
        if cache is not None:
            k, v = cache.extend(layer, k, v)
        tokens = len(q)
        shared = arch.heads // k.shape[1]
        # (kv_heads, queries that share them · T, d) by (kv_heads, d, tokens).
        q = q.reshape(tokens, k.shape[1], shared, -1).transpose(1, 2, 0, 3)
        q = q.reshape(k.shape[1], shared * tokens, -1)
        divisor = settings.score_divisor * (layer + 1 if settings.by_layer else 1)
        scores = q @ k.transpose(1, 2, 0) / np.float32(divisor)
        scores = activations.capped(scores, settings.score_cap)
        scores = scores.reshape(k.shape[1], shared, tokens, len(k))
        if arch.causal:
            # Of what a cache returns the last rows are these tokens.
            own = np.arange(len(k) - tokens, len(k))[:, None]
            others = np.arange(len(k))[None]
            seen = others <= own
            if window is not None:
                seen &= others > own - window
            scores = np.where(seen, scores, np.float32(-np.inf))
        weights = self._softmax(scores).reshape(k.shape[1], shared * tokens, len(k))
        mixed = weights @ v.transpose(1, 0, 2)
        mixed = mixed.reshape(k.shape[1], shared, tokens, -1).transpose(2, 0, 1, 3)
        return mixed.reshape(tokens, -1)

    def _feed_forward(self, layer: int, x: np.ndarray, project: Project) -> np.ndarray:
        mlp = self.architecture.group_of(layer).mlp
        if not mlp.experts:
            return self._mlp(layer, "", x, mlp, project)
        # The router decides by comparing; it is float32 unless it is computed elsewhere.
        scores = project("router", x)
        correction = None
        if "router" in self.architecture.biases:
            correction = self.tensors.vector(layer, "router.bias", mlp.experts)
        chosen, weights = choose(scores, mlp.active, self.settings.routing, correction)
        result = np.zeros_like(x)
        for expert in np.unique(chosen):
            rows, places = np.nonzero(chosen == expert)
            found = self._mlp(layer, f"expert {expert} ", x[rows], mlp, project)
            result[rows] += found * weights[rows, places][:, None]
        if mlp.shared:
            result += self._mlp(layer, "shared ", x, mlp, project)
        return result

    def _mlp(self, layer: int, kind: str, x: np.ndarray, mlp: Mlp, project: Project) -> np.ndarray:
        if mlp.gated:
            inner = self._activate(project(f"{kind}gate", x)) * project(f"{kind}up", x)
        else:
            inner = self._activate(project(f"{kind}up", x))
        if any(name == "mlp_sub_norm" for name, _ in self.architecture.norms):
            inner = self._normed(layer, "mlp_sub_norm", inner)
        return project(f"{kind}down", inner)

    def _normed(self, layer: int | None, role: str, x: np.ndarray) -> np.ndarray:
        arch = self.architecture
        if not arch.norm_weight and not arch.norm_bias:
            return activations.layer_norm(x, None, None, self.settings.eps)
        return self._norm(self.tensors.stem(layer, role), x)

    # What is no matrix product; a subclass may compute it in another way.

    def _softmax(self, x: np.ndarray) -> np.ndarray:
        return activations.softmax(x)

    def _activate(self, x: np.ndarray) -> np.ndarray:
        return activations.ACTIVATIONS[self.settings.activation](x)

    def _add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x + y

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """The norm whose parameters are ``name.weight`` and, of layer norms, ``name.bias``."""
        settings, width = self.settings, x.shape[-1]
        weight = self.tensors.named(f"{name}.weight", (width,))
        if settings.norm == "rms":
            if settings.norm_offset:
                weight = weight + np.float32(settings.norm_offset)
            return activations.rms_norm(x, weight, settings.eps)
        bias = self.tensors.named(f"{name}.bias", (width,))
        return activations.layer_norm(x, weight, bias, settings.eps)


class Decoder(Transformer):
    """A causal model: tokens in, logits of the next token out.

    ::

        decoder = Decoder("path/to/checkpoint")
        cache = KvCache()
        x = decoder.embed(tokens, start=cache.length())
        for n in range(decoder.architecture.layers):
            x = decoder.layer(n, x, project=None, cache=cache)
        logits = decoder.logits(x[-1:])        # (1, vocab)

    A following call with the next token alone and the same cache goes on from there.

    Raises:
        ConfigError: as :class:`Transformer`, or it is an encoder.
    """

    def __init__(self, model: Path | str | Checkpoint, *, keep: int = KEEP):
        super().__init__(model, keep=keep)
        if not self.architecture.causal:
            family = self.architecture.family
            raise ConfigError(
                str(self.checkpoint.config_file),
                [f"architectures: must be a decoder's, got {family!r}"],
            )

    def logits(self, x: np.ndarray, project: Project | None = None) -> np.ndarray:
        """``(T, vocab)`` of the last layer's output ``(T, hidden)``; the last norm is done here."""
        arch = self.architecture
        x = self.final(x)
        if arch.embedding_width and arch.embedding_width != arch.hidden:
            x = (project or self.plain(None))("project_out", x)
        found = project("lm_head", x) if project is not None else self._vocabulary(x)
        return activations.capped(found, self.settings.logit_cap)

    def _vocabulary(self, x: np.ndarray) -> np.ndarray:
        """The product with the head; one that is not kept is read some rows at a time."""
        n, k = self.shape(None, "lm_head")
        role = "lm_head" if self.tensors.has(None, "lm_head") else "embedding"
        if 8 * n * k <= self.tensors.keep:
            return self.plain(None)("lm_head", x)
        piece = self.tensors.piece(None, role)
        found = np.concatenate(
            [
                x @ self.checkpoint.rows(piece.name, row, min(row + ROWS, n)).T
                for row in range(0, n, ROWS)
            ],
            axis=1,
        )
        bias = self.bias(None, "lm_head")
        return found if bias is None else found + bias


def _width(mlp: Mlp, role: str) -> int:
    return mlp.shared if role.startswith("shared ") else mlp.width

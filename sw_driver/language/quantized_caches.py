"""Caches of a decoder that keep keys and values in few bits, for its forward pass.

The formats themselves are :mod:`sw_driver.quantize.cache`. Here they take the place of
:class:`sw_driver.forward.KvCache`: attention sees what is left of every token. Tokens have to come
one by one, as they are generated: what a token sees of another depends on how long ago that was.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from rtl_gen.errors import InputError
from sw_driver.forward import Decoder, KvCache, Project
from sw_driver.quantize.cache import CacheFormat, InputCache, TokenCache
from sw_driver.quantize.cache import KvCache as Kivi

KINDS = ("int", "kivi", "xquant")

_FORM = re.compile(r"([a-z]+)([1-8])(?::(\d{1,5}))?(?:\+(\d{1,6}))?")

DEFAULT_GROUP = 32
DEFAULT_WINDOW = {"int": 0, "kivi": 32, "xquant": 0}


@dataclass(frozen=True, kw_only=True)
class CacheKind:
    """A kind of cache with its format.

    Attributes:
        kind: ``int``, keys and values per token; ``kivi``, keys per channel; ``xquant``, the input
            of the layer's projections, from which keys and values are computed again.
    """

    kind: str
    form: CacheFormat

    @property
    def name(self) -> str:
        what = {"int": "per token", "kivi": "KIVI", "xquant": "XQuant"}[self.kind]
        window = f", latest {self.form.window} plain" if self.form.window else ""
        return f"{what} INT{self.form.bits}, groups of {self.form.group}{window}"


def parse_cache(text: str) -> CacheKind:
    """``kivi2:32+64``: the kind, bits, the group and the latest tokens that are not quantized.

    Raises:
        InputError: it reads otherwise, or the numbers do not fit.
    """
    found = _FORM.fullmatch(text)
    if found is None or found[1] not in KINDS:
        raise InputError(
            f"kv: must be {', '.join(KINDS)} with bits from 1 to 8 and, if wanted, :GROUP and "
            f"+WINDOW, as kivi2:32+64, got {text!r}"
        )
    kind = found[1]
    group = int(found[3] or DEFAULT_GROUP)
    window = int(found[4]) if found[4] else DEFAULT_WINDOW[kind]
    if kind == "kivi" and not found[4]:
        window = group
    if not group:
        raise InputError(f"kv: group must be positive, got {text!r}")
    if kind == "kivi" and (not window or window % group):
        raise InputError(f"kv: window must be a multiple of the group for kivi, got {text!r}")
    return CacheKind(kind=kind, form=CacheFormat(bits=int(found[2]), group=group, window=window))


class QuantizedCache(KvCache):
    """A decoder's cache in a format. Its layers' projections go through :meth:`projecting`.

    Args:
        decoder: whose cache it is.

    Raises:
        InputError: the format does not fit the decoder.
    """

    def __init__(self, decoder: Decoder, kind: CacheKind):
        super().__init__()
        self._decoder, self._kind = decoder, kind
        self._held: dict[int, Kivi | TokenCache] = {}
        self._inputs: dict[int, InputCache] = {}
        self._again: dict[tuple[int, str], np.ndarray] = {}
        arch, settings = decoder.architecture, decoder.settings
        if kind.kind != "xquant":
            return
        norms = any(name == "k_norm" for name, _ in arch.norms)
        if arch.latent or norms or settings.rotary is None or settings.local_rotary is not None:
            raise InputError(
                f"kv: xquant needs keys of a projection and a rotation, {arch.name} has others"
            )

    def length(self, layer: int = 0) -> int:
        """Tokens that a layer has seen."""
        held = self._held.get(layer) or self._inputs.get(layer)
        if held is None:
            return 0
        # The token that is being computed is among the inputs before it is among the keys.
        return held.tokens - ((layer, "k") in self._again)

    @property
    def bytes(self) -> int:
        """What all layers hold."""
        parts = (*self._held.values(), *self._inputs.values())
        return sum(part.bytes for part in parts)

    def projecting(self, layer: int, project: Project) -> Project:
        """A layer's projections; of ``xquant`` keys and values are computed again of all tokens."""
        if self._kind.kind != "xquant":
            return project

        def watched(name: str, x: np.ndarray) -> np.ndarray:
            if name not in ("k", "v"):
                return project(name, x)
            held = self._inputs.setdefault(layer, InputCache(x.shape[1], self._kind.form))
            if name == "k":
                held.append(x)
            found = project(name, held.inputs())
            self._again[layer, name] = found
            return found[-len(x) :]

        return watched

    def extend(self, layer: int, k: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Adds one token, and returns what attention sees of all."""
        if len(k) != 1:
            raise ValueError(f"k: must be of one token, got {len(k)}")
        if self._kind.kind == "xquant":
            rotary = self._decoder.settings.rotary
            keys = self._again.pop((layer, "k")).reshape(-1, *k.shape[1:])
            values = self._again.pop((layer, "v")).reshape(-1, *v.shape[1:])
            if rotary is None:
                raise AssertionError("rotary: is there, or the cache is not made")
            return rotary.turn(keys, 0, len(keys)), values
        held = self._held.get(layer)
        if held is None:
            made: type[Kivi] | type[TokenCache] = Kivi if self._kind.kind == "kivi" else TokenCache
            held = made(k.shape[1], k.shape[2], self._kind.form, value_dim=v.shape[2])
            self._held[layer] = held
        held.append(k, v)
        return held.keys(), held.values()

"""Streams as data: the fields of a payload, their places in it, and packing by numpy.

A stream is a valid/ready handshake with a payload of named fields. Element 0 of a field lies at the
least significant end; a field with a shape is stored in row-major order; fields follow one another
in the order given, without padding. The same description makes the hardware layout, the manifest,
the bench and the driver's packing, so that none of them can disagree.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hw.lazy import np


@dataclass(frozen=True, kw_only=True)
class StreamField:
    """One field of a payload: ``shape`` elements of ``width`` bits."""

    name: str
    width: int
    signed: bool = False
    shape: tuple[int, ...] = ()
    doc: str = ""

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def bits(self) -> int:
        return self.width * self.count


@dataclass(frozen=True, kw_only=True)
class Stream:
    """A port with valid/ready. ``direction`` is ``"in"`` or ``"out"`` as the block sees it."""

    name: str
    direction: str
    fields: tuple[StreamField, ...]
    doc: str = ""

    @property
    def width(self) -> int:
        """Bits of the payload."""
        return sum(field.bits for field in self.fields)

    @property
    def nbytes(self) -> int:
        """Bytes of a packed payload, its last byte padded with zeros."""
        return -(-self.width // 8)

    def offset(self, name: str) -> int:
        """First bit of the named field."""
        position = 0
        for field in self.fields:
            if field.name == name:
                return position
            position += field.bits
        raise KeyError(name)

    def pack(self, values: Mapping[str, Any]) -> np.ndarray:
        """Beats as bytes.

        Args:
            values: per field an integer array ``(beats, *field.shape)``.

        Returns:
            ``uint8`` array ``(beats, nbytes)``, little-endian.

        Raises:
            ValueError: a field is missing, has another shape, or a value does not fit.
        """
        columns = []
        beats = None
        for field in self.fields:
            if field.name not in values:
                raise ValueError(f"{self.name}: field {field.name} is missing")
            array = np.asarray(values[field.name])
            if array.ndim < 1 or array.shape[1:] != field.shape:
                raise ValueError(
                    f"{self.name}.{field.name}: shape must be (beats, *{field.shape}), "
                    f"got {array.shape}"
                )
            if beats is None:
                beats = array.shape[0]
            elif array.shape[0] != beats:
                raise ValueError(
                    f"{self.name}.{field.name}: {beats} beats expected, got {array.shape[0]}"
                )
            array = array.astype(np.int64, copy=False)
            low = -(1 << (field.width - 1)) if field.signed else 0
            high = (1 << (field.width - field.signed)) - 1
            if array.size and (array.min() < low or array.max() > high):
                raise ValueError(
                    f"{self.name}.{field.name}: values must lie in [{low}, {high}], "
                    f"got [{array.min()}, {array.max()}]"
                )
            columns.append(_to_bits(array.reshape(array.shape[0], field.count), field.width))
        bits = np.concatenate(columns, axis=1)
        return np.packbits(bits, axis=1, bitorder="little")

    def unpack(self, beats: np.ndarray) -> dict[str, np.ndarray]:
        """The inverse of :meth:`pack`: per field an ``int64`` array ``(beats, *field.shape)``."""
        beats = np.asarray(beats, dtype=np.uint8)
        if beats.ndim != 2 or beats.shape[1] != self.nbytes:
            raise ValueError(
                f"{self.name}: packed beats must be (beats, {self.nbytes}), got {beats.shape}"
            )
        bits = np.unpackbits(beats, axis=1, bitorder="little", count=self.width)
        values = {}
        position = 0
        for field in self.fields:
            part = bits[:, position : position + field.bits]
            numbers = _from_bits(part.reshape(beats.shape[0], field.count, field.width))
            if field.signed:
                numbers = numbers - ((numbers >> (field.width - 1)) << field.width)
            values[field.name] = numbers.reshape(beats.shape[0], *field.shape)
            position += field.bits
        return values

    def as_dict(self) -> dict[str, Any]:
        """Plain data for the manifest: every field's offset, width, sign and shape."""
        return {
            "name": self.name,
            "direction": self.direction,
            "width": self.width,
            "doc": self.doc,
            "fields": [
                {
                    "name": field.name,
                    "offset": self.offset(field.name),
                    "width": field.width,
                    "signed": field.signed,
                    "shape": list(field.shape),
                    "doc": field.doc,
                }
                for field in self.fields
            ],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Stream:
        """The inverse of :meth:`as_dict`."""
        return cls(
            name=data["name"],
            direction=data["direction"],
            doc=data["doc"],
            fields=tuple(
                StreamField(
                    name=field["name"],
                    width=field["width"],
                    signed=field["signed"],
                    shape=tuple(field["shape"]),
                    doc=field["doc"],
                )
                for field in data["fields"]
            ),
        )


@dataclass(frozen=True, kw_only=True)
class Wire:
    """A plain signal beside the streams, such as a memory's port. ``direction`` as of streams."""

    name: str
    direction: str
    width: int
    doc: str = ""


def _to_bits(array: np.ndarray, width: int) -> np.ndarray:
    """``(beats, count)`` integers of at most 63 bits to ``(beats, count * width)`` bits."""
    if width <= 8:
        raw = (array & 0xFF).astype(np.uint8)[..., None]
        bits = np.unpackbits(raw, axis=2, bitorder="little")[..., :width]
    else:
        raw = np.ascontiguousarray(array.astype("<i8")).view(np.uint8)
        raw = raw.reshape(*array.shape, 8)
        bits = np.unpackbits(raw, axis=2, bitorder="little")[..., :width]
    return bits.reshape(array.shape[0], array.shape[1] * width)


def _from_bits(bits: np.ndarray) -> np.ndarray:
    """``(beats, count, width)`` bits to ``(beats, count)`` non-negative integers."""
    beats, count, width = bits.shape
    padded = np.zeros((beats, count, 64), dtype=np.uint8)
    padded[..., :width] = bits
    return np.packbits(padded, axis=2, bitorder="little").view("<i8").reshape(beats, count)

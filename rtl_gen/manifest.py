"""The manifest of a build: everything that a program has to know of the Verilog beside it.

It holds the specification, the hash of every file, every port with the place of every field, and
the cycles; no path and no time, so that equal builds have equal manifests.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hw.block import block, spec_from_dict
from hw.errors import SpecError
from hw.spec import NAME_PATTERN, BlockSpec
from hw.streams import Stream
from rtl_gen import __version__
from rtl_gen.cache import tool_versions
from rtl_gen.errors import InputError

FILE_NAME = "manifest.json"
SCHEMA: Literal[1] = 1
CLOCK_PORT, RESET_PORT = "clk", "rst"
TOOLS = ("amaranth", "pyosys")
"""Distributions whose version decides the Verilog."""

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Generator(_Record):
    """What made the build."""

    name: Literal["rtlgen"] = "rtlgen"
    version: str


class Clock(_Record):
    """The one clock; everything happens at its rising edge."""

    port: str = CLOCK_PORT
    edge: Literal["rising"] = "rising"
    mhz: float


class Reset(_Record):
    """The one reset; it has to hold for one rising edge of the clock."""

    port: str = RESET_PORT
    active: Literal["high"] = "high"
    synchronous: Literal[True] = True


class FieldRecord(_Record):
    """A field of a payload: ``shape`` elements of ``width`` bits, the first at bit ``offset``."""

    name: str
    offset: int = Field(ge=0)
    width: int = Field(ge=1)
    signed: bool
    shape: list[int]
    doc: str


class StreamPorts(_Record):
    """Names of a stream's ports in the Verilog."""

    payload: str
    valid: str
    ready: str


class StreamRecord(_Record):
    """A valid/ready stream."""

    name: str
    direction: Literal["in", "out"]
    width: int = Field(ge=1)
    doc: str
    fields: list[FieldRecord]
    ports: StreamPorts


class WireRecord(_Record):
    """A plain signal beside the streams, under its own name in the Verilog."""

    name: str
    direction: Literal["in", "out"]
    width: int = Field(ge=1)
    doc: str


class TimingRecord(_Record):
    """Cycles of work whose streams do not stall.

    Attributes:
        formula: from the first input transfer to the last output transfer, both counted, in the
            names of ``constants`` and of the fields of a job.
    """

    formula: str
    constants: dict[str, int]


class Manifest(_Record):
    """See the module. ``files`` maps every other file of the build to its SHA-256."""

    manifest: Literal[1] = SCHEMA
    generator: Generator
    block: str
    name: str = Field(pattern=NAME_PATTERN)
    top: str
    spec: dict[str, Any]
    spec_digest: Digest
    files: dict[PlainName, Digest]
    clock: Clock
    reset: Reset
    streams: list[StreamRecord]
    wires: list[WireRecord] = []
    timing: TimingRecord
    tools: dict[str, str]

    def text(self) -> str:
        """The manifest as a file: JSON, indented, keys in the order of declaration."""
        data = self.model_dump(mode="json", exclude=None if self.wires else {"wires"})
        return json.dumps(data, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @property
    def digest(self) -> str:
        """SHA-256 of :meth:`text`: one name for the design, its sources and its tools."""
        return hashlib.sha256(self.text().encode()).hexdigest()

    def block_spec(self) -> BlockSpec:
        """The specification as an object."""
        return spec_from_dict(self.spec)

    def ports(self) -> tuple[Stream, ...]:
        """The streams as objects, which pack and unpack beats."""
        return tuple(Stream.from_dict(stream.model_dump()) for stream in self.streams)


def of_build(spec: BlockSpec, files: Mapping[str, str]) -> Manifest:
    """The manifest of a build.

    Args:
        spec: what was built.
        files: text of every other file by name.
    """
    return Manifest(
        generator=Generator(version=__version__),
        block=spec.block,
        name=spec.name,
        top=spec.name,
        spec=json.loads(spec.canonical()),
        spec_digest=spec.digest,
        files={name: hashlib.sha256(text.encode()).hexdigest() for name, text in files.items()},
        clock=Clock(mhz=spec.clock_mhz),
        reset=Reset(),
        streams=stream_records(spec),
        wires=wire_records(spec),
        timing=timing_record(spec),
        tools=dict(tool_versions(*TOOLS)),
    )


def stream_records(spec: BlockSpec) -> list[StreamRecord]:
    """Every port of a block, in the order of its golden model."""
    return [
        StreamRecord.model_validate(
            {
                **stream.as_dict(),
                "ports": {kind: f"{stream.name}__{kind}" for kind in StreamPorts.model_fields},
            }
        )
        for stream in block(spec.block).golden.streams(spec)
    ]


def wire_records(spec: BlockSpec) -> list[WireRecord]:
    """Every port of a block that is no stream's, nor clock or reset."""
    wires = getattr(block(spec.block).golden, "wires", lambda _: ())(spec)
    return [WireRecord.model_validate(vars(wire)) for wire in wires]


def timing_record(spec: BlockSpec) -> TimingRecord:
    """The cycles of a block in closed form."""
    found = block(spec.block)
    timing: Any = found.timing
    if not hasattr(timing, "FORMULA"):
        gemm: Any = spec
        return TimingRecord(
            formula="latency + sum over jobs of ceil(weight_bits / planes_per_cycle) * k_steps",
            constants={
                "latency": timing.latency(spec),
                "planes_per_cycle": gemm.planes_per_cycle,
            },
        )
    return TimingRecord(formula=timing.FORMULA, constants=dict(timing.constants(spec)))


def read_manifest(folder: Path | str) -> Manifest:
    """The manifest of a build folder, and proof that the folder is that build.

    Raises:
        InputError: the manifest is missing or malformed, its specification is none of this
            version's, or a file is missing or is not the one that was built.
    """
    folder = Path(folder)
    file = folder / FILE_NAME
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text"
        raise InputError(f"{file}: cannot be read, {reason.lower()}") from None
    found = parse_manifest(text, str(file))
    for name, digest in found.files.items():
        try:
            content = (folder / name).read_bytes()
        except OSError as error:
            reason = (error.strerror or type(error).__name__).lower()
            raise InputError(f"{folder / name}: cannot be read, {reason}") from None
        if hashlib.sha256(content).hexdigest() != digest:
            raise InputError(f"{folder / name}: is not the file that was built, see {FILE_NAME}")
    return found


def parse_manifest(text: str, file: str = FILE_NAME) -> Manifest:
    """The manifest in a text; ``file`` is what errors call it.

    Raises:
        InputError: one line per broken rule, ``file: field: rule``.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f":{error.lineno}:{error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InputError(f"{file}{where}: is not JSON") from None
    version = data.get("manifest") if isinstance(data, dict) else None
    if version != SCHEMA:
        raise InputError(f"{file}: manifest: must be version {SCHEMA}, got {version!r}")
    try:
        found = Manifest.model_validate(data)
    except ValidationError as error:
        lines = [
            f"{file}: {'.'.join(map(str, item['loc']))}: {item['msg'][0].lower()}{item['msg'][1:]}"
            for item in error.errors(include_url=False, include_input=False)
        ]
        raise InputError("\n".join(lines)) from None
    try:
        spec = found.block_spec()
    except SpecError as error:
        lines = [f"{file}: spec.{line}" for line in str(error).splitlines()]
        raise InputError("\n".join(lines)) from None
    if spec.digest != found.spec_digest:
        raise InputError(f"{file}: spec_digest: must be the digest of spec, {spec.digest}")
    return found

"""A Verilated block as an object: arrays of beats in, arrays of beats and cycles out.

::

    model = verilate(spec)
    run = model.run({"i_job": {...}, "i_a": {"a": a}, "i_w": {"w": w}}, expect={"o": 5})
    run.outputs["o"]["o"]      # (5, M, N) int64
    run.cycles                 # first input transfer to last output transfer, both counted
    result = model.gemm(a, w, weight_bits=4)   # any M, N, K; exact int64
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hw.gemm import GemmSpec
from hw.spec import BlockSpec
from hw.streams import Stream
from sim import source
from sim.harness.beats import Packed, Run, pack
from sim.harness.compile import RUN_LONG, Effort, Trace, build
from sim.stalls import Stalls

if TYPE_CHECKING:
    from sim.gemm import GemmResult

COMPLETE, STOPPED, IDLE, DROPPED, CHANGED, UNEXPECTED, BROKEN, FULL = range(8)
ROOM = 1 << 20
"""Beats of an observed stream that a run has room for."""
_NEVER = 2**64 - 1


class _StreamRequest(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("index", ctypes.c_void_p),
        ("beats", ctypes.c_uint64),
        ("stall", ctypes.c_void_p),
        ("stall_length", ctypes.c_uint64),
        ("cycles", ctypes.c_void_p),
        ("done", ctypes.c_uint64),
        ("observed", ctypes.c_uint64),
    )


class _Request(ctypes.Structure):
    _fields_ = (
        ("streams", ctypes.POINTER(_StreamRequest)),
        ("reset", ctypes.c_uint64),
        ("stop_at", ctypes.c_uint64),
        ("idle_limit", ctypes.c_uint64),
        ("drain", ctypes.c_uint64),
        ("cycles", ctypes.c_uint64),
        ("first_input", ctypes.c_uint64),
        ("last_output", ctypes.c_uint64),
        ("status", ctypes.c_int32),
        ("stream", ctypes.c_int32),
        ("message", ctypes.c_char * 256),
    )


class RunError(Exception):
    """A block that hangs, breaks a stream rule or cannot be evaluated; ``run`` holds the rest."""

    def __init__(self, run: Run):
        self.run = run
        super().__init__(f"{run.failure} (cycle {run.violation})")


class Model:
    """A Verilated block. Not for use by two threads at once; a lock makes them take turns.

    Args:
        spec: the specification it was made from.
        library: shared library of :func:`sim.harness.compile.build`.
        streams: its ports, in the order given to that function.
        observed: how many of the last of them are observed, see ``hw.block.Block.bench``.
        seed: of the random state before the first reset.
    """

    def __init__(
        self,
        spec: BlockSpec,
        library: Path,
        streams: Sequence[Stream],
        *,
        observed: int = 0,
        seed: int = 0,
    ):
        self.spec = spec
        self.streams = tuple(streams)
        self.observed = frozenset(item.name for item in streams[len(streams) - observed :])
        self.library = library
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._dll = ctypes.CDLL(str(library), mode=ctypes.RTLD_LOCAL)
        self._dll.rtlgen_open.restype = ctypes.c_void_p
        self._dll.rtlgen_open.argtypes = [ctypes.c_uint64]
        self._dll.rtlgen_close.argtypes = [ctypes.c_void_p]
        self._dll.rtlgen_run.argtypes = [ctypes.c_void_p, ctypes.POINTER(_Request)]
        self._dll.rtlgen_wave.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._dll.rtlgen_wave.restype = ctypes.c_int
        self._handle = self._dll.rtlgen_open(seed)
        if not self._handle:
            raise RuntimeError(f"{library}: the model could not be made")

    def close(self) -> None:
        """Free the model. It cannot be used afterwards."""
        if self._handle:
            self._dll.rtlgen_close(self._handle)
            self._handle = None

    def __enter__(self) -> Model:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        self.close()

    def wave(self, path: Path | None) -> None:
        """Record every following run to ``path``; None ends the recording.

        What is recorded is what the model was built with: a waveform (FST), or how often and how
        long every net was high (SAIF), written when the recording ends.

        Raises:
            ValueError: the model was built without a ``trace``.
        """
        with self._lock:
            done = self._dll.rtlgen_wave(self._handle, str(path).encode() if path else None)
        if not done and path is not None:
            raise ValueError("this model was built without tracing: verilate(spec, trace='fst')")

    def run(
        self,
        inputs: Mapping[str, Mapping[str, Any] | np.ndarray | Packed],
        expect: Mapping[str, int],
        *,
        stalls: Stalls | None = None,
        seed: int = 0,
        max_cycles: int | None = None,
        idle_limit: int = 20_000,
        reset: bool = True,
        reset_at: int | None = None,
        drain: int = 24,
        check: bool = True,
    ) -> Run:
        """Offer beats to every input and collect what comes out.

        Args:
            inputs: per input stream its fields ``(beats, *shape)``, or packed beats. A stream that
                is not named offers nothing.
            expect: beats that must come, by output stream; 0 where not named.
            stalls: who holds back when; None never.
            seed: of the stall patterns.
            max_cycles: stop there (status ``STOPPED``); None for no bound but ``idle_limit``.
            idle_limit: cycles without any transfer after which the block counts as hung.
            reset: begin with one cycle of reset.
            reset_at: first run up to this cycle, reset in mid-job, then run everything from the
                start; what came before is in ``before_reset``.
            drain: cycles watched for beats after the last expected one.
            check: raise if the run did not end well.

        Raises:
            RunError: ``check`` is set and the block hung, broke a stream rule, or did not settle.
            ValueError: a stream is not named rightly or its beats do not fit.
        """
        before = None
        if reset_at is not None:
            before = self._run(inputs, expect, stalls, seed, reset_at, idle_limit, reset, 0, None)
            reset = True
        limit = _NEVER if max_cycles is None else max_cycles
        run = self._run(inputs, expect, stalls, seed, limit, idle_limit, reset, drain, before)
        if check and run.failure is not None:
            raise RunError(run)
        return run

    def _run(
        self,
        inputs: Mapping[str, Mapping[str, Any] | np.ndarray | Packed],
        expect: Mapping[str, int],
        stalls: Stalls | None,
        seed: int,
        stop_at: int,
        idle_limit: int,
        reset: bool,
        drain: int,
        before: Run | None,
    ) -> Run:
        names = tuple(item.name for item in self.streams)
        known = {item.name: item.direction for item in self.streams}
        for name in inputs:
            if known.get(name) != "in":
                raise ValueError(f"inputs: {name!r} is not an input of {self.spec.name}")
        for name in expect:
            if known.get(name) != "out":
                raise ValueError(f"expect: {name!r} is not an output of {self.spec.name}")
        patterns = stalls.patterns(names, seed) if stalls is not None else {}
        requests = (_StreamRequest * len(self.streams))()
        alive: list[Any] = []  # arrays that the call reads, until it ends
        buffers: dict[str, np.ndarray] = {}
        cycles: dict[str, np.ndarray] = {}
        taken: dict[str, np.ndarray] = {}
        for item, request in zip(self.streams, requests, strict=True):
            if item.direction == "in":
                packed = pack(item, inputs.get(item.name))
                rows = np.ascontiguousarray(packed.rows, dtype=np.uint8)
                alive.append(rows)
                request.data, request.beats = rows.ctypes.data, packed.beats
                taken[item.name] = np.zeros(packed.beats, dtype=np.uint64)
                request.cycles = taken[item.name].ctypes.data
                if packed.index is not None:
                    index = np.ascontiguousarray(packed.index, dtype=np.int32)
                    if index.size and not 0 <= index.min() <= index.max() < len(rows):
                        raise ValueError(f"{item.name}: index out of range")
                    alive.append(index)
                    request.index = index.ctypes.data
            else:
                count = ROOM if item.name in self.observed else int(expect.get(item.name, 0))
                request.observed = item.name in self.observed
                buffers[item.name] = np.zeros((count, item.nbytes), dtype=np.uint8)
                cycles[item.name] = np.zeros(count, dtype=np.uint64)
                request.data = buffers[item.name].ctypes.data
                request.cycles = cycles[item.name].ctypes.data
                request.beats = count
            if item.name in patterns:
                bits = np.ascontiguousarray(patterns[item.name])
                alive.append(bits)
                request.stall, request.stall_length = bits.ctypes.data, len(bits)
        longest = max((len(bits) for bits in patterns.values()), default=0)
        call = _Request(
            streams=requests,
            reset=int(reset),
            stop_at=stop_at,
            idle_limit=idle_limit + longest,
            drain=drain,
        )
        with self._lock:
            if self._handle is None:
                raise ValueError("the model was closed")
            self._dll.rtlgen_run(self._handle, ctypes.byref(call))
        done = {
            item.name: int(request.done)
            for item, request in zip(self.streams, requests, strict=True)
        }
        accepted = {name: done[name] for name in done if known[name] == "in"}
        bad = call.status not in (COMPLETE,)
        return Run(
            streams=self.streams,
            status=call.status,
            failure=self._words(call, requests, done),
            violation=int(call.cycles) if bad else None,
            failing_stream=(
                self.streams[call.stream].name
                if call.status in (DROPPED, CHANGED, UNEXPECTED)
                else None
            ),
            packed={name: buffer[: done[name]] for name, buffer in buffers.items()},
            output_cycles={name: array[: done[name]] for name, array in cycles.items()},
            accepted=accepted,
            input_cycles={name: array[: done[name]] for name, array in taken.items()},
            total_cycles=int(call.cycles),
            first_input=int(call.first_input) if call.first_input != _NEVER else None,
            last_output=int(call.last_output) if any(map(expect.get, buffers)) else None,
            before_reset=before,
        )

    def _words(self, call: _Request, requests: Any, done: Mapping[str, int]) -> str | None:
        if call.status == COMPLETE:
            return None
        if call.status == BROKEN:
            return f"the model could not be evaluated: {call.message.decode(errors='replace')}"
        if call.status in (STOPPED, IDLE):
            short = [
                f"{item.name} {done[item.name]} of {request.beats}"
                for item, request in zip(self.streams, requests, strict=True)
                if done[item.name] < request.beats and not request.observed
            ]
            what = "stopped" if call.status == STOPPED else "no transfer any more"
            return f"{what}, beats transferred: {', '.join(short) or 'all'}"
        item = self.streams[call.stream]
        beat = done[item.name]
        if call.status == FULL:
            return f"{item.name}: more than {beat} beats"
        if call.status == DROPPED:
            return f"{item.name}: valid fell before beat {beat} was transferred"
        if call.status == CHANGED:
            return f"{item.name}: payload of beat {beat} changed before it was transferred"
        return f"{item.name}: a beat after the {beat} expected ones"

    def gemm(
        self,
        a: np.ndarray,
        w: np.ndarray,
        *,
        z: np.ndarray | None = None,
        c: np.ndarray | None = None,
        weight_bits: int | None = None,
        activation_bits: int | None = None,
        skip_planes: bool = False,
        reuse: bool = False,
        extra: Mapping[str, np.ndarray] | None = None,
        stalls: Stalls | None = None,
        seed: int = 0,
    ) -> GemmResult:
        """A whole ``A·(W − z)ᵀ + C`` of any size through the core; see :mod:`sim.gemm`.

        Args:
            a: ``(M, K)`` integers in the activation range.
            w: ``(N, K)`` weights, codes for the unsigned encoding.
            z: ``(N,)`` zero points for the unsigned encoding.
            c: ``(M, N)`` addend.
            weight_bits: width of the weights; the specification's widest if None.
            activation_bits: width of the activations, where jobs choose it; the widest if None.
            skip_planes: leave out planes that are zero in a whole operand, where the core can.
            reuse: rows of A with the same pattern share a lookup, where the core can.
            extra: further operands of the block by name (``entry_shift``), the same for all jobs.
            stalls, seed: as for :meth:`run`.

        Raises:
            ValueError: the block is no GEMM core, or an operand is wrong.
        """
        from sim import gemm

        if not isinstance(self.spec, GemmSpec):
            raise ValueError(f"{self.spec.block} is not a GEMM core")
        plan = gemm.tile(
            self.spec,
            a,
            w,
            z=z,
            c=c,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            skip_planes=skip_planes,
            reuse=reuse,
            extra=extra,
        )
        run = self.run(plan.inputs, plan.expect, stalls=stalls, seed=seed)
        return plan.result(run)


def verilate(
    spec: BlockSpec,
    *,
    effort: Effort = RUN_LONG,
    trace: Trace | None = None,
    progress: bool = True,
    jobs: int | None = None,
) -> Model:
    """The Verilated model of a specification; built once, then taken from the cache.

    Args:
        effort: compile for long runs, or quickly.
        trace: able to write waveforms (``fst``) or toggle counts (``saif``), slower.
        progress: show progress on standard error if it takes more than two seconds.
        jobs: compilers at once.

    Raises:
        ToolMissingError, ToolError: Verilator or the compiler is missing or failed.
    """
    from rtl_gen.build import verilog as build_verilog
    from rtl_gen.console import Progress

    with Progress(f"elaborating {spec.name}", enabled=progress) as shown:
        verilog = build_verilog(spec)
        shown.describe(f"compiling a model of {spec.name}")
        return load(spec, verilog, effort=effort, trace=trace, jobs=jobs)


def load(
    spec: BlockSpec,
    verilog: str,
    *,
    effort: Effort = RUN_LONG,
    trace: Trace | None = None,
    jobs: int | None = None,
) -> Model:
    """The model of any Verilog text that has the ports of ``spec``."""
    text, top = source.testbench(spec, verilog)
    observed = source.observed(spec)
    ports = (*source.streams(spec), *observed)
    library = build(text, top, ports, effort=effort, trace=trace, jobs=jobs)
    return Model(spec, library, ports, observed=len(observed))

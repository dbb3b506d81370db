"""Which phases a user asks for, as workloads of a model and of what drafts for it."""

from __future__ import annotations

from rtl_gen.errors import InputError
from sw_driver.architecture import Architecture
from sw_driver.mapper.routing import BALANCED, Routing
from sw_driver.mapper.workload import (
    Workload,
    decode_workload,
    draft_workload,
    prefill_workload,
    verify_workload,
)

DEFAULT_PREFILL = 512
DEFAULT_DECODE = 128


def workloads_of(
    arch: Architecture,
    *,
    prefill: int | None = None,
    decode: int | None = None,
    context: int | None = None,
    batch: int = 1,
    expanded: bool = False,
    chunk: int | None = None,
    piggyback: int = 0,
    piggyback_context: int | None = None,
    speculate: int | None = None,
    accept: float | None = None,
    draft: Architecture | None = None,
    routing: Routing = BALANCED,
    inputs_cached: bool = False,
) -> list[Workload]:
    """The phases that are asked for.

    Without any, a decoder gets a prefill of 512 tokens (less if it holds fewer) and 128 decoded
    tokens after them, an encoder a prefill. ``context`` of the decoding is the prefill's length, or
    512 without one.

    Args:
        chunk, piggyback, piggyback_context: of the prefill, see
            :func:`sw_driver.mapper.workload.prefill_workload`.
        speculate, accept: tokens that are drafted for a step of the decoding, and how likely one is
            accepted; see :func:`sw_driver.mapper.workload.verify_workload`.
        draft: what drafts them: its prefill and its decoding are phases of their own, each behind
            the model's; None for a draft that costs nothing here.
        routing, inputs_cached: of all phases of the model; the draft's experts are routed evenly.

    Raises:
        InputError: a number is out of range for the model.
    """
    problems = []
    if context is not None and decode is None:
        problems.append("context: must come with decode, it is the number of tokens before it")
    if prefill is None and decode is None:
        if arch.causal:
            prefill = min(DEFAULT_PREFILL, max(1, arch.max_positions // 2))
            decode = max(1, min(DEFAULT_DECODE, arch.max_positions - prefill))
            # Drafted tokens take positions, too.
            decode = max(1, min(decode, arch.max_positions - prefill - (speculate or 0)))
        else:
            prefill = min(DEFAULT_PREFILL, arch.max_positions)
    if prefill is None and (chunk is not None or piggyback):
        problems.append("chunk: must come with prefill, it is a part of the prompt")
    if speculate is None:
        for name, value in (("accept", accept), ("draft", draft)):
            if value is not None:
                problems.append(f"{name}: must come with speculate")
    elif decode is None:
        problems.append("speculate: must come with decode")
    elif accept is None:
        problems.append("accept: must be given with speculate, nothing says it but a measurement")
    found = []
    try:
        if prefill is not None:
            found.append(
                prefill_workload(
                    arch,
                    prefill,
                    batch=batch,
                    expanded=expanded,
                    chunk=chunk,
                    riders=piggyback,
                    rider_context=piggyback_context,
                    routing=routing,
                    inputs_cached=inputs_cached,
                )
            )
            if draft is not None:
                found.append(prefill_workload(draft, prefill, batch=batch))
    except InputError as error:
        problems += str(error).splitlines()
    try:
        if decode is not None:
            if context is None:
                # What is wrong with the prompt is said once.
                context = DEFAULT_PREFILL if prefill is None else prefill if found else 0
            if speculate is None:
                found.append(
                    decode_workload(
                        arch,
                        decode,
                        context=context,
                        batch=batch,
                        expanded=expanded,
                        routing=routing,
                        inputs_cached=inputs_cached,
                    )
                )
            elif accept is not None:
                found.append(
                    verify_workload(
                        arch,
                        decode,
                        drafted=speculate,
                        accept=accept,
                        context=context,
                        batch=batch,
                        expanded=expanded,
                        routing=routing,
                        inputs_cached=inputs_cached,
                    )
                )
                if draft is not None:
                    found.append(
                        draft_workload(
                            draft,
                            decode,
                            drafted=speculate,
                            accept=accept,
                            context=context,
                            batch=batch,
                        )
                    )
    except InputError as error:
        problems += str(error).splitlines()
    if problems:
        raise InputError("\n".join(dict.fromkeys(problems)))
    return found

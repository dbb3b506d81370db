"""Models as work on the hardware: workloads, quantizers, mapping, runs on the RTL, reports.

::

    from rtl_gen.specfile import load_spec
    from sw_driver import load_core, map_model, run_layer

    report = map_model("llama-2-7b", load_core("hw/configs/lut_core.yaml"), decode=128, context=512)
    print(report)
    print(run_layer(load_spec("hw/configs/lut_core.yaml"), model="minilm", layer=0, group=64))

Names are loaded when they are first used: a mapping needs neither numpy nor a simulator.
"""

from __future__ import annotations

import importlib
from typing import Any

_HOMES = {
    "Architecture": "sw_driver.architecture",
    "load_architecture": "sw_driver.architecture",
    "Checkpoint": "sw_driver.checkpoint",
    "load_model": "sw_driver.checkpoint",
    "inspect_checkpoint": "sw_driver.inspect_report",
    "shipped_models": "sw_driver.architecture",
    "Workload": "sw_driver.workload",
    "decode_workload": "sw_driver.workload",
    "draft_workload": "sw_driver.workload",
    "prefill_workload": "sw_driver.workload",
    "verify_workload": "sw_driver.workload",
    "Routing": "sw_driver.routing",
    "load_routing": "sw_driver.routing",
    "parse_cache": "sw_driver.cache_format",
    "Core": "sw_driver.core",
    "core_of": "sw_driver.core",
    "load_core": "sw_driver.core",
    "Choices": "sw_driver.mapping",
    "Mapping": "sw_driver.mapping",
    "map_workload": "sw_driver.mapping",
    "evaluate_many": "sw_driver.many",
    "Figures": "sw_driver.figures",
    "evaluate_points": "sw_driver.many",
    "map_model": "sw_driver.map_report",
    "run_layer": "sw_driver.run",
    "run_model": "sw_driver.run",
    "Decoder": "sw_driver.forward",
    "KvCache": "sw_driver.forward",
    "Transformer": "sw_driver.forward",
    "PimSystem": "sw_driver.pim_system",
    "load_system": "sw_driver.pim_system",
    "DecodeModel": "sw_driver.pim_step",
    "pim_model": "sw_driver.pim_report",
    "Report": "sw_driver.report",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

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
    "inspect_checkpoint": "sw_driver.checkpoint.inspect_report",
    "shipped_models": "sw_driver.architecture",
    "Workload": "sw_driver.mapper.workload",
    "decode_workload": "sw_driver.mapper.workload",
    "draft_workload": "sw_driver.mapper.workload",
    "prefill_workload": "sw_driver.mapper.workload",
    "verify_workload": "sw_driver.mapper.workload",
    "Routing": "sw_driver.mapper.routing",
    "load_routing": "sw_driver.mapper.routing",
    "parse_cache": "sw_driver.mapper.cache_format",
    "Core": "sw_driver.mapper.core",
    "core_of": "sw_driver.mapper.core",
    "load_core": "sw_driver.mapper.core",
    "Choices": "sw_driver.mapper.mapping",
    "Mapping": "sw_driver.mapper.mapping",
    "map_workload": "sw_driver.mapper.mapping",
    "evaluate_many": "sw_driver.mapper.many",
    "Figures": "sw_driver.mapper.figures",
    "evaluate_points": "sw_driver.mapper.many",
    "map_model": "sw_driver.mapper.report",
    "run_layer": "sw_driver.runner.run",
    "run_model": "sw_driver.runner.run",
    "Decoder": "sw_driver.forward",
    "KvCache": "sw_driver.forward",
    "Transformer": "sw_driver.forward",
    "PimSystem": "sw_driver.pim.system",
    "load_system": "sw_driver.pim.system",
    "DecodeModel": "sw_driver.pim.step",
    "pim_model": "sw_driver.pim.report",
    "Report": "sw_driver.report",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

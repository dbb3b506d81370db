"""Switching activity from a SAIF file: how often every net of a simulated netlist changed.

Of the format (IEEE 1801, annex I) only what a backward file from a simulator holds is read:
instances, nets, and their toggle counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from flows.errors import FlowError

_LINE = re.compile(
    r"\s*\((?:INSTANCE (?P<scope>\S+)"
    r"|DURATION (?P<duration>\d+)\)"
    r"|(?P<net>[^\s()]+) \(T0 \d+\).*\(TC (?P<toggles>\d+)\))"
)


@dataclass(frozen=True, kw_only=True)
class Activity:
    """What was counted in a run.

    Attributes:
        duration: half clock cycles that were recorded.
        toggles: by instance path from the netlist's top on (``""``, ``u0``, ``u0/u3``), how often
            each net changed, by its name.
    """

    duration: int
    toggles: Mapping[str, Mapping[str, int]]

    @property
    def cycles(self) -> float:
        """Clock cycles that were recorded."""
        return self.duration / 2


def read_saif(path: Path, top: str) -> Activity:
    """The activity below the instance of ``top``, which is named as its module.

    Raises:
        FlowError: the file holds no such instance, or no time passed.
    """
    duration = 0
    toggles: dict[str, dict[str, int]] = {}
    scopes: list[str] = []
    with path.open(encoding="utf-8") as lines:
        depth: list[int] = []
        level = 0
        for line in lines:
            found = _LINE.match(line)
            if found is not None and found["scope"]:
                scopes.append(found["scope"])
                depth.append(level)
            elif found is not None and found["duration"]:
                duration = int(found["duration"])
            elif found is not None and top in scopes:
                below = "/".join(scopes[scopes.index(top) + 1 :])
                name = found["net"].replace("\\", "")
                toggles.setdefault(below, {})[name] = int(found["toggles"])
            level += line.count("(") - line.count(")")
            while depth and level <= depth[-1]:
                depth.pop()
                scopes.pop()
    if not toggles:
        raise FlowError("simulation", f"{path}: holds no nets of {top}")
    if not duration:
        raise FlowError("simulation", f"{path}: no time passed in it")
    return Activity(duration=duration, toggles=toggles)

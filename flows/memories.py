"""Memories of a design: no cell library has them, so they are taken out and named in the report.

An instance of ``rtlgen_ram`` (:mod:`hw.lib.memory`) in the top module goes, and its pins become
ports of the top: what drives them and what they drive stays, is mapped and is timed from port to
port. The area, the access time and the setup of the memory itself are in no figure.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

from flows import yosys
from flows.errors import FlowError

_INSTANCE = re.compile(r"\brtlgen_ram\s*#\(([^;]*?)\)\s*(\w+)\s*\(", re.S)
_LIBRARY = re.compile(r"^`ifndef (RTLGEN_\w+)\n.*?^`endif\n", re.S | re.M)
_BOX = """\
module {kind}(input clk, en, we, input [{address}:0] addr, input [{width}:0] din,
  output [{width}:0] dout);
endmodule
"""

LeftOut = tuple[str, int, int]
"""Name of the instance, words, bits a word."""


def leave_out(texts: Sequence[str], top: str) -> tuple[list[str], tuple[LeftOut, ...]]:
    """A design without its memories; the texts as they are where it has none.

    Raises:
        FlowError: a memory is in another module than ``top``, or Yosys refused the design.
    """
    found: list[LeftOut] = []
    boxes: list[str] = []

    def box(match: re.Match[str]) -> str:
        size = {
            name: int(value)
            for name, value in re.findall(r"\.(\w+)\((?:32'd)?(\d+)\)", match.group(1))
        }
        kind = f"rtlgen_ram_{len(found)}"
        found.append((match.group(2), size["DEPTH"], size["WIDTH"]))
        boxes.append(_BOX.format(kind=kind, address=size["ADDRESS"] - 1, width=size["WIDTH"] - 1))
        return f"{kind} {match.group(2)} ("

    plain = [_INSTANCE.sub(box, text) for text in texts]
    if not found:
        return list(texts), ()
    # Modules with parameters stay as they are: Yosys would make a module of each set of values.
    library = [
        match.group(0)
        for text in plain
        for match in _LIBRARY.finditer(text)
        if match.group(1) != "RTLGEN_RAM"
    ]
    plain = [_LIBRARY.sub("", text) for text in plain]
    with tempfile.TemporaryDirectory(prefix="rtlgen-memories-") as name:
        folder = Path(name)
        (folder / "design.v").write_text("\n".join([*plain, *boxes]), encoding="utf-8")
        yosys.run(
            [
                "read_verilog -sv design.v",
                "proc -norom",
                "tee -o places.txt select -list t:rtlgen_ram_*",
                "expose -evert -sep __ t:rtlgen_ram_*",
                "delete rtlgen_ram_*",
                "write_verilog -noattr design_out.v",
            ],
            ["design_out.v", "places.txt"],
            folder=folder,
        )
        for place in (folder / "places.txt").read_text(encoding="utf-8").split():
            if not place.startswith(f"{top}/"):
                raise FlowError("flows", f"a memory must be in the top module {top}, not {place}")
        rest = (folder / "design_out.v").read_text(encoding="utf-8")
    return [*library, rest], tuple(found)

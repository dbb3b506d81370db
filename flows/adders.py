"""Full adders of one bit before mapping: which stay cells, and which work on inverted bits.

A full adder is self-dual: with all inputs inverted, both outputs are inverted. So every adder may
take inverted bits and give inverted ones, and what the bits come from decides: AND-OR selection is
smaller inverted (AOI cells), a flip-flop with two outputs gives either, an adder that follows
another wants its polarity. The choice of least cost is a minimum cut, exact for this cost.
"""

from __future__ import annotations

import itertools
from collections import defaultdict, deque
from collections.abc import Mapping
from typing import Any

# Costs in inverters of a bit in one polarity. What an inverted bit saves where it is made:
_SAVED_BY_INVERTING = {"$_AND_": 0.5, "$_OR_": 1.0, "$_MUX_": 0.5, "$_NAND_": -0.5, "$_NOR_": -0.5}
_EITHER = {"$_XOR_", "$_XNOR_"}


def plan(module: Mapping[str, Any], *, flip: bool, both_outputs: bool) -> dict[str, list[str]]:
    """The full adders of a module (of ``write_json``) that become something else.

    Args:
        flip: choose polarities.
        both_outputs: flip-flops give Q and its complement.

    Returns:
        ``{"rtlgen_fa1_sum": [cells], "rtlgen_fa1_carry": …, "rtlgen_fa1_inverted": …}``: sum only,
        carry only, inverted.
    """
    driver: dict[int, tuple[str, str]] = {}
    readers: dict[int, list[tuple[str, str]]] = defaultdict(list)
    kinds = {name: cell["type"] for name, cell in module["cells"].items()}
    for name, cell in module["cells"].items():
        directions = cell.get("port_directions", {})
        for pin, bits in cell["connections"].items():
            out = directions.get(pin) == "output"
            for bit in bits:
                if isinstance(bit, int):
                    if out:
                        driver[bit] = (name, pin)
                    else:
                        readers[bit].append((name, pin))
    for port in module["ports"].values():
        for bit in port["bits"]:
            if isinstance(bit, int):
                if port["direction"] == "output":
                    readers[bit].append(("", "output"))
                else:
                    driver[bit] = ("", "input")

    def bit_of(name: str, pin: str) -> int:
        bit = (module["cells"][name]["connections"].get(pin) or ["x"])[0]
        return bit if isinstance(bit, int) else -1  # a constant: no one drives or reads net −1

    adders = [name for name, kind in kinds.items() if kind == "rtlgen_fa1"]
    planned: dict[str, list[str]] = defaultdict(list)
    whole = []
    for name in adders:
        used = {pin: bool(readers.get(bit_of(name, pin))) for pin in ("s", "co")}
        if used["s"] and used["co"]:
            whole.append(name)
        else:
            planned["rtlgen_fa1_sum" if used["s"] else "rtlgen_fa1_carry"].append(name)
    if flip:
        planned["rtlgen_fa1_inverted"] = _inverted(
            whole, kinds, bit_of, driver, readers, both_outputs
        )
    return {kind: sorted(names) for kind, names in planned.items() if names}


def _inverted(
    adders: list[str],
    kinds: Mapping[str, str],
    bit_of: Any,
    driver: Mapping[int, tuple[str, str]],
    readers: Mapping[int, list[tuple[str, str]]],
    both_outputs: bool,
) -> list[str]:
    """Adders on the inverted side of the least cut."""
    index = {name: i for i, name in enumerate(adders)}
    true_cost = [0.0] * len(adders)
    inverted_cost = [0.0] * len(adders)
    edges: dict[tuple[int, int], float] = defaultdict(float)
    for name, i in index.items():
        for pin in ("a", "b", "c"):
            bit = bit_of(name, pin)
            sign = 1
            source = driver.get(bit)
            while source and kinds.get(source[0]) == "$_NOT_":
                sign = -sign
                bit = bit_of(source[0], "A")
                source = driver.get(bit)
            if source is None:
                continue
            if source[0] in index:
                if sign > 0:
                    edges[index[source[0]], i] += 1.0 / max(1, len(readers[bit]))
                continue
            kind = kinds.get(source[0], "input")
            if kind in _SAVED_BY_INVERTING:
                saved = _SAVED_BY_INVERTING[kind] * sign
                # A bit read elsewhere too is needed as it is there.
                saved /= max(1, len(readers[bit]))
                if saved > 0:
                    true_cost[i] += saved
                else:
                    inverted_cost[i] -= saved
            elif kind in _EITHER or (both_outputs and "DFF" in kind):
                continue
            else:
                share = 1.0 / max(1, len(readers[bit]))
                if sign > 0:
                    inverted_cost[i] += share
                else:
                    true_cost[i] += share
        for pin in ("s", "co"):
            for reader, reader_pin in readers.get(bit_of(name, pin), ()):
                if not reader or "DFF" in kinds[reader] or reader_pin == "output":
                    inverted_cost[i] += 1.0
                    break
    return [adders[i] for i in _least_cut(true_cost, inverted_cost, edges)]


def _least_cut(
    true_cost: list[float], inverted_cost: list[float], edges: Mapping[tuple[int, int], float]
) -> list[int]:
    """Nodes on the sink's side of a minimum cut: those that are cheaper inverted."""
    count = len(true_cost)
    source, sink = count, count + 1
    capacity: list[dict[int, float]] = [defaultdict(float) for _ in range(count + 2)]
    for i in range(count):
        # On the source's side (true) a node pays the edge to the sink, and the other way round.
        common = min(true_cost[i], inverted_cost[i])
        capacity[i][sink] += true_cost[i] - common
        capacity[source][i] += inverted_cost[i] - common
    for (i, j), weight in edges.items():
        capacity[i][j] += weight
        capacity[j][i] += weight
    while True:
        parent = {source: source}
        queue = deque([source])
        while queue and sink not in parent:
            node = queue.popleft()
            for other, left in capacity[node].items():
                if left > 1e-9 and other not in parent:
                    parent[other] = node
                    queue.append(other)
        if sink not in parent:
            return [i for i in range(count) if i not in parent]
        path = [sink]
        while path[-1] != source:
            path.append(parent[path[-1]])
        steps = [(b, a) for a, b in itertools.pairwise(path)]
        flow = min(capacity[a][b] for a, b in steps)
        for a, b in steps:
            capacity[a][b] -= flow
            capacity[b][a] += flow

"""How tokens are spread over the experts of a mixture: evenly, at random, or as was counted.

``assignments = tokens · active`` are made in a step and layer; no token takes an expert twice.

- *balanced*: as evenly as it goes over ``min(experts, assignments)`` distinct experts, the most
  that can be touched, hence the most weight traffic.
- *uniform*: every token takes ``active`` distinct experts at random. The rows of an expert are
  binomial, ``B(tokens, active / experts)``; costs are expectations over that distribution, and
  ``experts · (1 − (1 − active / experts)^tokens)`` experts are touched.
- *a histogram*: the assignments in given shares, by largest remainders.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rtl_gen.errors import InputError
from sw_driver.architecture import Mlp

if TYPE_CHECKING:
    from fractions import Fraction

Ragged = tuple[tuple[int, float], ...]
"""``(rows, experts that get as many)``."""

MAX_FILE_BYTES = 1 << 20
MAX_EXPERTS = 4096

MAX_RANDOM = 1 << 26
"""Tokens of a step whose distribution over experts is summed up."""

NEGLIGIBLE = 2.0**-80
"""Probabilities below it change no sum of doubles and are left out."""


@dataclass(frozen=True, kw_only=True)
class Routing:
    """How tokens are routed.

    Attributes:
        kind: which of the three.
        layers: of a histogram, by layer with experts or once for all of them, what every expert
            has of the assignments: counts or shares, which are scaled.
        file: where it was read.
    """

    kind: Literal["balanced", "uniform", "histogram"] = "balanced"
    layers: tuple[tuple[Fraction, ...], ...] = ()
    file: str = ""

    def __str__(self) -> str:
        return {"balanced": "balanced", "uniform": "uniformly random"}.get(self.kind, self.file)


BALANCED = Routing()
UNIFORM = Routing(kind="uniform")


def load_routing(text: str) -> Routing:
    """``balanced``, ``uniform``, or the path of a JSON file with a histogram.

    The file holds ``{"experts": [...]}``, one number for each expert, or ``{"layers": [[...],
    ...]}``, one such list for each layer with experts. Numbers are tokens or shares.

    Raises:
        InputError: the file cannot be read or breaks a rule; one line with field and value.
    """
    if text == "balanced":
        return BALANCED
    if text == "uniform":
        return UNIFORM
    from fractions import Fraction

    from sw_driver.config_file import ConfigError, read_json

    path = Path(text)
    if path.suffix != ".json" and not path.is_file():
        raise InputError(f"routing: must be balanced, uniform or a .json file, got {text!r}")
    data = read_json(path, limit=MAX_FILE_BYTES)
    problems: list[str] = []
    fields = sorted(data)
    lists: Any = []
    if fields == ["experts"]:
        lists = [data["experts"]]
    elif fields == ["layers"]:
        lists = data["layers"]
    else:
        problems.append(f"must have the field experts, or layers, alone, got {fields}")
    if not isinstance(lists, list) or (not problems and not lists):
        problems.append("layers: must be a list of lists, one for each layer with experts")
        lists = []
    found = []
    for number, counts in enumerate(lists):
        place = "experts" if "experts" in data else f"layers[{number}]"
        problem = _wrong(counts)
        if problem:
            problems.append(f"{place}{problem}")
        else:
            found.append(tuple(Fraction(str(count)) for count in counts))
        if len(problems) == 10:
            break
    if problems:
        raise ConfigError(text, problems)
    return Routing(kind="histogram", layers=tuple(found), file=path.name)


def _wrong(counts: Any) -> str:
    """What is wrong with the numbers of one layer."""
    if not isinstance(counts, list) or not counts:
        return ": must be a list of numbers, one for each expert"
    if len(counts) > MAX_EXPERTS:
        return f": must be at most {MAX_EXPERTS} numbers, got {len(counts)}"
    for index, count in enumerate(counts):
        number = isinstance(count, (int, float)) and not isinstance(count, bool)
        if not number or not 0 <= count < 1 << 62:
            return f"[{index}]: must be a number from 0 to 2^62, got {count!r:.40}"
    return "" if any(counts) else ": must not be all 0"


def check_routing(routing: Routing, mlps: Sequence[tuple[Mlp, int]]) -> list[str]:
    """What does not fit between a routing and the feed-forward parts of a model, with layers."""
    mixtures = [(mlp, layers) for mlp, layers in mlps if mlp.experts]
    if routing.kind == "balanced":
        return []
    if not mixtures:
        return [f"routing: must not be given for a model without experts, got {routing.kind}"]
    if routing.kind == "uniform":
        return []
    problems = []
    layers = sum(count for _, count in mixtures)
    name = f"routing: {routing.file}"
    single = len(routing.layers) == 1
    if not single and len(routing.layers) != layers:
        problems.append(
            f"{name}: layers: must be {layers} lists, one for each layer with experts, got "
            f"{len(routing.layers)}"
        )
    if not single and len(mixtures) > 1:
        problems.append(f"{name}: layers: must be one list for a model with two sorts of mixtures")
    for mlp, _ in mixtures:
        for number, shares in enumerate(routing.layers):
            place = f"{name}: " + ("experts" if single else f"layers[{number}]")
            if len(shares) != mlp.experts:
                problems.append(f"{place}: must be {mlp.experts} numbers, got {len(shares)}")
                break
            top, whole = max(shares), sum(shares)
            if top * mlp.active > whole:
                problems.append(
                    f"{place}[{shares.index(top)}]: must be at most 1/{mlp.active} of all, a token "
                    f"takes an expert once, got {float(top / whole):.4g}"
                )
                break
    return problems


def routed_rows(tokens: int, mlp: Mlp) -> list[tuple[int, int]]:
    """Rows that experts get: ``(rows, experts)``, under balanced routing."""
    assignments = tokens * mlp.active
    touched = min(mlp.experts, assignments)
    low, extra = divmod(assignments, touched)
    shares = [(low + 1, extra)] if extra else []
    return [*shares, (low, touched - extra)]


def expected_rows(tokens: int, mlp: Mlp) -> Ragged:
    """Rows and expected number of experts that get them, from one row on, under random routing.

    Raises:
        InputError: the tokens of a step are too many for a sum over their distribution.
    """
    if tokens > MAX_RANDOM:
        raise InputError(
            f"routing: uniform: must be of at most {MAX_RANDOM} tokens a step, got {tokens}"
        )
    chance = mlp.active / mlp.experts
    if chance >= 1:
        return ((tokens, mlp.experts),)
    # From the likeliest number outwards, each from the one before: p(r+1)/p(r) is a quotient of
    # whole numbers, and that the sum of all is 1 gives the scale.
    top = min(tokens, int((tokens + 1) * chance))
    likely = {top: 1.0}
    odds = mlp.active / (mlp.experts - mlp.active)
    at = 1.0
    for rows in range(top, tokens):
        at *= (tokens - rows) / (rows + 1) * odds
        if at < NEGLIGIBLE:
            break
        likely[rows + 1] = at
    at = 1.0
    for rows in range(top, 0, -1):
        at *= rows / (tokens - rows + 1) / odds
        if at < NEGLIGIBLE:
            break
        likely[rows - 1] = at
    whole = math.fsum(likely.values())
    return tuple(
        (rows, mlp.experts * likely[rows] / whole) for rows in sorted(likely, reverse=True) if rows
    )


def expected_experts(tokens: int, mlp: Mlp) -> float:
    """Distinct experts that a layer touches, under random routing."""
    missed = (1 - mlp.active / mlp.experts) ** tokens
    return mlp.experts * (1 - missed)


def counted_rows(tokens: int, mlp: Mlp, shares: Sequence[Fraction]) -> list[int]:
    """Rows of every expert of a layer: its share of the assignments, by largest remainders.

    Shares of one remainder go to the earlier expert. No expert gets more than ``tokens`` rows if
    none has more than ``1 / active`` of all.
    """
    assignments = tokens * mlp.active
    whole = sum(shares)
    exact = [share * assignments / whole for share in shares]
    rows = [int(value) for value in exact]
    left = assignments - sum(rows)
    order = sorted(range(len(rows)), key=lambda at: (rows[at] - exact[at], at))
    for at in order[:left]:
        rows[at] += 1
    return rows


def ragged_rows(routing: Routing, tokens: int, mlp: Mlp, layers: int) -> tuple[Ragged, float]:
    """Rows of experts over all layers of a step, and the most distinct experts of a layer.

    Whole numbers under a histogram, expectations under random routing.
    """
    if routing.kind == "uniform":
        found = expected_rows(tokens, mlp)
        pairs = tuple((rows, layers * experts) for rows, experts in found)
        return pairs, expected_experts(tokens, mlp)
    counts: Counter[int] = Counter()
    most = 0
    alike = Counter(routing.layers)
    for shares, times in alike.items():
        rows = counted_rows(tokens, mlp, shares)
        most = max(most, sum(map(bool, rows)))
        times = layers if len(routing.layers) == 1 else times
        for value, experts in Counter(rows).items():
            if value:
                counts[value] += times * experts
    return tuple(sorted(counts.items(), reverse=True)), most

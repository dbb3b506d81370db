"""``rtlgen allot``: bits, and a core, for every linear layer, the best within budgets."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hw.gemm import GemmSpec
from rtl_gen import __version__
from rtl_gen.errors import InputError
from sw_driver import report as lay
from sw_driver.allot.costs import METRICS, NANOSECONDS, Costs, Figures, Place
from sw_driver.allot.sensitivity import (
    CALIBRATION,
    HELD_OUT,
    ROWS,
    Calibration,
    Layer,
    model_errors,
    output_errors,
    similarities,
    weight_errors,
)
from sw_driver.allot.solve import Problem, Solution, Solver, solve
from sw_driver.architecture import Architecture
from sw_driver.checkpoint import Checkpoint
from sw_driver.config_file import ConfigError, read_json
from sw_driver.forward import Transformer
from sw_driver.mapper.core import Core, core_of
from sw_driver.mapper.mapping import BUFFER_BYTES
from sw_driver.mapper.report import MAX_SYNTH_BYTES, read_area, workloads_of
from sw_driver.report import Report, Table
from sw_driver.text.bert import PACKAGED, model_folder
from sw_driver.text.prompts import load_transformer, prompts_of, tokenizer_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DEFAULT_WIDTHS = (2, 3, 4, 6, 8)
DEFAULT_GROUP = 64
POINTS = 12
MAX_POINTS = 200

Sensitivity = Literal["auto", "model", "layer", "weights"]

MOST_MODEL, MOST_LAYER = 64_000_000, 512_000_000
"""Parameters of the largest models whose error is measured so unless asked for otherwise."""


@dataclass(frozen=True, kw_only=True)
class Budget:
    """A budget as a person gives it: ``amount``, or that share of the reference."""

    metric: str
    amount: float
    relative: bool

    @property
    def text(self) -> str:
        return f"{self.metric}={self.amount:g}{'x' if self.relative else ''}"


def parse_budget(text: str) -> Budget:
    """``cycles=0.6x``, ``size=12M``, ``area=90000``, ``seconds=0.002``.

    Raises:
        InputError: it is none.
    """
    metric, equals, amount = text.partition("=")
    among = (*METRICS, "area")
    if not equals or metric not in among:
        raise InputError(
            f"budget: must be METRIC=AMOUNT with one of {', '.join(among)}, got {text!r}"
        )
    factors = {"k": 1e3, "M": 1e6, "G": 1e9, "x": 1.0}
    relative = amount.endswith("x")
    factor = factors.get(amount[-1:], 1.0)
    try:
        number = float(amount[:-1] if amount[-1:] in factors else amount) * factor
    except ValueError:
        number = math.nan
    if not 0 < number < 1e18:
        raise InputError(
            f"budget: {metric}: must be a number above 0, with k, M or G, or a share with x, got "
            f"{amount!r}"
        )
    return Budget(metric=metric, amount=number, relative=relative)


@dataclass(frozen=True, kw_only=True)
class Allotment:
    """One way to give every layer a place.

    Attributes:
        name: what it is. places: by layer. figures: everything in all phases.
        error: mean share of noise over the layers. area: of the cores in use, None if not known.
        cosines: of embeddings of held-out texts, where the model can be run.
    """

    name: str
    places: Mapping[Layer, Place]
    figures: Figures
    error: float
    area: float | None
    cosines: tuple[float, ...] = ()

    @property
    def error_db(self) -> float:
        """Signal to noise of the mean layer."""
        return -10 * math.log10(self.error) if self.error > 0 else math.inf


@dataclass(frozen=True, kw_only=True)
class AllotReport(Report):
    """The best allotment, uniform ones beside it, and the curve of what budgets buy."""

    best: Allotment
    solution: Solution
    uniform: tuple[Allotment, ...]
    curve: tuple[tuple[int, float], ...]


def allot(
    model: str | Path,
    specs: Sequence[object],
    *,
    budgets: Sequence[Budget] = (),
    widths: Sequence[int] = (),
    widths_of: Mapping[str, Sequence[int]] | None = None,
    prefill: int | None = None,
    decode: int | None = None,
    context: int | None = None,
    batch: int = 1,
    group: int = DEFAULT_GROUP,
    buffer_bytes: int = BUFFER_BYTES,
    texts: Sequence[str] = (),
    rows: int = ROWS,
    sensitivity: Sensitivity = "auto",
    areas: Sequence[Path] = (),
    efficiency: float = 0.0,
    solver: Solver = "auto",
    points: int = POINTS,
    check: bool = True,
) -> AllotReport:
    """The allotment of least summed error within budgets.

    Args:
        model: ``minilm``, or any checkpoint that is read.
        specs: GEMM cores; the first one does attention, and its widest width on all layers is the
            reference of relative budgets.
        budgets: of all phases together; of the area, that of the cores in use.
        widths: of integer weights; by default 2, 3, 4, 6 and 8 as far as a core has them.
        widths_of: of single cores, by the specification's name, in place of ``widths``.
        prefill, decode, context, batch: the phases, see ``rtlgen map``.
        group: elements of K that share a scale of integers.
        texts: calibration texts. rows: of a matrix, where weights are measured.
        sensitivity: whose error is measured: the ``model``'s, with one layer quantized at a time,
            the ``layer``'s own, or that of its ``weights``; ``auto`` is the first of them that a
            model is small enough for, and of one without a tokenizer the last.
        areas: JSON of ``rtlgen synth --json`` or ``rtlgen compare --json``.
        efficiency: ``β`` of OHQ's objective (arXiv 2309.01945): least of error by the largest error
            plus β times cycles by the most cycles; 0 for the error alone.
        points: of the curve; 0 for none.
        check: of a model that can be run, measure embeddings of held-out texts.

    Raises:
        InputError: something given is wrong, or no allotment is within the budgets.
        ToolError: HiGHS failed.
    """
    cores, gemms = _cores(specs)
    _check_numbers(budgets, efficiency, points, rows, group)
    places = _places(cores, widths, widths_of or {})
    checkpoint, arch = _model(model)
    found_areas = _areas(areas, cores, budgets)
    # Every layer has the widths that are chosen here, whatever a checkpoint stores.
    plain = replace(arch, storage=())
    works = workloads_of(plain, prefill=prefill, decode=decode, context=context, batch=batch)
    costs = Costs(works, cores, places, group=group, buffer_bytes=buffer_bytes)
    # Absorbed parts of latent attention are no matrices of a file.
    choosable = [role for role in costs.layers if role not in ("k_up", "v_up")]
    measured, loaded = _measuring(model, checkpoint, sensitivity, texts)
    origin, held_out = "", None
    if loaded is None:
        errors = weight_errors(checkpoint, choosable, gemms, places, group=group, rows=rows)
    else:
        inputs, origin = prompts_of(loaded, texts, default=CALIBRATION)
        origin = origin or f"{len(inputs)} calibration texts"
        measure = model_errors if measured == "model" else output_errors
        # Heads of an encoder's training are no part of what it gives.
        runs = [role for role in choosable if role not in ("pooler", "router")]
        calibration = Calibration.of(loaded, runs, inputs)
        errors = measure(calibration, gemms, places, group=group)
        if check and tokenizer_of(loaded) is not None:
            unseen, _ = prompts_of(loaded, HELD_OUT)
            held_out = Calibration.of(loaded, runs, unseen)
    if not errors:
        raise InputError(f"{model}: no tensor is a linear layer that something can be chosen for")
    order = list(costs.layers)
    layers = sorted(
        errors, key=lambda each: (each.index is None, each.index or 0, order.index(each.role))
    )
    roles = list(dict.fromkeys(layer.role for layer in layers))
    _complete(layers, costs, roles)
    reference = max((place for place in places if place.core == 0), key=lambda place: place.bits)
    rest = costs.rest(roles, reference)
    figures = {(role, place): costs.layer(role, place) for role in roles for place in places}
    problem = _problem(layers, places, errors, figures, rest, found_areas, efficiency)
    limits, area = _limits(budgets, layers, figures, rest, reference, found_areas)
    solution = solve(problem, limits, area=area, solver=solver)

    def made(name: str, chosen: Sequence[Place]) -> Allotment:
        total = rest
        for layer, place in zip(layers, chosen, strict=True):
            total += figures[layer.role, place]
        used = {0, *(place.core for place in chosen)}
        by_layer = dict(zip(layers, chosen, strict=True))
        cosines: list[float] = []
        if held_out is not None:
            cosines = similarities(held_out, gemms, by_layer, group=group)
        return Allotment(
            name=name,
            places=by_layer,
            figures=total,
            error=math.fsum(errors[layer][place] for layer, place in by_layer.items())
            / len(layers),
            area=math.fsum(found_areas[core] for core in used) if found_areas else None,
            cosines=tuple(cosines),
        )

    best = made("best", [places[at] for at in solution.chosen])
    uniform = [made(f"all {_place(place, cores)}", [place] * len(layers)) for place in places]
    metric = next((each.metric for each in budgets if each.metric != "area"), "cycles")
    curve = _curve(problem, metric, points, area)
    return _report(
        arch=arch,
        cores=cores,
        costs=costs,
        best=best,
        uniform=uniform,
        solution=solution,
        limits=limits,
        area=area,
        budgets=budgets,
        reference=reference,
        metric=metric,
        curve=curve,
        layers=layers,
        errors=errors,
        figures=figures,
        rest=rest,
        measured=measured,
        origin=origin,
        rows=rows,
        group=group,
        efficiency=efficiency,
    )


def _cores(specs: Sequence[object]) -> tuple[list[Core], list[GemmSpec]]:
    """The cores, if they are some."""
    problems = [
        f"{getattr(spec, 'name', 'specification')}: block: must be a GEMM core, got "
        f"{getattr(spec, 'block', None)!r}"
        for spec in specs
        if not isinstance(spec, GemmSpec)
    ]
    gemms = [spec for spec in specs if isinstance(spec, GemmSpec)]
    names = [spec.name for spec in gemms]
    problems += [
        f"core: {name}: must be given once"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]
    if not specs:
        problems.append("core: at least one is required")
    if problems:
        raise InputError("\n".join(problems))
    return [core_of(spec) for spec in gemms], gemms


def _check_numbers(
    budgets: Sequence[Budget], efficiency: float, points: int, rows: int, group: int
) -> None:
    metrics = [budget.metric for budget in budgets]
    problems = [
        f"budget: {metric}: must be given once"
        for metric in dict.fromkeys(metrics)
        if metrics.count(metric) > 1
    ]
    if not 0 <= efficiency <= 1e6:
        problems.append(f"efficiency: must lie in [0, 1e6], got {efficiency:g}")
    if not 0 <= points <= MAX_POINTS:
        problems.append(f"points: must lie in [0, {MAX_POINTS}], got {points}")
    if not 1 <= rows <= 1 << 24:
        problems.append(f"rows: must lie in [1, {1 << 24}], got {rows}")
    if not 1 <= group <= 1 << 16:
        problems.append(f"group: must lie in [1, {1 << 16}], got {group}")
    if problems:
        raise InputError("\n".join(problems))


def _places(
    cores: Sequence[Core], widths: Sequence[int], widths_of: Mapping[str, Sequence[int]]
) -> list[Place]:
    """Every core at every width that may be chosen."""
    problems = []
    found: list[Place] = []
    for index, core in enumerate(cores):
        asked = list(dict.fromkeys(widths_of.get(core.name, ())))
        problems += [
            f"{core.name}: has weights of {', '.join(map(str, core.widths))} bits, got {bits}"
            for bits in asked
            if bits not in core.widths
        ]
        if not asked:
            wanted = list(core.widths) if len(core.widths) == 1 else widths or DEFAULT_WIDTHS
            asked = [bits for bits in wanted if bits in core.widths]
        found += [Place(core=index, bits=bits) for bits in sorted(asked)]
        if not asked:
            problems.append(f"weight_bits: {core.name} has none of {', '.join(map(str, widths))}")
    if problems:
        raise InputError("\n".join(problems))
    return found


def _model(model: str | Path) -> tuple[Checkpoint, Architecture]:
    """The tensors of a model, and what they are of."""
    path = model_folder(model) if str(model) == PACKAGED else Path(model)
    if not path.exists():
        raise InputError(
            f"model: must be {PACKAGED} or a checkpoint with tensors (a folder, a safetensors or a "
            f"GGUF file), got {str(model)!r}"
        )
    checkpoint = Checkpoint(path)
    if str(model) == PACKAGED:
        return checkpoint, load_transformer(model).architecture
    return checkpoint, checkpoint.architecture


def _measuring(
    model: str | Path, checkpoint: Checkpoint, sensitivity: Sensitivity, texts: Sequence[str]
) -> tuple[str, Transformer | None]:
    """Whose error is measured, and the model to run if it is not that of weights alone."""
    size = checkpoint.parameters
    if sensitivity == "weights" or (sensitivity == "auto" and size > MOST_LAYER and not texts):
        return "weights", None
    try:
        loaded = load_transformer(model)
        loaded.settings  # noqa: B018 - refuses what is not computed
        if sensitivity == "auto" and not texts and tokenizer_of(loaded) is None:
            return "weights", None
    except InputError:
        # What cannot be run can be looked at, unless more was asked for.
        if sensitivity == "auto" and not texts:
            return "weights", None
        raise
    if sensitivity == "auto":
        return ("model" if size <= MOST_MODEL else "layer"), loaded
    return sensitivity, loaded


def _complete(layers: Sequence[Layer], costs: Costs, roles: Sequence[str]) -> None:
    """That every layer of a role that something is chosen for was measured, and has a cost."""
    for role in roles:
        count = sum(layer.role == role for layer in layers)
        if role not in costs.layers or count != costs.layers[role]:
            raise InputError(
                f"{role}: must be measured in {costs.layers.get(role, 0)} layers, found in {count}"
            )


def _problem(
    layers: Sequence[Layer],
    places: Sequence[Place],
    errors: Mapping[Layer, Mapping[Place, float]],
    figures: Mapping[tuple[str, Place], Figures],
    rest: Figures,
    areas: Sequence[float],
    efficiency: float,
) -> Problem:
    weights = {
        metric: tuple(
            np.array([figures[layer.role, place].of(metric) for place in places], dtype=np.int64)
            for layer in layers
        )
        for metric in METRICS
    }
    values = [np.array([errors[layer][place] for place in places]) for layer in layers]
    if efficiency:
        worst = sum(float(each.max()) for each in values) or 1.0
        most = sum(int(each.max()) for each in weights["cycles"]) or 1
        values = [
            each / worst + efficiency * cycles / most
            for each, cycles in zip(values, weights["cycles"], strict=True)
        ]
    cores = np.array([place.core for place in places])
    return Problem(
        values=tuple(values),
        weights=weights,
        cores=tuple(cores for _ in layers),
        areas=tuple(areas),
        fixed={metric: rest.of(metric) for metric in METRICS},
        needed=frozenset({0}),
    )


def _limits(
    budgets: Sequence[Budget],
    layers: Sequence[Layer],
    figures: Mapping[tuple[str, Place], Figures],
    rest: Figures,
    reference: Place,
    areas: Sequence[float],
) -> tuple[dict[str, int], float | None]:
    """Budgets in the units of the figures; the area apart."""
    whole = rest
    for layer in layers:
        whole += figures[layer.role, reference]
    limits: dict[str, int] = {}
    area = None
    for budget in budgets:
        if budget.metric == "area":
            area = budget.amount * (math.fsum(areas) if budget.relative else 1.0)
            continue
        if budget.relative:
            amount = budget.amount * whole.of(budget.metric)
        else:
            amount = budget.amount * (NANOSECONDS if budget.metric == "seconds" else 1)
        limits[budget.metric] = math.floor(amount * (1 + 1e-12))
    return limits, area


def _areas(
    files: Sequence[Path], cores: Sequence[Core], budgets: Sequence[Budget]
) -> tuple[float, ...]:
    """The area of every core, from reports of synthesis or of comparisons; none without a file.

    A comparison charges the units beside a core as well, at each width: the largest counts.

    Raises:
        InputError: a file is malformed, is of no core here, or a core is in none.
    """
    if not files:
        if any(budget.metric == "area" for budget in budgets):
            raise InputError(
                "area: a budget of it needs the cores' areas (--area FILE.json, from `rtlgen synth "
                "--json` or `rtlgen compare --json`)"
            )
        return ()
    found: dict[str, float] = {}
    units: set[tuple[str, str]] = set()
    by_name = {core.name: core for core in cores}
    for file in files:
        data = read_json(Path(file), limit=MAX_SYNTH_BYTES)
        if "candidates" in data:
            units.add(_compared(file, data, by_name, found))
            continue
        top = data.get("top")
        if top not in by_name:
            among = ", ".join(by_name)
            raise ConfigError(str(file), [f"top: must be one of {among}, got {top!r}"])
        area = read_area(file, by_name[top])
        found[top] = area.area
        units.add((area.unit, area.technology))
    missing = [core.name for core in cores if core.name not in found]
    if missing:
        raise InputError(f"area: no file has the area of {', '.join(missing)}")
    if len(units) > 1:
        raise InputError("area: files must be of one technology, got several")
    return tuple(found[core.name] for core in cores)


def _compared(
    file: Path, data: Mapping[str, Any], cores: Mapping[str, Core], found: dict[str, float]
) -> tuple[str, str]:
    """Areas of a comparison: per MAC a cycle there, of a whole core and its units here."""
    unit = ""
    listed = data["candidates"]
    rows: list[Any] = listed if isinstance(listed, list) else [None]
    for row in rows:
        try:
            name, bits, unit = str(row["spec"]), int(row["weight_bits"]), str(row["unit"])
            parts = (row["mac_area"], row["scale_area"], row["quantizer_area"])
            area = math.fsum(map(float, parts))
        except (TypeError, KeyError, ValueError):
            raise ConfigError(
                str(file), ["candidates: must be the rows of `rtlgen compare --json`"]
            ) from None
        core = cores.get(name)
        if core is None or bits not in core.widths:
            continue
        if not 0 < area < math.inf:
            raise ConfigError(str(file), [f"candidates: {name}: must have an area above 0"])
        found[name] = max(found.get(name, 0.0), area * core.peak_macs(bits))
    return unit, str(data.get("technology"))


def _curve(
    problem: Problem, metric: str, points: int, area: float | None
) -> list[tuple[int, float]]:
    """The least value within budgets of one metric, evenly spaced from the least to the most."""
    if not points:
        return []
    low = problem.least(metric)
    if area is not None:
        # Within the area: what the lightest allotment of the allowed cores takes.
        lightest = replace(
            problem,
            values=tuple(each.astype(np.float64) for each in problem.weights[metric]),
        )
        low = problem.taken(metric, solve(lightest, {}, area=area).chosen)
    free = solve(problem, {}, area=area)
    high = max(low, problem.taken(metric, free.chosen))
    found: dict[int, float] = {}
    for i in range(points):
        limit = low + (high - low) * i // max(1, points - 1)
        best = solve(problem, {metric: limit}, area=area)
        taken = problem.taken(metric, best.chosen)
        found[taken] = min(best.value, found.get(taken, math.inf))
    return sorted(found.items())


def _place(place: Place, cores: Sequence[Core]) -> str:
    bits = f"W{place.bits}"
    return bits if len(cores) == 1 else f"{cores[place.core].name} {bits}"


def _report(
    *,
    arch: Architecture,
    cores: Sequence[Core],
    costs: Costs,
    best: Allotment,
    uniform: Sequence[Allotment],
    solution: Solution,
    limits: Mapping[str, int],
    area: float | None,
    budgets: Sequence[Budget],
    reference: Place,
    metric: str,
    curve: Sequence[tuple[int, float]],
    layers: Sequence[Layer],
    errors: Mapping[Layer, Mapping[Place, float]],
    figures: Mapping[tuple[str, Place], Figures],
    rest: Figures,
    measured: str,
    origin: str,
    rows: int,
    group: int,
    efficiency: float,
) -> AllotReport:
    phases = " and ".join(
        f"{work.phase} of {work.tokens}" + (f" after {work.context}" if work.context else "")
        for work in costs.works
    )
    within = ", ".join(
        f"{budget.text} ({_amount(budget.metric, limits.get(budget.metric, area or 0))})"
        for budget in budgets
    )
    proof = (
        f"proven by {'dynamic programming' if solution.solver == 'dp' else 'HiGHS'}: value "
        f"{solution.value:.6g}, bound {solution.bound:.6g}, gap {solution.gap:.2g}"
    )
    facts = [
        f"{len(layers)} layers, {phases}; cores: "
        + ", ".join(f"{core.name} ({core.block})" for core in cores),
        f"budgets: {within or 'none'}; x: of all layers at {_place(reference, cores)}",
        proof,
    ]
    notes = [_measured(measured, origin, rows, group), *_left(costs, layers, cores)]
    if efficiency:
        notes.append(
            f"objective: error by the largest error + {efficiency:g} · cycles by the most cycles"
        )
    notes += costs.notes
    rows_of = [best, *uniform]
    points = [(_amount(metric, taken), f"{value:.5g}") for taken, value in curve]
    tables = [_layer_table(best, layers, cores), _totals(rows_of, metric)]
    if points:
        tables.append(
            Table(
                title=f"what {metric} buy" + ("s" if metric == "size" else ""),
                columns=(metric, "objective" if efficiency else "summed error"),
                rows=points,
            )
        )
    if any(each.cosines for each in rows_of):
        notes.append(
            f"cosine: of the embeddings (a decoder's logits) of {len(HELD_OUT)} texts that nothing "
            "was chosen on, mean and least, against float32, every projection as its core computes "
            "it"
        )
    return AllotReport(
        title=f"{arch.name}: bits for every layer",
        facts=facts,
        tables=tables,
        notes=notes,
        data={
            "rtlgen": __version__,
            "model": arch.name,
            "cores": [core.as_dict() for core in cores],
            "phases": [
                {"phase": w.phase, "tokens": w.tokens, "context": w.context, "batch": w.batch}
                for w in costs.works
            ],
            "budgets": [asdict(budget) for budget in budgets],
            "limits": {**limits, **({} if area is None else {"area": area})},
            "group": group,
            "measured": measured,
            "calibration": origin,
            "efficiency": efficiency,
            "solver": solution.solver,
            "value": solution.value,
            "bound": solution.bound,
            "gap": solution.gap,
            "best": _plain(best, cores),
            "uniform": [_plain(each, cores) for each in uniform],
            "curve": [{metric: taken, "value": value} for taken, value in curve],
            "fixed": asdict(rest),
            "layers": [
                {
                    "role": layer.role,
                    "index": layer.index,
                    "options": [
                        {
                            "core": cores[place.core].name,
                            "bits": place.bits,
                            "error": error,
                            **asdict(figures[layer.role, place]),
                        }
                        for place, error in errors[layer].items()
                    ],
                }
                for layer in layers
            ],
            "notes": notes,
        },
        draw=lambda figure: draw(figure, best, uniform, curve, layers, cores, metric, efficiency),
        size=(11.0, 4.6),
        best=best,
        solution=solution,
        uniform=tuple(uniform),
        curve=tuple(curve),
    )


def _measured(measured: str, origin: str, rows: int, group: int) -> str:
    groups = f"integers in groups of {group} along K"
    if measured != "weights":
        what = (
            "of what the model gives, one layer quantized at a time"
            if measured == "model"
            else "of a layer's own output, float32 going in"
        )
        return (
            f"error: {what}, noise by signal on {origin}, {groups}; summed over the layers as if "
            "they were independent"
        )
    return (
        f"error: of the weights alone, noise by signal over at most {rows} rows of a layer, "
        f"{groups}; no activations of this model were measured"
    )


def _left(costs: Costs, layers: Sequence[Layer], cores: Sequence[Core]) -> list[str]:
    chosen = {layer.role for layer in layers}
    others = [role for role in costs.layers if role not in chosen]
    found = [
        f"attention and tables are in all totals, on {cores[0].name}, which is in every area"
        if len(cores) > 1
        else "attention and tables are in all totals"
    ]
    if len({core.clock_mhz for core in cores}) > 1:
        found.append("clocks differ: cycles are each core's own; seconds are comparable")
    if others:
        found.append(
            f"nothing is chosen for {', '.join(others)}: no tensor or no activations, taken as in "
            "the reference"
        )
    return found


def _amount(metric: str, value: float) -> str:
    if metric == "seconds":
        return lay.engineering(value / NANOSECONDS, "s")
    return f"{value:,.1f}" if metric == "area" else lay.count(int(value))


def _layer_table(best: Allotment, layers: Sequence[Layer], cores: Sequence[Core]) -> Table:
    roles = list(dict.fromkeys(layer.role for layer in layers))
    indices = list(dict.fromkeys(layer.index for layer in layers))

    def cell(index: int | None, role: str) -> str:
        place = best.places.get(Layer(role=role, index=index))
        if place is None:
            return "–"
        return str(place.bits) if len(cores) == 1 else _place(place, cores)

    return Table(
        title="bits of every layer",
        columns=("layer", *roles),
        rows=[
            ("–" if index is None else str(index), *(cell(index, role) for role in roles))
            for index in indices
        ],
    )


def _totals(rows: Sequence[Allotment], metric: str) -> Table:
    area = any(each.area is not None for each in rows)
    cosine = any(each.cosines for each in rows)
    rows = sorted(rows, key=lambda each: each.figures.of(metric))
    return Table(
        title="in all",
        columns=(
            "allotment", "cycles", "bytes", "size", "time",
            *(("area",) if area else ()),
            "summed error", "mean dB",
            *(("cosine", "least") if cosine else ()),
        ),
        rows=[
            (
                each.name,
                lay.count(each.figures.cycles),
                lay.count(each.figures.bytes),
                lay.count(each.figures.size),
                _amount("seconds", each.figures.nanoseconds),
                *((_amount("area", each.area or 0),) if area else ()),
                f"{each.error * len(each.places):.5g}",
                f"{each.error_db:.1f}",
                *(
                    (f"{np.mean(each.cosines):.5f}", f"{min(each.cosines):.5f}")
                    if cosine
                    else ()
                ),
            )
            for each in rows
        ],
    )  # fmt: skip


def _plain(item: Allotment, cores: Sequence[Core]) -> dict[str, Any]:
    return {
        "name": item.name,
        **asdict(item.figures),
        "error": item.error * len(item.places),
        "area": item.area,
        "cosines": list(item.cosines),
        "layers": {
            layer.name: {"core": cores[place.core].name, "bits": place.bits}
            for layer, place in item.places.items()
        },
    }


def draw(
    figure: Figure,
    best: Allotment,
    uniform: Sequence[Allotment],
    curve: Sequence[tuple[int, float]],
    layers: Sequence[Layer],
    cores: Sequence[Core],
    metric: str,
    efficiency: float,
) -> None:
    """What is bought for what, and the bits of every layer."""
    left, right = figure.subplots(1, 2, gridspec_kw={"width_ratios": [1.0, 1.1]})
    scale = NANOSECONDS if metric == "seconds" else 1
    if curve and not efficiency:
        left.plot(
            [taken / scale for taken, _ in curve],
            [value for _, value in curve],
            "-o", color=lay.BLUE, markersize=3, label="best within a budget",
        )  # fmt: skip
    colours = (lay.GREY, lay.GREEN, lay.PURPLE, lay.SKY, lay.YELLOW)
    for index, core in enumerate(cores):
        some = [each for each in uniform if next(iter(each.places.values())).core == index]
        left.plot(
            [each.figures.of(metric) / scale for each in some],
            [each.error * len(layers) for each in some],
            "s", color=colours[index % len(colours)], markersize=5,
            label="one width" if len(cores) == 1 else f"one width, {core.name}",
        )  # fmt: skip
        for each in some:
            place = next(iter(each.places.values()))
            left.annotate(
                f"W{place.bits}",
                (each.figures.of(metric) / scale, each.error * len(layers)),
                textcoords="offset points", xytext=(5, 4), fontsize=7,
            )  # fmt: skip
    left.plot(
        [best.figures.of(metric) / scale], [best.error * len(layers)],
        "D", color=lay.RED, markersize=7, label="chosen",
    )  # fmt: skip
    left.set_yscale("log")
    left.set_xlabel(
        {"size": "bytes of parameters", "bytes": "bytes of traffic"}.get(metric, metric)
    )
    left.set_ylabel("summed error, noise by signal")
    left.grid(color="0.9")
    left.set_title("What the budget buys")
    left.legend(frameon=False, fontsize=7)
    roles = list(dict.fromkeys(layer.role for layer in layers))
    indices = list(dict.fromkeys(layer.index for layer in layers))
    bits = np.full((len(roles), len(indices)), np.nan)
    for layer, place in best.places.items():
        bits[roles.index(layer.role), indices.index(layer.index)] = place.bits
    right.imshow(bits, cmap="Blues", vmin=0, vmax=max(8.0, float(np.nanmax(bits))), aspect="auto")
    if len(layers) <= 250:
        for layer, place in best.places.items():
            text = str(place.bits) if len(cores) == 1 else f"{place.bits}\n{cores[place.core].name}"
            right.text(
                indices.index(layer.index), roles.index(layer.role), text,
                ha="center", va="center", fontsize=8 if len(cores) == 1 else 5,
                color="white" if place.bits > 5 else "black",
            )  # fmt: skip
    right.set_yticks(range(len(roles)), roles)
    names = ["–" if index is None else str(index) for index in indices]
    step = max(1, len(names) // 20)
    right.set_xticks(range(0, len(names), step), names[::step])
    right.set_xlabel("layer")
    right.set_title("Bits of every layer")
    for side in ("left", "bottom"):
        right.spines[side].set_visible(False)
    right.tick_params(length=0)

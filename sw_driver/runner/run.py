"""Real layers and whole models on the simulated RTL: quantized or as stored, run, compared.

Each projection of a layer goes through the Verilated core (:mod:`sw_driver.runner.linear`). What is
between the projections (norms, attention, activation function, residual sums, routing) is float32
(:mod:`sw_driver.forward`), as is what comes before the layers that are run.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hw.gemm import GemmSpec
from rtl_gen.console import Progress
from rtl_gen.errors import InputError
from sim.harness import Model, verilate
from sw_driver.forward import Decoder, Project, Transformer
from sw_driver.mapper.core import core_of
from sw_driver.mapper.mapping import takes
from sw_driver.quantize import Clip
from sw_driver.runner.instances import Instances, Simulator, checked_jobs
from sw_driver.runner.linear import (
    AS_STORED,
    DEFAULT_GROUP,
    LayerRunner,
    ProjectionRun,
    check_request,
    cosine,
    sqnr_db,
    width_name,
)
from sw_driver.runner.report import (
    ModelReport,
    RunReport,
    Similarity,
    draw_cosines,
    draw_cycles,
    layer_report,
    model_report,
)
from sw_driver.text.bert import sentence
from sw_driver.text.prompts import DEFAULT_TEXT, SENTENCES, Prompt, load_transformer, prompts_of

__all__ = [
    "DEFAULT_GROUP",
    "DEFAULT_TEXT",
    "LayerRunner",
    "ModelReport",
    "ProjectionRun",
    "RunReport",
    "check_request",
    "cosine",
    "draw_cosines",
    "draw_cycles",
    "run_layer",
    "run_model",
    "sqnr_db",
]

MAX_HEAD = 1 << 26
"""Elements of the largest vocabulary head that a whole model's run takes through the RTL."""


def run_layer(
    spec: object,
    *,
    model: Path | str | Transformer = "minilm",
    layer: int = 0,
    weight_bits: Sequence[int] | None = None,
    activation_bits: int | None = None,
    group: int = DEFAULT_GROUP,
    text: str | Sequence[str] | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    simulator: Model | Simulator | None = None,
    hardware_scales: bool = False,
    clip: Clip = "absmax",
    jobs: int | None = 1,
    progress: bool = True,
) -> RunReport:
    """The projections of a layer on the simulated RTL, a real input's activations in.

    The layer is run as a whole for every width: what comes out of one projection goes, through
    float32 attention, norms and activation, into the next. Of a mixture the experts are run that
    tokens are routed to; the router is float32.

    Args:
        spec: a GEMM core.
        model: ``minilm``, a checkpoint of any kind and architecture that is read, or a loaded one.
        weight_bits: widths that weights are quantized to; by default they are taken as the
            checkpoint stores them, and floats are quantized to 1, 2 and 4 bits as far as the core
            has them (beside stored codes to the widest of these).
        activation_bits: width of the activations, where jobs choose it; the widest if None.
        group: elements of K that share a scale of weights that are quantized here.
        text, tokens: what the activations are of, see :func:`sw_driver.text.prompts.prompts_of`.
        simulator: the core's Verilated model, if there is one already.
        hardware_scales: scale and sum the groups of integers on RTL, too, bias included.
        clip: how far the codes of weights reach that are quantized here: ``absmax`` to the largest
            of a group, ``mse`` where the squared error is least.
        jobs: instances of the core that share the work, each in a process of its own; None is one
            for each core of the machine. The results are the same. More than one starts processes
            that import the calling program again, as ``multiprocessing`` has it: a script needs
            ``if __name__ == "__main__"``.
        progress: show progress on standard error.

    Raises:
        InputError: the model, the specification or a number is wrong.
        ToolError: the simulator could not be built, or an instance died.
    """
    loaded = load_transformer(model)
    work = _Work.of(spec, loaded, [layer], weight_bits, activation_bits, group, jobs)
    texts = [text] if isinstance(text, str) else text
    inputs, note = prompts_of(loaded, texts, tokens)
    lengths = [len(prompt.tokens) for prompt in inputs]
    entered = loaded.embed_all([prompt.tokens for prompt in inputs])
    for number in range(layer):
        entered = loaded.layer(number, entered, lengths=lengths)
    wanted = loaded.layer(layer, entered, lengths=lengths)
    runs: list[ProjectionRun] = []
    layer_cosine = {}
    with work.open(simulator, hardware_scales, clip, progress) as runner:
        total = work.macs(loaded, [layer], sum(lengths)) * len(work.widths)
        with Progress("running the layer", total=total, enabled=progress) as shown:
            for asked in work.widths:
                shown.describe(f"running the layer {width_name(asked, 'at ')}")
                project = work.project(runner, loaded, layer, asked, runs, shown)
                found = loaded.layer(layer, entered, project, lengths=lengths)
                layer_cosine[asked] = cosine(found, wanted)
        core = runner.core
    return layer_report(core, loaded, layer, group, clip, inputs, note, runs, layer_cosine)


def run_model(
    spec: object,
    *,
    model: Path | str | Transformer = "minilm",
    weight_bits: Sequence[int] | None = None,
    activation_bits: int | None = None,
    group: int = DEFAULT_GROUP,
    text: str | Sequence[str] | None = None,
    tokens: Sequence[Sequence[int]] | None = None,
    simulator: Model | Simulator | None = None,
    hardware_scales: bool = False,
    clip: Clip = "absmax",
    jobs: int | None = 1,
    progress: bool = True,
) -> ModelReport:
    """Every linear layer of a model on the simulated RTL, for some inputs at once.

    An encoder's sentence embeddings, a decoder's last hidden states and next-token logits are
    compared with those of an all-float32 pass. The inputs go through the core together, a row a
    token; attention is of each alone.

    Args, Raises: as for :func:`run_layer`; by default weights that are floats are quantized to 2
    and 4 bits, and the texts are :data:`sw_driver.text.prompts.SENTENCES`.
    """
    loaded = load_transformer(model)
    layers = list(range(loaded.architecture.layers))
    work = _Work.of(spec, loaded, layers, weight_bits, activation_bits, group, jobs, least=2)
    texts = [text] if isinstance(text, str) else text
    inputs, note = prompts_of(loaded, texts, tokens, SENTENCES)
    lengths = [len(prompt.tokens) for prompt in inputs]
    started = time.perf_counter()
    plain = _pass(loaded, inputs, lambda layer: loaded.plain(layer))
    runs: list[ProjectionRun] = []
    found: dict[int, _Outcome] = {}
    with work.open(simulator, hardware_scales, clip, progress) as runner:
        total = work.macs(loaded, layers, sum(lengths)) * len(work.widths)
        with Progress("running the model", total=total, enabled=progress) as shown:
            for asked in work.widths:

                def projects(layer: int | None, asked: int = asked) -> Project:
                    cycles = sum(item.cycles for item in runs)
                    outside = "head" if loaded.architecture.causal else "pooler"
                    place = outside if layer is None else f"layer {layer} of {len(layers)}"
                    label = f"{width_name(asked)}, {place}, {cycles:,} cycles"
                    shown.describe(label)
                    return work.project(runner, loaded, layer, asked, runs, shown)

                found[asked] = _pass(loaded, inputs, projects)
        core, instances = runner.core, runner.instances.jobs
    seconds = time.perf_counter() - started
    measured = [_similarity(asked, outcome, plain) for asked, outcome in found.items()]
    return model_report(
        core, loaded, group, clip, inputs, note, runs, measured, plain.vectors, seconds, instances
    )


@dataclass(frozen=True, kw_only=True)
class _Outcome:
    """What a pass ends in, for every input.

    Attributes:
        vectors: sentence embeddings ``(inputs, hidden)``, of a decoder the last token's state.
        logits: of the last tokens, None of an encoder. pooled: of the pooler, None without one.
        states: of every token.
    """

    vectors: np.ndarray
    states: np.ndarray
    logits: np.ndarray | None
    pooled: np.ndarray | None


def _pass(
    model: Transformer,
    inputs: Sequence[Prompt],
    projects: Callable[[int | None], Project],
) -> _Outcome:
    """A whole pass with the projections of every layer as given."""
    arch = model.architecture
    lengths = [len(prompt.tokens) for prompt in inputs]
    x = model.embed_all([prompt.tokens for prompt in inputs])
    for layer in range(arch.layers):
        x = model.layer(layer, x, projects(layer), lengths=lengths)
    ends = np.cumsum(lengths)
    if isinstance(model, Decoder):
        last = ends - 1
        n, k = model.shape(None, "lm_head")
        project = None if n * k > MAX_HEAD else projects(None)
        logits = model.logits(x[last], project)
        states = model.final(x)
        return _Outcome(vectors=states[last], states=states, logits=logits, pooled=None)
    parts = np.split(x, ends[:-1])
    pooled = None
    if arch.pooler and model.tensors.has(None, "pooler"):
        pooled = np.tanh(projects(None)("pooler", np.stack([part[0] for part in parts])))
    vectors = np.stack([sentence(part) for part in parts])
    return _Outcome(vectors=vectors, states=x, logits=None, pooled=pooled)


def _similarity(asked: int, found: _Outcome, plain: _Outcome) -> Similarity:
    def pairs(a: np.ndarray | None, b: np.ndarray | None) -> tuple[float, ...]:
        if a is None or b is None:
            return ()
        return tuple(cosine(x, y) for x, y in zip(a, b, strict=True))

    same: tuple[bool, ...] = ()
    if found.logits is not None and plain.logits is not None:
        same = tuple((found.logits.argmax(axis=1) == plain.logits.argmax(axis=1)).tolist())
    return Similarity(
        asked=asked,
        vectors=found.vectors,
        cosines=pairs(found.vectors, plain.vectors),
        states=cosine(found.states, plain.states),
        logits=pairs(found.logits, plain.logits),
        same_token=same,
        pooled=pairs(found.pooled, plain.pooled),
    )


@dataclass(frozen=True, kw_only=True)
class _Work:
    """What is to be run on which core, checked.

    Attributes:
        widths: that were asked for; :data:`AS_STORED` for codes as the checkpoint has them.
        floats: width of the float matrices beside stored codes.
    """

    spec: GemmSpec
    widths: tuple[int, ...]
    floats: int
    activation_bits: int | None
    group: int
    jobs: int

    @classmethod
    def of(
        cls,
        spec: object,
        model: Transformer,
        layers: Sequence[int],
        weight_bits: Sequence[int] | None,
        activation_bits: int | None,
        group: int,
        jobs: int | None,
        least: int = 1,
    ) -> _Work:
        """The request, with every problem of it said at once.

        Raises:
            InputError: something is wrong.
        """
        asked = list(dict.fromkeys(weight_bits or ()))
        usual: list[int] = []
        if isinstance(spec, GemmSpec):
            core = core_of(spec)
            usual = [bits for bits in (1, 2, 4) if bits in core.widths and bits >= least]
            usual = usual or [core.widths[-1]]
        last = layers[-1]
        checked = check_request(
            spec, model.architecture.layers, last, asked or usual, group, activation_bits
        )
        count = checked_jobs(jobs)
        cls._fits(checked, model, layers)
        widths = asked or usual
        if not asked and cls._stored(checked, model, layers):
            widths = [AS_STORED]
        return cls(
            spec=checked,
            widths=tuple(widths),
            floats=usual[-1],
            activation_bits=activation_bits,
            group=group,
            jobs=count,
        )

    @staticmethod
    def _fits(spec: GemmSpec, model: Transformer, layers: Sequence[int]) -> None:
        """That a core that rounds takes every projection in one piece.

        Raises:
            InputError: the K of some is too long for a job, of which rounded parts cannot be added.
        """
        if spec.summable:
            return
        most = spec.max_k_steps * spec.tile.k
        long: dict[str, int] = {}
        for layer in layers:
            for name in model.projections(layer):
                k = model.shape(layer, name)[1]
                if k > most and name != "router":
                    long[name] = k
        # A scale group is a GEMM of its own where scales are outside.
        if long and core_of(spec).own_scales:
            name, k = next(iter(long.items()))
            raise InputError(
                f"max_k: must be at least the K of every projection for {spec.name}, which rounds; "
                f"is {most}, {name} has {k}"
            )

    @staticmethod
    def _stored(spec: GemmSpec, model: Transformer, layers: Sequence[int]) -> bool:
        """Whether some projections are stored as codes, all of which the core takes.

        Raises:
            InputError: it takes some of them not.
        """
        core = core_of(spec)
        coded = False
        unfit: dict[str, dict[str, None]] = {}
        for layer in layers:
            for name in model.projections(layer):
                storage = model.storage(layer, name)
                if name == "router" or storage is None or not storage.bits:
                    continue
                coded = True
                if not takes(core, storage) or spec.job_operands:
                    kind = f"{storage.name}, {storage.integer_bits}-bit codes"
                    role = " ".join(part for part in name.split() if not part.isdigit())
                    unfit.setdefault(kind, {})[role] = None
        if unfit:
            lines = [
                f"weight_bits: {', '.join(names)}: stored as {kind} that are no weights of "
                f"{spec.name}; a width for them requantizes"
                for kind, names in unfit.items()
            ]
            raise InputError("\n".join(lines))
        return coded

    def open(
        self,
        simulator: Model | Simulator | None,
        hardware_scales: bool,
        clip: Clip,
        progress: bool,
    ) -> _Opened:
        """A runner with the core's instances, to be closed."""
        model = simulator or verilate(self.spec, progress=progress)
        runner = LayerRunner(
            self.spec,
            Instances(model, self.jobs),
            group=self.group,
            activation_bits=self.activation_bits,
            hardware_scales=hardware_scales,
            clip=clip,
        )
        return _Opened(runner, None if simulator is not None else model)

    def macs(self, model: Transformer, layers: Sequence[int], rows: int) -> float:
        """Products of a pass through some layers, as a measure of the work."""
        total = 0.0
        for layer in layers:
            mlp = model.architecture.group_of(layer).mlp
            for name in model.projections(layer):
                n, k = model.shape(layer, name)
                if name != "router":
                    share = mlp.active / mlp.experts if name.startswith("expert ") else 1
                    total += rows * n * k * share
        return total

    def project(
        self,
        runner: LayerRunner,
        model: Transformer,
        layer: int | None,
        asked: int,
        runs: list[ProjectionRun],
        shown: Progress,
    ) -> Project:
        """The projections of a layer on the RTL; what was run joins ``runs``."""
        plain = model.plain(layer)

        def project(name: str, x: np.ndarray) -> np.ndarray:
            if name == "router":
                return plain(name, x)
            w, b = model.weight(layer, name)
            stored = model.stored(layer, name) if asked == AS_STORED else None
            if stored is not None and layer is None and not takes(runner.core, stored.storage):
                stored = None  # a head that the core does not take is quantized like floats
            bits = self.floats if asked == AS_STORED and stored is None else asked
            output, result = runner.linear(
                name, x, w, b, bits, stored=stored, layer=layer, asked=asked
            )
            runs.append(result)
            if layer is not None:
                shown.advance(len(x) * w.size)
            return output

        return project


class _Opened:
    """A runner that is closed at the end, with the model if it was made for it."""

    def __init__(self, runner: LayerRunner, model: Model | Simulator | None):
        self._runner, self._model = runner, model

    def __enter__(self) -> LayerRunner:
        return self._runner

    def __exit__(self, *_: object) -> None:
        self._runner.close()
        if isinstance(self._model, Model):
            self._model.close()


def check_layers(text: str) -> int | None:
    """The number of a layer, or None for ``all``.

    Raises:
        InputError: it is neither.
    """
    if text.strip().lower() == "all":
        return None
    try:
        return int(text)
    except ValueError:
        raise InputError(f"layer: must be a number or all, got {text!r}") from None

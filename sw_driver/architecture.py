"""What a ``config.json`` says of a transformer: its layers, projections, norms and parameters.

Every supported class is read by its own function, which takes the fields that decide its operators
and refuses, by name, those that would change them in a way that is not modelled here. Sources: the
published configurations and the model definitions of the `transformers` library.
"""

from __future__ import annotations

import difflib
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from rtl_gen.errors import InputError
from sw_driver.config_file import ConfigError, Fields, read_json, shown

MODELS = Path(__file__).resolve().parent / "models"

MAX_LAYERS = 4096
MAX_WIDTH = 1 << 20
MAX_EXPERTS = 1 << 12


@dataclass(frozen=True, kw_only=True)
class Mlp:
    """Feed-forward part of a layer.

    Attributes:
        gated: ``down(act(gate(x)) · up(x))`` if true, else ``down(act(up(x)))``.
        width: intermediate size, of one expert if there are experts.
        experts: 0 for a dense layer.
        active: experts that every token takes.
        shared: width of what every token takes beside its experts, 0 for nothing.
    """

    gated: bool
    width: int
    experts: int = 0
    active: int = 0
    shared: int = 0


@dataclass(frozen=True, kw_only=True)
class Latent:
    """Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1).

    Attributes:
        q_rank: width that a query is projected to first, 0 if it is projected at once.
        kv_rank: width of the latent that stands for the keys and values of all heads.
        nope: channels of a query or key of a head without rotary embedding.
        rope: those with it; of a key they are shared by all heads.
        value: channels of a value of a head.
    """

    q_rank: int
    kv_rank: int
    nope: int
    rope: int
    value: int


@dataclass(frozen=True, kw_only=True)
class Storage:
    """How a checkpoint stores a matrix.

    Attributes:
        name: of the format, as its file calls it.
        bits: width of a code; 0 for floats, which have no codes that a core of integers takes.
        group: elements of K that share a scale.
        group_bits: bits of scale, offset and zero point a group, with its share of a superblock.
        signed: codes are two's complement; else from 0 on, with a zero point or an offset.
        offset: every group has an offset beside its scale, which is no multiple of it.
        ternary: codes are −1, 0 and 1.
        float_format: name in ``hw.formats`` of the format of the codes; "" for integers.
    """

    name: str
    bits: int = 0
    group: int = 0
    group_bits: int = 0
    signed: bool = True
    offset: bool = False
    ternary: bool = False
    float_format: str = ""

    @property
    def integer_bits(self) -> int:
        """Width of the codes as integers: E2M1 in halves is ±12, which takes 5 bits."""
        return self.bits + (self.float_format == "mxfp4")


Shares = tuple[tuple[Storage, int], ...]
"""Formats and in how many layers they occur."""


@dataclass(frozen=True, kw_only=True)
class LayerGroup:
    """Layers that do the same work: ``count`` of them, attending to ``window`` tokens or to all."""

    count: int
    window: int | None
    mlp: Mlp


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """``count`` parameter tensors of a shape; ``role`` is the operator or norm it belongs to."""

    role: str
    shape: tuple[int, ...]
    count: int

    @property
    def parameters(self) -> int:
        return self.count * math.prod(self.shape)


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A transformer.

    Attributes:
        name: what it is called; file: where it was read.
        family: class of the published model definition.
        causal: a decoder with a KV cache; else an encoder that sees every token.
        kv_heads: heads of keys and values, shared by ``heads / kv_heads`` query heads each.
        biases: projections that have one.
        norms: per layer the name and width of every normalisation.
        norm_bias, norm_weight: parameters that each of them has.
        rotary: channels per head that rotary embedding turns, 0 if there is none.
        positions: learned position vectors, 0 if there are none; max_positions: longest input.
        embedding_width: width of an embedding vector, ``hidden`` unless it is projected.
        head: ``lm_head`` over the vocabulary; head_transform: a dense layer and a norm before it.
        ternary: the linear layers are trained as {−1, 0, +1}.
        layer_groups: what the layers are, and how many are so.
        layer_order: of every layer the number of its group; empty where nobody said.
        latent: latent attention; ``head_dim`` is then that of queries and keys.
        storage: by role how a checkpoint stores it; nothing where only a configuration was read.
    """

    name: str
    file: str
    family: str
    causal: bool
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    max_positions: int
    layer_groups: tuple[LayerGroup, ...]
    activation: str
    biases: frozenset[str]
    norms: tuple[tuple[str, int], ...]
    norm_bias: bool = False
    norm_weight: bool = True
    final_norm: bool = True
    embedding_norm: bool = False
    rotary: int = 0
    positions: int = 0
    token_types: int = 0
    embedding_width: int = 0
    tied: bool = False
    head: bool = True
    head_transform: bool = False
    pooler: bool = False
    ternary: bool = False
    latent: Latent | None = None
    layer_order: tuple[int, ...] = ()
    storage: tuple[tuple[str, Shares], ...] = ()
    notes: tuple[str, ...] = ()

    @cached_property
    def stored(self) -> dict[str, Shares]:
        """:attr:`storage` by role."""
        return dict(self.storage)

    @property
    def layers(self) -> int:
        return sum(group.count for group in self.layer_groups)

    def group_of(self, layer: int) -> LayerGroup:
        """What a layer does."""
        return self.layer_groups[self.layer_order[layer] if self.layer_order else 0]

    @property
    def q_width(self) -> int:
        return self.heads * self.head_dim

    @property
    def kv_width(self) -> int:
        return self.kv_heads * self.head_dim

    @property
    def o_width(self) -> int:
        """Width of what the output projection takes: the values of all heads."""
        return self.heads * (self.latent.value if self.latent else self.head_dim)

    @cached_property
    def tensors(self) -> tuple[Tensor, ...]:
        """Every parameter tensor; one that is tied to another appears once."""
        found: list[Tensor] = []

        def linear(role: str, out: int, into: int, count: int) -> None:
            found.append(Tensor(role=role, shape=(out, into), count=count))
            if role in self.biases:
                found.append(Tensor(role=f"{role}.bias", shape=(out,), count=count))

        def norm(role: str, width: int, count: int) -> None:
            parts = self.norm_weight + self.norm_bias
            if parts:
                found.append(Tensor(role=role, shape=(parts, width), count=count))

        width = self.embedding_width or self.hidden
        found.append(Tensor(role="embedding", shape=(self.vocab, width), count=1))
        if self.positions:
            found.append(Tensor(role="positions", shape=(self.positions, self.hidden), count=1))
        if self.token_types:
            found.append(Tensor(role="token_types", shape=(self.token_types, self.hidden), count=1))
        if self.embedding_norm:
            norm("embedding_norm", self.hidden, 1)
        if width != self.hidden:
            linear("project_in", self.hidden, width, 1)
            linear("project_out", width, self.hidden, 1)
        if self.latent is None:
            linear("q", self.q_width, self.hidden, self.layers)
            linear("k", self.kv_width, self.hidden, self.layers)
            linear("v", self.kv_width, self.hidden, self.layers)
        else:
            part = self.latent
            if part.q_rank:
                linear("q_a", part.q_rank, self.hidden, self.layers)
            linear(
                "q_b" if part.q_rank else "q", self.q_width, part.q_rank or self.hidden, self.layers
            )
            linear("kv_a", part.kv_rank + part.rope, self.hidden, self.layers)
            linear("kv_b", self.heads * (part.nope + part.value), part.kv_rank, self.layers)
        linear("o", self.hidden, self.o_width, self.layers)
        for name, size in self.norms:
            norm(name, size, self.layers)
        for group in self.layer_groups:
            mlp, count = group.mlp, group.count
            parts = [("", mlp.width, count)]
            if mlp.experts:
                linear("router", mlp.experts, self.hidden, count)
                parts = [("expert ", mlp.width, count * mlp.experts)]
            if mlp.shared:
                parts.append(("shared ", mlp.shared, count))
            for kind, size, matrices in parts:
                if mlp.gated:
                    linear(f"{kind}gate", size, self.hidden, matrices)
                linear(f"{kind}up", size, self.hidden, matrices)
                linear(f"{kind}down", self.hidden, size, matrices)
        if self.final_norm:
            norm("final_norm", self.hidden, 1)
        if self.pooler:
            linear("pooler", self.hidden, self.hidden, 1)
        if self.head_transform:
            linear("head_transform", self.hidden, self.hidden, 1)
            norm("head_norm", self.hidden, 1)
        if self.head:
            if not self.tied:
                found.append(Tensor(role="lm_head", shape=(self.vocab, width), count=1))
            if "lm_head" in self.biases:
                found.append(Tensor(role="lm_head.bias", shape=(self.vocab,), count=1))
        return tuple(found)

    @cached_property
    def parameters(self) -> int:
        """Number of parameters, tied ones once."""
        return sum(tensor.parameters for tensor in self.tensors)

    @cached_property
    def active_parameters(self) -> int:
        """Parameters that one token meets: of the experts only those that it takes."""
        idle = 0
        for group in self.layer_groups:
            mlp = group.mlp
            if mlp.experts:
                matrices = 3 if mlp.gated else 2
                per_expert = matrices * mlp.width * self.hidden
                idle += group.count * (mlp.experts - mlp.active) * per_expert
        return self.parameters - idle


# Words in the names of fields that change the operators, and fields without such a word that do:
# where a class does not read them they must be absent, null, false, zero or empty, so that nothing
# is mapped as a dense layer by oversight.
_STRUCTURAL_WORD = re.compile(
    r"expert|moe|window|sparse|sparsity|lora|latent|ssm|mamba|recurrent|conv_|_conv|cross_attention|chunk"
    r"|shared_(?:kv|attention)|block_configs|altup|laurel|per_layer"
)
_STRUCTURAL = (
    "add_cross_attention",
    "attention_chunk_size",
    "attn_layer_period",
    "cross_attention_layers",
    "first_k_dense_replace",
    "hybrid_override_pattern",
    "is_encoder_decoder",
    "is_decoder",
    "kv_lora_rank",
    "layer_types",
    "moe_intermediate_size",
    "n_routed_experts",
    "n_shared_experts",
    "num_experts",
    "num_experts_per_tok",
    "num_kv_shared_layers",
    "num_local_experts",
    "num_nextn_predict_layers",
    "pruned_heads",
    "q_lora_rank",
    "shared_expert_intermediate_size",
    "sliding_window",
    "ssm_cfg",
    "state_size",
    "text_config",
    "vision_config",
)


# Fields with such a word that change nothing by themselves: what they qualify is read or refused.
_HARMLESS = (
    "_sliding_window_pattern",
    "chunk_size_feed_forward",
    "max_window_layers",
    "sliding_window_pattern",
)


def shipped_models() -> tuple[str, ...]:
    """Names of the configurations that come with this package."""
    return tuple(sorted(file.stem for file in MODELS.glob("*.json")))


def load_architecture(model: str | Path) -> Architecture:
    """A model by the name of a shipped configuration, its ``config.json``, or the folder of one.

    Raises:
        ConfigError: the file is malformed or not supported; one line per problem.
        InputError: there is no such file and no such name.
    """
    path = Path(model)
    if str(model) and path.is_dir():
        path = path / "config.json"
    elif not path.is_file():
        name = str(model).lower()
        if name in shipped_models():
            # What errors and reports show is the name: where this package lies is nobody's concern.
            return parse_architecture(read_json(MODELS / f"{name}.json"), name, name)
        if isinstance(model, Path) or path.suffix == ".json" or len(path.parts) > 1:
            raise ConfigError(str(model), ["cannot be read, no such file or directory"])
        near = difflib.get_close_matches(name, shipped_models(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else ""
        hint = hint or f"shipped are {', '.join(shipped_models())}"
        raise InputError(f"model: must be a config.json or a shipped name, got {name!r}; {hint}")
    data = read_json(path)
    name = path.parent.name if path.name == "config.json" and path.parent.name else path.stem
    return parse_architecture(data, str(path), name)


def parse_architecture(data: dict[str, object], file: str, name: str) -> Architecture:
    """The architecture that a configuration describes.

    Raises:
        ConfigError: with every problem.
    """
    fields = Fields(data, file)
    family = _family(fields)
    reader, handled = FAMILIES[family]
    notes = []
    if family in _TEXT_PARTS:
        if fields.given("quantization_config"):
            notes.append(_UNUSED)
        data = _text_part(fields, family)
        fields = Fields(data, file)
        notes.append("the text part of a multimodal model: its other towers are not mapped")
    for field in _STRUCTURAL:
        value = data.get(field)
        if field not in handled and value not in (None, False, 0, [], {}):
            fields.problem(field, f"is not supported for {family}", value)
    settings = reader(_Common(fields, family))
    known = {*handled, *_STRUCTURAL, *_HARMLESS, *fields.read}
    for field, value in data.items():
        structural = field not in known and _STRUCTURAL_WORD.search(field.lower())
        if structural and value not in (None, False, 0, [], {}):
            fields.problem(field, f"is not supported for {family}", value)
    fields.finish()
    if fields.given("quantization_config"):
        notes.append(_UNUSED)
    settings["notes"] = (*notes, *settings.get("notes", ()))  # type: ignore[misc]
    return Architecture(
        name=name,
        file=file,
        family=family,
        **settings,  # type: ignore[arg-type]
    )


_UNUSED = "quantization_config is not used: widths come from the options"


def without_unused_note(notes: Sequence[str]) -> tuple[str, ...]:
    """Notes of an architecture whose tensors' formats are read as well."""
    return tuple(note for note in notes if note != _UNUSED)


# What the text part of a multimodal configuration leaves out has the defaults of its class.
_TEXT_PARTS: dict[str, dict[str, object]] = {
    "Gemma3ForConditionalGeneration": {
        "vocab_size": 262208,
        "hidden_size": 2304,
        "intermediate_size": 9216,
        "num_hidden_layers": 26,
        "num_attention_heads": 8,
        "num_key_value_heads": 4,
        "head_dim": 256,
        "max_position_embeddings": 131072,
        "sliding_window": 4096,
    },
}


def _text_part(fields: Fields, family: str) -> dict[str, object]:
    """The fields of the text part of a multimodal configuration."""
    part = fields.data.get("text_config")
    if not isinstance(part, dict):
        raise ConfigError(
            fields.file, [f"text_config: must be an object of fields, got {shown(part)}"]
        )
    found: dict[str, object] = {**_TEXT_PARTS[family], **part}
    if "tie_word_embeddings" in fields.data:
        found.setdefault("tie_word_embeddings", fields.data["tie_word_embeddings"])
    return found


def _family(fields: Fields) -> str:
    """The class that a configuration names."""
    names = fields.items("architectures")
    if names is None and fields.problems:
        fields.finish()
    supported = ", ".join(FAMILIES)
    if names:
        if len(names) != 1:
            raise ConfigError(fields.file, [f"architectures: must name one, got {len(names)}"])
        if not isinstance(names[0], str) or names[0] not in FAMILIES:
            rule = f"architectures: must be one of {supported}"
            raise ConfigError(fields.file, [f"{rule}, got {shown(names[0])}"])
        return str(names[0])
    kind = fields.text("model_type", "")
    fields.finish()
    found = BY_MODEL_TYPE.get(kind)
    if found is None:
        rule = f"must name one of {supported}"
        if kind:
            rule += f" or model_type one of {', '.join(BY_MODEL_TYPE)}"
        raise ConfigError(
            fields.file, [f"architectures: {rule}, got {shown(kind) if kind else 'neither'}"]
        )
    return found


class _Common:
    """What most configurations share, read as it is asked for."""

    def __init__(self, fields: Fields, family: str):
        self.fields, self.family = fields, family

    def shape(
        self,
        *,
        hidden: str = "hidden_size",
        layers: str = "num_hidden_layers",
        heads: str = "num_attention_heads",
        positions: str = "max_position_embeddings",
        kv_heads: str = "optional",
        head_dim: str = "optional",
    ) -> dict[str, int]:
        """Widths and counts. ``kv_heads``/``head_dim``: ``required``, ``optional`` or ``none``."""
        fields = self.fields
        shape = {
            "hidden": fields.integer(hidden, high=MAX_WIDTH),
            "layers": fields.integer(layers, high=MAX_LAYERS),
            "heads": fields.integer(heads, high=1 << 14),
            "vocab": fields.integer("vocab_size", high=1 << 26),
            "max_positions": fields.integer(positions),
        }
        known = not fields.bad & {hidden, heads}
        shape["kv_heads"] = shape["heads"]
        if kv_heads != "none":
            default = shape["heads"] if kv_heads == "optional" else None
            shape["kv_heads"] = fields.integer("num_key_value_heads", default, high=1 << 14)
            if (
                not fields.bad & {heads, "num_key_value_heads"}
                and shape["heads"] % shape["kv_heads"]
            ):
                rule = f"must divide {heads} = {shape['heads']}"
                fields.problem("num_key_value_heads", rule, shape["kv_heads"])
        if head_dim == "required" or (head_dim == "optional" and fields.given("head_dim")):
            shape["head_dim"] = fields.integer("head_dim", high=1 << 14)
        else:
            if known and shape["hidden"] % shape["heads"]:
                rule = (
                    f"must be a multiple of {heads} = {shape['heads']} where head_dim is not given"
                )
                fields.problem(hidden, rule, shape["hidden"])
            shape["head_dim"] = shape["hidden"] // shape["heads"] if known else 1
        return shape

    def windows(self, layers: int, rule: Callable[[int], bool] | None) -> list[int | None]:
        """The window of every layer.

        ``layer_types`` decides where it is given, else ``rule`` of the layer's number; every layer
        sees all tokens where ``rule`` is None or there is no window.
        """
        fields = self.fields
        types = fields.items("layer_types", layers)
        window = fields.integer("sliding_window", 0)
        if types is None:
            slides = [bool(window and rule and rule(layer)) for layer in range(layers)]
        else:
            slides = []
            for number, kind in enumerate(types):
                if kind not in ("full_attention", "sliding_attention"):
                    rule_text = "must be full_attention or sliding_attention"
                    fields.problem(f"layer_types.{number}", rule_text, kind)
                slides.append(kind == "sliding_attention")
            if any(slides) and not window:
                fields.problem("sliding_window", "is required by layer_types")
        return [window if slide else None for slide in slides]


def _groups(windows: Sequence[int | None], mlps: Sequence[Mlp]) -> dict[str, object]:
    """Layers gathered by what they do, in the order of their first appearance, and which is which.

    Returns the fields ``layer_groups`` and ``layer_order`` of an :class:`Architecture`.
    """
    kinds = list(zip(windows, mlps, strict=True))
    counts = Counter(kinds)
    numbers = {kind: number for number, kind in enumerate(counts)}
    return {
        "layer_groups": tuple(
            LayerGroup(count=count, window=window, mlp=mlp)
            for (window, mlp), count in counts.items()
        ),
        "layer_order": tuple(numbers[kind] for kind in kinds),
    }


def _shape_fields(shape: dict[str, int]) -> dict[str, object]:
    return {name: value for name, value in shape.items() if name != "layers"}


def _rms_norms(hidden: int, *more: tuple[str, int]) -> tuple[tuple[str, int], ...]:
    return (("input_norm", hidden), ("post_attention_norm", hidden), *more)


def _llama(common: _Common) -> dict[str, object]:
    """Llama, and those that differ from it in biases, windows and norms alone."""
    fields, family = common.fields, common.family
    need = {
        "LlamaForCausalLM": ("optional", "optional"),
        "BitnetForCausalLM": ("optional", "none"),
        "BitNetForCausalLM": ("required", "none"),
        "MistralForCausalLM": ("required", "optional"),
        "Qwen2ForCausalLM": ("required", "none"),
        "Qwen3ForCausalLM": ("required", "required"),
        "Phi3ForCausalLM": ("optional", "none"),
    }[family]
    shape = common.shape(kv_heads=need[0], head_dim=need[1])
    hidden, layers, head_dim = shape["hidden"], shape["layers"], shape["head_dim"]
    mlp = Mlp(gated=True, width=fields.integer("intermediate_size", high=MAX_WIDTH))
    biases: set[str] = set()
    norms = _rms_norms(hidden)
    windows: list[int | None] = [None] * layers
    rotary = head_dim
    if family in ("LlamaForCausalLM", "BitnetForCausalLM", "Qwen3ForCausalLM"):
        biases |= {"q", "k", "v", "o"} if fields.flag("attention_bias", False) else set()
    if family == "LlamaForCausalLM":
        biases |= {"gate", "up", "down"} if fields.flag("mlp_bias", False) else set()
        types = fields.items("layer_types", layers)
        if types is not None and any(kind != "full_attention" for kind in types):
            fields.problem("layer_types", "must all be full_attention for LlamaForCausalLM")
    elif family == "Qwen2ForCausalLM":
        biases |= {"q", "k", "v"}
    elif family in ("BitnetForCausalLM", "BitNetForCausalLM"):
        norms = _rms_norms(hidden, ("attention_sub_norm", hidden), ("mlp_sub_norm", mlp.width))
    if family == "Qwen3ForCausalLM":
        norms = _rms_norms(hidden, ("q_norm", head_dim), ("k_norm", head_dim))
    if family in ("Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        windows = _qwen_windows(common, layers)
    elif family in ("MistralForCausalLM", "Phi3ForCausalLM"):
        windows = common.windows(layers, lambda _: True)
    if family == "Phi3ForCausalLM":
        rotary = int(head_dim * fields.fraction("partial_rotary_factor", 1.0))
    return {
        **_shape_fields(shape),
        "causal": True,
        **_groups(windows, [mlp] * layers),
        "activation": fields.text("hidden_act", "silu"),
        "biases": frozenset(biases),
        "norms": norms,
        "rotary": rotary,
        "tied": fields.flag("tie_word_embeddings", False),
        "ternary": family in ("BitnetForCausalLM", "BitNetForCausalLM"),
    }


def _qwen_windows(common: _Common, layers: int) -> list[int | None]:
    """Qwen: layers from ``max_window_layers`` on slide, if sliding windows are switched on."""
    fields = common.fields
    slides = fields.flag("use_sliding_window", False)
    if fields.given("layer_types"):
        return common.windows(layers, None)
    if not slides:
        return [None] * layers
    fields.integer("sliding_window")
    first = fields.integer("max_window_layers", low=0)
    return common.windows(layers, lambda layer: layer >= first)


def _mixture(common: _Common) -> dict[str, object]:
    """Mixtral and Qwen3-MoE."""
    fields = common.fields
    qwen = common.family == "Qwen3MoeForCausalLM"
    shape = common.shape(kv_heads="required", head_dim="required" if qwen else "optional")
    hidden, layers, head_dim = shape["hidden"], shape["layers"], shape["head_dim"]
    # Newer files of Qwen3-MoE call the number as Mixtral's do.
    given = fields.given("num_experts") or not fields.given("num_local_experts")
    expert_field = "num_experts" if qwen and given else "num_local_experts"
    experts = fields.integer(expert_field, high=MAX_EXPERTS)
    active = fields.integer("num_experts_per_tok", high=MAX_EXPERTS)
    if not fields.bad & {expert_field, "num_experts_per_tok"} and active > experts:
        rule = f"must be at most {expert_field} = {experts}"
        fields.problem("num_experts_per_tok", rule, active)
    width = fields.integer("moe_intermediate_size" if qwen else "intermediate_size", high=MAX_WIDTH)
    sparse = Mlp(gated=True, width=width, experts=experts, active=active)
    mlps = [sparse] * layers
    biases: frozenset[str] = frozenset()
    norms = _rms_norms(hidden)
    if qwen:
        step = fields.integer("decoder_sparse_step", 1)
        plain = _layer_numbers(fields, "mlp_only_layers", layers)
        mixed = [(layer + 1) % step == 0 and layer not in plain for layer in range(layers)]
        dense = None
        if not all(mixed):
            dense = Mlp(gated=True, width=fields.integer("intermediate_size", high=MAX_WIDTH))
        mlps = [sparse if is_mixed or dense is None else dense for is_mixed in mixed]
        windows = _qwen_windows(common, layers)
        norms = _rms_norms(hidden, ("q_norm", head_dim), ("k_norm", head_dim))
        if fields.flag("attention_bias", False):
            biases = frozenset({"q", "k", "v", "o"})
    else:
        windows = common.windows(layers, lambda _: True)
    return {
        **_shape_fields(shape),
        "causal": True,
        **_groups(windows, mlps),
        "activation": fields.text("hidden_act", "silu"),
        "biases": biases,
        "norms": norms,
        "rotary": head_dim,
        "tied": fields.flag("tie_word_embeddings", False),
    }


def _layer_numbers(fields: Fields, name: str, layers: int) -> set[int]:
    numbers = set()
    for value in fields.items(name) or ():
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < layers:
            fields.problem(name, f"must hold layer numbers below {layers}", value)
        else:
            numbers.add(value)
    return numbers


def _deepseek(common: _Common) -> dict[str, object]:
    """DeepSeek-V2 and V3: latent attention, first layers dense, shared and routed experts.

    The layers that predict further tokens are not counted, as in the published total.
    """
    fields = common.fields
    shape = common.shape(kv_heads="optional", head_dim="none")
    hidden, layers, heads = shape["hidden"], shape["layers"], shape["heads"]
    if not fields.bad and shape["kv_heads"] != heads:
        rule = f"must be num_attention_heads = {heads}, a latent is expanded for every head"
        fields.problem("num_key_value_heads", rule, shape["kv_heads"])
    latent = Latent(
        q_rank=fields.integer("q_lora_rank", 0, high=MAX_WIDTH),
        kv_rank=fields.integer("kv_lora_rank", high=MAX_WIDTH),
        nope=fields.integer("qk_nope_head_dim", high=1 << 14),
        rope=fields.integer("qk_rope_head_dim", high=1 << 14),
        value=fields.integer("v_head_dim", high=1 << 14),
    )
    shape["head_dim"] = latent.nope + latent.rope
    experts = fields.integer("n_routed_experts", 0, low=0, high=MAX_EXPERTS)
    first = (
        fields.integer("first_k_dense_replace", 0, low=0, high=MAX_LAYERS) if experts else layers
    )
    every = fields.integer("moe_layer_freq", 1, high=MAX_LAYERS)
    mixed = [layer >= first and layer % every == 0 for layer in range(layers)]
    dense = sparse = None
    if not all(mixed):
        dense = Mlp(gated=True, width=fields.integer("intermediate_size", high=MAX_WIDTH))
    if any(mixed):
        active = fields.integer("num_experts_per_tok", high=MAX_EXPERTS)
        if not fields.bad & {"n_routed_experts", "num_experts_per_tok"} and active > experts:
            rule = f"must be at most n_routed_experts = {experts}"
            fields.problem("num_experts_per_tok", rule, active)
        width = fields.integer("moe_intermediate_size", high=MAX_WIDTH)
        shared = fields.integer("n_shared_experts", 0, low=0, high=MAX_EXPERTS)
        sparse = Mlp(gated=True, width=width, experts=experts, active=active, shared=shared * width)
    norms = _rms_norms(hidden, ("kv_a_norm", latent.kv_rank))
    if latent.q_rank:
        norms += (("q_a_norm", latent.q_rank),)
    biases: set[str] = set()
    if fields.flag("attention_bias", False):
        biases |= {"q_a", "kv_a", "o"}
    # Selecting experts by a corrected score is a parameter an expert.
    method = fields.text(
        "topk_method", "noaux_tc" if common.family.endswith("V3ForCausalLM") else ""
    )
    if method == "noaux_tc":
        biases.add("router")
    nexts = fields.integer("num_nextn_predict_layers", 0, low=0, high=MAX_LAYERS)
    notes: tuple[str, ...] = ()
    if nexts:
        noun = "layer" if nexts == 1 else "layers"
        notes = (f"{nexts} {noun} of multi-token prediction neither counted nor mapped",)
    return {
        **_shape_fields(shape),
        "causal": True,
        **_groups(
            [None] * layers,
            [sparse if is_mixed else dense for is_mixed in mixed],  # type: ignore[misc]
        ),
        "activation": fields.text("hidden_act", "silu"),
        "biases": frozenset(biases),
        "norms": norms,
        "rotary": latent.rope,
        "tied": fields.flag("tie_word_embeddings", False),
        "latent": latent,
        "notes": notes,
    }


def _gemma(common: _Common) -> dict[str, object]:
    """Gemma 1, 2 (every second layer slides) and 3 (all but every sixth slide)."""
    fields, family = common.fields, common.family
    if family == "Gemma3ForConditionalGeneration":
        family = "Gemma3ForCausalLM"
    shape = common.shape(kv_heads="required", head_dim="required")
    hidden, layers, head_dim = shape["hidden"], shape["layers"], shape["head_dim"]
    mlp = Mlp(gated=True, width=fields.integer("intermediate_size", high=MAX_WIDTH))
    norms = _rms_norms(hidden)
    windows: list[int | None] = [None] * layers
    if family != "GemmaForCausalLM":
        norms += (("pre_mlp_norm", hidden), ("post_mlp_norm", hidden))
        fields.integer("sliding_window")
    if family == "Gemma2ForCausalLM":
        windows = common.windows(layers, lambda layer: layer % 2 == 0)
    elif family == "Gemma3ForCausalLM":
        norms += (("q_norm", head_dim), ("k_norm", head_dim))
        period = fields.integer("sliding_window_pattern", 6)
        windows = common.windows(layers, lambda layer: (layer + 1) % period != 0)
    bias = fields.flag("attention_bias", False)
    return {
        **_shape_fields(shape),
        "causal": True,
        **_groups(windows, [mlp] * layers),
        "activation": fields.text(
            "hidden_activation", fields.text("hidden_act", "gelu_pytorch_tanh")
        ),
        "biases": frozenset({"q", "k", "v", "o"} if bias else ()),
        "norms": norms,
        "rotary": head_dim,
        "tied": fields.flag("tie_word_embeddings", True),
    }


def _phi(common: _Common) -> dict[str, object]:
    """Phi 1 to 2: attention and feed-forward side by side behind one norm, biases everywhere."""
    fields = common.fields
    shape = common.shape(kv_heads="optional", head_dim="none")
    hidden, layers, head_dim = shape["hidden"], shape["layers"], shape["head_dim"]
    mlp = Mlp(gated=False, width=fields.integer("intermediate_size", high=MAX_WIDTH))
    norms: tuple[tuple[str, int], ...] = (("input_norm", hidden),)
    if fields.flag("qk_layernorm", False):
        norms += (("q_norm", head_dim), ("k_norm", head_dim))
    return {
        **_shape_fields(shape),
        "causal": True,
        **_groups([None] * layers, [mlp] * layers),
        "activation": fields.text("hidden_act", "gelu_new"),
        "biases": frozenset({"q", "k", "v", "o", "up", "down", "lm_head"}),
        "norms": norms,
        "norm_bias": True,
        "rotary": int(head_dim * fields.fraction("partial_rotary_factor", 0.5)),
        "tied": fields.flag("tie_word_embeddings", False),
    }


def _gpt2(common: _Common) -> dict[str, object]:
    fields = common.fields
    shape = common.shape(
        hidden="n_embd",
        layers="n_layer",
        heads="n_head",
        positions="n_positions",
        kv_heads="none",
        head_dim="none",
    )
    hidden, layers = shape["hidden"], shape["layers"]
    mlp = Mlp(gated=False, width=fields.integer("n_inner", 4 * hidden, high=4 * MAX_WIDTH))
    return {
        **_shape_fields(shape),
        "causal": True,
        **_groups([None] * layers, [mlp] * layers),
        "activation": fields.text("activation_function", "gelu_new"),
        "biases": frozenset({"q", "k", "v", "o", "up", "down"}),
        "norms": _rms_norms(hidden),
        "norm_bias": True,
        "positions": shape["max_positions"],
        "tied": fields.flag("tie_word_embeddings", True),
    }


def _opt(common: _Common) -> dict[str, object]:
    fields = common.fields
    shape = common.shape(kv_heads="none", head_dim="none")
    hidden, layers = shape["hidden"], shape["layers"]
    mlp = Mlp(gated=False, width=fields.integer("ffn_dim", high=4 * MAX_WIDTH))
    before = fields.flag("do_layer_norm_before", True)
    affine = fields.flag("layer_norm_elementwise_affine", True)
    bias = fields.flag("enable_bias", True)
    return {
        **_shape_fields(shape),
        "causal": True,
        **_groups([None] * layers, [mlp] * layers),
        "activation": fields.text("activation_function", "relu"),
        "biases": frozenset({"q", "k", "v", "o", "up", "down"} if bias else ()),
        "norms": _rms_norms(hidden),
        "norm_bias": affine,
        "norm_weight": affine,
        "final_norm": before and not fields.flag("_remove_final_layer_norm", False),
        # The first two position vectors are never used.
        "positions": shape["max_positions"] + 2,
        "embedding_width": fields.integer("word_embed_proj_dim", hidden, high=MAX_WIDTH),
        "tied": fields.flag("tie_word_embeddings", True),
    }


def _bert(common: _Common) -> dict[str, object]:
    fields = common.fields
    shape = common.shape(kv_heads="none", head_dim="none")
    hidden, layers = shape["hidden"], shape["layers"]
    mlp = Mlp(gated=False, width=fields.integer("intermediate_size", high=MAX_WIDTH))
    kind = fields.text("position_embedding_type", "absolute")
    if kind != "absolute":
        fields.problem("position_embedding_type", "must be absolute", kind)
    masked = common.family == "BertForMaskedLM"
    biases = {"q", "k", "v", "o", "up", "down"}
    biases |= {"lm_head", "head_transform"} if masked else {"pooler"}
    return {
        **_shape_fields(shape),
        "causal": False,
        **_groups([None] * layers, [mlp] * layers),
        "activation": fields.text("hidden_act", "gelu"),
        "biases": frozenset(biases),
        "norms": _rms_norms(hidden),
        "norm_bias": True,
        "final_norm": False,
        "embedding_norm": True,
        "positions": shape["max_positions"],
        "token_types": fields.integer("type_vocab_size", 2, low=0, high=MAX_WIDTH),
        "tied": fields.flag("tie_word_embeddings", True),
        "head": masked,
        "head_transform": masked,
        "pooler": not masked,
    }


_Reader = Callable[[_Common], dict[str, object]]
_WINDOW = ("sliding_window", "layer_types")
_DEEPSEEK = (
    *("kv_lora_rank", "q_lora_rank", "first_k_dense_replace", "moe_intermediate_size"),
    *("n_routed_experts", "n_shared_experts", "num_experts_per_tok", "num_nextn_predict_layers"),
)

FAMILIES: dict[str, tuple[_Reader, tuple[str, ...]]] = {
    "LlamaForCausalLM": (_llama, ("layer_types",)),
    "MistralForCausalLM": (_llama, _WINDOW),
    "MixtralForCausalLM": (_mixture, (*_WINDOW, "num_local_experts", "num_experts_per_tok")),
    "Qwen2ForCausalLM": (_llama, _WINDOW),
    "Qwen3ForCausalLM": (_llama, _WINDOW),
    "Qwen3MoeForCausalLM": (
        _mixture,
        (
            *_WINDOW,
            *("num_experts", "num_local_experts", "num_experts_per_tok"),
            "moe_intermediate_size",
        ),
    ),
    "DeepseekV2ForCausalLM": (_deepseek, _DEEPSEEK),
    "DeepseekV3ForCausalLM": (_deepseek, _DEEPSEEK),
    "GemmaForCausalLM": (_gemma, ()),
    "Gemma2ForCausalLM": (_gemma, _WINDOW),
    "Gemma3ForCausalLM": (_gemma, _WINDOW),
    "Gemma3ForConditionalGeneration": (_gemma, _WINDOW),
    "PhiForCausalLM": (_phi, ()),
    "Phi3ForCausalLM": (_llama, _WINDOW),
    "BitnetForCausalLM": (_llama, ()),
    "BitNetForCausalLM": (_llama, ()),
    "GPT2LMHeadModel": (_gpt2, ()),
    "OPTForCausalLM": (_opt, ()),
    "BertModel": (_bert, ()),
    "BertForMaskedLM": (_bert, ()),
}
"""Supported classes: how each is read, and the structural fields it takes."""

BY_MODEL_TYPE = {
    "llama": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "mixtral": "MixtralForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
    "gemma": "GemmaForCausalLM",
    "gemma2": "Gemma2ForCausalLM",
    "gemma3_text": "Gemma3ForCausalLM",
    "gemma3": "Gemma3ForConditionalGeneration",
    "deepseek_v2": "DeepseekV2ForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "phi": "PhiForCausalLM",
    "phi3": "Phi3ForCausalLM",
    "bitnet": "BitNetForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "opt": "OPTForCausalLM",
    "bert": "BertModel",
}
"""What a configuration without ``architectures`` is taken for."""

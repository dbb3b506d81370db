"""What a forward pass needs of a configuration beside shapes: eps, rotations, caps, routing.

Everything that changes a result is read or refused by name. Defaults are those of the classes of
the `transformers` library; GGUF files leave out what `llama.cpp` fixes.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sw_driver.architecture import Architecture
from sw_driver.config_file import ConfigError, Fields, shown
from sw_driver.forward.activations import ACTIVATIONS
from sw_driver.forward.rotary import SCALINGS, Rotary, yarn_magnitude

MAX_POSITION = 1 << 26


@dataclass(frozen=True, kw_only=True)
class Routing:
    """Which experts a token takes, and with what weight.

    Attributes:
        score: ``softmax`` over all experts, or ``sigmoid`` of each.
        normalized: weights of the chosen ones are made to sum to one.
        scale: factor of the weights.
        groups, kept: experts are in ``groups`` equal groups, of which ``kept`` are chosen from.
        best: experts whose scores are a group's.
    """

    score: str = "softmax"
    normalized: bool = True
    scale: float = 1.0
    groups: int = 1
    kept: int = 1
    best: int = 1


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Numbers and choices of a forward pass.

    Attributes:
        block: ``pre`` (norm before attention and feed-forward), ``sandwich`` (before and after),
            ``parallel`` (both behind one norm) or ``post`` (after the residual sum).
        norm: ``rms`` or ``layer``; eps: under its root.
        norm_offset: what is added to the norms' weights, 1 for Gemma's folders.
        activation: one of :data:`sw_driver.forward.activations.ACTIVATIONS`.
        embedding_scale: factor of embedding vectors.
        position_offset: learned position vectors before the first one that is used.
        rotary: of layers without window, and of those with one unless ``local_rotary`` is given.
        score_divisor: of attention scores; by_layer: it is multiplied by the layer's number + 1.
        score_cap, logit_cap: ``cap · tanh(x / cap)`` of scores and logits; 0 for none.
        routing: of mixtures.
    """

    block: str
    norm: str
    eps: float
    activation: str
    score_divisor: float
    norm_offset: float = 0.0
    embedding_scale: float = 1.0
    position_offset: int = 0
    rotary: Rotary | None = None
    local_rotary: Rotary | None = None
    by_layer: bool = False
    score_cap: float = 0.0
    logit_cap: float = 0.0
    routing: Routing = Routing()


_GEMMA = ("GemmaForCausalLM", "Gemma2ForCausalLM", "Gemma3ForCausalLM")
_LAYER_NORM = ("PhiForCausalLM", "GPT2LMHeadModel", "OPTForCausalLM", "BertModel")
_EPS = {"BitNetForCausalLM": 1e-5, "MixtralForCausalLM": 1e-5, "Phi3ForCausalLM": 1e-5}
_THETA = {
    "BitNetForCausalLM": 500000.0,
    "MixtralForCausalLM": 1e6,
    "Gemma3ForCausalLM": 1e6,
}


def settings_of(arch: Architecture, data: Mapping[str, Any], file: str) -> Settings:
    """The settings that the fields of a ``config.json`` say.

    Raises:
        ConfigError: a field is wrong, or of a kind that is not computed here.
    """
    family = {
        "Gemma3ForConditionalGeneration": "Gemma3ForCausalLM",
        "BertForMaskedLM": "BertModel",
    }.get(arch.family, arch.family)
    plain = dict(data)
    if isinstance(data.get("text_config"), dict):
        plain = dict(data["text_config"])
    fields = Fields(plain, file)
    gemma = family in _GEMMA
    layer_norm = family in _LAYER_NORM
    eps_field = {
        "GPT2LMHeadModel": "layer_norm_epsilon",
        "PhiForCausalLM": "layer_norm_eps",
        "BertModel": "layer_norm_eps",
    }.get(family, "rms_norm_eps")
    if family == "OPTForCausalLM":
        eps = 1e-5
    else:
        default = 1e-12 if family == "BertModel" else 1e-5 if layer_norm else 1e-6
        eps = fields.fraction(eps_field, _EPS.get(family, default))
    activation = arch.activation
    if family == "BitNetForCausalLM" and not fields.given("hidden_act"):
        activation = "relu2"
    if gemma and activation == "gelu":
        # Older configurations say gelu where the models were trained with its form with tanh.
        activation = "gelu_pytorch_tanh"
    if activation not in ACTIVATIONS:
        rule = f"must be one of {', '.join(ACTIVATIONS)} to be run"
        fields.problem("hidden_act", rule, activation)
    found = Settings(
        block=_block(arch, family, fields),
        norm="layer" if layer_norm else "rms",
        eps=eps,
        activation=activation,
        score_divisor=math.sqrt(arch.head_dim),
        norm_offset=1.0 if gemma else 0.0,
        embedding_scale=math.sqrt(arch.hidden) if gemma else 1.0,
        position_offset=2 if family == "OPTForCausalLM" else 0,
    )
    if arch.rotary:
        found = _rotations(found, arch, family, fields)
    if family in ("Gemma2ForCausalLM", "Gemma3ForCausalLM"):
        scalar = fields.real("query_pre_attn_scalar", 256.0)
        gemma2 = family == "Gemma2ForCausalLM"
        found = replace(
            found,
            score_divisor=math.sqrt(scalar),
            score_cap=_cap(fields, "attn_logit_softcapping", 50.0 if gemma2 else 0.0),
            logit_cap=_cap(fields, "final_logit_softcapping", 30.0 if gemma2 else 0.0),
        )
        if fields.flag("use_bidirectional_attention", False):
            fields.problem("use_bidirectional_attention", "must be false to be run", True)
    if family == "GPT2LMHeadModel":
        if not fields.flag("scale_attn_weights", True):
            found = replace(found, score_divisor=1.0)
        found = replace(found, by_layer=fields.flag("scale_attn_by_inverse_layer_idx", False))
    if any(group.mlp.experts for group in arch.layer_groups):
        found = replace(found, routing=_routing(arch, family, fields))
    fields.finish()
    return found


def _block(arch: Architecture, family: str, fields: Fields) -> str:
    if family in ("Gemma2ForCausalLM", "Gemma3ForCausalLM"):
        return "sandwich"
    if family == "PhiForCausalLM":
        return "parallel"
    if family == "BertModel":
        return "post"
    if family == "OPTForCausalLM" and not fields.flag("do_layer_norm_before", True):
        return "post"
    return "pre"


def _cap(fields: Fields, name: str, default: float) -> float:
    if name in fields.data and fields.data[name] is None:
        return 0.0
    return fields.real(name, default)


def _routing(arch: Architecture, family: str, fields: Fields) -> Routing:
    if family == "MixtralForCausalLM":
        return Routing()
    normalized = fields.flag("norm_topk_prob", family == "DeepseekV3ForCausalLM")
    if family == "Qwen3MoeForCausalLM":
        return Routing(normalized=normalized)
    third = family == "DeepseekV3ForCausalLM"
    method = fields.text("topk_method", "noaux_tc" if third else "greedy")
    score = fields.text("scoring_func", "sigmoid" if third else "softmax")
    methods = ("noaux_tc",) if third else ("greedy", "group_limited_greedy")
    if method not in methods:
        fields.problem("topk_method", f"must be one of {', '.join(methods)} to be run", method)
    if score not in ("softmax", "sigmoid"):
        fields.problem("scoring_func", "must be softmax or sigmoid to be run", score)
    scale = fields.real("routed_scaling_factor", 2.5 if third else 1.0)
    experts = max(group.mlp.experts for group in arch.layer_groups)
    groups = kept = 1
    if method != "greedy":
        groups = fields.integer("n_group", 8 if third else 1)
        kept = fields.integer("topk_group", 4 if third else 1)
        if experts % groups:
            fields.problem("n_group", f"must divide n_routed_experts = {experts}", groups)
            groups = 1
        if kept > groups:
            fields.problem("topk_group", f"must be at most n_group = {groups}", kept)
        active = max(group.mlp.active for group in arch.layer_groups)
        if kept * (experts // groups) < active:
            rule = f"must keep num_experts_per_tok = {active} experts"
            fields.problem("topk_group", rule, kept)
    best = 2 if third else 1
    return Routing(
        score=score,
        normalized=normalized,
        # The second version scales only what it does not normalise.
        scale=1.0 if normalized and not third else scale,
        groups=groups,
        kept=kept,
        best=min(best, experts // groups),
    )


def _rotations(found: Settings, arch: Architecture, family: str, fields: Fields) -> Settings:
    """The rotations, and with latent attention what they change in the scores."""
    told = fields.data.get("rope_parameters") or {}
    if not isinstance(told, dict):
        fields.problem("rope_parameters", "must be an object of fields", told)
        told = {}
    local: dict[str, Any] | None = None
    name = "rope_parameters"
    if "full_attention" in told or "sliding_attention" in told:
        whole = told.get("full_attention")
        part = told.get("sliding_attention")
        local = part if isinstance(part, dict) else None
        told = whole if isinstance(whole, dict) else {}
        name += ".full_attention"
    theta = fields.real("rope_theta", _THETA.get(family, 10000.0), above=1.0)
    older = fields.data.get("rope_scaling")
    if older is not None and not isinstance(older, dict):
        fields.problem("rope_scaling", "must be an object of fields", older)
    elif older and not told:
        told, name = older, "rope_scaling"
    latent = arch.latent is not None
    # Latent attention pairs neighbours, which the third version may say otherwise.
    interleaved = latent and fields.flag("rope_interleave", True)
    base = Rotary(width=arch.rotary, theta=theta, interleaved=interleaved)
    rotary = _scaled(base, told, name, arch, fields)
    found = replace(found, rotary=rotary)
    if family == "Gemma3ForCausalLM":
        near = fields.real("rope_local_base_freq", 10000.0, above=1.0)
        plain = Rotary(width=arch.rotary, theta=near)
        if local is not None:
            plain = _scaled(plain, local, "rope_parameters.sliding_attention", arch, fields)
        found = replace(found, local_rotary=plain)
    weight = told.get("mscale_all_dim", 0)
    if latent and rotary.scaling != "default" and isinstance(weight, (int, float)) and weight:
        mscale = yarn_magnitude(rotary.factor, float(weight))
        found = replace(found, score_divisor=found.score_divisor / mscale**2)
    return found


def _scaled(
    base: Rotary, told: Mapping[str, Any], name: str, arch: Architecture, fields: Fields
) -> Rotary:
    """A rotation as an object of a configuration changes it."""
    part = Fields(dict(told), fields.file)
    kind = part.text("rope_type", part.text("type", "default"))
    kind = {"su": "longrope"}.get(kind, kind)
    if kind not in SCALINGS:
        part.problem("rope_type", f"must be one of {', '.join(SCALINGS)} to be run", kind)
        kind = "default"
    rotary = replace(base, scaling=kind, theta=part.real("rope_theta", base.theta, above=1.0))
    if kind != "default":
        rotary = _READERS[kind](rotary, part, arch, fields)
    fields.problems += [f"{name}.{problem}" for problem in part.problems]
    return rotary


def _linear(rotary: Rotary, part: Fields, arch: Architecture, fields: Fields) -> Rotary:
    return replace(rotary, factor=part.real("factor"))


def _original(part: Fields, arch: Architecture, fields: Fields, default: int | None) -> int:
    name = "original_max_position_embeddings"
    # The one outside of the object comes first, as in the library.
    source = fields if fields.given(name) else part
    return source.integer(name, default, high=MAX_POSITION)


def _llama3(rotary: Rotary, part: Fields, arch: Architecture, fields: Fields) -> Rotary:
    low, high = part.real("low_freq_factor"), part.real("high_freq_factor")
    if not part.problems and high <= low:
        part.problem("high_freq_factor", f"must be above low_freq_factor = {low:g}", high)
    original = _original(part, arch, fields, None)
    return replace(rotary, factor=part.real("factor"), original=original, low=low, high=high)


def _yarn(rotary: Rotary, part: Fields, arch: Architecture, fields: Fields) -> Rotary:
    original = _original(part, arch, fields, arch.max_positions)
    factor = part.real("factor")
    magnitude = part.real("attention_factor", 0.0)
    if not part.given("attention_factor"):
        one, all_ = part.data.get("mscale"), part.data.get("mscale_all_dim")
        magnitude = yarn_magnitude(factor)
        if one and all_:
            one, all_ = part.real("mscale"), part.real("mscale_all_dim")
            magnitude = yarn_magnitude(factor, one) / yarn_magnitude(factor, all_)
    return replace(
        rotary,
        factor=factor,
        original=original,
        low=part.real("beta_slow", 1.0),
        high=part.real("beta_fast", 32.0),
        truncate=part.flag("truncate", True),
        magnitude=magnitude,
    )


def _longrope(rotary: Rotary, part: Fields, arch: Architecture, fields: Fields) -> Rotary:
    original = _original(part, arch, fields, arch.max_positions)
    factor = arch.max_positions / original
    if not fields.given("original_max_position_embeddings") and part.given("factor"):
        factor = part.real("factor")
    magnitude = 1.0
    if factor > 1:
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original))
    return replace(
        rotary,
        factor=factor,
        original=original,
        short=_factors(part, "short_factor", rotary.width),
        long=_factors(part, "long_factor", rotary.width),
        magnitude=part.real("attention_factor", magnitude),
    )


def _factors(part: Fields, name: str, width: int) -> tuple[float, ...]:
    values = part.items(name)
    good = values is not None and len(values) == width // 2
    if good and all(type(item) in (int, float) and item > 0 for item in values or ()):
        return tuple(float(item) for item in values or ())
    rule = f"must hold {width // 2} numbers above 0"
    if values is None or not good:
        got = "none" if values is None else len(values)
        part.problems.append(f"{name}: {rule}, got {got}")
    else:
        part.problem(name, rule)
    return (1.0,) * (width // 2)


_READERS = {"linear": _linear, "llama3": _llama3, "yarn": _yarn, "longrope": _longrope}


# GGUF ----------------------------------------------------------------------------------

_NEIGHBOURS = ("llama", "deepseek2")
"""Architectures of GGUF files whose rotations pair neighbours (`llama.cpp`, rope type NORM)."""


def gguf_settings(
    arch: Architecture,
    metadata: Mapping[str, Any],
    file: str,
    factors: Mapping[str, tuple[float, ...]],
) -> Settings:
    """The settings that the metadata of a GGUF file say.

    Args:
        metadata: its fields by key.
        factors: values of the tensors ``rope_freqs``, ``rope_factors_short`` and
            ``rope_factors_long``, those that there are.

    Raises:
        ConfigError: as :func:`settings_of`.
    """
    kind = str(metadata.get("general.architecture"))

    def get(key: str) -> Any:
        return metadata.get(f"{kind}.{key}")

    data: dict[str, Any] = {"architectures": [arch.family]}
    for field in ("rms_norm_eps", "layer_norm_eps", "layer_norm_epsilon"):
        key = (
            "attention.layer_norm_rms_epsilon"
            if field[0] == "r"
            else "attention.layer_norm_epsilon"
        )
        if get(key) is not None:
            data[field] = get(key)
    if get("rope.freq_base") is not None:
        data["rope_theta"] = get("rope.freq_base")
    scaling = get("rope.scaling.type")
    original = get("rope.scaling.original_context_length")
    if factors.get("rope_factors_short"):
        data["rope_scaling"] = {
            "type": "longrope",
            "short_factor": list(factors["rope_factors_short"]),
            "long_factor": list(factors.get("rope_factors_long", ())),
        }
        if get("rope.scaling.attn_factor") is not None:
            data["rope_scaling"]["attention_factor"] = get("rope.scaling.attn_factor")
        data["original_max_position_embeddings"] = original
    elif scaling not in (None, "none"):
        told: dict[str, Any] = {"type": scaling, "factor": get("rope.scaling.factor")}
        if scaling == "yarn":
            told["original_max_position_embeddings"] = original
            weight = get("rope.scaling.yarn_log_multiplier")
            if weight and arch.latent is not None:
                # Its rotations have no factor; the scores take the square of one.
                told |= {"mscale": 10 * weight, "mscale_all_dim": 10 * weight}
        data["rope_scaling"] = told
    for field in ("attn_logit_softcapping", "final_logit_softcapping"):
        if get(field) is not None:
            data[field] = get(field)
    if kind in ("gemma2", "gemma3"):
        # What `llama.cpp` fixes for the largest of each kind.
        largest = (kind, arch.layers) in (("gemma2", 46), ("gemma3", 62))
        scalar = arch.hidden // arch.heads if largest else arch.head_dim
        data["query_pre_attn_scalar"] = scalar
    if get("expert_weights_norm") is not None:
        data["norm_topk_prob"] = bool(get("expert_weights_norm"))
    elif kind == "qwen3moe":
        data["norm_topk_prob"] = True
    if get("expert_weights_scale") is not None:
        data["routed_scaling_factor"] = get("expert_weights_scale") or 1.0
    function = get("expert_gating_func")
    if function is not None:
        names = {0: "softmax", 1: "softmax", 2: "sigmoid"}
        if function not in names:
            key = f"{kind}.expert_gating_func"
            raise ConfigError(file, [f"{key}: must be 1 or 2 to be run, got {shown(function)}"])
        data["scoring_func"] = names[function]
    if arch.family == "DeepseekV3ForCausalLM":
        data["n_group"] = get("expert_group_count") or 1
        data["topk_group"] = get("expert_group_used_count") or 1
    found = settings_of(arch, data, file)
    changes: dict[str, Any] = {"norm_offset": 0.0}  # written into the weights
    if found.rotary is not None:
        changes["rotary"] = replace(
            found.rotary,
            interleaved=kind in _NEIGHBOURS,
            divisors=factors.get("rope_freqs", ()),
        )
    return replace(found, **changes)

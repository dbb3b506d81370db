"""Trains the small language model: ``python -m sw_driver.tiny.train --out FOLDER``.

Needs the extra ``train`` (JAX, Optax, safetensors). What comes out is a Hugging Face folder that
the other verbs read as any checkpoint. One thread and one seed: the same versions give the same
bytes on processors of one kind.

The architecture is that of Llama 2 (Touvron et al., 2023): RMSNorm, rotary embedding, grouped
queries, SwiGLU, no biases, output weights tied to the embedding. Matrices are trained with Muon
(Jordan et al., 2024), the embedding and the norms with Adam, both as Optax has them.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import click
import numpy as np

from rtl_gen import console
from rtl_gen.cache import new_folder
from rtl_gen.errors import InputError
from sw_driver.tiny.corpus import Corpus, collect
from sw_driver.tiny.pairs import Pairs, train_pairs

START = 0
"""Token before every text: the byte 0, which no text holds."""

_ROWS = 2
"""Rows of a step that go through the model at once."""

_ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
"""Sums of several threads are split by how many there are."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The model. Widths are multiples of 64, so that groups and tiles of cores divide them."""

    vocabulary: int = 768
    hidden: int = 128
    layers: int = 3
    heads: int = 4
    kv_heads: int = 2
    intermediate: int = 192
    context: int = 256
    theta: float = 10000.0
    epsilon: float = 1e-5

    @property
    def head_dim(self) -> int:
        return self.hidden // self.heads

    def config(self) -> dict[str, Any]:
        """As Hugging Face's ``config.json``."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocabulary,
            "hidden_size": self.hidden,
            "intermediate_size": self.intermediate,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "max_position_embeddings": self.context,
            "hidden_act": "silu",
            "rms_norm_eps": self.epsilon,
            "rope_theta": self.theta,
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": True,
            "bos_token_id": START,
            "eos_token_id": START,
            "torch_dtype": "float16",
        }


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How it is trained.

    Attributes:
        steps: of ``batch`` rows of the model's context each.
        rate: of Muon, scaled to the size of Adam's steps; embedding_rate: of Adam.
        warm_up: steps of rising rate; cool_down: share of the steps at whose end it is 0.
        decay: of matrices, a step as ``rate · decay``.
    """

    steps: int = 2200
    batch: int = 16
    rate: float = 8e-3
    embedding_rate: float = 8e-3
    warm_up: int = 100
    cool_down: float = 0.6
    decay: float = 0.6
    seed: int = 20240


Parameters = dict[str, Any]
"""Arrays by the names that Hugging Face gives them."""


def initial(shape: Shape, seed: int) -> dict[str, np.ndarray]:
    """Parameters to begin with, ``float32``: normal, of ``1 / √K``, of products that add to the
    residual less by ``√(2·layers)``."""
    rng = np.random.default_rng(seed)
    h, f, d = shape.hidden, shape.intermediate, shape.head_dim
    found: dict[str, np.ndarray] = {}

    def matrix(name: str, rows: int, columns: int, scale: float = 1.0) -> None:
        values = rng.standard_normal((rows, columns)) * scale / math.sqrt(columns)
        found[name] = values.astype(np.float32)

    residual = 1 / math.sqrt(2 * shape.layers)
    matrix("model.embed_tokens.weight", shape.vocabulary, h)
    for n in range(shape.layers):
        at = f"model.layers.{n}"
        found[f"{at}.input_layernorm.weight"] = np.ones(h, dtype=np.float32)
        matrix(f"{at}.self_attn.q_proj.weight", shape.heads * d, h)
        matrix(f"{at}.self_attn.k_proj.weight", shape.kv_heads * d, h)
        matrix(f"{at}.self_attn.v_proj.weight", shape.kv_heads * d, h)
        matrix(f"{at}.self_attn.o_proj.weight", h, shape.heads * d, residual)
        found[f"{at}.post_attention_layernorm.weight"] = np.ones(h, dtype=np.float32)
        matrix(f"{at}.mlp.gate_proj.weight", f, h)
        matrix(f"{at}.mlp.up_proj.weight", f, h)
        matrix(f"{at}.mlp.down_proj.weight", h, f, residual)
    found["model.norm.weight"] = np.ones(h, dtype=np.float32)
    return found


def windows(text: np.ndarray, context: int) -> np.ndarray:
    """Tokens as rows ``(R, context + 1)`` that begin with :data:`START`, the rest left out."""
    rows = len(text) // context
    body = text[: rows * context].reshape(rows, context)
    return np.concatenate([np.full((rows, 1), START, dtype=body.dtype), body], axis=1)


def batches(corpus: Corpus, pairs: Pairs, shape: Shape, recipe: Recipe) -> Iterator[np.ndarray]:
    """``(batch, context + 1)`` rows without end: the pieces in a new order every time around."""
    rng = np.random.default_rng(recipe.seed + 1)
    pieces = _pieces(corpus, pairs)
    while True:
        order = rng.permutation(len(pieces))
        rows = windows(np.concatenate([pieces[i] for i in order]), shape.context)
        rows = rows[rng.permutation(len(rows))]
        for start in range(0, len(rows) - recipe.batch + 1, recipe.batch):
            yield rows[start : start + recipe.batch].astype(np.int32)


def _pieces(corpus: Corpus, pairs: Pairs) -> list[np.ndarray]:
    """Tokens of every piece, an empty line after it."""
    gap = pairs.encode("\n\n")
    # All at once: no text holds the byte 0, and so no merge does.
    tokens = pairs.encode("\0".join(corpus.train))
    return [
        np.concatenate([part[part != START], gap])
        for part in np.split(tokens, np.flatnonzero(tokens == START))
    ]


def model(shape: Shape) -> Callable[[Parameters, Any], Any]:
    """``(parameters, tokens (B, T)) → logits (B, T, V)`` in JAX, ``float32``."""
    import jax
    import jax.numpy as jnp

    d, half = shape.head_dim, shape.head_dim // 2
    repeat = shape.heads // shape.kv_heads

    def norm(x: Any, weight: Any) -> Any:
        return x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + shape.epsilon) * weight

    def rotate(x: Any, cos: Any, sin: Any) -> Any:
        turned = jnp.concatenate([-x[..., half:], x[..., :half]], axis=-1)
        return x * cos + turned * sin

    def forward(p: Parameters, tokens: Any) -> Any:
        b, t = tokens.shape
        powers = jnp.arange(half, dtype=jnp.float32) * 2 / d
        angle = jnp.arange(t)[:, None] / jnp.power(shape.theta, powers)[None, :]
        angle = jnp.concatenate([angle, angle], axis=-1)
        cos, sin = jnp.cos(angle), jnp.sin(angle)
        seen = jnp.tril(jnp.ones((t, t), dtype=bool))
        x = p["model.embed_tokens.weight"][tokens]
        for n in range(shape.layers):
            at = f"model.layers.{n}"
            y = norm(x, p[f"{at}.input_layernorm.weight"])

            def heads(name: str, count: int, y: Any = y, at: str = at) -> Any:
                out = y @ p[f"{at}.self_attn.{name}_proj.weight"].T
                return out.reshape(b, t, count, d).transpose(0, 2, 1, 3)

            q = rotate(heads("q", shape.heads), cos, sin)
            k = rotate(heads("k", shape.kv_heads), cos, sin)
            v = heads("v", shape.kv_heads)
            q = q.reshape(b, shape.kv_heads, repeat, t, d)
            scores = jnp.einsum("bgrtd,bgsd->bgrts", q, k) / math.sqrt(d)
            shares = jax.nn.softmax(jnp.where(seen, scores, -jnp.inf), axis=-1)
            y = jnp.einsum("bgrts,bgsd->bgrtd", shares, v)
            y = y.reshape(b, shape.heads, t, d).transpose(0, 2, 1, 3).reshape(b, t, -1)
            x = x + y @ p[f"{at}.self_attn.o_proj.weight"].T
            y = norm(x, p[f"{at}.post_attention_layernorm.weight"])
            gate = jax.nn.silu(y @ p[f"{at}.mlp.gate_proj.weight"].T)
            y = gate * (y @ p[f"{at}.mlp.up_proj.weight"].T)
            x = x + y @ p[f"{at}.mlp.down_proj.weight"].T
        return norm(x, p["model.norm.weight"]) @ p["model.embed_tokens.weight"].T

    return forward


def losses(shape: Shape) -> Callable[[Parameters, Any], Any]:
    """``(parameters, rows) →`` mean of ``−ln p`` over the tokens after the first of every row."""
    import jax
    import jax.numpy as jnp

    forward = model(shape)

    def loss(p: Parameters, rows: Any) -> Any:
        logs = jax.nn.log_softmax(forward(p, rows[:, :-1]), axis=-1)
        return -jnp.take_along_axis(logs, rows[:, 1:, None], axis=-1).mean()

    return loss


def train(
    corpus: Corpus,
    pairs: Pairs,
    shape: Shape,
    recipe: Recipe,
    *,
    progress: Callable[[int, float], None] = lambda step, loss: None,
) -> dict[str, np.ndarray]:
    """Trained parameters, ``float16``.

    Raises:
        InputError: JAX or Optax are not installed.
    """
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {_ONE_THREAD}".strip()
    try:
        import jax
        import jax.numpy as jnp
        import optax
        from optax.contrib import MuonDimensionNumbers, muon
    except ImportError as error:
        raise InputError(f"train: needs {error.name}: pip install 'rtlgen[train]'") from None
    jax.config.update("jax_platforms", "cpu")

    down = max(1, int(recipe.steps * recipe.cool_down))

    def schedule(rate: float) -> Any:
        return optax.join_schedules(
            [
                optax.linear_schedule(0.0, rate, recipe.warm_up),
                optax.constant_schedule(rate),
                optax.linear_schedule(rate, 0.0, down),
            ],
            [recipe.warm_up, recipe.steps - down],
        )

    def matrices(p: Parameters) -> dict[str, Any]:
        return {name: MuonDimensionNumbers((1,), (0,)) if "_proj" in name else None for name in p}

    rule = optax.chain(
        optax.clip_by_global_norm(1.0),
        muon(
            schedule(recipe.rate),
            consistent_rms=0.2,
            weight_decay=recipe.decay,
            adam_b2=0.98,
            adam_learning_rate=schedule(recipe.embedding_rate),
            muon_weight_dimension_numbers=matrices,
        ),
    )
    loss = losses(shape)

    @jax.jit
    def step(p: Parameters, state: Any, rows: Any) -> tuple[Parameters, Any, Any]:
        # A few rows at a time: what is kept for the way back stays in the processor's cache.
        def some(total: Any, part: Any) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, jax.value_and_grad(loss)(p, part)), None

        nothing = jax.tree.map(jnp.zeros_like, (jnp.float32(0), p))
        parts = rows.reshape(-1, _ROWS, rows.shape[1])
        total = jax.lax.scan(some, nothing, parts)[0]
        value, slope = jax.tree.map(lambda array: array / len(parts), total)
        change, state = rule.update(slope, state, p)
        return optax.apply_updates(p, change), state, value

    p: Parameters = {name: jax.numpy.asarray(v) for name, v in initial(shape, recipe.seed).items()}
    state = rule.init(p)
    source = batches(corpus, pairs, shape, recipe)
    for number in range(recipe.steps):
        p, state, value = step(p, state, next(source))
        if number % 50 == 49 or number + 1 == recipe.steps:
            progress(number + 1, float(value))
    return {name: np.asarray(array).astype(np.float16) for name, array in p.items()}


def bits_per_byte(
    parameters: dict[str, np.ndarray], shape: Shape, pairs: Pairs, texts: tuple[str, ...]
) -> float:
    """Bits that the model needs for a byte of texts, in windows of the context."""
    import jax
    import jax.numpy as jnp

    tokens = pairs.encode("\n\n".join(texts))
    rows = windows(tokens, shape.context)
    p = {name: jnp.asarray(array, dtype=jnp.float32) for name, array in parameters.items()}
    measured = jax.jit(losses(shape))
    total = sum(float(measured(p, rows[i : i + 1])) for i in range(len(rows)))
    size = len(pairs.decode(rows[:, 1:].reshape(-1)))
    return total * shape.context / math.log(2) / size


def save(
    target: Path,
    parameters: dict[str, np.ndarray],
    shape: Shape,
    pairs: Pairs,
    evaluation: str,
    record: dict[str, Any],
) -> dict[str, str]:
    """Write a Hugging Face folder, whole or not at all; and the SHA-256 of its files.

    Args:
        record: how it was trained, to ``training.json``.
    """
    import safetensors.numpy

    with new_folder(target) as folder:
        packed = safetensors.numpy.save(parameters, {"format": "pt"})
        (folder / "model.safetensors").write_bytes(packed)
        text = json.dumps(shape.config(), indent=2) + "\n"
        (folder / "config.json").write_text(text, encoding="utf-8")
        pairs.save(folder / "tokenizer.json")
        (folder / "evaluation.txt").write_text(evaluation, encoding="utf-8")
        digests = {
            item.name: hashlib.sha256(item.read_bytes()).hexdigest()
            for item in sorted(folder.iterdir())
        }
        text = json.dumps({**record, "sha256": digests}, indent=2) + "\n"
        (folder / "training.json").write_text(text, encoding="utf-8")
    return digests


@console.command("train")
@click.option(
    "--out",
    metavar="DIR",
    required=True,
    type=click.Path(path_type=Path),
    help="Folder for the model; must be new or hold one.",
)
@click.option("--steps", metavar="N", type=click.IntRange(10, 1 << 20), help="For the recipe's.")
@click.option("--seed", metavar="N", type=click.IntRange(0, 1 << 32), help="For the recipe's.")
@click.option(
    "--library",
    metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Sources of a standard library (default: the running Python's).",
)
def main(out: Path, steps: int | None, seed: int | None, library: Path | None) -> None:
    """Train the small language model on Python's documentation."""
    import platform
    import sys
    from importlib.metadata import version

    if out.exists() and not (out / "config.json").is_file():
        raise InputError(f"{out}: must be new or the folder of a model")
    shape, recipe = Shape(), Recipe()
    if steps is not None:
        recipe = replace(recipe, steps=steps, warm_up=min(recipe.warm_up, steps // 10))
    if seed is not None:
        recipe = replace(recipe, seed=seed)
    try:
        corpus = collect(library)
    except FileNotFoundError as error:
        raise InputError(str(error)) from None
    click.echo(
        f"corpus of Python {platform.python_version()}: {len(corpus.train)} pieces, "
        f"{sum(map(len, corpus.train)):,} bytes; held out {len(corpus.held_out)}, "
        f"{sum(map(len, corpus.held_out)):,} bytes; SHA-256 {corpus.sha256}"
    )
    pairs = train_pairs(corpus.train, shape.vocabulary)
    began = time.process_time()

    def told(step: int, loss: float) -> None:
        spent = time.process_time() - began
        click.echo(
            f"step {step} of {recipe.steps}: {loss:.4f} nats a token, {spent:.0f} s", err=True
        )

    parameters = train(corpus, pairs, shape, recipe, progress=told)
    seconds = time.process_time() - began
    measured = bits_per_byte(parameters, shape, pairs, corpus.held_out)
    versions = {name: version(name) for name in ("jax", "jaxlib", "optax", "numpy", "safetensors")}
    record = {
        "python": platform.python_version(),
        "versions": versions,
        "machine": platform.machine(),
        "corpus_sha256": corpus.sha256,
        "shape": asdict(shape),
        "recipe": asdict(recipe),
        "held_out_bits_per_byte": measured,
    }
    digests = save(out, parameters, shape, pairs, corpus.evaluation(), record)
    count = sum(array.size for array in parameters.values())
    click.echo(
        f"{count:,} parameters, {measured:.4f} bits a byte of the held-out text, "
        f"{seconds:.0f} s of one processor"
    )
    for name, digest in digests.items():
        click.echo(f"{digest}  {name}")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

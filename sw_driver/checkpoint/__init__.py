"""Checkpoints as people have them: Hugging Face folders, safetensors and GGUF files.

::

    from sw_driver.checkpoint import Checkpoint

    checkpoint = Checkpoint("model.gguf")  # the header alone
    print(checkpoint.architecture, len(checkpoint.tensors))
    weights = checkpoint.weights("blk.0.attn_q.weight")  # codes, scales, offsets as they are stored
    print(weights.codes, weights.dequantized())

Reading headers needs the standard library alone; numpy is imported when a tensor is read.
"""

from __future__ import annotations

from sw_driver.checkpoint.model import Checkpoint, holds_tensors, load_model
from sw_driver.checkpoint.tensor import Region, StoredTensor

__all__ = ["Checkpoint", "Region", "StoredTensor", "holds_tensors", "load_model"]

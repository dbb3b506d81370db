"""The float32 forward pass of every architecture that is read, projections exchangeable.

::

    from sw_driver.forward import Decoder, KvCache

    decoder = Decoder("TinyLlama-1.1B")      # a folder or a GGUF file
    x = decoder.embed([1, 15043, 3186])
    for n in range(decoder.architecture.layers):
        x = decoder.layer(n, x)
    print(decoder.logits(x[-1:]).argmax())
"""

from sw_driver.forward.cache import KvCache
from sw_driver.forward.model import KEEP, Decoder, Project, Transformer

__all__ = ["KEEP", "Decoder", "KvCache", "Project", "Transformer"]

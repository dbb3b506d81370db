"""Which experts of a mixture a token takes."""

from __future__ import annotations

import numpy as np

from sw_driver.forward.activations import sigmoid, softmax
from sw_driver.forward.settings import Routing


def choose(
    logits: np.ndarray, active: int, routing: Routing, correction: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Experts ``(T, active)`` and their weights ``float32``, the best first.

    Args:
        logits: ``(T, experts)`` of the router.
        correction: ``(experts,)`` added to the scores for the choice alone (DeepSeek-V3, arXiv
            2412.19437, section 2.1.2).
    """
    tokens, experts = logits.shape
    scores = softmax(logits) if routing.score == "softmax" else sigmoid(logits)
    ranked = scores if correction is None else scores + correction
    if routing.groups > 1:
        # Only experts of the best groups (DeepSeek-V2, arXiv 2405.04434, section 2.2.2).
        grouped = ranked.reshape(tokens, routing.groups, -1)
        worth = np.sort(grouped, axis=2)[..., -routing.best :].sum(axis=2)
        order = np.argsort(-worth, axis=1, kind="stable")[:, : routing.kept]
        kept = np.zeros((tokens, routing.groups), dtype=bool)
        np.put_along_axis(kept, order, True, axis=1)
        open_ = np.repeat(kept, experts // routing.groups, axis=1)
        ranked = np.where(open_, ranked, np.float32(-np.inf))
    chosen = np.argsort(-ranked, axis=1, kind="stable")[:, :active]
    weights = np.take_along_axis(scores, chosen, axis=1)
    if routing.normalized:
        weights = weights / (weights.sum(axis=1, keepdims=True) + np.float32(1e-20))
    return chosen, (weights * np.float32(routing.scale)).astype(np.float32)

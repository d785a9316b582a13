"""Agreement of answers with truths on an ordered scale, beyond what their frequencies alone would give."""

import math

import numpy as np
from numpy.typing import NDArray


def weighted_kappa(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """Quadratically weighted kappa of ordered classes (Cohen 1968, Psychological Bulletin 70, 213-220).

    `counts` [..., class, class + 1] are [truth, predicted], the last column no answer; values are [...].
    1 - sum(w O) / sum(w E) with w = (i - j)^2, O the observed counts and E those of independent answers with the same
    margins. No answer counts as the class furthest from the truth (our own choice: silence must not pay). NaN where E
    holds no disagreement: one class, always right.
    """
    num = counts.shape[-2]
    order = np.arange(num)
    furthest = np.where(2 * order < num - 1, num - 1, 0)
    table = counts[..., :num] + counts[..., num:] * (furthest[:, None] == order)
    weights = (order[:, None] - order) ** 2
    expected = table.sum(axis=-1)[..., :, None] * table.sum(axis=-2)[..., None, :]
    observed = (weights * table).sum(axis=(-2, -1)) * table.sum(axis=(-2, -1))
    disagreement = (weights * expected).sum(axis=(-2, -1))
    return np.where(
        disagreement > 0, 1.0 - observed / np.where(disagreement > 0, disagreement, 1.0), math.nan
    )

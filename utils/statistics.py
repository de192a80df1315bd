"""How sure a mean over images is."""

from collections.abc import Sequence

import numpy as np
from scipy.stats import bootstrap

LEVEL = 0.95
RESAMPLES = 9999
SMALLEST_SAMPLE = 10  # images; an interval from fewer says little, so none is given


def interval_of_mean(values: Sequence[float]) -> tuple[float, float] | None:
    """95 % percentile bootstrap interval of the mean over images, from a fixed seed.

    None for fewer than `SMALLEST_SAMPLE` values, or if one is not finite.
    """
    if len(values) < SMALLEST_SAMPLE or not np.isfinite(values).all():
        return None
    result = bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    )
    low, high = result.confidence_interval
    return float(low), float(high)

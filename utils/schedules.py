"""Learning-rate schedules, as factors of the peak rate.

`cosine` (ours) changes every step: a linear warm-up over the first tenth of the run, then a cosine
that reaches 0 at its last step. `timed` (ours) is the same over the time of the run, for whoever
has a machine for so many minutes and cannot know how many steps fit in; or over the steps, if these
end first. `published` changes every epoch and reproduces what the released code really did: a
warm-up of 15 epochs, then a cosine meant for 150; through an off-by-one the first two epochs run at
0 and the peak comes at epochs 15 and 16. Stopped at 120 epochs it never anneals: the last rate is
13 % of the peak.
"""

import math

SCHEDULES = ("cosine", "timed", "published")
PUBLISHED_WARMUP = 15  # epochs
PUBLISHED_LENGTH = 150  # epochs


def rate_factor(
    schedule: str, step: int, total_steps: int, steps_per_epoch: int, time_share: float = 0.0
) -> float:
    """Factor of the peak rate in [0, 1] for the step with that index (0 is the first).

    Args:
        time_share: of the run's time that has passed, 0 to 1, for `timed`.
    """
    if schedule == "published":
        return _published(step // steps_per_epoch)
    if schedule == "timed":
        step = max(step, min(int(time_share * total_steps), total_steps - 1))
    return _cosine(step, total_steps)


def _cosine(step: int, total_steps: int) -> float:
    warmup = max(1, total_steps // 10)
    if step < warmup:
        return (step + 1) / warmup
    return (1 + math.cos(math.pi * (step + 1 - warmup) / max(1, total_steps - warmup))) / 2


def _published(epoch: int) -> float:
    if epoch <= PUBLISHED_WARMUP:
        return max(0, epoch - 1) / (PUBLISHED_WARMUP - 1)
    angle = math.pi * (epoch - PUBLISHED_WARMUP - 1) / (PUBLISHED_LENGTH - PUBLISHED_WARMUP)
    return (1 + math.cos(angle)) / 2

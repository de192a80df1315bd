"""Restoring a set of samples and scoring each image: the one loop behind every figure."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.inference import restore
from utils.metrics import psnr, ssim


class Score(NamedTuple):
    """One image's figures: PSNR in dB and SSIM, of the degraded input and of the restored image."""

    name: str
    degraded_psnr: float
    degraded_ssim: float
    psnr: float
    ssim: float
    seconds: float


def evaluate(
    net: nn.Module,
    samples: Iterable,
    named: Tensor | None = None,
    tile: int | None = None,
    quantised: bool = False,
    on_result: Callable[[object, Tensor, Score], None] | None = None,
) -> list[Score]:
    """Restore and score samples (degraded, clean, task, name), one by one.

    Args:
        net, named, tile: as in `restore`.
        quantised: round the restored image to 8 bits before scoring (protocol `clean`).
        on_result: called with the sample, the restored image (3, H, W) and its score.
    """
    device = next(net.parameters()).device
    scores = []
    for sample in samples:
        degraded, clean = sample.degraded.to(device), sample.clean.to(device)
        start = time.perf_counter()
        restored = restore(net, degraded, named, tile)
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        seconds = time.perf_counter() - start
        if quantised:
            restored = (restored * 255).round() / 255
        score = Score(
            sample.name,
            psnr(degraded, clean),
            ssim(degraded, clean),
            psnr(restored, clean),
            ssim(restored, clean),
            seconds,
        )
        scores.append(score)
        if on_result:
            on_result(sample, restored, score)
    return scores


def mean_score(scores: Iterable[Score]) -> dict[str, float]:
    """Mean over images of every figure, by its name."""
    scores = list(scores)
    return {
        field: sum(getattr(score, field) for score in scores) / len(scores)
        for field in Score._fields
        if field != "name"
    }

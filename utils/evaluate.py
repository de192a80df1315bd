"""Restoring a set of samples and scoring each image: the one loop behind every figure."""

import time
from collections.abc import Callable, Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from utils.errors import UserError, is_for_want_of_memory
from utils.inference import restore
from utils.metrics import psnr, psnr_y, ssim


class Score(NamedTuple):
    """One image's figures, of the degraded input and of the restored image.

    PSNR and PSNR-Y in dB; seconds: to restore it; scoring_seconds: to compute these figures.
    """

    name: str
    degraded_psnr: float
    degraded_ssim: float
    degraded_psnr_y: float
    psnr: float
    ssim: float
    psnr_y: float
    seconds: float
    scoring_seconds: float


def evaluate(
    net: nn.Module,
    samples: Iterable,
    named: Tensor | None = None,
    tile: int | None = 0,
    self_ensemble: bool = False,
    quantised: bool = False,
    on_result: Callable[[object, Tensor, Score], None] | None = None,
) -> list[Score]:
    """Restore and score samples (degraded, clean, task, name), one by one.

    Args:
        net, named, tile, self_ensemble: as in `restore`.
        quantised: round the restored image to 8 bits before scoring (protocol `clean`).
        on_result: called with the sample, the restored image (3, H, W) and its score.

    Raises:
        UserError: the network gives values that are not numbers, or infinite; or memory is short.
    """
    device = next(net.parameters()).device
    scores = []
    with net.weights_kept():
        for sample in samples:
            degraded, clean = sample.degraded.to(device), sample.clean.to(device)
            start = time.perf_counter()
            try:
                restored = restore(net, degraded, named, tile, self_ensemble=self_ensemble)
            except (MemoryError, RuntimeError) as error:
                if not is_for_want_of_memory(error):
                    raise
                height, width = degraded.shape[1:]
                raise UserError(
                    f"{sample.name}: {width} x {height} pixels are too many for the memory; "
                    "restore it in tiles, such as --tile 512 (figures of tiles are not those of "
                    "whole images)"
                ) from error
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - start
            if restored.isnan().any():
                raise UserError(
                    f"{sample.name}: the network gives values that are not numbers; "
                    "use another checkpoint"
                )
            if quantised:
                restored = (restored * 255).round() / 255
            start = time.perf_counter()
            figures = (*measure(degraded, clean), *measure(restored, clean))
            score = Score(sample.name, *figures, seconds, time.perf_counter() - start)
            scores.append(score)
            if on_result:
                on_result(sample, restored, score)
    return scores


def measure(image: Tensor, clean: Tensor) -> tuple[float, float, float]:
    """PSNR, SSIM and PSNR-Y of an image (3, H, W) in [0, 1]."""
    return psnr(image, clean), ssim(image, clean), psnr_y(image, clean)


def mean_score(scores: Iterable[Score]) -> dict[str, float]:
    """Mean over images of every figure, by its name."""
    scores = list(scores)
    return {
        field: sum(getattr(score, field) for score in scores) / len(scores)
        for field in Score._fields
        if field != "name"
    }

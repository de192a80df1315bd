"""The training loss: Charbonnier plus a small L1 distance between spectra, and classification."""

import torch
from torch import Tensor
from torch.nn import functional as F

CHARBONNIER_EPSILON = 1e-3


def charbonnier(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean of sqrt(d^2 + 1e-6) over all elements; a scalar."""
    return (restored - clean).square().add(CHARBONNIER_EPSILON**2).sqrt().mean()


def spectral_l1(restored: Tensor, clean: Tensor) -> Tensor:
    """Mean modulus of the difference between the 2-D Fourier transforms (unnormalised).

    The transform is linear, so one transform of the difference serves. It is Hermitian, so half
    of it is computed and the columns that the other half mirrors count twice.

    Shape: (B, C, H, W) twice -> a scalar.
    """
    width = clean.shape[-1]
    spectrum = torch.fft.rfft2((restored - clean).float()).abs()  # (B, C, H, W // 2 + 1)
    mirrored = spectrum[..., 1 : (width + 1) // 2]
    return (spectrum.sum() + mirrored.sum()) / clean.numel()


def restoration_loss(restored: Tensor, clean: Tensor, spectral_weight: float) -> Tensor:
    """charbonnier + spectral_weight * spectral_l1; the paper's weight is 0.01."""
    restored, clean = restored.float(), clean.float()
    return charbonnier(restored, clean) + spectral_weight * spectral_l1(restored, clean)


def classification_loss(scores: Tensor, rows: Tensor, untouched: Tensor) -> Tensor:
    """Cross-entropy of (B, L, K) scores, at L levels, against the right rows (B,); a scalar.

    Where `untouched` (B,) is true no row is right, and all are to be even.
    """
    levels, classes = scores.shape[1:]
    wanted = F.one_hot(rows, classes).float()
    wanted = wanted.masked_fill(untouched[:, None], 1 / classes)
    return F.cross_entropy(scores.float().flatten(0, 1), wanted.repeat_interleave(levels, dim=0))

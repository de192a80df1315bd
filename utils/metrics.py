"""PSNR (RGB and Y) and SSIM as scikit-image computes them, in PyTorch, wherever the images are.

`skimage.metrics.structural_similarity(channel_axis=0, data_range=1)`: uniform 7 x 7 window, sample
covariance, mean over channels and over the windows that lie wholly inside the image.
"""

import torch
from torch import Tensor

SSIM_WINDOW = 7  # pixels; `_window_means` is made for it
LUMINANCE_WEIGHTS = (65.481, 128.553, 24.966)  # of R, G and B in [0, 1]; offset 16


def psnr(restored: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio in dB of two images in [0, 1], same shape; infinite if equal."""
    error = _wide(restored) - _wide(clean)
    return float(-10 * torch.log10(error.square().mean()))


def psnr_y(restored: Tensor, clean: Tensor) -> float:
    """PSNR in dB of the luminance of two RGB images (3, H, W) in [0, 1].

    Luminance is ITU-R BT.601's in studio range, 16 to 235 on the 255 scale, as MATLAB's rgb2ycbcr
    gives it for floating-point images (it is not rounded, as it would be there for uint8 ones).
    """
    error = _wide(restored) - _wide(clean)
    weights = error.new_tensor(LUMINANCE_WEIGHTS) / 255
    return float(-10 * torch.log10(torch.einsum("c,chw->hw", weights, error).square().mean()))


def ssim(restored: Tensor, clean: Tensor) -> float:
    """Structural similarity of two images (C, H, W) in [0, 1], H and W at least 7.

    Raises:
        ValueError: the image is smaller than the window.
    """
    if min(clean.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"image of {tuple(clean.shape)}: SSIM needs {SSIM_WINDOW} pixels a side")
    channels = zip(_wide(restored), _wide(clean), strict=True)  # one by one they fit the cache
    return float(torch.stack([_ssim_of_channel(x, y) for x, y in channels]).mean())


def _ssim_of_channel(x: Tensor, y: Tensor) -> Tensor:
    mean_x, mean_y, mean_xx, mean_yy, mean_xy = map(_window_means, (x, y, x * x, y * y, x * y))

    sample = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    variance_x = sample * (mean_xx - mean_x * mean_x)
    variance_y = sample * (mean_yy - mean_y * mean_y)
    covariance = sample * (mean_xy - mean_x * mean_y)

    c1, c2 = 0.01**2, 0.03**2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    structure = (2 * covariance + c2) / (variance_x + variance_y + c2)
    return (luminance * structure).mean()


def _window_means(image: Tensor) -> Tensor:
    """Means over all 7 x 7 windows inside (H, W), as (H - 6, W - 6)."""
    for axis in (0, 1):
        windows = image.shape[axis] - SSIM_WINDOW + 1
        pairs = image.narrow(axis, 0, windows + 5) + image.narrow(axis, 1, windows + 5)
        fours = pairs.narrow(axis, 0, windows) + pairs.narrow(axis, 2, windows)
        image = fours + pairs.narrow(axis, 4, windows) + image.narrow(axis, 6, windows)
    return image / SSIM_WINDOW**2


def _wide(image: Tensor) -> Tensor:
    return image.float() if image.device.type == "mps" else image.double()  # MPS has no float64

"""Crops, augmentation, padding and noise on uint8 images (H, W, 3); randomness is passed in.

Maps (H, W) that belong to an image are cropped, turned and padded with it.
"""

import numpy as np

PROTOCOL_MULTIPLE = 16  # protocol `paper` crops every image to multiples of it


def crop_to_multiple(image: np.ndarray, multiple: int = PROTOCOL_MULTIPLE) -> np.ndarray:
    """Centre crop to the largest size whose sides are multiples; a side below it is kept."""
    height, width = (side - side % multiple or side for side in image.shape[:2])
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def pad_to_size(image: np.ndarray, size: int) -> np.ndarray:
    """Reflect at the bottom and right until both sides are at least `size`."""
    short = [max(0, size - side) for side in image.shape[:2]]
    if not any(short):
        return image
    widths = [(0, short[0]), (0, short[1]), (0, 0)][: image.ndim]
    return np.pad(image, widths, mode="reflect")


def crop_patch(
    images: list[np.ndarray], size: int, generator: np.random.Generator
) -> list[np.ndarray]:
    """The same random `size` x `size` window of each image; all have one shape."""
    height, width = images[0].shape[:2]
    top = generator.integers(height - size + 1)
    left = generator.integers(width - size + 1)
    return [image[top : top + size, left : left + size] for image in images]


def augment(images: list[np.ndarray], generator: np.random.Generator) -> list[np.ndarray]:
    """One of the 8 flips and quarter turns, the same for each image."""
    turns, flipped = divmod(int(generator.integers(8)), 2)
    images = [np.rot90(image, turns) for image in images]
    return [image[:, ::-1] for image in images] if flipped else images


def add_noise(
    image: np.ndarray,
    sigma: float,
    generator: np.random.Generator | np.random.RandomState,
    *,
    rounded: bool = False,
) -> np.ndarray:
    """Gaussian noise of `sigma` (255 scale), clipped to [0, 255], truncated to uint8 (or rounded).

    Truncation is protocol `paper`'s and darkens the image by half a grey level on average.
    """
    noisy = generator.standard_normal(image.shape)
    noisy *= sigma
    noisy += image
    noisy.clip(0, 255, out=noisy)
    return (np.rint(noisy) if rounded else noisy).astype(np.uint8)

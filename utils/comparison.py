"""Pictures side by side: degraded, restored, clean."""

from collections.abc import Iterable, Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.image_io import write_image

COMPARISONS = "compare"  # folder of comparisons inside a folder of restored images
GAP = 4  # pixels between the pictures of a comparison
CAPTION_HEIGHT = 26


def write_comparison(
    path: Path, images: Sequence[np.ndarray], captions: Iterable[str] = ()
) -> np.ndarray:
    """Write uint8 images (H, W, 3) of one size side by side; returns the picture."""
    height = images[0].shape[0]
    gap = np.full((height, GAP, 3), 255, dtype=np.uint8)
    parts = [images[0]]
    for image in images[1:]:
        parts += [gap, image]
    picture = np.concatenate(parts, axis=1)
    captions = list(captions)
    if captions:
        strip = np.full((CAPTION_HEIGHT, picture.shape[1], 3), 255, dtype=np.uint8)
        step = images[0].shape[1] + GAP
        for index, caption in enumerate(captions):
            cv2.putText(
                strip,
                caption,
                (index * step + 4, CAPTION_HEIGHT - 8),
                cv2.FONT_HERSHEY_SIMPLEX,
                0.55,
                (0, 0, 0),
                1,
                cv2.LINE_AA,
            )
        picture = np.concatenate([strip, picture])
    write_image(path, picture)
    return picture

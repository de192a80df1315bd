"""Pictures side by side: degraded, restored, clean."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import cv2
import numpy as np

from utils.image_io import encoding, format_of, write_image
from utils.printable import printable

COMPARISONS = "compare"  # folder of comparisons inside a folder of restored images
GAP = 4  # pixels between the pictures of a comparison
MARGIN = 4  # pixels beside a text
FONT = cv2.FONT_HERSHEY_SIMPLEX
CAPTION_HEIGHT, CAPTION_SCALE = 26, 0.55
BAR_HEIGHT, BAR_LEFT, BAR_RIGHT = 16, 92, 44  # with names before, figures after
SHORTEST_BAR, LONGEST_BAR = 40, 300
BAR_COLOUR, BAR_GROUND = (60, 110, 170), (228, 232, 238)  # RGB


def write_comparison(
    path: Path,
    images: Sequence[np.ndarray],
    captions: Iterable[str] = (),
    weights: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Write uint8 images (H, W, 3) of one size side by side; returns the picture.

    captions: above the images; weights: from 0 to 1, shown as bars below them.

    Raises:
        UserError: as `write_image`.
    """
    with encoding(printable(path), format_of(path)):
        picture = _draw(images, list(captions), weights or {})
    write_image(path, picture)
    return picture


def _draw(
    images: Sequence[np.ndarray], captions: list[str], weights: Mapping[str, float]
) -> np.ndarray:
    needed = [_measure(caption, CAPTION_SCALE) + 2 * MARGIN for caption in captions]
    images = [_widen(image, max(needed, default=0)) for image in images]
    height = images[0].shape[0]
    gap = np.full((height, GAP, 3), 255, dtype=np.uint8)
    parts = [images[0]]
    for image in images[1:]:
        parts += [gap, image]
    picture = np.concatenate(parts, axis=1)
    if captions:
        strip = np.full((CAPTION_HEIGHT, picture.shape[1], 3), 255, dtype=np.uint8)
        step = images[0].shape[1] + GAP
        for index, caption in enumerate(captions):
            _write(strip, caption, index * step + MARGIN, CAPTION_HEIGHT - 8, CAPTION_SCALE)
        picture = np.concatenate([strip, picture])
    if weights:
        picture = _widen(picture, BAR_LEFT + SHORTEST_BAR + BAR_RIGHT)
        picture = np.concatenate([picture, _draw_bars(weights, picture.shape[1])])
    return picture


def _draw_bars(weights: Mapping[str, float], width: int) -> np.ndarray:
    """A row for each: name, bar and per cent. uint8 (H, W, 3)."""
    strip = np.full((BAR_HEIGHT * len(weights) + GAP, width, 3), 255, dtype=np.uint8)
    longest = min(LONGEST_BAR, width - BAR_LEFT - BAR_RIGHT)
    for index, (name, weight) in enumerate(weights.items()):
        top = GAP + index * BAR_HEIGHT
        _write(strip, name, MARGIN, top + 11, 0.4)
        end = BAR_LEFT + round(longest * weight)
        strip[top : top + BAR_HEIGHT - 3, BAR_LEFT : BAR_LEFT + longest] = BAR_GROUND
        strip[top : top + BAR_HEIGHT - 3, BAR_LEFT:end] = BAR_COLOUR
        _write(strip, f"{weight:.0%}", BAR_LEFT + longest + 4, top + 11, 0.4)
    return strip


def _widen(image: np.ndarray, width: int) -> np.ndarray:
    """The image (H, W, 3), with white beside it if it is narrower than that."""
    missing = max(0, width - image.shape[1])
    return np.pad(image, ((0, 0), (0, missing), (0, 0)), constant_values=255)


def _measure(words: str, scale: float) -> int:
    """How many pixels wide a text is."""
    return cv2.getTextSize(words, FONT, scale, 1)[0][0]


def _write(strip: np.ndarray, words: str, left: int, bottom: int, scale: float) -> None:
    cv2.putText(strip, words, (left, bottom), FONT, scale, (0, 0, 0), 1, cv2.LINE_AA)

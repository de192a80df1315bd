"""Photographs as people have them: grey, compressed, more or less noisy, or not damaged at all.

The published degradations are of colour photographs, uncompressed, at three levels of noise. A
network that saw nothing else leaves the noise of a grey picture alone, takes the blocks of JPEG for
rain, and changes what was clean. With `train.py --variety SHARE` a share of the training samples
is made otherwise: half of it grey, half of it not damaged at all (rain and haze in colour make an
eighth less: they have no noise to change). All ranges are our own choice.

Images are uint8 RGB (H, W, 3); every random choice is drawn from the generator passed in.
"""

from typing import NamedTuple

import cv2
import numpy as np

GREY = 0.5  # share of the varied samples
UNTOUCHED = 0.5  # share of the varied samples, grey or not
CHANGES = ("compressed", "noise", "none")  # of the others, evenly; of colour not the last
QUALITY = (50, 95)  # of JPEG with halved colour, as cameras and web pages have it
NOISE = (0.4, 1.3)  # standard deviation relative to the degradation's


class Variety(NamedTuple):
    """How a sample departs from the published ones.

    grey: all channels equal, and their noise; quality: of JPEG after the damage, or None for no
    compression; untouched: not damaged; noise: standard deviation relative to the degradation's.
    """

    grey: bool = False
    quality: int | None = None
    untouched: bool = False
    noise: float = 1.0


PUBLISHED = Variety()


def draw_variety(share: float, generator: np.random.Generator) -> Variety:
    """`PUBLISHED`, or another in a `share` of all samples; draws nothing if that is 0."""
    if share == 0 or generator.random() >= share:
        return PUBLISHED
    grey = generator.random() < GREY
    if generator.random() < UNTOUCHED:
        return Variety(grey, untouched=True)
    changes = CHANGES if grey else CHANGES[:-1]
    change = changes[generator.integers(len(changes))]
    return Variety(
        grey,
        int(generator.integers(QUALITY[0], QUALITY[1] + 1)) if change == "compressed" else None,
        noise=generator.uniform(*NOISE) if change == "noise" else 1.0,
    )


def to_grey(image: np.ndarray) -> np.ndarray:
    """The luma of Rec. 601 in each channel."""
    grey = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return np.repeat(grey[..., None], 3, axis=2)


def compress(image: np.ndarray, quality: int) -> np.ndarray:
    """An image after JPEG with 4:2:0 colour."""
    flags = [cv2.IMWRITE_JPEG_QUALITY, quality]
    flags += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    file = cv2.imencode(".jpg", image[..., ::-1], flags)[1]
    return np.ascontiguousarray(cv2.imdecode(file, cv2.IMREAD_COLOR)[..., ::-1])

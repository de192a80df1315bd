"""Rain and haze made from clean photographs.

Rain is streaks in several layers of various shapes and directions (Yang et al. 2017, JORDER), added
to the photograph or screened onto it, so that bright pixels gain less (the screen blend of Luo et
al. 2015). A streak is a drop's fall during the exposure (Garg and Nayar 2006): a layer is sparse
seeds under a motion blur, as noise is in the rain of Fu et al. 2017 (DDN), made in an image editor
with 14 directions and strengths for each photograph. Haze is the scattering model I = J t +
A (1 - t), t = exp(-beta d); its depth d is a guess from the layout of outdoor photographs
(`guess_depth`).

What is published is the kind of picture. Of the ranges below, only A and beta are: those in the
file names of RESIDE's outdoor training set (Li et al. 2019). The others are our own choice, wide on
purpose, from short streaks to threads and from drizzle to downpour. Those of rain were widened once
after a look at Rain100L's pictures beside ours (streaks more slender, fainter and denser); no
figure on a test set was used for any. On 365 clean BSDS500 photographs rain leaves 25 dB on average
(17 to 36 in nine of ten), and haze 17 dB (11 to 23).

What is missing: a veil of distant drops, rain that is denser far away, drops out of focus, haze of
uneven density, coloured light. Lengths and widths are in pixels, for photographs of about 0.15
megapixels (BSDS500). Sparse rain leaves one patch in a hundred (of 128 pixels) without a streak.

Images are uint8 RGB (H, W, 3); every random choice is drawn from the generator passed in.
"""

from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np
from skimage.segmentation import felzenszwalb

# rain, (lowest, highest); "log": drawn evenly on a logarithmic scale
LAYERS = (1, 3)  # several in JORDER; how many is ours
DIRECTION = (-45.0, 45.0)  # degrees from the vertical, of a picture's rain; ours
VARIATION = 4.0  # degrees, of a kernel's direction from the picture's; ours
LENGTH = (12.0, 120.0)  # pixels, log; of short exposures and of long ones; ours
WIDTH = (0.4, 1.8)  # pixels, log; standard deviation across a streak; ours
SLENDER = 25.0  # least length of a streak, in standard deviations across it; ours
COVERAGE = (0.008, 0.12)  # log; share of the pixels under a layer's streaks; ours
BRIGHTNESS = (0.12, 0.9)  # of a layer's brightest streaks, 1 is white; ours
FAINTEST = 0.25  # streak of a layer, relative to the brightest; ours
KERNELS = 3  # shapes of streak in a layer; ours

# haze
AIRLIGHT = (0.8, 1.0)  # A of RESIDE's outdoor training set: 0.8, 0.85, ..., 1
BETA = (0.04, 0.2)  # beta of that set: 0.04, 0.06, 0.08, 0.1, 0.12, 0.16, 0.2
FARTHEST = 5.5  # in units of 1 / beta; ours, so that haze is about as dense as SOTS outdoor's 16 dB
CURVE = (0.6, 1.6)  # exponent of a photograph's depth, drawn for each haze; ours
START = (0.0, 0.3)  # where a view begins, relative to its farthest point, for each haze; ours

# depth; all ours
DEPTH_SIDE = 160  # pixels, the longer side when it is guessed
HORIZON = 0.4  # of the height, from the top
NEAREST = 0.12  # relative to the farthest


class Synthesis(NamedTuple):
    """How a degradation is made from a clean image.

    degrade: (clean, map, generator) -> degraded; map: what `degrade` needs to know of the whole
    photograph, a float32 map of any size, or None if it needs nothing. A patch gets its part.
    """

    degrade: Callable[[np.ndarray, np.ndarray | None, np.random.Generator], np.ndarray]
    map: Callable[[np.ndarray], np.ndarray] | None = None

    def apply(self, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
        """Degrade a whole photograph."""
        found = fit_map(self.map(image), image.shape[:2]) if self.map else None
        return self.degrade(image, found, generator)


def fit_map(found: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map of a photograph, brought to its (H, W)."""
    return cv2.resize(found, size[::-1], interpolation=cv2.INTER_LINEAR)


def add_rain(image: np.ndarray, unused: None, generator: np.random.Generator) -> np.ndarray:
    """Streaks in one to three layers."""
    streaks = draw_streaks(image.shape[:2], generator)[..., None]
    clean = image / 255
    screened = generator.random() < 0.5
    return to_uint8(clean + streaks * (1 - clean) if screened else clean + streaks)


def draw_streaks(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """The sum of a picture's layers of rain, float32 (H, W) from 0."""
    direction = generator.uniform(*DIRECTION)
    streaks = np.zeros(size, np.float32)
    for _ in range(generator.integers(LAYERS[0], LAYERS[1] + 1)):
        length, width, coverage = (
            np.exp(generator.uniform(*np.log(limits))) for limits in (LENGTH, WIDTH, COVERAGE)
        )
        width = min(width, length / SLENDER)
        brightness = generator.uniform(*BRIGHTNESS)
        seeds = coverage / (length * 2.5 * width) / KERNELS  # a pixel; a line is 2.5 sigma wide
        for _ in range(KERNELS):
            angle = direction + generator.uniform(-VARIATION, VARIATION)
            kernel = draw_line(length * generator.uniform(0.8, 1.2), width, angle)
            margin = kernel.shape[0] // 2  # for streaks whose centre lies outside
            area = (size[0] + 2 * margin, size[1] + 2 * margin)
            drops = np.zeros(area, np.float32)
            falling = generator.random(area, np.float32) < seeds
            drops[falling] = generator.uniform(FAINTEST, 1, falling.sum())
            layer = cv2.filter2D(drops, -1, kernel, borderType=cv2.BORDER_CONSTANT)
            streaks += brightness * layer[margin : margin + size[0], margin : margin + size[1]]
    return streaks


def draw_line(length: float, width: float, angle: float) -> np.ndarray:
    """A streak of height 1 around the centre of a square of odd side, float32.

    Gaussian across, of standard deviation `width` pixels; flat along `length` pixels, with ends
    that fade over a fifth of it, as a moving drop's do; `angle` in degrees from the vertical.
    """
    reach = int(np.ceil(length / 2 + 3 * width))
    y, x = np.mgrid[-reach : reach + 1, -reach : reach + 1]
    sine, cosine = np.sin(np.radians(angle)), np.cos(np.radians(angle))
    along, across = np.abs(x * sine + y * cosine), x * cosine - y * sine
    ends = np.clip((length / 2 - along) / (length / 5) + 0.5, 0, 1)
    return (np.exp(-((across / width) ** 2) / 2) * ends).astype(np.float32)


def add_haze(image: np.ndarray, depth: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Haze of a random density and airlight; `depth` (H, W) is relative to the farthest point."""
    airlight, beta = generator.uniform(*AIRLIGHT), generator.uniform(*BETA)
    start = generator.uniform(*START)
    distance = FARTHEST * (start + (1 - start) * depth ** generator.uniform(*CURVE))
    return scatter(image, distance, airlight, beta)


def scatter(image: np.ndarray, distance: np.ndarray, airlight: float, beta: float) -> np.ndarray:
    """The scattering model, with `distance` (H, W) in units of 1 / beta."""
    transmission = np.exp(-beta * distance)[..., None]
    return to_uint8(image / 255 * transmission + airlight * (1 - transmission))


def guess_depth(image: np.ndarray) -> np.ndarray:
    """A plausible depth of an outdoor photograph relative to the farthest point, float32.

    A level ground reaches from the bottom to the horizon; what stands on it is as far as its
    lowest point (the idea of Hoiem et al. 2005, who learn which regions stand). Here it is not
    known whether a region of even colour stands or lies, so the two depths are averaged. The same
    image always has the same depth, a map whose longer side is at most `DEPTH_SIDE`.

    It is far at the top and near at the bottom, with edges where those of the picture are, and no
    measurement: on scikit-image's motorcycle its rank correlation with the measured depth is 0.64,
    where the height in the picture alone has 0.67. What is near at the top (a roof, a face that
    fills the picture) is taken to be far.
    """
    height, width = image.shape[:2]
    scale = min(1, DEPTH_SIDE / max(height, width))
    small = (max(1, round(width * scale)), max(1, round(height * scale)))
    reduced = cv2.resize(image, small, interpolation=cv2.INTER_AREA)
    regions = felzenszwalb(reduced, scale=150, sigma=0.8, min_size=150)

    rows = np.arange(small[1])
    below = np.clip((rows / max(1, small[1] - 1) - HORIZON) / (1 - HORIZON), 0, 1)
    ground = 1 / (1 + below * (1 / NEAREST - 1))  # of each row, by perspective
    lowest = np.zeros(regions.max() + 1, int)
    np.maximum.at(lowest, regions, rows[:, None])
    depth = (ground[:, None] + ground[lowest][regions]) / 2
    return cv2.GaussianBlur(depth.astype(np.float32), (0, 0), 1.5)


def to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1], clipped, to uint8."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)

"""A small data set from the photographs inside scikit-image's package; nothing is downloaded.

Training and test photographs are disjoint in every task. Rain is made of streak layers; haze by
the scattering model I = J t + A (1 - t), t = exp(-beta d), with true depth for the stereo pair and
a made-up one (far at the top, with soft bumps) for the others. Such figures stand for nothing but
themselves: they are not comparable with any published table.
"""

from pathlib import Path

import cv2
import numpy as np
import skimage.data

from utils.image_io import write_image

TRAIN_PHOTOS = ("astronaut", "coffee", "rocket", "immunohistochemistry")
TEST_PHOTOS = ("chelsea", "motorcycle")
VARIANTS = 4  # rainy and hazy versions of each training photograph
LONGEST_SIDE = 640  # pixels; larger photographs are reduced
HAZE_DEPTH = 6.0  # the farthest point, in the arbitrary unit of beta
AIRLIGHTS = (0.8, 0.85, 0.9, 0.95, 1.0)
BETAS = (0.12, 0.15, 0.18, 0.2)
# of the stereo pair, from scikit-image's documentation
MOTORCYCLE_DOFFS = 31.086  # pixels


def build_samples(folder: Path, seed: int = 0) -> None:
    """Write `folder`/Train and `folder`/test in the layouts that train.py and test.py read."""
    generator = np.random.default_rng(seed)
    train, test = folder / "Train", folder / "test"
    for name in TRAIN_PHOTOS:
        write_training_images(train, name, _photo(name), VARIANTS, generator)

    for name in TEST_PHOTOS:
        clean = _photo(name)
        depth = (
            motorcycle_depth() if name == "motorcycle" else make_depth(clean.shape[:2], generator)
        )
        write_image(test / "denoise" / "samples" / f"{name}.png", clean)
        for task in ("derain", "dehaze"):
            write_image(test / task / "samples" / "target" / f"{name}.png", clean)
        rainy = test / "derain" / "samples" / "input" / f"{name}.png"
        write_image(rainy, add_rain(clean, generator))
        hazy = test / "dehaze" / "samples" / "input" / f"{name}_0.9_0.15.png"
        write_image(hazy, add_haze(clean, depth, 0.9, 0.15))


def write_training_images(
    folder: Path, name: str, clean: np.ndarray, variants: int, generator: np.random.Generator
) -> None:
    """Write a photograph, and rainy and hazy variants of it, in the layout that train.py reads.

    A photograph is one clean file in every task, so that validation holds out all of it; `name` has
    no underscore, which ends it in the hazy variants' names.
    """
    write_image(folder / "Denoise" / f"{name}.png", clean)
    for variant in range(variants):
        rainy = folder / "Derain" / "rainy"
        write_image(rainy / f"{name}_rain{variant}.png", add_rain(clean, generator))
        airlight, beta = generator.choice(AIRLIGHTS), generator.choice(BETAS)
        hazy = add_haze(clean, make_depth(clean.shape[:2], generator), airlight, beta)
        synthetic = folder / "Dehaze" / "synthetic"
        write_image(synthetic / f"{name}_{variant}_{airlight}_{beta}.png", hazy)
    write_image(folder / "Derain" / "gt" / f"{name}.png", clean)
    write_image(folder / "Dehaze" / "original" / f"{name}.png", clean)


def add_rain(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Add streaks of one direction, in a near and a far layer, to a uint8 image (H, W, 3)."""
    height, width = image.shape[:2]
    angle = generator.uniform(-25, 25)  # degrees from the vertical
    streaks = np.zeros((height, width))
    for length, density, strength in ((11, 0.006, 0.4), (25, 0.002, 0.7)):
        drops = (generator.random((height, width)) < density * generator.uniform(0.6, 1.2)).astype(
            np.float64
        )
        kernel = _line_kernel(length, angle)
        streaks += strength * cv2.filter2D(drops, -1, kernel, borderType=cv2.BORDER_REFLECT)
    streaks = cv2.GaussianBlur(streaks, (0, 0), 0.6)[..., None]
    rainy = image / 255 + streaks * (1 - 0.4 * image / 255)
    return _to_uint8(rainy)


def add_haze(image: np.ndarray, depth: np.ndarray, airlight: float, beta: float) -> np.ndarray:
    """The scattering model on a uint8 image (H, W, 3), with depth (H, W) in units of 1 / beta."""
    transmission = np.exp(-beta * depth)[..., None]
    return _to_uint8(image / 255 * transmission + airlight * (1 - transmission))


def make_depth(size: tuple[int, int], generator: np.random.Generator) -> np.ndarray:
    """A made-up depth map (H, W) up to `HAZE_DEPTH`: far at the top, with soft bumps."""
    height, width = size
    slope = np.linspace(1, 0.4, height)[:, None]
    bumps = cv2.resize(generator.random((5, 6)), (width, height), interpolation=cv2.INTER_CUBIC)
    depth = slope + 0.5 * (bumps - 0.5)
    return HAZE_DEPTH * np.clip(depth / 1.2, 0.3, 1)


def motorcycle_depth() -> np.ndarray:
    """The measured depth (H, W) of the stereo pair's left image, up to `HAZE_DEPTH`.

    Depth is inverse to disparity plus the offset of the principal points; pixels without a
    disparity are filled in from their surroundings.
    """
    disparity = skimage.data.stereo_motorcycle()[2]
    unknown = ~np.isfinite(disparity)
    depth = 1 / (np.where(unknown, 1, disparity) + MOTORCYCLE_DOFFS)
    depth /= depth[~unknown].max()
    levels = _to_uint8(np.where(unknown, 0, depth))
    filled = cv2.inpaint(levels, unknown.astype(np.uint8), 5, cv2.INPAINT_TELEA) / 255
    return HAZE_DEPTH * np.where(unknown, filled, depth)


def _photo(name: str) -> np.ndarray:
    if name == "motorcycle":
        image = skimage.data.stereo_motorcycle()[0]
    else:
        image = getattr(skimage.data, name)()
    scale = LONGEST_SIDE / max(image.shape[:2])
    if scale < 1 and name not in TEST_PHOTOS:
        size = (round(image.shape[1] * scale), round(image.shape[0] * scale))
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[..., :3])


def _line_kernel(length: int, angle: float) -> np.ndarray:
    """A motion-blur kernel whose strongest streak has height 1: a line at `angle` degrees."""
    kernel = np.zeros((length, length))
    kernel[:, length // 2] = 1
    turn = cv2.getRotationMatrix2D((length // 2, length // 2), angle, 1)
    return cv2.warpAffine(kernel, turn, (length, length))


def _to_uint8(image: np.ndarray) -> np.ndarray:
    """[0, 1], clipped, to uint8."""
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)

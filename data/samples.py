"""A small data set from the photographs inside scikit-image's package; nothing is downloaded.

Training and test photographs are disjoint in every task. Rain and haze are those of
`data.synthesis`, but rain comes from a few seeds, in training and test alike: strong and steep, so
that a few minutes of training teach something. The test photographs have haze of a chosen density,
with the measured depth for the stereo pair. Such figures stand for nothing but themselves: they are
not comparable with any published table.
"""

from collections.abc import Iterable
from pathlib import Path

import cv2
import numpy as np
import skimage.data

from data.degradations import of_task
from data.synthesis import FARTHEST, fit_map, guess_depth, scatter, to_uint8
from utils.image_io import write_image

TRAIN_PHOTOS = ("astronaut", "coffee", "rocket", "immunohistochemistry")
TRAIN_SEEDS = (0, 6, 18, 27)  # of the rainy and hazy versions; rain leaves 18 to 25 dB
TEST_PHOTOS = {"chelsea": 6, "motorcycle": 0}  # and the seeds of their rain, which leaves 18 dB
TEST_AIRLIGHT, TEST_BETA = 0.9, 0.18  # of their haze, which leaves 13 dB on average
LONGEST_SIDE = 640  # pixels; larger photographs are reduced
SYNTHETIC = "_synthetic"  # ends the name of a data set of which only the clean images are real
# of the stereo pair, from scikit-image's documentation
MOTORCYCLE_DOFFS = 31.086  # pixels


def build_samples(folder: Path, training: bool = True) -> None:
    """Write `folder`/test, and Train for `training`, in the layouts that the scripts read."""
    train, test = folder / "Train", folder / "test"
    for name in TRAIN_PHOTOS if training else ():
        generators = [np.random.default_rng(seed) for seed in TRAIN_SEEDS]
        write_training_images(train, "samples", name, _photo(name), generators)

    for name, rain_seed in TEST_PHOTOS.items():
        clean = _photo(name)
        measured = name == "motorcycle"
        depth = motorcycle_depth() if measured else fit_map(guess_depth(clean), clean.shape[:2])
        write_image(test / "denoise" / "samples" / f"{name}.png", clean)
        for task in ("derain", "dehaze"):
            write_image(test / task / "samples" / "target" / f"{name}.png", clean)
        rainy = degrade(clean, "derain", np.random.default_rng(rain_seed))
        write_image(test / "derain" / "samples" / "input" / f"{name}.png", rainy)
        hazy = scatter(clean, FARTHEST * depth, TEST_AIRLIGHT, TEST_BETA)
        name += f"_{TEST_AIRLIGHT}_{TEST_BETA}"
        write_image(test / "dehaze" / "samples" / "input" / f"{name}.png", hazy)


def write_training_images(
    folder: Path,
    data_set: str,
    name: str,
    clean: np.ndarray,
    generators: Iterable[np.random.Generator],
) -> None:
    """Write a photograph, and rainy and hazy variants of it, in the layout that train.py reads.

    A photograph is one clean file in every task, so that validation holds out all of it.

    Args:
        data_set: a folder in each task's, by which test.py calls the pairs.
        name: of the file; no underscore, which would end it in the hazy variants' names.
        generators: one for each variant.
    """
    write_image(folder / "Denoise" / data_set / f"{name}.png", clean)
    rain, haze = (folder / task / (data_set + SYNTHETIC) for task in ("Derain", "Dehaze"))
    for variant, generator in enumerate(generators):
        rainy, hazy = (degrade(clean, task, generator) for task in ("derain", "dehaze"))
        write_image(rain / "rainy" / f"{name}_rain{variant}.png", rainy)
        write_image(haze / "synthetic" / f"{name}_haze{variant}.png", hazy)
    write_image(rain / "gt" / f"{name}.png", clean)
    write_image(haze / "original" / f"{name}.png", clean)


def degrade(image: np.ndarray, task: str, generator: np.random.Generator) -> np.ndarray:
    """A rainy (task derain) or hazy (dehaze) version of a uint8 image (H, W, 3)."""
    (degradation,) = of_task(task)
    return degradation.synthesis.apply(image, generator)


def motorcycle_depth() -> np.ndarray:
    """The measured depth (H, W) of the stereo pair's left image, relative to its farthest point.

    Depth is inverse to disparity plus the offset of the principal points; pixels without a
    disparity are filled in from their surroundings.
    """
    disparity = skimage.data.stereo_motorcycle()[2]
    unknown = ~np.isfinite(disparity)
    depth = 1 / (np.where(unknown, 1, disparity) + MOTORCYCLE_DOFFS)
    depth /= depth[~unknown].max()
    levels = to_uint8(np.where(unknown, 0, depth))
    filled = cv2.inpaint(levels, unknown.astype(np.uint8), 5, cv2.INPAINT_TELEA) / 255
    return np.where(unknown, filled, depth)


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

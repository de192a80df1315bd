"""The one table of degradations, and where each task's images live.

The order of `DEGRADATIONS` is the order of the text table's rows and of the paper's columns; a
network always has a row for each, whichever were trained, so that checkpoints are interchangeable.
"""

from typing import NamedTuple

from data.synthesis import Synthesis, add_haze, add_rain, guess_depth


class Degradation(NamedTuple):
    """One kind of damage.

    name: as in `--de_type`; task: as in `TASKS`; sigma: of the noise, on the 255 scale, or None;
    text: what CLIP is told; repeats: visits of each image in a published epoch; synthesis: how
    clean photographs are degraded where there are no pairs (`train.py --synthesize`); noise has
    none, it is always made on the fly.
    """

    name: str
    task: str
    sigma: int | None
    text: str
    repeats: int
    synthesis: Synthesis | None = None


class Task(NamedTuple):
    """One kind of data set.

    mode: the number in `test.py --mode`; train_folders, test_folders: accepted names, the first is
    the default; list_file: where the published lists name the training images; test_sets: what to
    put under the test folder.
    """

    name: str
    mode: int
    train_folders: tuple[str, ...]
    test_folders: tuple[str, ...]
    list_file: str
    test_sets: str


DEGRADATIONS = (
    Degradation("denoise_15", "denoise", 15, "a photo with light Gaussian noise, sigma 15", 3),
    Degradation("denoise_25", "denoise", 25, "a photo with medium Gaussian noise, sigma 25", 3),
    Degradation("denoise_50", "denoise", 50, "a photo with heavy Gaussian noise, sigma 50", 3),
    Degradation("derain", "derain", None, "a photo with rain streaks", 120, Synthesis(add_rain)),
    Degradation("dehaze", "dehaze", None, "a photo with haze", 1, Synthesis(add_haze, guess_depth)),
)

TASKS = (
    Task(
        "denoise",
        0,
        ("Denoise", "denoise"),
        ("denoise", "Denoise"),
        "noisy/denoise.txt",
        "bsd68/*.png (clean images)",
    ),
    Task(
        "derain",
        1,
        ("Derain", "derain"),
        ("derain", "Derain"),
        "rainy/rainTrain.txt",
        "Rain100L/input/*.png and Rain100L/target/*.png",
    ),
    Task(
        "dehaze",
        2,
        ("Dehaze", "dehaze", "Dehazy", "dehazy"),
        ("dehaze", "Dehaze", "dehazy", "Dehazy"),
        "hazy/hazy_outside.txt",
        "SOTS/input/*.jpg and SOTS/target/*.png",
    ),
)

CLEAN = TASKS[0]  # whose folders hold clean images
ALL_TASKS_MODE = 3  # whatever is added; further tasks have 4, 5, ...
DEGRADATION_NAMES = tuple(degradation.name for degradation in DEGRADATIONS)


def of_task(task: str) -> tuple[Degradation, ...]:
    """The degradations of a task, in the table's order."""
    return tuple(degradation for degradation in DEGRADATIONS if degradation.task == task)

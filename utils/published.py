"""Figures that others have published, as they stand: protocol `paper`, three tasks, one network.

PSNR, SSIM and parameters are the authors' own, not measured by this project; GMACs are its count of
the released networks. Not all figures are comparable: what is known against a row is in its note.
"""

from collections.abc import Mapping
from typing import NamedTuple

TABLE_1, OWN = "the AM-PromptIR paper's Table 1", "the method's own paper"
SHARED_SCENES = "76 of the 500 haze test images share scenes with its training list"
PROMPTIR = f"{SHARED_SCENES}; its released checkpoint has 37.44 dB on Rain100L for several users"
COUNTED = "GMACs counted by this project"
DEGRADATIONS = ("dehaze", "derain", "denoise_15", "denoise_25", "denoise_50")
IMAGES = {"denoise": 68, "derain": 100, "dehaze": 500}  # in the data sets these figures are of
# their folders' names, letters and digits alone; a set may lie in the task's folder itself
FOLDERS = {
    "denoise": {"bsd68", "cbsd68", "denoise"},
    "derain": {"rain100l", "derain"},
    "dehaze": {"sots", "outdoor", "sotsoutdoor", "dehaze", "dehazy"},
}


class Published(NamedTuple):
    """One method's row.

    network: its name in `--network`, if this project has it; knowledge: blind, named, or empty if
    unknown; parameters: millions; gmacs: for one image of 128 x 128; figures: PSNR (dB) and SSIM,
    or None, by degradation; mean: over all five, as published.
    """

    method: str
    network: str | None
    source: str
    knowledge: str
    note: str
    parameters: float | None
    gmacs: float | None
    figures: Mapping[str, tuple[float, float | None]]
    mean: tuple[float, float]


def _row(
    method, network, source, knowledge, note, parameters, gmacs, psnr, ssim, mean
) -> Published:
    ssim = ssim or [None] * len(psnr)
    figures = dict(zip(DEGRADATIONS, zip(psnr, ssim, strict=True), strict=True))
    return Published(method, network, source, knowledge, note, parameters, gmacs, figures, mean)


PUBLISHED = (
    _row(
        "AirNet",
        "airnet",
        TABLE_1,
        "blind",
        SHARED_SCENES,
        None,
        None,
        (27.94, 34.90, 33.15, 31.26, 28.00),
        (0.962, 0.967, 0.923, 0.888, 0.797),
        (31.05, 0.907),
    ),
    _row(
        "PromptIR",
        "promptir",
        OWN,
        "blind",
        f"{PROMPTIR}; {COUNTED}",
        35.6,
        43.2,
        (30.58, 36.37, 33.98, 31.31, 28.06),
        None,
        (32.06, 0.913),
    ),
    _row(
        "PromptIR",
        "promptir",
        TABLE_1,
        "blind",
        f"denoising not as in its own paper; {PROMPTIR}; {COUNTED}",
        35.6,
        43.2,
        (30.58, 36.37, 34.06, 31.44, 28.06),
        (0.974, 0.972, 0.936, 0.891, 0.799),
        (32.10, 0.914),
    ),
    _row(
        "AdaIR",
        None,
        TABLE_1,
        "blind",
        SHARED_SCENES,
        29.0,
        None,
        (31.06, 38.64, 34.12, 31.45, 28.19),
        (0.980, 0.983, 0.936, 0.892, 0.802),
        (32.69, 0.918),
    ),
    _row(
        "MoCE-IR",
        None,
        OWN,
        "blind",
        "Gaussian SSIM",
        25.0,
        None,
        (31.34, 38.57, 34.11, 31.45, 28.18),
        None,
        (32.73, 0.917),
    ),
    _row(
        "BioIR-L",
        None,
        OWN,
        "",
        "",
        15.9,
        None,
        (31.69, 38.63, 34.19, 31.54, 28.28),
        None,
        (32.87, 0.921),
    ),
    _row(
        "DFPIR",
        None,
        OWN,
        "named",
        "parameters without its 63 M of text encoder",
        31.0,
        None,
        (31.87, 38.65, 34.14, 31.47, 28.25),
        None,
        (32.88, 0.919),
    ),
    _row(
        "MIRAGE",
        None,
        OWN,
        "",
        "",
        10.0,
        None,
        (31.86, 38.94, 34.12, 31.46, 28.19),
        None,
        (32.91, 0.919),
    ),
    _row(
        "DACG-IR-S",
        None,
        OWN,
        "",
        "Gaussian SSIM",
        13.9,
        None,
        (31.82, 39.07, 34.21, 31.55, 28.29),
        None,
        (32.99, 0.919),
    ),
    _row(
        "BaryIR-PromptIR",
        None,
        OWN,
        "",
        "",
        None,
        None,
        (31.95, 39.36, 34.30, 31.61, 28.45),
        None,
        (33.13, 0.923),
    ),
    _row(
        "AM-PromptIR",
        "am_promptir",
        TABLE_1,
        "named",
        f"331 of the 500 haze test images are in its training list; {COUNTED}",
        64.8,
        36.2,
        (33.41, 38.32, 34.06, 31.44, 28.07),
        (0.984, 0.983, 0.936, 0.891, 0.801),
        (33.06, 0.919),
    ),
)


def is_published_set(data_set: str, degradation: str, images: int) -> bool:
    """Whether a data set, by its folder's name and number of images, is the one published on."""
    if degradation not in DEGRADATIONS:
        return False
    task = degradation.split("_")[0]
    name = "".join(character for character in data_set.lower() if character.isalnum())
    return name in FOLDERS[task] and images == IMAGES[task]

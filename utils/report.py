"""Tables, result files and comparison pictures; every figure says where it comes from."""

import csv
import io
import json
import platform
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from utils.evaluate import Score, mean_score
from utils.image_io import write_image, write_whole

PACKAGES = ("torch", "lightning", "numpy", "scikit-image", "pillow")
COMPARISONS = "compare"  # folder of comparisons inside a folder of restored images
GAP = 4  # pixels between the pictures of a comparison
CAPTION_HEIGHT = 26


class Figure(NamedTuple):
    """One cell of a table: the scores of one data set under one degradation."""

    data_set: str
    degradation: str
    scores: list[Score]


class Published(NamedTuple):
    """A figure from the paper's Table 1, and the data set it was measured on."""

    data_sets: frozenset[str]
    images: int
    psnr: float
    ssim: float


_BSD68 = frozenset({"bsd68", "cbsd68", "denoise"})  # a set may lie in the task's folder itself
_SOTS = frozenset({"sots", "outdoor", "sotsoutdoor", "dehaze", "dehazy"})
PUBLISHED_NAME = "AM-PromptIR, published (named, test scenes in its haze training)"
PUBLISHED = {  # protocol `paper`
    "denoise_15": Published(_BSD68, 68, 34.06, 0.936),
    "denoise_25": Published(_BSD68, 68, 31.44, 0.891),
    "denoise_50": Published(_BSD68, 68, 28.07, 0.801),
    "derain": Published(frozenset({"rain100l", "derain"}), 100, 38.32, 0.983),
    "dehaze": Published(
        frozenset({"sots", "outdoor", "sotsoutdoor", "dehaze", "dehazy"}), 500, 33.41, 0.984
    ),
}


def format_table(figures: Sequence[Figure], row_name: str, protocol: str) -> str:
    """A Markdown table: degraded input, restored, and the published row where it applies.

    The published row is shown under protocol `paper` only, and only for the data sets it was
    measured on (by their folder's name and their number of images).
    """
    headers = ["PSNR (dB) / SSIM"]
    degraded, restored, published = ["degraded input"], [row_name], [PUBLISHED_NAME]
    means = []
    for figure in figures:
        mean = mean_score(figure.scores)
        means.append(mean)
        headers.append(f"{figure.data_set} {figure.degradation} ({len(figure.scores)})")
        degraded.append(_cell(mean["degraded_psnr"], mean["degraded_ssim"]))
        restored.append(_cell(mean["psnr"], mean["ssim"]))
        known = _published_for(figure) if protocol == "paper" else None
        published.append(_cell(known.psnr, known.ssim) if known else "-")
    if len(figures) > 1:
        headers.append("mean")
        degraded.append(_cell(_mean(means, "degraded_psnr"), _mean(means, "degraded_ssim")))
        restored.append(_cell(_mean(means, "psnr"), _mean(means, "ssim")))
        complete = set(map(_published_for, figures)) == set(PUBLISHED.values())
        published.append("33.06/0.919" if complete and len(figures) == len(PUBLISHED) else "-")
    rows = [degraded, restored]
    if any(cell != "-" for cell in published[1:]):
        rows.append(published)
    return format_markdown(headers, rows)


def format_markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An aligned Markdown table."""
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = [headers, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def write_results(folder: Path, figures: Sequence[Figure], origin: Mapping[str, Any]) -> None:
    """`results.json` (means, and everything that identifies the run) and `scores.csv` (images)."""
    content = {
        **origin,
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
        },
        "commit": commit(),
        "results": [
            {
                "data_set": figure.data_set,
                "degradation": figure.degradation,
                "images": len(figure.scores),
                **mean_score(figure.scores),
            }
            for figure in figures
        ],
    }
    text = json.dumps(content, indent=2) + "\n"
    write_whole(folder / "results.json", lambda file: file.write(text.encode()))

    table = io.StringIO(newline="")
    writer = csv.writer(table)
    identity = [origin["protocol"], origin["knowledge"], origin["sha256"]]
    header = ["protocol", "knowledge", "sha256", "data_set", "degradation", *Score._fields]
    writer.writerow(header)
    for figure in figures:
        for score in figure.scores:
            writer.writerow([*identity, figure.data_set, figure.degradation, *score])
    write_whole(folder / "scores.csv", lambda file: file.write(table.getvalue().encode()))


def commit() -> str | None:
    """The commit of this checkout, with `-dirty` after local changes; None outside one."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(
            command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


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


def _published_for(figure: Figure) -> Published | None:
    known = PUBLISHED[figure.degradation]
    name = "".join(character for character in figure.data_set.lower() if character.isalnum())
    matches = name in known.data_sets and len(figure.scores) == known.images
    return known if matches else None


def _cell(psnr: float, ssim: float) -> str:
    return f"{psnr:.2f}/{ssim:.3f}"


def _mean(means: Sequence[Mapping[str, float]], field: str) -> float:
    return sum(mean[field] for mean in means) / len(means)

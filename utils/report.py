"""Results files: every figure with all that identifies it."""

import csv
import io
import json
import math
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from utils.evaluate import Score, mean_score
from utils.image_io import write_whole
from utils.statistics import interval_of_mean

RESULTS = "results.json"
SCORES = "scores.csv"  # of every image
PACKAGES = ("torch", "torchvision", "lightning", "numpy", "scikit-image", "pillow")
MEASURES = ("psnr", "ssim", "psnr_y")  # those of the restored image, which have an interval


class Figure(NamedTuple):
    """One cell of a table: the scores of one data set under one degradation."""

    data_set: str
    degradation: str
    scores: list[Score]


def summarise(figures: Sequence[Figure], origin: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a results file: means, 95 % intervals over images, and their origin.

    A figure is None where it was not measured, and where it is infinite (images without an error).
    """
    return {
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
                **{name: _finite(value) for name, value in mean_score(figure.scores).items()},
                "intervals": {
                    name: interval_of_mean([getattr(score, name) for score in figure.scores])
                    for name in MEASURES
                },
            }
            for figure in figures
        ],
    }


def write_results(folder: Path, figures: Sequence[Figure], content: Mapping[str, Any]) -> None:
    """`results.json` (what `summarise` made) and `scores.csv` (every image)."""
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    write_whole(folder / RESULTS, lambda file: file.write(text.encode()))

    table = io.StringIO(newline="")
    writer = csv.writer(table)
    identity = [content["protocol"], content["knowledge"], content["sha256"]]
    header = ["protocol", "knowledge", "sha256", "data_set", "degradation", *Score._fields]
    writer.writerow(header)
    for figure in figures:
        for score in figure.scores:
            writer.writerow([*identity, figure.data_set, figure.degradation, *score])
    write_whole(folder / SCORES, lambda file: file.write(table.getvalue().encode()))


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


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None

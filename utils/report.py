"""Results files: every figure with all that identifies it.

In memory a figure is a float, or None where it was not measured; it is infinite for images without
an error, which JSON has no number for: the file says "inf".
"""

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

from utils.errors import UserError
from utils.evaluate import Score, mean_score
from utils.files import write_whole
from utils.statistics import interval_of_mean

RESULTS = "results.json"
SCORES = "scores.csv"  # of every image
PACKAGES = ("torch", "torchvision", "lightning", "numpy", "scikit-image", "pillow")
MEASURES = ("psnr", "ssim", "psnr_y")  # those of the restored image, which have an interval
NUMBER = int | float
LARGEST = 2**63  # whole number; beyond it is no figure, and no float at last
# what is read from a results file, and from each of its `results`
ORIGIN_TYPES = {
    **dict.fromkeys(("method", "protocol", "knowledge"), str),
    "sha256": str | None,
    **dict.fromkeys(("parameters", "macs"), NUMBER | None),
    "results": list,
}
FIGURE_TYPES = {
    **dict.fromkeys(("data_set", "degradation"), str),
    "images": int,
    **dict.fromkeys(MEASURES, NUMBER),
    **{f"degraded_{name}": NUMBER | None for name in MEASURES},
    "intervals": dict,
}


class Figure(NamedTuple):
    """One cell of a table: the scores of one data set under one degradation."""

    data_set: str
    degradation: str
    scores: list[Score]


def summarise(figures: Sequence[Figure], origin: Mapping[str, Any]) -> dict[str, Any]:
    """The content of a results file: means, 95 % intervals over images, and their origin."""
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
                **{
                    name: None if math.isnan(value) else value
                    for name, value in mean_score(figure.scores).items()
                },
                "intervals": {
                    name: interval_of_mean([getattr(score, name) for score in figure.scores])
                    for name in MEASURES
                },
            }
            for figure in figures
        ],
    }


def write_results(folder: Path, figures: Sequence[Figure], content: Mapping[str, Any]) -> None:
    """`scores.csv` (every image) and `results.json` (what `summarise` made).

    `results.json` comes last: a test that has one is complete.
    """
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    identity = [content["protocol"], content["knowledge"], content["sha256"]]
    header = ["protocol", "knowledge", "sha256", "data_set", "degradation", *Score._fields]
    writer.writerow(header)
    for figure in figures:
        for score in figure.scores:
            writer.writerow([*identity, figure.data_set, figure.degradation, *score])
    rows = table.getvalue().encode(errors="backslashreplace")  # of names that are not UTF-8
    write_whole(folder / SCORES, lambda file: file.write(rows))

    results = [
        {name: "inf" if value == math.inf else value for name, value in figure.items()}
        for figure in content["results"]
    ]
    text = json.dumps({**content, "results": results}, indent=2, allow_nan=False) + "\n"
    write_whole(folder / RESULTS, lambda file: file.write(text.encode()))


def read_results(path: Path) -> dict[str, Any]:
    """What `summarise` made and `write_results` wrote, and the file's path as `file`.

    Raises:
        UserError: it is not such a file.
    """
    try:
        content = json.loads(path.read_text(), parse_constant=_refuse)
    except (ValueError, OSError, RecursionError) as error:
        raise UserError(
            f"{path}: cannot be read as JSON ({error}); give a {RESULTS} of test.py or "
            "scripts.score, or write it anew"
        ) from error
    _check(path, content, ORIGIN_TYPES)
    if not content["results"]:
        raise _foreign(path, "no figure in it")
    if not isinstance(content.get("run"), dict | None):
        raise _foreign(path, f"its 'run' is {content['run']!r:.40}")
    for figure in content["results"]:
        if isinstance(figure, dict):
            figure |= {name: math.inf for name, value in figure.items() if value == "inf"}
        _check(path, figure, FIGURE_TYPES)
        interval = figure["intervals"].get("psnr")
        ends = interval if isinstance(interval, list) else [interval]
        if interval is not None and [isinstance(end, NUMBER) for end in ends] != [True, True]:
            raise _foreign(path, f"an interval is {interval!r:.40}")
    return {**content, "file": str(path)}


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


def _check(path: Path, content: Any, types: Mapping[str, Any]) -> None:
    for key, kind in types.items():
        if not isinstance(content, dict) or key not in content:
            raise _foreign(path, f"no {key!r} in it")
        value = content[key]
        huge = isinstance(value, int) and abs(value) > LARGEST
        if not isinstance(value, kind) or isinstance(value, bool) or huge:
            raise _foreign(path, f"its {key!r} is {'huge' if huge else format(repr(value), '.40')}")


def _foreign(path: Path, found: str) -> UserError:
    return UserError(
        f"{path}: {found}; expected what test.py or scripts.score of this version writes; "
        "write it anew"
    )


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no figure")

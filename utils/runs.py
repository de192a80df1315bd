"""Figures of several runs of each network: means over seeds, and paired differences."""

import csv
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.errors import UserError
from utils.files import write_whole
from utils.report import SCORES
from utils.rows import SAME_FIGURE
from utils.statistics import SMALLEST_SAMPLE, interval_of_mean
from utils.tables import format_markdown

DONE = "tested.txt"  # names the scores of a test that came to its end


class Scores(NamedTuple):
    """PSNR (dB) and SSIM of every run and image of one column, each (seeds, images).

    names: of the images, sorted; degraded: PSNR of the degraded images.
    """

    names: list[str]
    degraded: np.ndarray
    psnr: np.ndarray
    ssim: np.ndarray


FIGURES = ("degraded_psnr", "psnr", "ssim")  # of an image
Columns = Mapping[str, Scores]  # by data set and degradation


def read_learning_curve(folder: Path) -> list[tuple[int, float]]:
    """(step, validation PSNR) of a run, which may have been resumed."""
    points = {}
    paths = folder.glob("logs/*/metrics.csv")
    for path in sorted(paths, key=lambda path: _version(path.parent.name)):
        try:
            with path.open(newline="") as file:
                for row in csv.DictReader(file):
                    if row.get("val/psnr"):
                        points[int(row["step"]) + 1] = float(row["val/psnr"])
        except (ValueError, TypeError, KeyError, csv.Error) as error:
            raise UserError(
                f"{path}: cannot be read ({error}); remove it to go on without that curve, or "
                f"{folder} to train that run anew"
            ) from error
    return sorted(points.items())


def _read_table(path: Path, fields: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file that has such fields, one row at least.

    Raises:
        UserError: it is another file, or damaged.
    """
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        if not rows or any(row.get(field) is None for row in rows for field in fields):
            raise ValueError(f"expected rows with {', '.join(fields)}")
    except (OSError, ValueError, csv.Error) as error:
        raise _damaged(path, error) from error
    return rows


def _damaged(path: Path, error: Exception) -> UserError:
    return UserError(
        f"{path}: cannot be read ({error}); remove its folder and give the same command again"
    )


def _version(name: str) -> tuple[int, str]:
    """What sorts the folders of a run's sessions: version_2 is before version_10."""
    number = name.rpartition("_")[2]
    return (int(number) if number.isdecimal() else -1, name)


def read_scores(folders: Sequence[Path]) -> dict[str, Scores]:
    """The scores of one contestant by column, from the folder of each seed's test.

    Raises:
        UserError: the runs were not tested on the same images.
    """
    runs = [_read_columns(folder) for folder in folders]
    for run, folder in zip(runs, folders, strict=True):
        check_same_images(runs[0], run, str(folder))
    return {
        title: first._replace(
            psnr=np.concatenate([run[title].psnr for run in runs]),
            ssim=np.concatenate([run[title].ssim for run in runs]),
        )
        for title, first in runs[0].items()
    }


def check_same_images(reference: Columns, other: Columns, what: str) -> None:
    """Raise `UserError` if `what` was not tested on the images of the reference, column by column.

    Images are the same if their names and the PSNR of the degraded ones are.
    """
    for title in sorted(reference.keys() | other.keys()):
        first, second = reference.get(title), other.get(title)
        same = first and second and first.names == second.names
        if not same or not np.allclose(first.degraded, second.degraded, rtol=0, atol=SAME_FIGURE):
            raise UserError(
                f"{what}: {title} was not tested on the images that the first was; remove its "
                "results (the folders beside last.ckpt) and give the same command again"
            )


def note_tested(folder: Path) -> None:
    """Say in `DONE` that a test which wrote below `folder` came to its end."""
    names = "\n".join(str(path.relative_to(folder)) for path in sorted(folder.rglob(SCORES)))
    write_whole(folder / DONE, lambda file: file.write(os.fsencode(names)))


def tested_scores(folder: Path) -> list[Path]:
    """The files of scores that `DONE` names; none if the test did not come to its end."""
    done = folder / DONE
    names = os.fsdecode(done.read_bytes()).splitlines() if done.is_file() else []
    return [folder / name for name in names]


def _read_columns(folder: Path) -> Columns:
    """The scores of one test, (1, images) each, by column."""
    images: dict[str, dict[str, tuple[float, ...]]] = {}
    for path in tested_scores(folder):
        for row in _read_table(path, ("data_set", "degradation", "name", *FIGURES)):
            column = images.setdefault(f"{row['data_set']} {row['degradation']}", {})
            try:
                column[row["name"]] = tuple(float(row[field]) for field in FIGURES)
            except ValueError as error:
                raise _damaged(path, error) from error
    columns = {}
    for title, by_name in images.items():
        names = sorted(by_name)
        degraded, psnr, ssim = np.array([by_name[name] for name in names]).T
        columns[title] = Scores(names, degraded, psnr[None], ssim[None])
    return columns


def format_scores(scores: Mapping[str, Columns]) -> str:
    """A table of the figures themselves."""
    columns = list(next(iter(scores.values())))
    rows = []
    for title, found in scores.items():
        cells = []
        for column in columns:
            psnr = found[column].psnr.mean(axis=0)
            interval = interval_of_mean(psnr)
            half = f" ±{(interval[1] - interval[0]) / 2:.2f}" if interval else ""
            cells.append(f"{psnr.mean():.2f}{half}/{found[column].ssim.mean():.3f}")
        mean = np.mean([found[column].psnr.mean() for column in columns])
        ssim = np.mean([found[column].ssim.mean() for column in columns])
        rows.append((title, *cells, f"{mean:.2f}/{ssim:.3f}"))
    images = [next(iter(scores.values()))[column].psnr.shape[1] for column in columns]
    headers = [f"{column} ({count})" for column, count in zip(columns, images, strict=True)]
    return format_markdown(("", *headers, "mean"), rows)


def format_differences(scores: Mapping[str, Columns]) -> str:
    """A table of the differences in PSNR to the first row."""
    titles = list(scores)
    reference = scores[titles[0]]
    large = [
        title for title, column in reference.items() if column.psnr.shape[1] >= SMALLEST_SAMPLE
    ]
    rows = []
    for title in titles[1:]:
        check_same_images(reference, scores[title], title)
        gains = {
            column: scores[title][column].psnr - reference[column].psnr for column in reference
        }
        cells = []
        for gain in gains.values():
            interval = interval_of_mean(gain.mean(axis=0))
            shown = f" [{interval[0]:+.2f}, {interval[1]:+.2f}]" if interval else ""
            cells.append(f"{gain.mean():+.2f}{shown}")
        if large:
            by_seed = np.mean([gains[column].mean(axis=1) for column in large], axis=0)
            each = ", ".join(f"{value:+.2f}" for value in by_seed)
            cells.append(f"{by_seed.mean():+.2f} ({each})")
        rows.append((title, *cells))
    return format_markdown(("", *reference, *(["mean"] if large else [])), rows)

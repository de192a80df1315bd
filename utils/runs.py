"""Figures of several runs of each network: means over seeds, and paired differences."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from utils.statistics import SMALLEST_SAMPLE, interval_of_mean
from utils.tables import format_markdown


class Scores(NamedTuple):
    """PSNR (dB) and SSIM of every run and image of one column, each (seeds, images)."""

    psnr: np.ndarray
    ssim: np.ndarray


def read_learning_curve(folder: Path) -> list[tuple[int, float]]:
    """(step, validation PSNR) of a run, which may have been resumed."""
    points = {}
    for file in folder.glob("logs/*/metrics.csv"):
        for row in csv.DictReader(file.open()):
            if row.get("val/psnr"):
                points[int(row["step"]) + 1] = float(row["val/psnr"])
    return sorted(points.items())


def read_scores(folders: Sequence[Path]) -> dict[str, Scores]:
    """The scores of one contestant by column, from the folder of each seed's test."""
    columns: dict[str, list[tuple[list[float], list[float]]]] = {}
    for folder in folders:
        found: dict[str, tuple[list[float], list[float]]] = {}
        for row in csv.DictReader((folder / "scores.csv").open()):
            column = found.setdefault(f"{row['data_set']} {row['degradation']}", ([], []))
            column[0].append(float(row["psnr"]))
            column[1].append(float(row["ssim"]))
        for title, values in found.items():
            columns.setdefault(title, []).append(values)
    return {title: Scores(*np.array(runs).transpose(1, 0, 2)) for title, runs in columns.items()}


def format_scores(scores: Mapping[str, Mapping[str, Scores]]) -> str:
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


def format_differences(scores: Mapping[str, Mapping[str, Scores]]) -> str:
    """A table of the differences in PSNR to the first row."""
    titles = list(scores)
    reference = scores[titles[0]]
    large = [
        title for title, column in reference.items() if column.psnr.shape[1] >= SMALLEST_SAMPLE
    ]
    rows = []
    for title in titles[1:]:
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

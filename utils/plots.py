"""Plots: PSNR against cost, and learning curves."""

import io
import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from utils.files import write_whole
from utils.tables import Table

COSTS = {"parameters": "parameters (millions)", "gmacs": "GMACs for one image of 128 x 128"}
NUMBER_DISTANCE = 14  # pixels from a point to its number
LINE_LENGTH = 150  # characters across the figure


def plot_cost(table: Table, path: Path) -> bool:
    """PSNR against parameters and against multiply-accumulates; False if there is no point.

    PSNR is the mean of all columns. Filled points are measured, hollow ones as published.
    """
    rows = []
    for row in table.rows:
        cell = row.cells.get(table.columns[0]) if len(table.columns) == 1 else row.mean
        if cell and math.isfinite(cell.psnr) and any(getattr(row, cost) for cost in COSTS):
            rows.append((row, cell.psnr))
    if not rows:
        return False

    names = [f"{number}  {table.label(row)}" for number, (row, _) in enumerate(rows, start=1)]
    names_a_line = max(1, min(3, LINE_LENGTH // max(map(len, names))))
    height = 5 + 0.2 * math.ceil(len(rows) / names_a_line)
    figure = Figure(figsize=(12, height), layout="constrained")
    drawn = []
    for axes, (cost, title) in zip(figure.subplots(1, 2, sharey=True), COSTS.items(), strict=True):
        points = {
            number: (getattr(row, cost), psnr)
            for number, (row, psnr) in enumerate(rows, start=1)
            if getattr(row, cost)
        }
        for number, point in points.items():
            face = "none" if rows[number - 1][0].published else "C0"
            axes.scatter(*point, s=40, facecolors=face, edgecolors="C0", zorder=3)
        axes.set_xlim(0, 1.1 * max((size for size, _ in points.values()), default=1))
        axes.margins(y=0.1)
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
        if not points:
            axes.text(0.5, 0.5, "not known", ha="center", transform=axes.transAxes)
        drawn.append((axes, points))

    figure.axes[0].set_ylabel("PSNR (dB)")
    columns = ", ".join(column.title for column in table.columns)
    mean = "" if len(table.columns) == 1 else "mean of "
    title = _plain(textwrap.fill(f"PSNR: {mean}{columns}", LINE_LENGTH))
    key = "filled: measured, hollow: published, [1]: note under the table"
    figure.suptitle(f"{title}\nprotocol {table.protocol}; {key}", fontsize=10)
    figure.legend(
        [Line2D([], [], linestyle="")] * len(rows),
        list(map(_plain, names)),
        loc="outside lower center",
        ncols=names_a_line,
        fontsize=8,
        handlelength=0,
    )
    figure.draw_without_rendering()  # lays everything out
    figure.set_layout_engine("none")
    for axes, points in drawn:
        _number(axes, points)
    _save(figure, path)
    return True


def plot_learning_curves(
    curves: Mapping[str, Sequence[Sequence[tuple[int, float]]]], path: Path
) -> None:
    """Validation PSNR by step: for each method one line a run, of (step, dB) points."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for number, (name, runs) in enumerate(curves.items()):
        for index, run in enumerate(filter(None, runs)):  # a run without validation has no curve
            steps, values = zip(*run, strict=True)
            label = name if index == 0 else None
            axes.plot(steps, values, f"C{number}", label=label, linewidth=1.2, marker=".")
    axes.set_xlabel("optimizer steps; a line for each run")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylabel("validation PSNR, blind (dB)")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "no run was validated", ha="center", transform=axes.transAxes)
    _save(figure, path)


def _number(axes: Axes, points: Mapping[int, tuple[float, float]]) -> None:
    """Write each point's number beside it, where other points and numbers are farthest."""
    places = {number: axes.transData.transform(point) for number, point in points.items()}
    taken = list(places.values())
    turns = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    offsets = NUMBER_DISTANCE * np.stack([np.cos(turns), np.sin(turns)], axis=1)
    for number, place in places.items():
        gaps = np.linalg.norm((place + offsets)[:, None] - np.stack(taken), axis=2).min(axis=1)
        offset = offsets[gaps.round().argmax()]
        taken.append(place + offset)
        axes.annotate(
            str(number),
            points[number],
            offset,
            textcoords="offset pixels",
            ha="center",
            va="center",
            fontsize=8,
        )


def _plain(text: str) -> str:
    return text.replace("$", r"\$")  # Matplotlib would read formulas


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_whole(path, lambda file: file.write(picture.getvalue()))

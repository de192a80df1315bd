"""Plots: PSNR against cost, and learning curves."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from utils.image_io import write_whole
from utils.tables import Table

COSTS = {"parameters": "parameters (millions)", "gmacs": "GMACs for one image of 128 x 128"}


def plot_cost(table: Table, path: Path) -> bool:
    """Mean PSNR against parameters and against multiply-accumulates; False if there is no point.

    Filled points are measured, hollow ones as published.
    """

    def points(cost: str) -> list:
        found = []
        for row in table.rows:
            cell = row.cells.get(table.columns[0]) if len(table.columns) == 1 else row.mean
            size = getattr(row, cost)
            if size and cell and math.isfinite(cell.psnr):
                found.append((size, cell.psnr, row))
        return found

    drawn = {cost: points(cost) for cost in COSTS}
    if not any(drawn.values()):
        return False
    figure = Figure(figsize=(12, 5), layout="constrained")
    for axes, (cost, title) in zip(figure.subplots(1, 2, sharey=True), COSTS.items(), strict=True):
        largest = max((size for size, _, _ in drawn[cost]), default=1)
        for number, (size, psnr, row) in enumerate(sorted(drawn[cost], key=lambda point: point[1])):
            face = "none" if row.published else "C0"
            axes.scatter(size, psnr, s=50, facecolors=face, edgecolors="C0", zorder=3)
            right = size > 0.7 * largest  # the name stands on the other side
            axes.annotate(
                table.label(row).replace(", published", ""),
                (size, psnr),
                xytext=(-7 if right else 7, 3 if number % 2 else -8),
                textcoords="offset points",
                horizontalalignment="right" if right else "left",
                fontsize=8,
            )
        axes.set_xlim(0, 1.1 * largest)
        axes.margins(y=0.1)
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
        if not drawn[cost]:
            axes.text(0.5, 0.5, "not known", ha="center", transform=axes.transAxes)
    figure.axes[0].set_ylabel("PSNR (dB), mean of the columns")
    figure.suptitle(
        f"protocol {table.protocol}; filled: measured, hollow: published [note of the table]"
    )
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
    axes.set_xlabel("optimizer steps")
    axes.set_ylabel("validation PSNR, blind (dB)")
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8)
    else:
        axes.text(0.5, 0.5, "no run was validated", ha="center", transform=axes.transAxes)
    _save(figure, path)


def _save(figure: Figure, path: Path) -> None:
    picture = io.BytesIO()
    FigureCanvasAgg(figure).print_png(picture)
    write_whole(path, lambda file: file.write(picture.getvalue()))

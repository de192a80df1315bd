"""Rows of a table, made of results files and of published figures."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.published import Published, is_published_set

SAME_FIGURE = 1e-3  # dB between two figures of the same images, at most


class Column(NamedTuple):
    """A data set under one degradation."""

    data_set: str
    degradation: str
    images: int

    @property
    def title(self) -> str:
        return f"{self.data_set} {self.degradation} ({self.images})"


class Cell(NamedTuple):
    """Figures of one column, or the mean of several; interval: 95 %, of the PSNR."""

    psnr: float
    ssim: float | None = None
    psnr_y: float | None = None
    interval: tuple[float, float] | None = None


class Row(NamedTuple):
    """One method; parameters in millions, GMACs for one image of 128 x 128.

    knowledge: blind, named, or what else is known of it; note: where from, and what to mind.
    """

    name: str
    cells: Mapping[Column, Cell]
    mean: Cell | None = None
    parameters: float | None = None
    gmacs: float | None = None
    published: bool = False
    knowledge: str = ""
    note: str = ""


def measured_rows(results: Sequence[Mapping[str, Any]]) -> list[Row]:
    """One row for each method, without means.

    Results of one method, knowledge and checkpoint share a row where they do not contradict each
    other; otherwise rows of one name are told apart by checkpoint, or else by file.
    """
    alike: dict[tuple, list[Mapping[str, Any]]] = {}
    for content in results:
        key = tuple(content[field] for field in ("method", "knowledge", "sha256"))
        alike.setdefault(key, []).append(content)
    merged = [part for group in alike.values() for part in _merge(group)]
    methods = Counter(part[0]["method"] for part in merged)
    checkpoints = Counter((part[0]["method"], part[0]["sha256"]) for part in merged)
    rows = []
    for part in merged:
        method, sha256 = part[0]["method"], part[0]["sha256"]
        if methods[method] > 1:
            told_by_sha256 = sha256 and checkpoints[method, sha256] == 1
            method += f" [{sha256[:8] if told_by_sha256 else part[0].get('file')}]"
        rows.append(_measured_row(method, part))
    return rows


def degraded_cells(results: Sequence[Mapping[str, Any]]) -> dict[Column, Cell]:
    """What is known of the degraded images of each column.

    Raises:
        UserError: results do not agree on one.
    """
    cells: dict[Column, Cell] = {}
    sources: dict[Column, str] = {}
    for content in results:
        source = content.get("file", content["method"])
        for figure in content["results"]:
            if figure["degraded_psnr"] is None:
                continue
            column = _column(figure)
            cell = Cell(*(figure[f"degraded_{name}"] for name in ("psnr", "ssim", "psnr_y")))
            other = cells.setdefault(column, cell)
            if abs(other.psnr - cell.psnr) > SAME_FIGURE:
                raise UserError(
                    f"{column.title}: the degraded input has {cell.psnr:.3f} dB in {source}, but "
                    f"{other.psnr:.3f} in {sources[column]}; test all on the same images and with "
                    "the same seed"
                )
            sources.setdefault(column, source)
    return cells


def mean_of_columns(row: Row, columns: Sequence[Column]) -> Cell | None:
    """The mean over all columns; None if there is a single one, or the row lacks one."""
    if len(columns) < 2 or any(column not in row.cells for column in columns):
        return None
    figures = zip(*(row.cells[column][:3] for column in columns), strict=True)
    return Cell(*(None if None in each else sum(each) / len(columns) for each in figures))


def published_row(entry: Published, columns: Sequence[Column]) -> Row | None:
    """The row of published figures; None if no column is a data set they are of."""
    cells = {
        column: Cell(*entry.figures[column.degradation])
        for column in columns
        if is_published_set(*column)
    }
    if not cells:
        return None
    same = sorted(column.degradation for column in columns) == sorted(entry.figures)
    complete = same and len(cells) == len(columns)
    return Row(
        entry.method,
        cells,
        Cell(*entry.mean) if complete else None,
        entry.parameters,
        entry.gmacs,
        published=True,
        knowledge=entry.knowledge,
        note="; ".join(filter(None, (entry.source, entry.knowledge, entry.note))),
    )


def _merge(results: list[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """All results in one list if none contradicts another, else each in its own.

    Neither the figures of a column nor parameters or multiply-accumulates, if known, may differ.
    """
    for key in ("parameters", "macs"):
        if len({content[key] for content in results if content[key]}) > 1:
            return [[each] for each in results]
    merged: dict[Column, Cell] = {}
    for content in results:
        for column, cell in _cells(content).items():
            if abs(merged.setdefault(column, cell).psnr - cell.psnr) > SAME_FIGURE:
                return [[each] for each in results]
    return [results]


def _measured_row(name: str, results: Sequence[Mapping[str, Any]]) -> Row:
    def first(key: str) -> float:
        return next((content[key] for content in results if content[key]), 0)

    notes = dict.fromkeys(note for content in results for note in _notes(content))
    return Row(
        name,
        {column: cell for content in results for column, cell in _cells(content).items()},
        parameters=first("parameters") / 1e6 or None,
        gmacs=first("macs") / 1e9 or None,
        knowledge=results[0]["knowledge"],
        note="; ".join(notes),
    )


def _notes(content: Mapping[str, Any]) -> Iterator[str]:
    if (content.get("run") or {}).get("exclude_test_scenes") is False:
        yield "trained without leaving out the scenes of published test sets"
    if content.get("tile") == "auto":
        yield "restored in tiles where memory was short, so another machine's figures may differ"
    if content.get("scored") and content["protocol"] == "paper":
        yield "scored from 8-bit pictures, the protocol scores before rounding"
    if content.get("not_restored"):
        data_set = content["results"][0]["data_set"]
        yield f"{content['not_restored']} more images of {data_set} have no restored picture"


def _cells(content: Mapping[str, Any]) -> dict[Column, Cell]:
    return {
        _column(figure): Cell(
            figure["psnr"], figure["ssim"], figure["psnr_y"], figure["intervals"].get("psnr")
        )
        for figure in content["results"]
    }


def _column(figure: Mapping[str, Any]) -> Column:
    return Column(*(figure[field] for field in Column._fields))

"""Tables of results files, with published rows marked as such; protocols never share one."""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from utils.errors import UserError
from utils.published import Published, is_published_set

SAME_INPUT = 1e-3  # dB between the degraded inputs of two results, at most
NOTHING = "-"
LATEX_ESCAPES = str.maketrans({char: f"\\{char}" for char in "&%$#_{}"})


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
    """One method; parameters in millions, GMACs for one image of 128 x 128; note: where from."""

    name: str
    cells: Mapping[Column, Cell]
    mean: Cell | None = None
    parameters: float | None = None
    gmacs: float | None = None
    published: bool = False
    note: str = ""


class Table(NamedTuple):
    """Rows of one protocol: the degraded input, measured methods, published ones."""

    protocol: str
    columns: list[Column]
    rows: list[Row]

    def to_markdown(self) -> str:
        """The table, what its cells hold, and a note on each published row."""
        lines = [self._line(row) for row in self.rows]
        return "\n".join([format_markdown(self._headers, lines), "", *self._remarks])

    def to_latex(self) -> str:
        """The same as a `tabular` for booktabs, with the remarks as comments."""
        lines = [
            *(f"% {remark}" for remark in self._remarks),
            f"\\begin{{tabular}}{{l{'c' * (len(self._headers) - 1)}}}",
            "\\toprule",
            " & ".join(map(_escape, self._headers)) + r" \\",
            "\\midrule",
        ]
        was_published = False
        for row in self.rows:
            if row.published and not was_published:
                lines.append("\\midrule")
            was_published = row.published
            lines.append(" & ".join(map(_escape, self._line(row))) + r" \\")
        return "\n".join([*lines, "\\bottomrule", "\\end{tabular}"])

    def to_csv(self) -> str:
        """One line for each method and column, unrounded; empty where nothing is known."""
        text = io.StringIO(newline="")
        writer = csv.writer(text)
        fields = ("psnr", "psnr_low", "psnr_high", "ssim", "psnr_y")
        identity = ("method", "published", "parameters_m", "gmacs", "protocol")
        writer.writerow([*identity, *Column._fields, *fields])
        for row in self.rows:
            named = [row.name, int(row.published), row.parameters, row.gmacs, self.protocol]
            cells = [(column, row.cells[column]) for column in self.columns if column in row.cells]
            if row.mean:
                cells.append((Column("mean", "", None), row.mean))
            for column, cell in cells:
                low, high = cell.interval or (None, None)
                writer.writerow([*named, *column, cell.psnr, low, high, cell.ssim, cell.psnr_y])
        return text.getvalue()

    @property
    def notes(self) -> list[str]:
        """The notes on published rows; the first has the number 1."""
        return list(dict.fromkeys(row.note for row in self.rows if row.note))

    def label(self, row: Row) -> str:
        """A row's name, marked if its figures are as published."""
        return f"{row.name}, published [{self.notes.index(row.note) + 1}]" if row.note else row.name

    @property
    def _headers(self) -> list[str]:
        headers = ["method", "M", "GMACs", *(column.title for column in self.columns)]
        return [*headers, "mean"] if self._has_mean else headers

    @property
    def _remarks(self) -> list[str]:
        cell = "PSNR (dB) ±half of its 95 % interval over images/SSIM"
        cell += "/PSNR-Y" if self.protocol == "clean" else ""
        cost = "M: million parameters; GMACs: of one image of 128 x 128"
        notes = [f"[{number}] {note}" for number, note in enumerate(self.notes, start=1)]
        return [f"{cell}; {cost}", *notes]

    @property
    def _has_mean(self) -> bool:
        return any(row.mean for row in self.rows)

    def _line(self, row: Row) -> list[str]:
        costs = [f"{cost:.2f}" if cost else NOTHING for cost in (row.parameters, row.gmacs)]
        cells = [row.cells.get(column) for column in self.columns]
        if self._has_mean:
            cells.append(row.mean)
        cells = [self._format(cell) if cell else NOTHING for cell in cells]
        return [self.label(row), *costs, *cells]

    def _format(self, cell: Cell) -> str:
        parts = [f"{cell.psnr:.2f}"]
        if cell.interval:
            low, high = cell.interval
            parts[0] += f" ±{(high - low) / 2:.2f}"
        parts.append(NOTHING if cell.ssim is None else f"{cell.ssim:.3f}")
        if self.protocol == "clean":
            parts.append(NOTHING if cell.psnr_y is None else f"{cell.psnr_y:.2f}")
        return "/".join(parts)


def make_table(results: Sequence[Mapping[str, Any]], published: Sequence[Published]) -> Table:
    """A table of the contents of results files (`utils.report.summarise`).

    Args:
        published: rows to set beside them, under protocol `paper` and where the data set is the
            published one.

    Raises:
        UserError: the protocols, or the degraded inputs of one column, are not the same.
    """
    protocols = sorted({content["protocol"] for content in results})
    if len(protocols) > 1:
        raise UserError(
            f"results of the protocols {' and '.join(protocols)} do not share a table; "
            "give those of one protocol"
        )
    degraded: dict[Column, Cell] = {}
    rows = []
    repeated = Counter(content["method"] for content in results)
    for content in results:
        cells = {}
        for figure in content["results"]:
            column = Column(*(figure[field] for field in Column._fields))
            cells[column] = _cell(figure, "", figure["intervals"]["psnr"])
            if figure["degraded_psnr"] is not None:
                before = degraded.setdefault(column, _cell(figure, "degraded_"))
                if abs(before.psnr - figure["degraded_psnr"]) > SAME_INPUT:
                    raise UserError(
                        f"{column.title}: the degraded input of {content['method']} has "
                        f"{figure['degraded_psnr']:.3f} dB, that of another result "
                        f"{before.psnr:.3f}; test all on the same images and with the same seed"
                    )
        name = content["method"]
        if repeated[name] > 1:
            name += (
                f" [{content['sha256'][:8]}]" if content["sha256"] else f" [{content['origin']}]"
            )
        rows.append(
            Row(
                name,
                cells,
                parameters=content["parameters"] and content["parameters"] / 1e6,
                gmacs=content["macs"] and content["macs"] / 1e9,
            )
        )
    columns = list(dict.fromkeys(column for row in rows for column in row.cells))
    rows = [Row("degraded input", degraded), *rows]
    rows = [row._replace(mean=_mean(row, columns)) for row in rows]
    if protocols == ["paper"]:
        rows += filter(None, (_published_row(entry, columns) for entry in published))
    return Table(protocols[0], columns, rows)


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


def _cell(figure: Mapping[str, Any], prefix: str, interval: Sequence[float] | None = None) -> Cell:
    psnr, psnr_y = (
        float("inf") if figure[prefix + name] is None else figure[prefix + name]
        for name in ("psnr", "psnr_y")
    )
    return Cell(psnr, figure[prefix + "ssim"], psnr_y, interval and tuple(interval))


def _mean(row: Row, columns: Sequence[Column]) -> Cell | None:
    if len(columns) < 2 or any(column not in row.cells for column in columns):
        return None
    fields = ("psnr", "ssim", "psnr_y")
    sums = (sum(getattr(row.cells[column], field) for column in columns) for field in fields)
    return Cell(*(total / len(columns) for total in sums))


def _published_row(entry: Published, columns: Sequence[Column]) -> Row | None:
    cells = {
        column: Cell(*entry.figures[column.degradation])
        for column in columns
        if is_published_set(*column)
    }
    if not cells:
        return None
    complete = len(cells) == len(columns) == len(entry.figures)
    return Row(
        entry.method,
        cells,
        Cell(*entry.mean) if complete else None,
        entry.parameters,
        entry.gmacs,
        published=True,
        note="; ".join(filter(None, (entry.source, entry.note))),
    )


def _escape(text: str) -> str:
    return text.translate(LATEX_ESCAPES).replace("±", "$\\pm$")

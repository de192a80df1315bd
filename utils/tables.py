"""Tables in every form, with published rows marked as such; protocols never share one."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from utils.published import Published
from utils.rows import (
    Cell,
    Column,
    Row,
    degraded_cells,
    mean_of_columns,
    measured_rows,
    published_row,
)

NOTHING = "-"
LATEX_ESCAPES = str.maketrans(
    {
        **{char: f"\\{char}" for char in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "^": r"\textasciicircum{}",
        "~": r"\textasciitilde{}",
        "±": r"$\pm$",
    }
)


class Table(NamedTuple):
    """Rows of one protocol: the degraded input, measured methods, published ones."""

    protocol: str
    columns: list[Column]
    rows: list[Row]

    def to_markdown(self) -> str:
        """The table, what its cells hold, and the notes on its rows."""
        lines = [self._line(row) for row in self.rows]
        return "\n".join([format_markdown(self._headers, lines), "", *self._remarks])

    def to_latex(self) -> str:
        """The same as a `tabular` for booktabs, with protocol and remarks as comments."""
        lines = [
            f"% protocol {self.protocol}",
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
        identity = ("method", "published", "knowledge", "parameters_m", "gmacs", "protocol")
        writer.writerow([*identity, *Column._fields, *fields, "note"])
        for row in self.rows:
            named = [row.name, int(row.published), row.knowledge]
            named += [row.parameters, row.gmacs, self.protocol]
            cells = [(column, row.cells[column]) for column in self.columns if column in row.cells]
            if row.mean:
                cells.append((Column("mean", "", None), row.mean))
            for column, cell in cells:
                low, high = cell.interval or (None, None)
                figures = [cell.psnr, low, high, cell.ssim, cell.psnr_y]
                writer.writerow([*named, *column, *figures, row.note])
        return text.getvalue()

    @property
    def notes(self) -> list[str]:
        """The notes on rows; the first has the number 1."""
        return list(dict.fromkeys(row.note for row in self.rows if row.note))

    def label(self, row: Row) -> str:
        """A row's name, marked if its figures are as published, with the number of its note."""
        name = f"{row.name}, published" if row.published else row.name
        return f"{name} [{self.notes.index(row.note) + 1}]" if row.note else name

    @property
    def _headers(self) -> list[str]:
        headers = ["method", "M", "GMACs", *(column.title for column in self.columns)]
        return [*headers, "mean"] if self._has_mean else headers

    @property
    def _remarks(self) -> list[str]:
        cell = "PSNR (dB)"
        if any(cell.interval for row in self.rows for cell in row.cells.values()):
            cell += " ±half of its 95 % interval over images"
        cell += "/SSIM/PSNR-Y" if self.protocol == "clean" else "/SSIM"
        cost = "M: million parameters; GMACs: of one image of 128 x 128"
        notes = [f"[{number}] {note}" for number, note in enumerate(self.notes, start=1)]
        return [" ".join(remark.split()) for remark in (f"{cell}; {cost}", *notes)]

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


def make_table(
    results: Sequence[Mapping[str, Any]],
    published: Sequence[Published],
    order: Sequence[str] = (),
) -> Table:
    """A table of the contents of results files (`utils.report`), all of one protocol.

    Args:
        published: rows to set beside them, under protocol `paper` and where the data set is the
            published one.
        order: of degradations, by which columns are put; others come last, in their own.

    Raises:
        UserError: the degraded inputs of one column are not the same.
    """
    protocols = {content["protocol"] for content in results}
    assert len(protocols) == 1, f"a table has one protocol, not {sorted(protocols)}"
    [protocol] = protocols
    rows = measured_rows(results)
    columns = list(dict.fromkeys(column for row in rows for column in row.cells))
    places = {degradation: place for place, degradation in enumerate(order)}
    columns.sort(key=lambda column: places.get(column.degradation, len(places)))
    rows = [row._replace(mean=mean_of_columns(row, columns)) for row in rows]
    if protocol == "paper":
        rows += filter(None, (published_row(entry, columns) for entry in published))
    degraded = degraded_cells(results)
    if degraded:
        before = Row("degraded input", degraded)
        if any(row.mean for row in rows):  # alone it would be compared with nothing
            before = before._replace(mean=mean_of_columns(before, columns))
        rows.insert(0, before)
    return Table(protocol, columns, rows)


def format_markdown(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An aligned Markdown table."""
    headers, *rows = (
        [" ".join(cell.split()).replace("|", "\\|") for cell in line] for line in (headers, *rows)
    )
    widths = [max(map(len, column)) for column in zip(headers, *rows, strict=True)]
    lines = [headers, ["-" * width for width in widths], *rows]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def _escape(text: str) -> str:
    return " ".join(text.split()).translate(LATEX_ESCAPES)

"""A table from results files: python -m scripts.table output other/results.json --output tables

Takes files, or folders that hold them at any depth (test.py and `scripts.score` write them), and
makes one table a protocol. Prints it as Markdown and writes table_paper.md, .tex and .csv and
cost_paper.png (PSNR against parameters and against multiply-accumulates), or the same with `clean`.
Rows that others have published are marked so; they stand beside data sets that are the published
ones, under protocol `paper` only.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
from pathlib import Path

from data.degradations import DEGRADATION_NAMES
from data.protocols import PROTOCOLS
from options import Parser
from utils.errors import UserError, run
from utils.files import check_writable, write_whole
from utils.plots import plot_cost
from utils.published import PUBLISHED
from utils.report import RESULTS, read_results
from utils.tables import Table, make_table
from utils.unfinished import finished


def main() -> int:
    parser = Parser("Merge results files into a table and a plot a protocol.")
    parser.add_argument("results", type=Path, nargs="+", help=f"{RESULTS} files, or folders")
    parser.add_argument(
        "--output", type=Path, default=Path("output/table"), help="folder for the tables"
    )
    parser.add_argument(
        "--no-published", action="store_true", help="without the rows that others have published"
    )
    options = parser.parse_args()
    contents = [read_results(path) for path in find_results(options.results)]
    for content in contents:
        if content["protocol"] not in PROTOCOLS:
            raise UserError(
                f"{content['file']}: its protocol is {content['protocol']!r}; expected "
                f"{' or '.join(PROTOCOLS)}"
            )
    published = [] if options.no_published else PUBLISHED
    tables = []
    for protocol in PROTOCOLS:
        chosen = [content for content in contents if content["protocol"] == protocol]
        if chosen:
            tables.append(make_table(chosen, published, DEGRADATION_NAMES))
    check_writable(options.output)
    for table in tables:
        write_table(table, options.output)
    return 0


def write_table(table: Table, folder: Path) -> None:
    """Print one table, and write it in every form."""
    heading = f"protocol {table.protocol}\n\n{table.to_markdown()}\n"
    forms = {
        f"table_{table.protocol}.md": heading,
        f"table_{table.protocol}.tex": table.to_latex() + "\n",
        f"table_{table.protocol}.csv": table.to_csv(),
    }
    for name, text in forms.items():
        write_whole(folder / name, lambda file, text=text: file.write(text.encode()))
    print(heading)
    written = list(forms)
    plot = f"cost_{table.protocol}.png"
    if plot_cost(table, folder / plot):
        written.append(plot)
    else:
        (folder / plot).unlink(missing_ok=True)  # of an earlier table
        print("no plot: no row has a figure in every column and a known size")
    print(f"{', '.join(written)} are in {folder}\n")


def find_results(paths: list[Path]) -> list[Path]:
    """The results files among some paths and below the folders among them.

    Raises:
        UserError: a path holds none.
    """
    files: list[Path] = []
    for path in paths:
        found = finished(path.rglob(RESULTS)) if path.is_dir() else [path] * path.is_file()
        if not found:
            raise UserError(
                f"{path}: no {RESULTS} there; give the output folder of test.py or scripts.score"
            )
        files += found
    return list({file.resolve(): file for file in files}.values())


if __name__ == "__main__":
    run(main)

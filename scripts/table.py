"""One table from results files: python -m scripts.table output other/results.json --output tables

Takes files, or folders that hold them at any depth (test.py and `scripts.score` write them), all of
one protocol. Prints the table as Markdown and writes table.md, table.tex, table.csv and cost.png
(PSNR against parameters and against multiply-accumulates). Rows that others have published are
marked so; they stand beside data sets that are the published ones, under protocol `paper` only.
"""

import json
from pathlib import Path
from typing import Any

from options import Parser
from utils.errors import UserError, run
from utils.image_io import check_writable, write_whole
from utils.plots import plot_cost
from utils.published import PUBLISHED
from utils.report import RESULTS
from utils.tables import make_table

NEEDED = ("method", "protocol", "sha256", "parameters", "macs", "results")


def main() -> int:
    parser = Parser("Merge results files into one table and a plot.")
    parser.add_argument("results", type=Path, nargs="+", help=f"{RESULTS} files, or folders")
    parser.add_argument(
        "--output", type=Path, default=Path("output/table"), help="folder for the table"
    )
    parser.add_argument(
        "--no-published", action="store_true", help="without the rows that others have published"
    )
    options = parser.parse_args()
    contents = [read_results(path) for path in find_results(options.results)]
    table = make_table(contents, [] if options.no_published else PUBLISHED)
    check_writable(options.output)

    forms = {
        "table.md": f"Protocol {table.protocol}\n\n{table.to_markdown()}\n",
        "table.tex": table.to_latex() + "\n",
        "table.csv": table.to_csv(),
    }
    for name, text in forms.items():
        write_whole(options.output / name, lambda file, text=text: file.write(text.encode()))
    print(f"protocol {table.protocol}\n\n{table.to_markdown()}\n")
    written = list(forms)
    if plot_cost(table, options.output / "cost.png"):
        written.append("cost.png")
    else:
        print("no plot: no row has a figure in every column and a known size")
    print(f"{', '.join(written)} are in {options.output}")
    return 0


def find_results(paths: list[Path]) -> list[Path]:
    """The results files among some paths and below the folders among them.

    Raises:
        UserError: a path holds none.
    """
    files: list[Path] = []
    for path in paths:
        found = sorted(path.rglob(RESULTS)) if path.is_dir() else [path] * path.is_file()
        if not found:
            raise UserError(
                f"{path}: no {RESULTS} there; give the output folder of test.py or scripts.score"
            )
        files += found
    return list(dict.fromkeys(file.resolve() for file in files))


def read_results(path: Path) -> dict[str, Any]:
    """The content of a results file.

    Raises:
        UserError: it is not one.
    """
    try:
        content = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}); write it anew") from error
    missing = [key for key in NEEDED if not isinstance(content, dict) or key not in content]
    if missing:
        raise UserError(
            f"{path}: no {missing[0]!r} in it; expected what test.py or scripts.score of this "
            "version writes; write it anew"
        )
    return content


if __name__ == "__main__":
    run(main)

"""Score any method's pictures with this project's metrics.

python -m scripts.score --restored DIR --target DIR --degradation derain --method "Their method"

Names are matched as test.py matches them (rain-1.png to norain-1.png, 0001_0.8_0.2.png to 0001.png,
or the same name). Writes results.json and scores.csv, which `scripts.table` merges with others.
Protocol `paper` crops both pictures as test.py does, and would score before rounding to 8 bits;
pictures are rounded already, which can cost a high PSNR some hundredths of a dB.
"""

from argparse import Namespace
from pathlib import Path

from torch import Tensor
from tqdm import tqdm

from data.degradations import DEGRADATION_NAMES, DEGRADATIONS, TASKS, Degradation
from data.pairing import FOLDER_PAIRS, Pair, match_pairs
from data.protocols import PROTOCOLS
from data.transforms import crop_to_multiple
from options import Parser, positive_float
from utils.errors import UserError, run
from utils.evaluate import Score, measure
from utils.image_io import check_writable, list_images, read_image, to_tensor
from utils.metrics import SSIM_WINDOW
from utils.report import Figure, summarise, write_results
from utils.tables import make_table

NOT_MEASURED = (float("nan"),) * 3


def main() -> int:
    options = parse()
    [degradation] = [entry for entry in DEGRADATIONS if entry.name == options.degradation]
    pairs = find_pairs("restored", options.restored, options.target, degradation)
    inputs = {}
    if options.degraded:
        found = find_pairs("degraded", options.degraded, options.target, degradation)
        inputs = {pair.name: pair.degraded for pair in found}
        missing = [pair.name for pair in pairs if pair.name not in inputs]
        if missing:
            raise UserError(
                f"--degraded {options.degraded}: no picture is called {missing[0]}, as a restored "
                "one is; give the restored pictures the names of the degraded ones"
            )
    check_writable(options.output)

    scores = [
        score(pair, inputs.get(pair.name), options.protocol == "paper")
        for pair in tqdm(pairs, "scoring", unit="image")
    ]
    figures = [Figure(name_data_set(options), degradation.name, scores)]
    content = summarise(
        figures,
        {
            "method": f"{options.method or options.restored.resolve().name}, {options.knowledge}",
            "protocol": options.protocol,
            "knowledge": options.knowledge,
            "scored": f"8-bit pictures in {options.restored}",
            "network": None,
            "configuration": None,
            "checkpoint": None,
            "sha256": None,
            "seed": None,
            "parameters": options.parameters and round(options.parameters * 1e6),
            "macs": options.gmacs and round(options.gmacs * 1e9),
        },
    )
    write_results(options.output, figures, content)
    luminance = content["results"][0]["psnr_y"]
    print(f"\nprotocol {options.protocol}\n\n{make_table([content], []).to_markdown()}\n")
    print(f"PSNR-Y {'infinite' if luminance is None else f'{luminance:.2f}'} dB")
    print(f"results.json and scores.csv are in {options.output}")
    return 0


def parse() -> Namespace:
    """The flags of this script."""
    parser = Parser("Score any method's pictures with this project's metrics.")
    parser.add_argument("--restored", type=Path, required=True, help="folder of restored pictures")
    parser.add_argument("--target", type=Path, required=True, help="folder of clean pictures")
    parser.add_argument("--degraded", type=Path, help="folder of degraded pictures, to score too")
    parser.add_argument(
        "--degradation",
        choices=DEGRADATION_NAMES,
        required=True,
        metavar="NAME",
        help=f"what was restored: {' '.join(DEGRADATION_NAMES)}",
    )
    parser.add_argument("--protocol", choices=PROTOCOLS, default="paper", help="as in test.py")
    parser.add_argument("--method", help="the row's name; without it that of the restored folder")
    parser.add_argument(
        "--data_set", help="the column's name; without it that of --target's folder"
    )
    parser.add_argument(
        "--knowledge",
        choices=("blind", "named", "unknown"),
        default="unknown",
        help="whether the method was told the degradation",
    )
    parser.add_argument("--parameters", type=positive_float, help="of the method, in millions")
    parser.add_argument("--gmacs", type=positive_float, help="of the method, at 128 x 128")
    parser.add_argument(
        "--output", type=Path, default=Path("output/scored"), help="folder for the figures"
    )
    return parser.parse_args()


def find_pairs(flag: str, folder: Path, target: Path, degradation: Degradation) -> list[Pair]:
    """Pictures of a folder with their clean ones.

    Raises:
        UserError: a folder has no pictures, or one has no clean partner.
    """
    [task] = [task for task in TASKS if task.name == degradation.task]
    pictures = {}
    for name, path in ((flag, folder), ("target", target)):
        pictures[name] = list_images(path) if path.is_dir() else []
        if not pictures[name]:
            raise UserError(f"--{name} {path}: no pictures there; give a folder of them")
    return match_pairs(pictures[flag], pictures["target"], task, folder, target)


def score(pair: Pair, degraded: Path | None, cropped: bool) -> Score:
    """The figures of one restored picture, and of the degraded one if there is any."""
    clean = load(pair.clean, cropped)

    def compare(path: Path) -> tuple[float, float, float]:
        image = load(path, cropped)
        if image.shape != clean.shape or min(clean.shape[1:]) < SSIM_WINDOW:
            sizes = [" x ".join(map(str, shape[:0:-1])) for shape in (image.shape, clean.shape)]
            raise UserError(
                f"{path}: {sizes[0]} pixels, its clean partner {pair.clean} {sizes[1]}"
                f"{' (both cropped to multiples of 16)' if cropped else ''}; both must be equal "
                f"and {SSIM_WINDOW} a side at least"
            )
        return measure(image, clean)

    before = compare(degraded) if degraded else NOT_MEASURED
    return Score(pair.name, *before, *compare(pair.degraded), *NOT_MEASURED[:2])


def load(path: Path, cropped: bool) -> Tensor:
    """A picture as (3, H, W) in [0, 1], cropped to multiples of 16 or whole."""
    image = read_image(path)
    return to_tensor(crop_to_multiple(image) if cropped else image)


def name_data_set(options: Namespace) -> str:
    """As told, else the name of the target folder, or of the one above `target` and the like."""
    folder = options.target.resolve()
    if options.data_set:
        return options.data_set
    clean_names = {clean for _, clean in FOLDER_PAIRS}
    return folder.parent.name if folder.name.lower() in clean_names else folder.name


if __name__ == "__main__":
    run(main)

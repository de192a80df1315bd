"""Score any method's pictures with this project's metrics.

python -m scripts.score --restored DIR --target DIR --degradation derain --method "Their method"

Names are matched as test.py matches them (rain-1.png to norain-1.png, 0001_0.8_0.2.png to 0001.png,
or the same name). Writes results.json and scores.csv below output/scored, a folder for each method
and data set; `python -m scripts.table output/scored` merges them, with others.
Protocol `paper` crops whole pictures as test.py does (restored ones may be cropped already), and
would score before rounding to 8 bits; pictures are rounded already, which can cost a high PSNR some
hundredths of a dB.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import re
import warnings
from argparse import Namespace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data.degradations import DEGRADATION_NAMES, DEGRADATIONS, TASKS, Degradation
from data.pairing import FOLDER_PAIRS, first_few, match_pairs
from data.protocols import PROTOCOLS
from data.transforms import crop_to_multiple
from options import Parser, positive_float
from utils.errors import UserError, run
from utils.evaluate import Score, measure
from utils.files import check_writable
from utils.image_io import list_images, read_image, to_tensor
from utils.metrics import SSIM_WINDOW
from utils.report import Figure, summarise, write_results
from utils.tables import make_table

NOT_MEASURED = (float("nan"),) * 3
OUTPUT = Path("output/scored")


class Match(NamedTuple):
    """A picture, restored or degraded, and its clean one; its name is that of the degraded one."""

    name: str
    picture: Path
    clean: Path


def main() -> int:
    options = parse()
    [degradation] = [entry for entry in DEGRADATIONS if entry.name == options.degradation]
    targets = list_pictures("target", options.target)
    matches = find_matches("restored", options.restored, targets, options.target, degradation)
    inputs = {}
    if options.degraded:
        found = find_matches("degraded", options.degraded, targets, options.target, degradation)
        inputs = {match.name: match.picture for match in found}
        missing = [match.name for match in matches if match.name not in inputs]
        if missing:
            raise UserError(
                f"--degraded {options.degraded}: no picture is called {missing[0]}, as a restored "
                "one is; give the restored pictures the names of the degraded ones"
            )
    restored = {match.clean for match in matches}
    not_restored = [path.name for path in targets if path not in restored]
    if not_restored:
        warnings.warn(
            f"{len(not_restored)} of {len(targets)} targets have no restored picture "
            f"({first_few(not_restored)}); the figures are those of the others",
            stacklevel=1,
        )
    output = options.output or name_folder(options)
    check_writable(output)

    scores = [
        score(match, inputs.get(match.name), options.protocol == "paper")
        for match in tqdm(matches, "scoring", unit="image")
    ]
    figures = [Figure(name_data_set(options), degradation.name, scores)]
    content = summarise(
        figures,
        {
            "method": f"{name_method(options)}, {options.knowledge}",
            "protocol": options.protocol,
            "knowledge": options.knowledge,
            "scored": f"8-bit pictures in {options.restored}",
            "not_restored": len(not_restored),
            "network": None,
            "configuration": None,
            "checkpoint": None,
            "sha256": None,
            "seed": None,
            "parameters": options.parameters and round(options.parameters * 1e6),
            "macs": options.gmacs and round(options.gmacs * 1e9),
        },
    )
    write_results(output, figures, content)
    print(f"\nprotocol {options.protocol}\n\n{make_table([content], []).to_markdown()}\n")
    print(f"PSNR-Y {content['results'][0]['psnr_y']:.2f} dB")
    print(f"results.json and scores.csv are in {output}")
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
        "--output",
        type=Path,
        help=f"folder for the figures; without it one below {OUTPUT} for protocol, knowledge, "
        "method and data set",
    )
    return parser.parse_args()


def list_pictures(flag: str, folder: Path) -> list[Path]:
    """The pictures of a folder. Raises `UserError` if it has none."""
    pictures = list_images(folder) if folder.is_dir() else []
    if not pictures:
        raise UserError(f"--{flag} {folder}: no pictures there; give a folder of them")
    return pictures


def find_matches(
    flag: str, folder: Path, targets: list[Path], target: Path, degradation: Degradation
) -> list[Match]:
    """Pictures of a folder with their clean ones.

    Raises:
        UserError: the folder has no pictures, or one has no clean partner.
    """
    [task] = [task for task in TASKS if task.name == degradation.task]
    pairs = match_pairs(list_pictures(flag, folder), targets, task, folder, target, flag)
    return [Match(pair.name, pair.degraded, pair.clean) for pair in pairs]


def score(match: Match, degraded: Path | None, cropped: bool) -> Score:
    """The figures of one restored picture, and of the degraded one if there is any."""
    clean = read_image(match.clean)

    def compare(path: Path) -> tuple[float, float, float]:
        images = fit(path, read_image(path), clean, cropped)
        if min(images[0].shape[:2]) < SSIM_WINDOW:
            raise UserError(
                f"{path}: {describe_size(images[0])} pixels to score; "
                f"expected {SSIM_WINDOW} a side at least; leave it out"
            )
        return measure(*map(to_tensor, images))

    before = compare(degraded) if degraded else NOT_MEASURED
    return Score(match.name, *before, *compare(match.picture), *NOT_MEASURED[:2])


def fit(
    path: Path, image: np.ndarray, clean: np.ndarray, cropped: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Both pictures as they are scored, cropped to multiples of 16 or whole.

    Raises:
        UserError: the picture has neither the clean one's size nor, if cropped, that of its crop.
    """
    crop = crop_to_multiple(clean) if cropped else clean
    if image.shape == clean.shape:
        return (crop_to_multiple(image) if cropped else image), crop
    if image.shape != crop.shape:
        other = f" or, centre-cropped to multiples of 16, {describe_size(crop)}" if cropped else ""
        raise UserError(
            f"{path}: {describe_size(image)} pixels; expected {describe_size(clean)} as its clean "
            f"partner has{other}; restore it anew"
        )
    return image, crop


def describe_size(image: np.ndarray) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def name_method(options: Namespace) -> str:
    """As told, else the name of the folder of restored pictures."""
    return options.method or options.restored.resolve().name


def name_folder(options: Namespace) -> Path:
    """A folder of its own for the results of one method on one data set."""
    names = (
        f"{options.protocol}_{options.knowledge}",
        name_method(options),
        f"{name_data_set(options)}_{options.degradation}",
    )
    return OUTPUT.joinpath(*(re.sub(r"[^\w-]+", "_", name) for name in names))


def name_data_set(options: Namespace) -> str:
    """As told, else the name of the target folder, or of the one above `target` and the like."""
    folder = options.target.resolve()
    if options.data_set:
        return options.data_set
    clean_names = {clean for _, clean in FOLDER_PAIRS}
    return folder.parent.name if folder.name.lower() in clean_names else folder.name


if __name__ == "__main__":
    run(main)

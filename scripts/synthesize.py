"""Pairs from clean photographs alone: python -m scripts.synthesize --clean DIR --output DIR

Writes Denoise, Derain and Dehaze in the layout that train.py reads, with the rain and haze of
`data.synthesis`, the same again with the same seed and photographs. To train on such photographs,
`train.py --synthesize` makes new rain and haze for each patch instead.

test.py takes them too, as a test set of clean photographs that have no rainy or hazy partners:

    python -m scripts.synthesize --clean test/denoise/bsd68 --output synthetic
    python test.py --mode 2 --dehaze_path synthetic/Dehaze      # "bsd68_synthetic dehaze (68)"

Figures from either are not comparable with published ones.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import argparse
import tempfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.samples import write_training_images
from options import Parser, clean_photos, natural, path, positive
from utils.errors import UserError, run
from utils.files import check_writable
from utils.image_io import read_image


def main() -> int:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--clean", type=path, required=True, help="folder of clean photographs")
    parser.add_argument("--output", type=path, required=True, help="a new folder for the pairs")
    parser.add_argument("--variants", type=positive, default=1, help="of rain and haze each")
    parser.add_argument("--seed", type=natural, default=0, help="of rain and haze")
    options = parser.parse_args()
    photos = find_photos(options)
    output = check_output(options)
    data_set = options.clean.absolute().name.lstrip(".")  # what begins with a dot is not read
    with tempfile.TemporaryDirectory(prefix=f".{output.name}.", dir=output.parent) as temporary:
        pairs = Path(temporary, "pairs")  # renamed when all of them are written
        for index, (name, photo) in enumerate(tqdm(photos.items(), "writing", unit="photo")):
            seeds = [(options.seed, index, variant) for variant in range(options.variants)]
            generators = map(np.random.default_rng, seeds)
            write_training_images(pairs, data_set, name, read_image(photo), generators)
        if output.is_dir():
            output.rmdir()
        pairs.rename(output)
    count = "1 photograph" if len(photos) == 1 else f"{len(photos)} photographs"
    print(f"{count}, {options.variants} rainy and hazy of each: {options.output}")
    return 0


def find_photos(options: argparse.Namespace) -> dict[str, Path]:
    """The photographs by name, sorted; an underscore would end the name of a hazy one.

    Raises:
        UserError: there is none, or two have one name.
    """
    photos: dict[str, Path] = {}
    for photo in clean_photos(options.clean):
        other = photos.setdefault(photo.stem.replace("_", "-"), photo)
        if other is not photo:
            raise UserError(
                f"{other} and {photo}: the pairs of both would have one name ('_' becomes '-', the "
                "ending is dropped); rename one"
            )
    return photos


def check_output(options: argparse.Namespace) -> Path:
    """The absolute path of a folder that is not there yet, or empty.

    Raises:
        UserError: it is something else, or one of the two folders lies in the other.
    """
    output, clean = options.output.resolve(), options.clean.resolve()
    if output.is_relative_to(clean) or clean.is_relative_to(output):
        raise UserError(
            f"--output {options.output}: must lie outside --clean {options.clean}, and not hold it"
        )
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        what = "is not empty" if output.is_dir() else "is a file"
        raise UserError(f"--output {options.output}: {what}; give a new folder")
    check_writable(output.parent)
    return output


if __name__ == "__main__":
    run(main)

"""Pairs from clean photographs alone: python -m scripts.synthesize --clean DIR --output DIR

Writes Denoise, Derain and Dehaze in the layout that train.py reads, with rain and haze made as
`data.samples` says. What is trained on them is not comparable with published figures.
"""

import argparse
from pathlib import Path

import numpy as np
from tqdm import tqdm

from data.samples import write_training_images
from options import Parser, natural, positive
from utils.errors import UserError, run
from utils.image_io import list_images, read_image


def main() -> int:
    parser = Parser(__doc__.splitlines()[0])
    parser.add_argument("--clean", type=Path, required=True, help="folder of clean photographs")
    parser.add_argument("--output", type=Path, required=True, help="a new folder for the pairs")
    parser.add_argument("--variants", type=positive, default=1, help="of rain and haze each")
    parser.add_argument("--seed", type=natural, default=0, help="of rain and haze")
    options = parser.parse_args()
    photos = find_photos(options)
    for index, path in enumerate(tqdm(photos, "writing", unit="photo")):
        generator = np.random.default_rng((options.seed, index))
        write_training_images(
            options.output, path.stem, read_image(path), options.variants, generator
        )
    print(f"{len(photos)} photographs, {options.variants} rainy and hazy of each: {options.output}")
    return 0


def find_photos(options: argparse.Namespace) -> list[Path]:
    """The photographs, sorted by name.

    Raises:
        UserError: there is none, two have one name, or the output folder is not new.
    """
    photos = list_images(options.clean)
    if not photos:
        raise UserError(f"--clean {options.clean}: no photographs there; give a folder of them")
    if len({path.stem for path in photos}) < len(photos):
        raise UserError(f"--clean {options.clean}: two photographs have one name; rename one")
    if options.output.exists() and any(options.output.iterdir()):
        raise UserError(f"--output {options.output}: is not empty; give a new folder")
    return photos


if __name__ == "__main__":
    run(main)

"""What a network makes of damage, trained for or not: python -m scripts.robustness --clean DIR

The degradations of the tables, then what these leave out: clean photographs, levels of noise
between and beyond those trained, grey and compressed pictures, and two kinds of damage at once. All
made from the photographs in a folder, and restored blind. The table goes to the screen, the last
line is JSON with each picture's figures.

python -m scripts.robustness --clean DIR --ckpt_name after.ckpt --versus before.ckpt
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import json
from collections.abc import Callable
from functools import partial

import numpy as np
from torch import Tensor
from tqdm import tqdm

from data.damage import read_sizes
from data.degradations import DEGRADATIONS
from data.pairing import Pair
from data.transforms import add_noise
from data.variety import compress, to_grey
from net.checkpoint import default_checkpoint, load_network
from options import (
    DEFAULT_CHECKPOINT_HELP,
    Parser,
    clean_photos,
    gpu_index,
    natural,
    path,
    positive,
)
from utils.devices import choose_device
from utils.errors import run
from utils.image_io import read_image, to_tensor
from utils.inference import restore
from utils.metrics import psnr
from utils.statistics import interval_of_mean
from utils.tables import format_markdown

SYNTHESES = {entry.name: entry.synthesis for entry in DEGRADATIONS if entry.synthesis}
UNCHANGED = 80.0  # dB, in place of infinity: one level of 255 in a hundredth of the values gives 68

Damage = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def noise(sigma: float, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Of standard deviation `sigma`, 8 bits; equal in all channels of a grey picture."""
    if np.ptp(image, axis=2).any():
        return add_noise(image, sigma, generator, rounded=True)
    return np.repeat(add_noise(image[..., :1], sigma, generator, rounded=True), 3, axis=2)


def compressed(sigma: float, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Noise, then JPEG of quality 90 with 4:2:0 colour."""
    return compress(noise(sigma, image, generator), 90)


def synthesised(name: str, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return SYNTHESES[name].apply(image, generator)


def and_noise(name: str, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A synthesised degradation, then noise of sigma 25."""
    return noise(25, synthesised(name, image, generator), generator)


DAMAGES: dict[str, tuple[bool, Damage]] = {  # whether of grey photographs, and how it is made
    "noise 15": (False, partial(noise, 15)),
    "noise 25": (False, partial(noise, 25)),
    "noise 50": (False, partial(noise, 50)),
    "rain": (False, partial(synthesised, "derain")),
    "haze": (False, partial(synthesised, "dehaze")),
    "clean": (False, lambda image, generator: image),
    "clean, grey": (True, lambda image, generator: image),
    "noise 10": (False, partial(noise, 10)),
    "noise 35": (False, partial(noise, 35)),
    "noise 60": (False, partial(noise, 60)),
    "noise 25, grey": (True, partial(noise, 25)),
    "noise 25, then JPEG": (False, partial(compressed, 25)),
    "rain and noise 25": (False, partial(and_noise, "derain")),
    "haze and noise 25": (False, partial(and_noise, "dehaze")),
}


def main() -> int:
    parser = Parser(__doc__.splitlines()[0].split(":")[0] + ".")
    parser.add_argument("--clean", type=path, required=True, help="folder of clean photographs")
    parser.add_argument("--every", type=positive, default=1, help="take every n-th photograph")
    parser.add_argument("--ckpt_name", type=path, metavar="FILE", help=DEFAULT_CHECKPOINT_HELP)
    parser.add_argument(
        "--versus",
        type=path,
        metavar="FILE",
        help="another checkpoint, whose figures are taken off",
    )
    parser.add_argument("--cuda", type=gpu_index, help="index of the GPU, -1 for the CPU")
    parser.add_argument("--seed", type=natural, default=0, help="of the damage")
    options = parser.parse_args()
    photos = clean_photos(options.clean)[:: options.every]
    read_sizes([Pair(None, photo) for photo in photos], decoded=True)  # a damaged one is told of
    device = choose_device(options.cuda)
    names = [options.ckpt_name or default_checkpoint()] + [options.versus] * bool(options.versus)
    trained = [load_network(name) for name in names]
    nets = [entry.net.to(device) for entry in trained]

    figures: dict[str, list[list[float]]] = {name: [] for name in DAMAGES}
    for index, file in enumerate(tqdm(photos, "restoring", unit="photo")):
        photo = read_image(file)
        for name, (grey, damage) in DAMAGES.items():
            clean = to_grey(photo) if grey else photo
            damaged = damage(clean, np.random.default_rng((options.seed, index, *name.encode())))
            clean, damaged = (to_tensor(image).to(device) for image in (clean, damaged))
            after = [score(restore(net, damaged, tile=None), clean) for net in nets]
            figures[name].append([psnr(damaged, clean), *after])

    print()
    for entry, role in zip(trained, ("", "versus "), strict=False):
        print(f"{role}{entry.description['checkpoint']}: {entry.describe()}")
    print(f"{len(photos)} photographs, blind, 8 bits, whole images; PSNR in dB\n")
    headers = ["damage", "input", "restored", "95 % interval of the mean", "lowest"]
    if options.versus:
        headers += ["minus the other", "95 % interval"]
    print(format_markdown(headers, [describe(name, rows) for name, rows in figures.items()]))
    known = {
        name: [[value if np.isfinite(value) else None for value in row] for row in rows]
        for name, rows in figures.items()
    }
    print(json.dumps({"checkpoints": [e.description["sha256"] for e in trained], "figures": known}))
    return 0


def score(restored: Tensor, clean: Tensor) -> float:
    """PSNR in dB of a result as it would be saved, with 8 bits; at most `UNCHANGED`."""
    return min(psnr((restored * 255).round() / 255, clean), UNCHANGED)


def describe(name: str, rows: list[list[float]]) -> tuple[str, ...]:
    """A row of the table, of the PSNR of each photograph: degraded, restored, and by the other."""
    before, after, *other = np.transpose(rows)
    differences = [text for figures in other for text in means(after - figures, "+.2f")]
    return (
        name,
        f"{before.mean():.2f}" if np.isfinite(before).all() else "-",
        *means(after, ".2f"),
        f"{after.min():.2f}",
        *differences,
    )


def means(values: np.ndarray, form: str) -> tuple[str, str]:
    """The mean over photographs and its interval."""
    interval = interval_of_mean(values)
    spread = f"{interval[0]:{form}} to {interval[1]:{form}}" if interval else "-"
    return f"{values.mean():{form}}", spread


if __name__ == "__main__":
    run(main)

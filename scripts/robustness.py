"""What a network makes of damage the tables leave out: python -m scripts.robustness --clean DIR

Clean photographs, levels of noise between and beyond those trained, grey and compressed pictures,
and two kinds of damage at once, made from the photographs in a folder; restored blind. The table
goes to the screen, the last line is JSON with each picture's figures.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import json
from collections.abc import Callable
from functools import partial

import numpy as np
from tqdm import tqdm

from data.degradations import DEGRADATIONS
from data.transforms import add_noise
from data.variety import compress, to_grey
from net.checkpoint import default_checkpoint, load_network
from options import DEFAULT_CHECKPOINT_HELP, Parser, gpu_index, natural, path, positive
from utils.devices import choose_device
from utils.errors import UserError, run
from utils.image_io import list_images, read_image, to_tensor
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


def and_noise(name: str, image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """A synthesised degradation, then noise of sigma 25."""
    return noise(25, SYNTHESES[name].apply(image, generator), generator)


DAMAGES: dict[str, tuple[bool, Damage]] = {  # whether of grey photographs, and how it is made
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
    parser.add_argument("--cuda", type=gpu_index, help="index of the GPU, -1 for the CPU")
    parser.add_argument("--seed", type=natural, default=0, help="of the damage")
    options = parser.parse_args()
    photos = list_images(options.clean)[:: options.every]
    if not photos:
        raise UserError(f"--clean {options.clean}: no folder with pictures; give another")
    device = choose_device(options.cuda)
    trained = load_network(options.ckpt_name or default_checkpoint())
    net = trained.net.to(device)

    figures: dict[str, list[tuple[float, float]]] = {name: [] for name in DAMAGES}
    for index, file in enumerate(tqdm(photos, "restoring", unit="photo")):
        photo = read_image(file)
        for kind, (name, (grey, damage)) in enumerate(DAMAGES.items()):
            clean = to_grey(photo) if grey else photo
            damaged = damage(clean, np.random.default_rng((options.seed, index, kind)))
            clean, damaged = (to_tensor(image).to(device) for image in (clean, damaged))
            restored = (restore(net, damaged, tile=None) * 255).round() / 255
            after = min(psnr(restored, clean), UNCHANGED)
            figures[name].append((psnr(damaged, clean), after))

    print(f"\n{trained.description['checkpoint']}: {trained.describe()}")
    print(f"{len(photos)} photographs, blind, 8 bits, whole images; PSNR in dB\n")
    headers = ("damage", "input", "restored", "95 % interval of the mean", "lowest")
    print(format_markdown(headers, [describe(name, pairs) for name, pairs in figures.items()]))
    known = {
        name: [[value if np.isfinite(value) else None for value in pair] for pair in pairs]
        for name, pairs in figures.items()
    }
    print(json.dumps({"checkpoint": trained.description["sha256"], "figures": known}))
    return 0


def describe(name: str, pairs: list[tuple[float, float]]) -> tuple[str, ...]:
    """A row of the table: (degraded, restored) PSNR of each photograph, as means."""
    before, after = np.transpose(pairs)
    interval = interval_of_mean(after)
    return (
        name,
        f"{before.mean():.2f}" if np.isfinite(before).all() else "-",
        f"{after.mean():.2f}",
        f"{interval[0]:.2f} to {interval[1]:.2f}" if interval else "-",
        f"{after.min():.2f}",
    )


if __name__ == "__main__":
    run(main)

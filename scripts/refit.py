"""Learn anew what a network takes pictures for: python -m scripts.refit --clean DIR --output FILE

Blind, the weights read off the image at the lowest resolution settle what a picture is taken for.
Only the stage they are read from is trained here (the latent blocks and the layer that weighs), on
its inputs, which are made once from photographs that are clean, in noise, in rain or in haze, and
kept (1.1 MB for each photograph of BSDS500). What the stage hands on to the decoder is held to what
it was, so noise, rain and haze are removed as before, once they are recognised.

A clean photograph counts to the lightest noise, which the network removes without changing much
else. A mistake costs what it does to the picture: haze that is hardly seen may be missed.

Every n-th photograph (`--hold_out`) is left out of the training, and tells before and after how
many of each kind are taken for what they are. `--output` gets the whole network, as safetensors.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import argparse
import copy
import math
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from data.degradations import CLEAN, DEGRADATIONS, Degradation
from data.transforms import add_noise
from data.variety import QUALITY, compress, to_grey
from net import AMPromptIR
from net.checkpoint import default_checkpoint, load_network
from net.weights import ENDING
from options import (
    DEFAULT_CHECKPOINT_HELP,
    Parser,
    gpu_index,
    natural,
    path,
    positive,
    positive_float,
)
from scripts.export import to_safetensors
from utils.devices import choose_device
from utils.errors import UserError, run
from utils.image_io import check_writable, list_images, read_image, to_tensor, write_whole
from utils.schedules import rate_factor
from utils.tables import format_markdown

UNHARMED = "clean"
# of each photograph; None is the whole of it, where that is no larger than WHOLE
SIDES = {UNHARMED: (256, 256, None), "dehaze": (256, 256, 256, None), "derain": (256, 256, None)}
NOISY_SIDES = (256,)  # of each level of noise
HELD_OUT_SIDES = (None,)
WHOLE = 512  # pixels
SMALLEST = 64
GREY, COMPRESSED = 0.15, 0.12  # shares of the samples
OTHER_NOISE, RANGE = 0.25, (0.6, 1.2)  # share of another standard deviation, relative to the level
# of a mistake: haze by the PSNR of the hazy picture in dB, linearly from one end to the other
HAZE_COSTS = ((24.0, 0.25), (10.0, 2.0))
CLEAN_COST = 1.3
FIDELITY = 5.0  # weight of the departure from the former stage's output, relative to its variance
LARGEST_GRADIENT = 1.0


class Features(NamedTuple):
    """One sample: what the stage takes in, float16 (C, H/8, W/8); what it is; cost of a mistake."""

    inputs: Tensor
    kind: str
    cost: float


class Stage(nn.Module):
    """The latent blocks of a network and the layer that weighs the degradations there.

    Shape: (B, C, H/8, W/8) -> the same, and scores (B, K).
    """

    def __init__(self, net: AMPromptIR) -> None:
        super().__init__()
        self.latent = net.latent
        self.weigh = net.prompts[-1].generate.weigh

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.latent(x.clone())  # which may be overwritten
        return x, self.weigh(x.mean(dim=(2, 3)))


def main() -> int:
    options = parse()
    photos = list_images(options.clean)
    held_out = photos[:: options.hold_out]
    trained_on = [photo for photo in photos if photo not in set(held_out)]
    if not trained_on:
        raise UserError(
            f"--clean {options.clean}: {len(photos)} photographs, of which --hold_out "
            f"{options.hold_out} leaves none to train on; give a folder of more"
        )
    device = choose_device(options.cuda)
    trained = load_network(options.ckpt_name or default_checkpoint())
    print(f"{trained.description['checkpoint']}: {trained.describe()}", flush=True)
    net = trained.net
    known = trained.description["trained"] or ()
    kinds = [entry for entry in DEGRADATIONS if entry.name in known]
    if not isinstance(net, AMPromptIR) or all(entry.task != CLEAN.name for entry in kinds):
        raise UserError(
            f"{trained.description['checkpoint']}: expected am_promptir, trained on noise among "
            "others; give another with --ckpt_name"
        )
    check_writable(options.output.parent)
    for photo in photos:  # what is wrong with one is told of before the long work
        if min(read_image(photo).shape[:2]) < SMALLEST:
            raise UserError(f"{photo}: smaller than {SMALLEST} pixels a side; leave it out")

    net.to(device)
    rows = {entry.name: row for row, entry in enumerate(DEGRADATIONS)}
    rows[UNHARMED] = min(rows[entry.name] for entry in kinds if entry.task == CLEAN.name)
    sides = {entry.name: SIDES.get(entry.name, NOISY_SIDES) for entry in kinds}
    sides[UNHARMED] = SIDES[UNHARMED]
    samples = list(look(net, trained_on, sides, options.seed))
    tests = list(look(net, held_out, dict.fromkeys(sides, HELD_OUT_SIDES), options.seed + 1))
    before = taken_right(Stage(net), tests, rows)
    fit(Stage(net), samples, rows, options)
    after = taken_right(Stage(net), tests, rows)
    content = to_safetensors(trained, options.half)
    write_whole(options.output, lambda file: file.write(content))

    print(f"\ntaken for what they are, of {len(held_out)} held out:\n")
    figures = [(kind, str(before[kind]), str(after[kind])) for kind in sides]
    print(format_markdown(["kind", "before", "after"], figures))
    print(f"\n{options.output}: {len(content) / 1e6:.1f} MB")
    return 0


def parse() -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0].split(":")[0] + ".")
    parser.add_argument("--clean", type=path, required=True, help="folder of clean photographs")
    parser.add_argument("--ckpt_name", type=path, metavar="FILE", help=DEFAULT_CHECKPOINT_HELP)
    parser.add_argument("--output", type=path, required=True, help=f"file to write, *{ENDING}")
    parser.add_argument("--half", action="store_true", help="float16 weights")
    parser.add_argument("--steps", type=positive, default=700)
    parser.add_argument("--batch_size", type=positive, default=24, help="of patches")
    parser.add_argument("--lr", type=positive_float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--hold_out", type=positive, default=9, help="every n-th photograph")
    parser.add_argument("--cuda", type=gpu_index, help="index of the GPU, -1 for the CPU")
    parser.add_argument("--seed", type=natural, default=0, help="of everything random")
    options = parser.parse_args()
    if options.output.suffix != ENDING:
        raise UserError(f"--output {options.output}: expected a name ending in {ENDING}")
    if options.output.exists():
        raise UserError(f"--output {options.output}: is there already; give another name")
    return options


@torch.no_grad()
def look(
    net: AMPromptIR, photos: list[Path], sides: dict[str, tuple[int | None, ...]], seed: int
) -> Iterator[Features]:
    """The stage's inputs for each photograph, damaged as `sides` says."""
    device = next(net.parameters()).device
    wanted = [(kind, side) for kind, found in sides.items() for side in found]
    degradations = {entry.name: entry for entry in DEGRADATIONS}
    with net.weights_kept():
        for index, file in enumerate(tqdm(photos, "looking", unit="photo")):
            photo = read_image(file)
            for turn, (kind, side) in enumerate(wanted):
                generator = np.random.default_rng((seed, index, turn))
                degraded, cost = damage(photo, degradations.get(kind), side, generator)
                x = net.embed(to_tensor(degraded)[None].to(device))
                for encoder, downsample in zip(net.encoders, net.downsamples, strict=True):
                    x = downsample(encoder(x))
                yield Features(x[0].half().cpu(), kind, cost)


def damage(
    photo: np.ndarray,
    degradation: Degradation | None,
    side: int | None,
    generator: np.random.Generator,
) -> tuple[np.ndarray, float]:
    """A part of a photograph after a degradation or none, and what it costs not to see it."""
    if generator.random() < 0.5:
        photo = np.ascontiguousarray(photo[:, ::-1])
    if generator.random() < GREY:
        photo = to_grey(photo)
    degraded = photo
    if degradation and degradation.synthesis:
        degraded = degradation.synthesis.apply(photo, generator)
    elif degradation:
        other = generator.random() < OTHER_NOISE
        sigma = degradation.sigma * (generator.uniform(*RANGE) if other else 1)
        degraded = add_noise(photo, sigma, generator, rounded=True)
    if generator.random() < COMPRESSED:
        degraded = compress(degraded, int(generator.integers(QUALITY[0], QUALITY[1] + 1)))
    height, width = (min(side or WHOLE, length) // 8 * 8 for length in photo.shape[:2])
    top = int(generator.integers(photo.shape[0] - height + 1))
    left = int(generator.integers(photo.shape[1] - width + 1))
    cut = np.s_[top : top + height, left : left + width]
    degraded, clean = np.ascontiguousarray(degraded[cut]), photo[cut]
    if degradation is None:
        return degraded, CLEAN_COST
    if degradation.task != "dehaze":
        return degraded, 1.0
    error = float(np.square(degraded / 255 - clean / 255).mean())
    (light, least), (dense, most) = HAZE_COSTS
    psnr = -10 * math.log10(max(error, 1e-9))
    return degraded, float(np.interp(psnr, (dense, light), (most, least)))


def fit(
    stage: Stage, samples: list[Features], rows: dict[str, int], options: argparse.Namespace
) -> None:
    """Train the stage to weigh right, and to hand on what it did before."""
    torch.manual_seed(options.seed)
    generator = np.random.default_rng(options.seed)
    former = copy.deepcopy(stage).requires_grad_(False)
    stage.requires_grad_(True)
    device = next(stage.parameters()).device
    by_shape: dict[torch.Size, list[Features]] = {}
    for sample in samples:
        by_shape.setdefault(sample.inputs.shape[1:], []).append(sample)
    groups = list(by_shape.values())
    shares = np.array([len(group) for group in groups]) / len(samples)
    variance = torch.stack(
        [former(batch_of([sample], device))[0].var((0, 2, 3)) for sample in samples[::40]]
    ).mean(dim=0)[:, None, None]
    patch = SIDES[UNHARMED][0] ** 2 / 64  # positions

    optimizer = torch.optim.AdamW(stage.parameters(), options.lr, (0.9, 0.99), weight_decay=0)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: rate_factor("cosine", step, options.steps, 1)
    )
    progress = tqdm(range(options.steps), "fitting", unit="step")
    for _ in progress:
        group = groups[generator.choice(len(groups), p=shares)]
        size = options.batch_size
        if group[0].inputs[0].numel() > patch:
            size = math.ceil(size / 2)
        batch = [group[item] for item in generator.integers(len(group), size=size)]
        x = batch_of(batch, device)
        right = torch.tensor([rows[sample.kind] for sample in batch], device=device)
        costs = torch.tensor([sample.cost for sample in batch], device=device)

        handed_on, scores = stage(x)
        mistakes = (F.cross_entropy(scores, right, reduction="none") * costs).mean()
        departure = ((handed_on - former(x)[0]).square() / variance).mean()
        loss = mistakes + FIDELITY * departure
        if not loss.isfinite():
            raise UserError(f"--lr {options.lr:g}: the training diverged; give a smaller one")
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(stage.parameters(), LARGEST_GRADIENT)
        optimizer.step()
        schedule.step()
        progress.set_postfix(mistakes=f"{mistakes:.3f}", departure=f"{departure:.5f}")


def batch_of(samples: list[Features], device: torch.device) -> Tensor:
    """The inputs of samples of one shape, float32 (B, C, H/8, W/8)."""
    inputs = torch.stack([sample.inputs for sample in samples]).float().to(device)
    return inputs.contiguous(memory_format=torch.channels_last)


@torch.no_grad()
def taken_right(stage: Stage, tests: list[Features], rows: dict[str, int]) -> dict[str, int]:
    """How many pictures of each kind have the greatest weight where it belongs."""
    device = next(stage.parameters()).device
    right = dict.fromkeys((sample.kind for sample in tests), 0)
    for sample in tests:
        scores = stage(batch_of([sample], device))[1]
        right[sample.kind] += int(scores.argmax() == rows[sample.kind])
    return right


if __name__ == "__main__":
    run(main)

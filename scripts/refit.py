"""Learn anew what a network takes pictures for: python -m scripts.refit --clean DIR --output FILE

For a network that was trained to tell degradations apart (`--classification_weight`). Blind, the
weights read off the image at the lowest resolution settle most of what a picture is taken for. Only
the stage they are read from is trained here (the latent blocks and the layer that weighs), on its
inputs, which are made once from photographs that are clean, in noise, in rain or in haze, and kept.
What the stage hands on to the decoder is held near what it was.

A clean photograph counts to the lightest noise that the network knows. A mistake in dense haze
costs most; haze that is hardly seen may be missed.

Every n-th photograph (`--hold_out`) is left out of the training, and tells before and after how
many of each kind are taken for what they are. `--output` gets the whole network, as safetensors; a
run that is stopped leaves nothing. Photographs that by their names show scenes of a published test
set are left out, as in train.py.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import argparse
import copy
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from data.damage import read_sizes
from data.datasets import Sample, add_map, make_sample
from data.degradations import CLEAN, DEGRADATION_NAMES, DEGRADATIONS, Degradation
from data.pairing import Pair
from data.scenes import TEST_SCENES, describe_overlaps, leave_out
from data.variety import QUALITY, Variety
from net import AMPromptIR
from net.checkpoint import Trained, default_checkpoint, load_network
from net.weights import ENDING
from options import (
    DEFAULT_CHECKPOINT_HELP,
    Parser,
    batch_size,
    clean_photos,
    gpu_index,
    natural,
    path,
    positive,
    positive_float,
)
from utils.devices import choose_device
from utils.errors import UserError, run
from utils.files import check_writable, write_whole
from utils.image_io import read_image
from utils.metrics import psnr
from utils.schedules import rate_factor
from utils.tables import format_markdown

UNHARMED = "clean"
# samples of a photograph, by their sides in pixels; None is the whole of it, up to WHOLE
PATCH = 256
SIDES = {
    UNHARMED: (PATCH, PATCH, None),
    "derain": (PATCH, PATCH, None),
    "dehaze": (PATCH, PATCH, PATCH, None),
}
NOISY_SIDES = (PATCH,)  # of each level of noise
HELD_OUT_SIDES = (None,)
WHOLE = 512
GRID = 64  # sides are multiples of it, so that many samples have one shape
GREY, COMPRESSED = 0.15, 0.12  # shares of the samples
OTHER_NOISE, RANGE = 0.25, (0.6, 1.2)  # share of another standard deviation, relative to the level
# of a mistake, relative to one in rain or noise
HAZE_COSTS = ((10.0, 24.0), (2.0, 0.25))  # by the hazy picture's PSNR in dB, linear between these
CLEAN_COST = 1.3
FIDELITY = 5.0  # weight of the departure from what was handed on, relative to its variance
LEAST_VARIANCE = 1e-8
SAMPLES_OF_VARIANCE = 128
LARGEST_GRADIENT = 1.0


class Features(NamedTuple):
    """One sample: what the stage takes in, float16 (C, H/8, W/8); what it is; cost of a mistake."""

    inputs: Tensor
    kind: str
    cost: float


class Stage(nn.Module):
    """The latent blocks of a network and the layer that weighs the degradations there.

    Shape: (B, C, H/8, W/8), which may be overwritten -> the same, and scores (B, K) of the K
    degradations.
    """

    def __init__(self, net: AMPromptIR) -> None:
        super().__init__()
        self.latent = net.latent
        self.weigh = net.prompts[-1].generate.weigh

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.latent(x)
        return x, self.weigh(x.mean(dim=(2, 3)))


class Refit:
    """Trains the stage of a network in place.

    Args:
        net: whose latent blocks and last prompt block are trained.
        samples: what to train on; `fit` draws from them.
        rows: of the scores, the one that belongs to each kind.
        seed: of what is drawn.
    """

    def __init__(
        self, net: AMPromptIR, samples: list[Features], rows: dict[str, int], seed: int
    ) -> None:
        self.stage = Stage(net)
        self.former = copy.deepcopy(self.stage).requires_grad_(False)
        self.samples = samples
        self.rows = rows
        self.device = next(net.parameters()).device
        self.generator = np.random.default_rng(seed)
        some = self.generator.permutation(len(samples))[:SAMPLES_OF_VARIANCE]
        handed_on = (self.former(self._inputs([samples[item]]))[0] for item in some)
        variance = torch.stack([x.var((0, 2, 3)) for x in handed_on]).mean(dim=0)
        self.variance = variance.clamp_min(LEAST_VARIANCE)[:, None, None]

    def fit(self, steps: int, patches: int, lr: float) -> None:
        """Train to weigh right, and to hand on what it did before.

        Args:
            patches: in a batch; of larger samples as many as have no more pixels.

        Raises:
            UserError: the training diverged.
        """
        by_shape: dict[torch.Size, list[Features]] = {}
        for sample in self.samples:
            by_shape.setdefault(sample.inputs.shape, []).append(sample)
        groups = list(by_shape.values())
        shares = np.array([len(group) for group in groups]) / len(self.samples)

        self.stage.requires_grad_(True)
        optimizer = torch.optim.AdamW(self.stage.parameters(), lr, (0.9, 0.99), weight_decay=0)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: rate_factor("cosine", step, steps, 1)
        )
        progress = tqdm(range(steps), "fitting", unit="step")
        for _ in progress:
            group = groups[self.generator.choice(len(groups), p=shares)]
            larger = group[0].inputs[0].numel() / (PATCH // 8) ** 2  # than a patch
            size = max(1, int(patches / max(1, larger)))
            batch = [group[item] for item in self.generator.permutation(len(group))[:size]]
            right = torch.tensor([self.rows[sample.kind] for sample in batch], device=self.device)
            costs = torch.tensor([sample.cost for sample in batch], device=self.device)

            departure, scores = self._run(batch)
            mistakes = (F.cross_entropy(scores, right, reduction="none") * costs).mean()
            loss = mistakes + FIDELITY * departure
            if not loss.isfinite():
                raise UserError(f"--lr {lr:g}: the training diverged; give a smaller one")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.stage.parameters(), LARGEST_GRADIENT)
            optimizer.step()
            schedule.step()
            progress.set_postfix(mistakes=f"{mistakes:.3f}", departure=f"{departure:.5f}")

    @torch.no_grad()
    def measure(self, tests: list[Features]) -> tuple[Counter[str], float]:
        """How many of each kind have the greatest weight where it belongs, and the departure.

        The departure of what is handed on from what it was, relative to its variance; the mean.
        """
        right: Counter[str] = Counter()
        departures = []
        for sample in tests:
            departure, scores = self._run([sample])
            departures.append(float(departure))
            right[sample.kind] += int(scores.argmax() == self.rows[sample.kind])
        return right, float(np.mean(departures))

    def _run(self, samples: list[Features]) -> tuple[Tensor, Tensor]:
        """The departure, and the scores (B, K), of samples of one shape."""
        x = self._inputs(samples)
        with torch.no_grad():
            before = self.former(x.clone())[0]
        after, scores = self.stage(x)
        return ((after - before).square() / self.variance).mean(), scores

    def _inputs(self, samples: list[Features]) -> Tensor:
        """The inputs of samples of one shape, float32 (B, C, H/8, W/8)."""
        inputs = torch.stack([sample.inputs for sample in samples]).to(self.device).float()
        return inputs.contiguous(memory_format=torch.channels_last)


def main() -> int:
    options = parse()
    pairs = [Pair(None, photo) for photo in clean_photos(options.clean)]
    pairs, overlaps = leave_out(pairs, CLEAN.name)
    if overlaps:
        scenes = describe_overlaps(overlaps, TEST_SCENES)
        print(f"left out: photographs that by their names show {scenes}")
    photos = [pair.clean for pair in pairs]
    for photo, size in read_sizes(pairs, decoded=True).items():
        if min(size) < GRID:
            raise UserError(f"{photo}: smaller than {GRID} pixels a side; leave it out")
    held_out = photos[:: options.hold_out]
    trained_on = [file for index, file in enumerate(photos) if index % options.hold_out]
    if not trained_on:
        raise UserError(
            f"--clean {options.clean}: of {len(photos)} photographs --hold_out "
            f"{options.hold_out} leaves none to train on; give two or more of both"
        )
    device = choose_device(options.cuda)
    trained = load_network(options.ckpt_name or default_checkpoint())
    print(f"{trained.description['checkpoint']}: {trained.describe()}", flush=True)
    kinds, rows = kinds_of(trained)
    trained.pack(options.half)  # what cannot be packed is told of before the long work

    net = trained.net.to(device)
    sides = {kind: SIDES.get(kind, NOISY_SIDES) for kind in kinds}
    samples = list(look(net, trained_on, kinds, sides, options.seed))
    whole = dict.fromkeys(kinds, HELD_OUT_SIDES)
    tests = list(look(net, held_out, kinds, whole, options.seed + 1))
    refit = Refit(net, samples, rows, options.seed)
    before, _ = refit.measure(tests)
    refit.fit(options.steps, options.batch_size, options.lr)
    _, departure = refit.measure(tests)
    if not departure < 1:
        raise UserError(
            f"--lr {options.lr:g}: the training diverged, what the stage hands on is lost; give a "
            "smaller one"
        )
    keys = ("steps", "batch_size", "lr", "hold_out", "seed")
    done = {"of": trained.description["sha256"]} | {key: vars(options)[key] for key in keys}
    net.origin["hyper_parameters"]["refitted"] = done
    content = trained.pack(options.half)
    if options.half:
        net.half().float()  # what the file holds is measured
    after, departure = refit.measure(tests)
    print(f"\ntaken for what they are, of {len(held_out)} held out:\n")
    figures = [(kind, str(before[kind]), str(after[kind])) for kind in kinds]
    print(format_markdown(["kind", "before", "after"], figures))
    print(f"\ndeparture of what is handed on: {departure:.2%} of its variance", flush=True)
    write_whole(options.output, lambda file: file.write(content))
    print(f"{options.output}: {len(content) / 1e6:.1f} MB")
    return 0


def parse() -> argparse.Namespace:
    parser = Parser(__doc__.splitlines()[0].split(":")[0] + ".")
    parser.add_argument("--clean", type=path, required=True, help="folder of clean photographs")
    parser.add_argument("--ckpt_name", type=path, metavar="FILE", help=DEFAULT_CHECKPOINT_HELP)
    parser.add_argument("--output", type=path, required=True, help=f"file to write, *{ENDING}")
    parser.add_argument("--half", action="store_true", help="float16 weights")
    parser.add_argument("--steps", type=positive, default=700, help="of the training")
    parser.add_argument("--batch_size", type=batch_size, default=24, help="of patches")
    parser.add_argument("--lr", type=positive_float, default=1.5e-3, help="peak learning rate")
    parser.add_argument("--hold_out", type=positive, default=9, help="every n-th photograph")
    parser.add_argument("--cuda", type=gpu_index, help="index of the GPU, -1 for the CPU")
    parser.add_argument("--seed", type=natural, default=0, help="of everything random")
    options = parser.parse_args()
    if options.output.suffix != ENDING:
        raise UserError(f"--output {options.output}: expected a file name like new{ENDING}")
    if os.path.lexists(options.output):
        raise UserError(f"--output {options.output}: is there already; give another name")
    check_writable(options.output.parent)
    return options


def kinds_of(trained: Trained) -> tuple[dict[str, Degradation], dict[str, int]]:
    """What the network was trained for, and the row of each; clean ones go with the lightest noise.

    Raises:
        UserError: it has no such stage, was not trained on noise, or its rows mean nothing known.
    """
    name = trained.description["checkpoint"]
    known = trained.description["trained"]
    kinds = {entry.name: entry for entry in DEGRADATIONS if entry.name in known}
    noise = [entry for entry in kinds.values() if entry.sigma is not None]
    if not isinstance(trained.net, AMPromptIR) or not noise:
        raise UserError(
            f"{name}: expected a network am_promptir that was trained on noise (alone, or among "
            "others); give another with --ckpt_name"
        )
    if not trained.net.origin["hyper_parameters"].get("classification_weight"):
        raise UserError(
            f"{name}: was not trained to tell degradations apart, so its weights stand for none; "
            "give a checkpoint of train.py --classification_weight (0.02, say)"
        )
    names = trained.degradations or list(DEGRADATION_NAMES)
    if len(names) != trained.net.num_degradations or not kinds.keys() <= set(names):
        raise UserError(
            f"{name}: which degradation each of its {trained.net.num_degradations} rows is for is "
            f"not known; expected {' '.join(DEGRADATION_NAMES)}; give another with --ckpt_name"
        )
    kinds[UNHARMED] = noise[0]
    return kinds, {kind: names.index(entry.name) for kind, entry in kinds.items()}


@torch.no_grad()
def look(
    net: AMPromptIR,
    photos: list[Path],
    kinds: dict[str, Degradation],
    sides: dict[str, tuple[int | None, ...]],
    seed: int,
) -> Iterator[Features]:
    """The stage's inputs for each photograph, damaged as `kinds` and `sides` say.

    Raises:
        UserError: one is beyond 16 bits.
    """
    device = next(net.parameters()).device
    wanted = [(kind, side) for kind, found in sides.items() for side in found]
    with net.weights_kept():
        for index, file in enumerate(tqdm(photos, "looking", unit="photo")):
            photo, known = read_image(file), {}
            for turn, (kind, side) in enumerate(wanted):
                generator = np.random.default_rng((seed, index, turn))
                images = add_map([photo], kinds[kind], Pair(None, file), known)
                sample = take(images, kinds[kind], side, kind == UNHARMED, generator)
                x = net.embed(sample.degraded[None].to(device))
                for encoder, downsample in zip(net.encoders, net.downsamples, strict=True):
                    x = downsample(encoder(x))
                x = x[0].half().cpu()
                if not x.isfinite().all():
                    raise UserError(
                        f"{file}: the network makes more of it than 16 bits hold; use another "
                        "checkpoint"
                    )
                yield Features(x, kind, cost_of(sample, kind))


def take(
    images: list[np.ndarray],
    degradation: Degradation,
    side: int | None,
    untouched: bool,
    generator: np.random.Generator,
) -> Sample:
    """A window of a photograph (of its map as well), mirrored half of the time, and damaged."""
    size = images[-1].shape[:2]
    height, width = (min(side or WHOLE, length) // GRID * GRID for length in size)
    top = int(generator.integers(size[0] - height + 1))
    left = int(generator.integers(size[1] - width + 1))
    images = [image[top : top + height, left : left + width] for image in images]
    if generator.random() < 0.5:
        images = [np.ascontiguousarray(image[:, ::-1]) for image in images]
    compressed = generator.random() < COMPRESSED
    variety = Variety(
        grey=generator.random() < GREY,
        quality=int(generator.integers(QUALITY[0], QUALITY[1] + 1)) if compressed else None,
        untouched=untouched,
        noise=generator.uniform(*RANGE) if generator.random() < OTHER_NOISE else 1.0,
    )
    return make_sample(images, degradation, Pair(None, Path()), generator, variety=variety)


def cost_of(sample: Sample, kind: str) -> float:
    """What it costs to take a sample for something else: 1 in rain and noise, 0.25 to 2 in haze."""
    if kind == UNHARMED:
        return CLEAN_COST
    if kind == "dehaze":
        return float(np.interp(psnr(sample.degraded, sample.clean), *HAZE_COSTS))
    return 1.0


if __name__ == "__main__":
    run(main)

"""Training, validation and test images as `Sample`s.

Every random choice is drawn from a generator keyed by (seed, epoch, index) or (seed, index), so a
run does not depend on the number of workers, and can be taken up again at any step.
"""

import hashlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from data.degradations import DEGRADATIONS, Degradation
from data.pairing import DataSet, Pair
from data.transforms import add_noise, augment, crop_patch, crop_to_multiple, pad_to_size
from utils.errors import UserError
from utils.image_io import read_image, to_tensor

BALANCES = ("equal", "published")
PROTOCOLS = ("paper", "clean")
PAPER_NOISE_SEED = 0


class Sample(NamedTuple):
    """degraded, clean: float32 (3, H, W) in [0, 1]; task: the degradation's name; name: the file's.

    A collated batch has (B, 3, H, W) tensors and lists of names.
    """

    degraded: Tensor
    clean: Tensor
    task: str
    name: str


class TrainingSet(Dataset):
    """Augmented patches; item n is sample n % epoch_samples of epoch n // epoch_samples.

    Args:
        pairs: the training pairs of each degradation to train.
        patch_size: side of the square patches, in pixels.
        seed: of everything random here.
        balance: `equal` visits each task (denoise, derain, dehaze) equally often and a task's
            degradations equally often; `published` repeats each image as the table says. Both
            have the published number of samples in an epoch.
    """

    def __init__(
        self,
        pairs: Mapping[str, Sequence[Pair]],
        patch_size: int,
        seed: int,
        balance: str = "equal",
    ) -> None:
        self.patch_size = patch_size
        self.seed = seed
        self.balance = balance
        self.degradations = [entry for entry in DEGRADATIONS if entry.name in pairs]
        self.pairs = [list(pairs[entry.name]) for entry in self.degradations]
        self.epoch_samples = sum(self._samples_of_degradations())
        self._plans: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return self.epoch_samples

    def __getitem__(self, position: int) -> Sample:
        epoch, index = divmod(position, self.epoch_samples)
        which, item = self._plan(epoch)[index]
        generator = np.random.default_rng((self.seed, epoch, index))
        degradation, pair = self.degradations[which], self.pairs[which][item]

        images = [pad_to_size(image, self.patch_size) for image in _load(pair)]
        images = augment(crop_patch(images, self.patch_size, generator), generator)
        return _make_sample(images, degradation, pair, generator)

    def _samples_of_degradations(self) -> list[int]:
        published = [
            len(pairs) * entry.repeats
            for entry, pairs in zip(self.degradations, self.pairs, strict=True)
        ]
        if self.balance == "published":
            return published
        tasks = [entry.task for entry in self.degradations]
        per_task = sum(published) / len(set(tasks))
        return [max(1, round(per_task / tasks.count(task))) for task in tasks]

    def _plan(self, epoch: int) -> np.ndarray:
        """(degradation, item) of each sample of an epoch, shuffled: int (epoch_samples, 2)."""
        if epoch not in self._plans:
            generator = np.random.default_rng((self.seed, epoch))
            parts = []
            for which, samples in enumerate(self._samples_of_degradations()):
                num_items = len(self.pairs[which])
                rounds = -(-samples // num_items)
                items = np.concatenate([generator.permutation(num_items) for _ in range(rounds)])
                parts.append(np.stack([np.full(samples, which), items[:samples]], axis=1))
            self._plans = {
                other: plan for other, plan in self._plans.items() if other == epoch - 1
            }  # a batch may straddle two epochs
            self._plans[epoch] = generator.permutation(np.concatenate(parts))
        return self._plans[epoch]


class TrainingStream(Sampler[int]):
    """Positions in a `TrainingSet`, for one process, from a step to the end of the run.

    A step takes batch_size * num_processes consecutive positions. The length is that of the whole
    run, whatever the first step: the trainer counts the steps done before it.
    """

    def __init__(
        self, total_steps: int, batch_size: int, rank: int, num_processes: int, first_step: int
    ) -> None:
        self.total_steps = total_steps
        self.batch_size = batch_size
        self.rank = rank
        self.num_processes = num_processes
        self.first_step = first_step

    def __len__(self) -> int:
        return self.total_steps * self.batch_size

    def __iter__(self) -> Iterator[int]:
        for step in range(self.first_step, self.total_steps):
            first = (step * self.num_processes + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)


class ValidationSet(Dataset):
    """Whole held-out images, the same in every run; noise is keyed by (seed, sigma, index)."""

    def __init__(self, pairs: Mapping[str, Sequence[Pair]], seed: int) -> None:
        self.seed = seed
        self.items = [
            (entry, index, pair)
            for entry in DEGRADATIONS
            for index, pair in enumerate(pairs.get(entry.name, ()))
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, position: int) -> Sample:
        degradation, index, pair = self.items[position]
        generator = np.random.default_rng((self.seed, degradation.sigma or 0, index))
        return _make_sample(_load(pair), degradation, pair, generator)


def split(pairs: Sequence[Pair], num_validation: int) -> tuple[list[Pair], list[Pair]]:
    """Training pairs, and at most `num_validation` held-out pairs of other scenes.

    Scenes (clean images, by name) are held out in the order of a hash of their names: the same
    ones in every run, at most a tenth of all but one at least, and none if there is a single scene.
    """
    scenes = sorted({pair.clean.stem for pair in pairs}, key=_hash)
    if num_validation == 0 or len(scenes) == 1:
        return list(pairs), []
    held_out = set(scenes[: min(num_validation, max(1, len(scenes) // 10))])
    training = [pair for pair in pairs if pair.clean.stem not in held_out]
    first_of_scene = {pair.clean.stem: pair for pair in reversed(pairs)}
    return training, [first_of_scene[scene] for scene in scenes if scene in held_out]


def check_sizes(pairs: Sequence[Pair], patch_size: int | None = None) -> None:
    """Read the headers of all images; warn once of images smaller than the patch.

    Raises:
        UserError: a file is not an image, or the two images of a pair differ in size.
    """
    with ThreadPoolExecutor(8) as pool:
        sizes = list(pool.map(_sizes, pairs))
    for pair, (degraded, clean) in zip(pairs, sizes, strict=True):
        if degraded != clean:
            raise UserError(
                f"{pair.degraded}: {degraded[0]} x {degraded[1]} pixels, but its clean partner "
                f"{pair.clean} has {clean[0]} x {clean[1]}; both must be equal"
            )
    if patch_size is not None:
        small = [
            pair.name
            for pair, (_, size) in zip(pairs, sizes, strict=True)
            if min(_multiple(side) for side in size) < patch_size
        ]
        if small:
            warnings.warn(
                f"{len(small)} of {len(pairs)} images are smaller than the patch of {patch_size} "
                f"pixels and are padded by reflection (first: {small[0]})",
                stacklevel=2,
            )


def iterate_test_set(
    data_set: DataSet, degradations: Sequence[Degradation], protocol: str, seed: int
) -> Iterator[tuple[Degradation, Iterator[Sample]]]:
    """The samples of a test set for each degradation of its task; consume them in order.

    Protocol `paper`: centre-cropped to multiples of 16; one stream of noise runs through all
    images (sorted by name) of the first sigma, then of the second and the third; truncated.
    Protocol `clean`: whole images; noise is keyed by (seed, index), and rounded.
    """
    stream = np.random.RandomState(PAPER_NOISE_SEED)
    for degradation in degradations:
        yield degradation, _iterate_test_images(data_set, degradation, protocol, seed, stream)


def _iterate_test_images(
    data_set: DataSet,
    degradation: Degradation,
    protocol: str,
    seed: int,
    stream: np.random.RandomState,
) -> Iterator[Sample]:
    paper = protocol == "paper"
    for index, pair in enumerate(data_set.pairs):
        generator = stream if paper else np.random.default_rng((seed, index))
        images = _load(pair, cropped=paper)
        yield _make_sample(images, degradation, pair, generator, rounded=not paper)


def _load(pair: Pair, cropped: bool = True) -> list[np.ndarray]:
    """[clean], or [degraded, clean]."""
    paths = [pair.clean] if pair.degraded is None else [pair.degraded, pair.clean]
    images = [read_image(path) for path in paths]
    return [crop_to_multiple(image) for image in images] if cropped else images


def _make_sample(
    images: list[np.ndarray],
    degradation: Degradation,
    pair: Pair,
    generator: np.random.Generator | np.random.RandomState,
    rounded: bool = False,
) -> Sample:
    clean = images[-1]
    degraded = (
        images[0]
        if degradation.sigma is None
        else add_noise(clean, degradation.sigma, generator, rounded=rounded)
    )
    return Sample(to_tensor(degraded), to_tensor(clean), degradation.name, pair.name)


def _sizes(pair: Pair) -> tuple[tuple[int, int], tuple[int, int]]:
    """(width, height) of the degraded and of the clean image, from their headers."""
    sizes = []
    for path in (pair.degraded or pair.clean, pair.clean):
        try:
            with Image.open(path) as image:
                sizes.append(image.size)
        except OSError as error:
            raise UserError(f"{path}: cannot be read as an image; replace or remove it") from error
    return tuple(sizes)


def _multiple(side: int) -> int:
    return side - side % 16 or side


def _hash(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()

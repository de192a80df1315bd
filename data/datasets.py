"""Training and validation images as `Sample`s.

Every random choice is drawn from a generator keyed by (seed, epoch, index) or (seed, index), so a
run does not depend on the number of workers, and can be taken up again at any step.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from data.cache import ImageCache
from data.degradations import DEGRADATIONS, Degradation
from data.pairing import Pair
from data.synthesis import fit_map
from data.transforms import (
    add_noise,
    augment,
    crop_patch,
    crop_to_multiple,
    pad_to_size,
)
from data.variety import PUBLISHED, Variety, compress, draw_variety, to_grey
from utils.errors import UserError
from utils.image_io import MAX_PIXELS, read_image, to_tensor

BALANCES = ("equal", "degradations", "published")
MAX_MAPS = 4096  # kept by each process, of what a synthesis knows of a photograph


class Sample(NamedTuple):
    """degraded, clean: float32 (3, H, W) in [0, 1]; task: the degradation's name; name: the file's.

    untouched: whether the image was left clean, and `task` is only whose turn it was;
    replaced: why the image whose turn it was cannot be read, if this one is in its place.
    A collated batch has (B, 3, H, W) tensors, `untouched` of (B,), and lists of names.
    """

    degraded: Tensor
    clean: Tensor
    task: str
    name: str
    untouched: bool = False
    replaced: str = ""


class TrainingSet(Dataset):
    """Augmented patches; item n is sample n % epoch_samples of epoch n // epoch_samples.

    Args:
        pairs: the training pairs of each degradation to train.
        patch_size: side of the square patches, in pixels.
        seed: of everything random here.
        balance: `equal` visits each task (denoise, derain, dehaze) equally often and a task's
            degradations equally often; `degradations` visits each degradation equally often;
            `published` repeats each image as the table says. All have the published number of
            samples in an epoch.
        sizes: (width, height) of the images that may be kept in memory once they are decoded.
        cache_bytes: memory for that; images that are visited more often come first.
        damaged: images known to be unreadable, and why; the next pair takes the place of theirs,
            as of one that turns out to be so.
        max_pixels: of an image; larger ones are refused, and replaced as well.
        variety: share of the samples that depart from the published ones (`data.variety`).
    """

    def __init__(
        self,
        pairs: Mapping[str, Sequence[Pair]],
        patch_size: int,
        seed: int,
        balance: str = "equal",
        sizes: Mapping[Path, tuple[int, int]] | None = None,
        cache_bytes: float = 0,
        damaged: Mapping[Path, str] | None = None,
        max_pixels: int = MAX_PIXELS,
        variety: float = 0,
    ) -> None:
        self.patch_size = patch_size
        self.seed = seed
        self.balance = balance
        self.variety = variety
        self.degradations = [entry for entry in DEGRADATIONS if entry.name in pairs]
        self.pairs = [list(pairs[entry.name]) for entry in self.degradations]
        self.epoch_samples = sum(self._samples_of_degradations())
        self._plans: dict[int, np.ndarray] = {}
        self._maps: dict[tuple[str, Path], np.ndarray] = {}  # of this process
        visits = self._visits_of_images()
        self.num_images = len(visits)
        wanted = {path: sizes[path] for path, _ in visits.most_common() if path in (sizes or {})}
        self.cache = ImageCache(wanted, cache_bytes, max_pixels)
        self.damaged = dict(damaged or {})

    def __len__(self) -> int:
        return self.epoch_samples

    def __getitem__(self, position: int) -> Sample:
        epoch, index = divmod(position, self.epoch_samples)
        which, item = self._plan(epoch)[index]
        generator = np.random.default_rng((self.seed, epoch, index))
        degradation = self.degradations[which]

        images, pair, replaced = self._load(self.pairs[which], item)
        images = add_map(images, degradation, pair, self._maps)
        images = [pad_to_size(image, self.patch_size) for image in images]
        images = augment(crop_patch(images, self.patch_size, generator), generator)
        variety = draw_variety(self.variety, generator)
        sample = make_sample(images, degradation, pair, generator, variety=variety)
        return sample._replace(replaced=replaced)

    def _load(self, pairs: Sequence[Pair], item: int) -> tuple[list[np.ndarray], Pair, str]:
        """The images of a pair or the next one that can be read, the pair, and why it is another.

        Raises:
            UserError: none can.
        """
        reason = ""
        for offset in range(len(pairs)):
            pair = pairs[(item + offset) % len(pairs)]
            if self.damaged.keys().isdisjoint(pair):
                try:
                    return load_pair(pair, read=self.cache.read), pair, reason
                except UserError as error:
                    reason = reason or str(error)
        reason = reason or next(iter(self.damaged.values()))
        raise UserError(f"none of {len(pairs)} images can be read, such as {reason}")

    def _samples_of_degradations(self) -> list[int]:
        published = [
            len(pairs) * entry.repeats
            for entry, pairs in zip(self.degradations, self.pairs, strict=True)
        ]
        if self.balance == "published":
            return published
        by_task = self.balance == "equal"
        groups = [entry.task if by_task else entry.name for entry in self.degradations]
        per_group = sum(published) / len(set(groups))
        return [max(1, round(per_group / groups.count(group))) for group in groups]

    def _visits_of_images(self) -> Counter[Path]:
        """How often each image is read in an epoch, on average."""
        visits: Counter[Path] = Counter()
        for samples, pairs in zip(self._samples_of_degradations(), self.pairs, strict=True):
            for path in (path for pair in pairs for path in pair if path):
                visits[path] += samples / len(pairs)
        return visits

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
    """Positions in a `TrainingSet`, for one process, from a batch to the end of the run.

    Batch n of all processes takes batch_size * num_processes consecutive positions, and a step one
    or several batches (`--accumulate`). The length is that of the whole run, whatever the first
    batch (the trainer counts those done before it), and one batch more: the run ends by its number
    of steps, and no batch is noted as the last, so it can be extended.
    """

    def __init__(self, batches: range, batch_size: int, rank: int, num_processes: int) -> None:
        self.batches = batches
        self.batch_size = batch_size
        self.rank = rank
        self.num_processes = num_processes

    def __len__(self) -> int:
        return (self.batches.stop + 1) * self.batch_size

    def __iter__(self) -> Iterator[int]:
        for batch in self.batches:
            first = (batch * self.num_processes + self.rank) * self.batch_size
            yield from range(first, first + self.batch_size)


class ValidationSet(Dataset):
    """Whole held-out images, the same in every run; noise is keyed by (seed, sigma, index)."""

    def __init__(
        self, pairs: Mapping[str, Sequence[Pair]], seed: int, max_pixels: int = MAX_PIXELS
    ) -> None:
        self.seed = seed
        self.max_pixels = max_pixels
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
        read = partial(read_image, max_pixels=self.max_pixels)
        images = add_map(load_pair(pair, read=read), degradation, pair)
        return make_sample(images, degradation, pair, generator)


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


def load_pair(
    pair: Pair, cropped: bool = True, read: Callable[[Path], np.ndarray] = read_image
) -> list[np.ndarray]:
    """uint8 [clean], or [degraded, clean]; centre-cropped to multiples of 16 unless told not to."""
    paths = [pair.clean] if pair.degraded is None else [pair.degraded, pair.clean]
    images = [read(path) for path in paths]
    return [crop_to_multiple(image) for image in images] if cropped else images


def add_map(
    images: list[np.ndarray],
    degradation: Degradation,
    pair: Pair,
    known: dict[tuple[str, Path], np.ndarray] | None = None,
) -> list[np.ndarray]:
    """The images of `load_pair`, after the map of the photograph that a synthesis needs, if any.

    Args:
        known: maps by degradation and file; those found are added while there is room.
    """
    synthesis = degradation.synthesis
    if pair.degraded or synthesis is None or synthesis.map is None:
        return images
    known = {} if known is None else known
    key = degradation.name, pair.clean
    found = known[key] if key in known else synthesis.map(images[-1])
    if len(known) < MAX_MAPS:
        known[key] = found
    return [fit_map(found, images[-1].shape[:2]), *images]


def make_sample(
    images: list[np.ndarray],
    degradation: Degradation,
    pair: Pair,
    generator: np.random.Generator | np.random.RandomState,
    rounded: bool = False,
    variety: Variety = PUBLISHED,
) -> Sample:
    """A sample of images as `add_map` gives them; what has no degraded image is degraded here."""
    if variety.grey:
        images = [to_grey(image) if image.ndim == 3 else image for image in images]
    clean = images[-1]
    if variety.untouched:
        degraded = clean
    elif degradation.sigma is not None:
        channels = clean[..., :1] if variety.grey else clean
        degraded = add_noise(
            channels, degradation.sigma * variety.noise, generator, rounded=rounded
        )
        degraded = np.broadcast_to(degraded, clean.shape)
    elif pair.degraded is None:
        found = images[0] if len(images) > 1 else None
        degraded = degradation.synthesis.degrade(clean, found, generator)
    else:
        degraded = images[0]
    if variety.quality is not None:
        degraded = compress(degraded, variety.quality)
    images = to_tensor(degraded), to_tensor(clean)
    return Sample(*images, degradation.name, pair.name, variety.untouched)


def _hash(name: str) -> str:
    return hashlib.sha256(os.fsencode(name)).hexdigest()

"""The two test protocols: which pixels a figure is computed on.

`paper` is that of the AirNet, PromptIR and AM-PromptIR papers, but for the order of the files: the
published code takes the directory's, which is not portable; here names are sorted. `clean` is ours.
"""

from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np

from data.datasets import Sample, add_map, load_pair, make_sample
from data.degradations import Degradation
from data.pairing import DataSet
from utils.image_io import MAX_PIXELS, read_image

PROTOCOLS = ("paper", "clean")
PAPER_NOISE_SEED = 0


def iterate_test_set(
    data_set: DataSet,
    degradations: Sequence[Degradation],
    protocol: str,
    seed: int,
    max_pixels: int = MAX_PIXELS,
) -> Iterator[tuple[Degradation, Iterator[Sample]]]:
    """The samples of a test set for each degradation of its task; consume them in order.

    Protocol `paper`: centre-cropped to multiples of 16; one stream of noise runs through all
    images (sorted by name) of the first sigma, then of the second and the third; truncated.
    Protocol `clean`: whole images; noise is keyed by (seed, index), and rounded.
    What else is made from clean images is keyed so in both.
    """
    stream = np.random.RandomState(PAPER_NOISE_SEED)
    for degradation in degradations:
        yield (
            degradation,
            _iterate_test_images(data_set, degradation, protocol, seed, stream, max_pixels),
        )


def seed_of(degradation: Degradation, protocol: str, seed: int) -> int:
    """The seed of what a test makes from clean images: of noise, protocol `paper` has its own."""
    is_noise = degradation.sigma is not None
    return PAPER_NOISE_SEED if protocol == "paper" and is_noise else seed


def _iterate_test_images(
    data_set: DataSet,
    degradation: Degradation,
    protocol: str,
    seed: int,
    stream: np.random.RandomState,
    max_pixels: int,
) -> Iterator[Sample]:
    paper = protocol == "paper"
    for index, pair in enumerate(data_set.pairs):
        is_noise = degradation.sigma is not None
        generator = stream if paper and is_noise else np.random.default_rng((seed, index))
        images = load_pair(pair, paper, partial(read_image, max_pixels=max_pixels))
        images = add_map(images, degradation, pair)
        yield make_sample(images, degradation, pair, generator, rounded=not paper)

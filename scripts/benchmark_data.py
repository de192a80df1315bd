"""Speed of the training data: python -m scripts.benchmark_data --denoise_dir DIR --derain_dir DIR

Loads batches in this process, on one core, as one of train.py's workers does: once decoding every
image each time it is read, once with decoded images kept in memory, in turns. All images are read
once before, so that files come from the system's memory and the cache is full. With
`--num_workers N` also by train.py's loader, in N processes. The last line of the output is JSON.
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import json
import os
import time
from argparse import Namespace
from collections.abc import Callable
from functools import partial

import torch
from torch.utils.data import DataLoader

from data.damage import read_sizes
from data.datasets import TrainingSet, TrainingStream, ValidationSet
from data.degradations import DEGRADATION_NAMES, TASKS, of_task
from data.loaders import allow_open_files, make_loaders
from data.training import choose_pairs
from options import (
    MOST_WORKERS,
    Parser,
    add_training_flags,
    batch_size,
    find_in_folder,
    natural,
    patch_size,
    positive,
    positive_float,
)
from utils.errors import UserError, run
from utils.timing import time_in_turns

PREFETCHED = 2  # batches that each worker loads ahead
WAYS = ("decoded every time", "kept in memory")


def main() -> int:
    parser = Parser(__doc__.splitlines()[0])
    add_training_flags(parser)
    parser.add_argument(
        "--de_type",
        nargs="+",
        choices=DEGRADATION_NAMES,
        default=list(DEGRADATION_NAMES),
        metavar="NAME",
        help="degradations to load, of those that there are images for",
    )
    parser.add_argument("--patch_size", type=patch_size, default=128, help="pixels")
    parser.add_argument("--batch_size", type=batch_size, default=18, help="patches")
    parser.add_argument("--batches", type=positive, default=10, help="of a round, each way")
    parser.add_argument("--rounds", type=positive, default=7, help="whose median counts")
    parser.add_argument("--cache_gb", type=positive_float, default=4.0, help="GB (1e9 bytes)")
    parser.add_argument(
        "--num_workers",
        type=partial(natural, most=MOST_WORKERS),
        default=0,
        help="processes of train.py's loader, to be measured as well",
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    allow_open_files(options.num_workers)

    pairs = {}
    for task in TASKS:
        data_sets = find_in_folder(options, f"{task.name}_dir", task)
        found = choose_pairs(options, task, data_sets)
        chosen = [entry.name for entry in of_task(task.name) if entry.name in options.de_type]
        pairs |= {name: found for name in chosen if found}
    if not pairs:
        raise UserError("no training images to load; say where with --denoise_dir or its like")
    sizes = read_sizes([pair for each in pairs.values() for pair in each])
    loads = []
    for cache_gb in (0.0, options.cache_gb):
        data_set = TrainingSet(
            pairs, options.patch_size, seed=0, sizes=sizes, cache_bytes=1e9 * cache_gb
        )
        for path in sizes:
            data_set.cache.read(path)
        loads.append(make_load(data_set, options.batch_size, options.batches, options.rounds))
    seconds = time_in_turns(loads, options.rounds)

    rates = [options.batches * options.batch_size / taken for taken in seconds]
    print(f"{', '.join(pairs)}: {len(data_set.cache)} of {len(sizes)} images kept in memory")
    for way, rate in zip(WAYS, rates, strict=True):
        print(f"{way}: {rate:.0f} patches/s on one core")
    print(f"{rates[1] / rates[0]:.1f} times as many")
    figures = {way.replace(" ", "_"): rate for way, rate in zip(WAYS, rates, strict=True)}
    if options.num_workers:
        rate = measure_workers(data_set, options)
        print(f"{options.num_workers} workers: {rate:.0f} patches/s on {os.cpu_count()} cores")
        figures["with_workers"] = rate
    kept = {"images_kept": len(data_set.cache), "images": len(sizes)}
    print(json.dumps({"ratio": rates[1] / rates[0], **figures, **kept}))
    return 0


def make_load(
    data_set: TrainingSet, batch_size: int, batches: int, rounds: int
) -> Callable[[], None]:
    """A function that loads the next batches of the training stream."""
    stream = TrainingStream(range((rounds + 1) * batches), batch_size, rank=0, num_processes=1)
    loader = iter(DataLoader(data_set, batch_size, sampler=stream))

    def load() -> None:
        for _ in range(batches):
            next(loader)

    return load


def measure_workers(data_set: TrainingSet, options: Namespace) -> float:
    """Patches a second of the training loader, while all workers are loading."""
    counted, ahead = options.rounds * options.batches, 2 * PREFETCHED * options.num_workers
    loader, _ = make_loaders(
        data_set,
        ValidationSet({}, seed=0),
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        pin_memory=False,
        batches=range(counted + 2 * ahead),
        rank=0,
        num_processes=1,
    )
    batches = iter(loader)
    for _ in range(ahead):
        next(batches)
    start = time.perf_counter()
    for _ in range(counted):
        next(batches)
    return counted * options.batch_size / (time.perf_counter() - start)


if __name__ == "__main__":
    run(main)

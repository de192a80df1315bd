"""Loading batches in worker processes, which leave signals to the process that trains."""

import atexit
import multiprocessing
import signal

from torch.utils.data import DataLoader, Subset

from data.datasets import TrainingSet, TrainingStream, ValidationSet


def make_loaders(
    training_set: TrainingSet,
    validation_set: ValidationSet,
    *,
    batch_size: int,
    num_workers: int,
    pin_memory: bool,
    batches: range,
    rank: int,
    num_processes: int,
) -> tuple[DataLoader, DataLoader | None]:
    """One process's share of the training stream, and of the validation images if there are any.

    Args:
        batches: those of each process, from the first one to be done to the end of the run.
    """
    shared = dict(
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=leave_signals_to_parent,
    )
    stream = TrainingStream(batches, batch_size, rank, num_processes)
    training_loader = DataLoader(
        training_set, batch_size=batch_size, sampler=stream, drop_last=True, **shared
    )
    if not len(validation_set):
        return training_loader, None
    # every process needs an image; with fewer images than processes some count more than once
    share = range(rank, max(len(validation_set), num_processes), num_processes)
    share = Subset(validation_set, [index % len(validation_set) for index in share])
    return training_loader, DataLoader(share, batch_size=1, **shared)


def leave_signals_to_parent(worker: int) -> None:
    """A data loader's worker ends with its parent, which finishes its step first."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@atexit.register
def end_workers() -> None:
    """Workers left over after an error: they ignore the signal that would end them."""
    for worker in multiprocessing.active_children():
        worker.kill()

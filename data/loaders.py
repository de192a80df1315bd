"""Loading batches in worker processes, which leave signals to the process that trains."""

import atexit
import multiprocessing
import signal
import sys

import cv2
from torch.utils.data import DataLoader, Subset

from data.datasets import TrainingSet, TrainingStream, ValidationSet
from utils.errors import UserError
from utils.processes import STOPPING

FILES, FILES_OF_WORKER = 64, 32  # open at once: every tensor that is handed over is one


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

    With workers OpenCV has one thread from then on in this process as well: a forked worker that is
    to have fewer than its parent waits for ever for threads which it has not.

    Args:
        batches: those of each process, from the first one to be done to the end of the run.
    """
    if num_workers:
        cv2.setNumThreads(1)
    shared = dict(
        num_workers=num_workers,
        pin_memory=pin_memory,
        worker_init_fn=prepare_worker,
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


def allow_open_files(num_workers: int) -> None:
    """Raise the limit on open files to what loading needs: short of it batches are lost.

    Raises:
        UserError: the system allows fewer.
    """
    if sys.platform == "win32":
        return
    import resource

    needed = FILES + FILES_OF_WORKER * num_workers
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit >= needed or limit == resource.RLIM_INFINITY:
        return
    if most < needed and most != resource.RLIM_INFINITY:
        raise UserError(
            f"--num_workers {num_workers}: {most} files may be open at once, expected {needed}; "
            f"raise the limit (ulimit -n {needed}), or give fewer if there are any"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, most))


def prepare_worker(worker: int) -> None:
    """A data loader's worker ends with its parent, which finishes its step first.

    OpenCV uses one thread in it, not as many as there are cores.
    """
    for number in STOPPING:
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(1)


@atexit.register
def end_workers() -> None:
    """Workers left over after an error: they ignore the signal that would end them."""
    for worker in multiprocessing.active_children():
        worker.kill()

"""train.py in processes of its own that end with SIGKILL, or lose those that load, at a moment.

They are forked from a server that has imported everything, so that one costs a second.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import torch

import train
import utils.checkpoints
from data.loaders import end_workers
from utils.callbacks import RunControl, SampleImages
from utils.errors import run

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["tests.killing"])


def run_training(arguments: list[str], output: Path, kill: tuple[str, int] | None = None) -> int:
    """Train, perhaps to be killed at a step; returns the exit code, negative for a signal."""
    process = CONTEXT.Process(target=_train, args=([*map(str, arguments)], output, kill))
    process.start()
    process.join(120)
    if process.is_alive():
        process.kill()
    return process.exitcode


def _train(arguments: list[str], output: Path, kill: tuple[str, int] | None) -> None:
    multiprocessing.set_start_method("fork", force=True)  # of loaders, as in a plain train.py
    torch.set_num_threads(1)
    sys.argv = ["train.py", *arguments]
    if kill:
        KILLS[kill[0]](kill[1])
    with (
        output.open("a") as file,
        contextlib.redirect_stdout(file),
        contextlib.redirect_stderr(file),
    ):
        try:
            run(train.main)
        finally:
            end_workers()  # processes of multiprocessing leave out what is registered for the end


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _after_the_step(step: int) -> None:
    """When the optimizer has taken its step, and nothing is saved."""
    original = RunControl.on_train_batch_end

    def hook(self, trainer, *rest):
        if trainer.global_step == step:
            _die()
        original(self, trainer, *rest)

    RunControl.on_train_batch_end = hook


def _within_the_step(step: int) -> None:
    """Between the batches whose gradients make a step."""
    original = RunControl.on_train_batch_end

    def hook(self, trainer, *rest):
        if trainer.global_step == step and trainer.global_step == self.step:
            _die()
        original(self, trainer, *rest)

    RunControl.on_train_batch_end = hook


def _loaders_after_the_step(step: int) -> None:
    """The processes that load images, as a system out of memory does."""
    original = RunControl.on_train_batch_end

    def hook(self, trainer, *rest):
        original(self, trainer, *rest)
        if trainer.global_step == step:
            end_workers()

    RunControl.on_train_batch_end = hook


def _while_validating(step: int) -> None:
    original = SampleImages.on_validation_batch_end

    def hook(self, trainer, *rest):
        if trainer.global_step == step:
            _die()
        original(self, trainer, *rest)

    SampleImages.on_validation_batch_end = hook


def _while_writing(number: int) -> None:
    """In the middle of the n-th checkpoint."""
    original, written = utils.checkpoints.write_whole, []

    def write(path, write_content, **options):
        def write_half(file):
            write_content(file)
            file.truncate(file.tell() // 2)
            file.flush()
            _die()

        written.append(path)
        original(path, write_half if len(written) == number else write_content, **options)

    utils.checkpoints.write_whole = write


def _before_renaming(number: int) -> None:
    """When the former checkpoint has become the previous one, for the n-th time."""
    original, linked = utils.checkpoints._link, []

    def link(source, target):
        original(source, target)
        linked.append(source)
        if len(linked) == number:
            _die()

    utils.checkpoints._link = link


KILLS = {
    "after step": _after_the_step,
    "within step": _within_the_step,
    "loaders after step": _loaders_after_the_step,
    "validating": _while_validating,
    "writing": _while_writing,
    "before renaming": _before_renaming,
}

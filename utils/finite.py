"""Steps whose loss or gradient is not finite are skipped; a run that has only such steps ends.

A skipped step leaves weights, their state in the optimizer and nothing else as it was: it counts as
a step of the schedule and of the stream of samples, so that a resumed run sees the same ones.
"""

import warnings
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, distributed
from torch.optim import Optimizer

from utils.errors import UserError

PATIENCE = 10  # steps in a row
NAMES_SHOWN = 40  # of images, in the message


class FiniteSteps(Callback):
    """Looks at each step's loss and gradient before the optimizer does.

    One number is read from the device at each step: whether every loss and the largest gradient of
    every weight are finite. Several processes come to the same answer, as they share gradients;
    the losses are their own, and so is a small reduction.

    Args:
        checkpoint: where the run's last checkpoint is, if it has saved one.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.skipped = 0  # steps of the run
        self.in_row = 0
        self._losses: list[Tensor] = []  # of the step's batches
        self._names: list[str] = []

    def state_dict(self) -> dict[str, int]:
        return {"skipped": self.skipped, "in_row": self.in_row}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.skipped, self.in_row = state["skipped"], state["in_row"]

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, *step: Any
    ) -> None:
        self._names += batch.name

    def on_before_backward(
        self, trainer: L.Trainer, module: L.LightningModule, loss: Tensor
    ) -> None:
        self._losses.append(loss.detach())

    @torch.no_grad()
    def on_before_optimizer_step(
        self, trainer: L.Trainer, module: L.LightningModule, optimizer: Optimizer
    ) -> None:
        parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in parameters if weight.grad is not None]
        largest = torch._foreach_norm(gradients, float("inf"))  # of each; it is NaN if one value is
        finite = torch.stack([*self._losses, *largest]).isfinite().all()
        finite = trainer.strategy.reduce_boolean_decision(bool(finite), all=True)
        names, self._names, self._losses = self._names, [], []
        self.in_row = 0 if finite else self.in_row + 1
        if finite:
            return
        self.skipped += 1
        optimizer.zero_grad(set_to_none=True)  # it passes over weights without a gradient
        images = _first_few(sorted(set(_of_all_processes(names))))
        step = f"step {trainer.global_step + 1}: loss or gradient is not finite"
        if self.in_row >= PATIENCE:
            saved = "nothing has been saved"
            if self.checkpoint.exists():
                saved = f"the last good checkpoint is {self.checkpoint}"
            raise UserError(
                f"{step}, {PATIENCE} times in a row ({self.skipped} in the run); {saved}; "
                f"look at the images of this step ({images}), or start again with a lower --lr"
            )
        warnings.warn(
            f"{step}; it is skipped ({self.skipped} in the run), images: {images}", stacklevel=2
        )


def _of_all_processes(names: list[str]) -> list[str]:
    if not (distributed.is_available() and distributed.is_initialized()):
        return names
    found: list[list[str]] = [[] for _ in range(distributed.get_world_size())]
    distributed.all_gather_object(found, names)
    return [name for each in found for name in each]


def _first_few(names: list[str]) -> str:
    more = f", and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more

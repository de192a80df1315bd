"""Steps whose loss or gradient is not finite are skipped; a run that has only such steps ends.

A skipped step leaves the weights and the state of the optimizer as they were. It counts as a step
of the schedule and of the stream of samples, so that a resumed run sees the same ones, and the
average of the weights takes them once more.
"""

import warnings
from collections import deque
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, distributed
from torch.optim import Optimizer

from utils.errors import UserError

PATIENCE = 10  # steps in a row
LAG = 2  # steps that a GPU may be behind when it is asked whether a step was finite
NAMES_SHOWN = 40  # of images, in a message


class Look(NamedTuple):
    """What was seen in a step: 1 or 0 if it was bad or not, there when the event has come."""

    step: int
    names: list[str]
    bad: Tensor
    there: torch.cuda.Event | None


class FiniteSteps(Callback):
    """Looks at each step's losses and gradients before the optimizer does.

    A fused optimizer is told on the device to skip a bad step, and the answer is read some steps
    later, so that a GPU never waits for it. Other optimizers pass over weights without a gradient:
    they get none. Several processes come to the same answer, as they reduce it; it is read after
    the same number of steps by all of them.

    Args:
        checkpoint: where the run's last checkpoint is, if it has saved one.
    """

    def __init__(self, checkpoint: Path) -> None:
        self.checkpoint = checkpoint
        self.skipped = 0  # steps of the run
        self.in_row = 0
        self._losses: list[Tensor] = []  # of the step's batches
        self._names: list[str] = []
        self._looks: deque[Look] = deque()  # not yet counted

    def state_dict(self) -> dict[str, int]:
        self._count(0)
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
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        gradients = [weight.grad for weight in weights if weight.grad is not None]
        largest = torch._foreach_norm(gradients, float("inf"))  # of each; NaN if one value is
        bad = 1 - torch.stack([*self._losses, *largest]).isfinite().all().float()
        if trainer.world_size > 1:
            distributed.all_reduce(bad, distributed.ReduceOp.MAX)
        fused = optimizer.defaults["fused"]
        if fused:
            optimizer.found_inf = bad
        elif bad:
            optimizer.zero_grad(set_to_none=True)
        there = None
        if bad.is_cuda:
            bad = bad.to("cpu", non_blocking=True)
            there = torch.cuda.Event()
            there.record()
        self._looks.append(Look(trainer.global_step + 1, self._names, bad, there))
        self._names, self._losses = [], []
        self._count(LAG if fused else 0)

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._count(0)

    def is_in_streak(self) -> bool:
        """Whether the last step was not finite."""
        self._count(0)
        return self.in_row > 0

    def describe_saved(self) -> str:
        """Which checkpoint the run can be gone on with."""
        if self.checkpoint.exists():
            return f"the last good checkpoint is {self.checkpoint}"
        return "nothing has been saved"

    def _count(self, lag: int) -> None:
        """Count the steps that are over, but for the last `lag` ones.

        Raises:
            UserError: too many in a row were bad.
        """
        while len(self._looks) > lag:
            look = self._looks.popleft()
            if look.there:
                look.there.synchronize()
            self.in_row = self.in_row + 1 if look.bad else 0
            if look.bad:
                self.skipped += 1
                self._tell(look)

    def _tell(self, look: Look) -> None:
        images = _first_few(sorted(set(_of_all_processes(look.names))))
        step = f"step {look.step}: loss or gradient is not finite"
        if self.in_row >= PATIENCE:
            raise UserError(
                f"{step}, {PATIENCE} times in a row ({self.skipped} in the run); "
                f"{self.describe_saved()}; "
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

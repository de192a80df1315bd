"""What happens around training steps: averaged weights, saving and stopping, progress, pictures."""

import math
import os
import signal
import sys
import time
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import (
    Callback,
    Checkpoint,
    LearningRateMonitor,
    ModelCheckpoint,
    ProgressBar,
    WeightAveraging,
)
from torch import Tensor
from tqdm import tqdm

from utils.comparison import write_comparison
from utils.errors import UserError
from utils.finite import FiniteSteps
from utils.image_io import to_pixels
from utils.processes import STOPPING, take_signals

MAX_DECAY = 0.999
SIGNAL_PAUSE = 1.0  # seconds; what comes earlier is the same signal, passed on by another process


class Interrupted(Exception):
    """Training was told to stop by a signal, and has been saved."""


class AveragedWeights(WeightAveraging):
    """Exponential moving average of the weights, used for validation and saved as the weights.

    The decay grows from 0.18 to 0.999 as (1 + n) / (10 + n) over the steps n, so that short runs
    are not averaged with their random start.

    Lightning's own update counts on the device and reads the count back, and keeps the average
    where the module was made, on the CPU: a GPU would wait for both in every step.
    """

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._average_model.to(module.device)

    @torch.no_grad()
    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *step: Any) -> None:
        if trainer.global_step == self._latest_update_step:
            return  # in the middle of a step of several batches
        self._latest_update_step = trainer.global_step
        before = trainer.global_step - 1
        decay = min(MAX_DECAY, (1 + before) / (10 + before)) if before else 0
        averages, currents = (
            [*net.parameters(), *net.buffers()] for net in (self._average_model.module, module)
        )
        torch._foreach_lerp_(averages, currents, 1 - decay)
        self._average_model.n_averaged += 1


class BestCheckpoint(ModelCheckpoint):
    """Keeps the best weights, and takes of a checkpoint's state the best score alone.

    Lightning would take paths as well, and remove what they name; and it would forget the score
    after a run's folder was renamed. A score that is not a number is never the best.
    """

    @property
    def state_key(self) -> str:
        return super().state_key.replace(type(self).__qualname__, ModelCheckpoint.__qualname__)

    def state_dict(self) -> dict[str, Any]:
        return {"best_model_score": self.best_model_score}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        score = state.get("best_model_score")
        path = Path(self.dirpath) / f"{self.filename}{self.FILE_EXTENSION}"
        if isinstance(score, Tensor) and score.numel() == 1:
            score = score.item()
        if not isinstance(score, int | float) or not math.isfinite(score):
            return
        if path.is_file():
            self.best_model_score = self.kth_value = torch.tensor(float(score))
            self.best_model_path = self.kth_best_model_path = str(path)
            self.best_k_models = {str(path): self.best_model_score}

    def check_monitor_top_k(self, trainer: L.Trainer, current: Tensor | None = None) -> bool:
        if current is not None and current.isnan():
            warnings.warn("the validation's PSNR is not a number; no best weights", stacklevel=2)
            return False
        return super().check_monitor_top_k(trainer, current)


class RunControl(Checkpoint):
    """Saves `last.ckpt` now and then, and ends the run at its last step, its time, or a signal.

    After a signal of `STOPPING` the current step is finished and saved, then `Interrupted` is
    raised; the same signal a second later, or more, ends the process at once.

    The time begins after the first step, in which the network may be compiled. It is that of one
    session, or if `timed` (the learning rate then follows it) of all sessions of the run.

    Where a step is followed by a validation, the checkpoint is saved before it, and a run that is
    resumed from there validates first: it keeps the same best weights as one never stopped. The
    last one is saved after its validation, by when `best.ckpt` is written (Lightning calls this
    callback after `BestCheckpoint`, if it is listed after it). Where the time ends a run, it is
    saved before that validation too; killed in between, it makes one more step when resumed.

    Nothing is saved now and then after steps that were not finite, and weights that are not finite
    are never saved: they end the run.

    Args:
        finite: knows of the steps that were not.
        validate_every: steps between validations; 0 without any.
    """

    def __init__(
        self,
        checkpoint: Path,
        finite: FiniteSteps,
        total_steps: int,
        save_every: int,
        validate_every: int,
        max_minutes: float | None,
        timed: bool = False,
    ) -> None:
        self.checkpoint = checkpoint
        self.finite = finite
        self.total_steps = total_steps
        self.save_every = save_every
        self.validate_every = validate_every
        self.max_seconds = 60 * max_minutes if max_minutes else float("inf")
        self.timed = timed
        self.seconds = 0.0
        self.signals: dict[int, float] = {}  # by number, when it first came
        self.validated = 0  # the last step that a validation followed

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self.seconds, "validated": self.validated}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.validated = state.get("validated", 0)  # older versions did not save it
        if self.timed:
            self.seconds = state["seconds"]

    def on_load_checkpoint(
        self, trainer: L.Trainer, module: L.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Lightning goes on counting batches, of which a step had perhaps another number.

        All counts become those at the end of a step, wherever in Lightning's loop they were saved:
        it would log the steps of a run that was saved after a validation under other numbers.
        """
        steps = checkpoint["global_step"]
        loops = checkpoint["loops"]["fit_loop"]
        progress = loops["epoch_loop.batch_progress"]
        for counts in (progress["total"], progress["current"]):
            counts.update(dict.fromkeys(counts, steps * trainer.accumulate_grad_batches))
            counts["completed"] -= 1
        loops.setdefault("epoch_loop.state_dict", {})["_batches_that_stepped"] = steps - 1

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.step = trainer.global_step
        self.clock: float | None = None
        module.time_share = self.seconds / self.max_seconds
        take_signals(STOPPING, self._note_signal)
        if self._validates_after(self.step) and self.validated < self.step:
            loop = trainer.fit_loop.epoch_loop.val_loop
            loop.restarting = False
            trainer.validating = True
            loop.run()
            trainer.training = True

    def on_train_batch_end(self, trainer: L.Trainer, module: L.LightningModule, *step: Any) -> None:
        if trainer.global_step == self.step:
            return  # in the middle of a step of several batches
        self.step = trainer.global_step
        self._note_time(trainer, module)
        anywhere = trainer.strategy.reduce_boolean_decision
        stopped = anywhere(bool(self.signals) or self.seconds > self.max_seconds, all=False)
        interrupted = stopped and anywhere(bool(self.signals), all=False)
        at_end = trainer.global_step >= self.total_steps
        finished = stopped or at_end
        if at_end and self.validate_every:
            pass  # saved after the validation
        elif finished or (
            trainer.global_step % self.save_every == 0 and not self.finite.is_in_streak()
        ):
            self._save(trainer, module)
        if interrupted and not at_end:
            raise Interrupted(f"step {trainer.global_step}")
        trainer.should_stop = finished  # validates once more, then ends

    def _note_time(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        now = time.monotonic()
        if self.clock is not None:
            self.seconds += now - self.clock
        self.clock = now
        if self.timed:  # the rate must be the same in all processes
            self.seconds = trainer.strategy.broadcast(self.seconds)
        module.time_share = self.seconds / self.max_seconds

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.validated = trainer.global_step
        if trainer.global_step >= self.total_steps or trainer.should_stop:
            self._save(trainer, module)

    @staticmethod
    def had_its_time(content: Mapping[str, Any], max_minutes: float, validates: bool) -> bool:
        """Whether a timed run is over, and its last step validated.

        Args:
            content: of a checkpoint, as `net.resumable.read_run` gives it.
            validates: whether there are images to validate with.
        """
        state = content["callbacks"].get(RunControl.__name__, {})
        validated = not validates or state.get("validated", 0) == content["global_step"]
        return validated and state.get("seconds", 0) > 60 * max_minutes

    def _save(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not all(value.isfinite().all() for value in module.state_dict().values()):
            raise UserError(
                f"step {trainer.global_step}: the weights are not finite and are not saved; "
                f"{self.finite.describe_saved()}; start again with a lower --lr"
            )
        trainer.save_checkpoint(self.checkpoint)

    def _validates_after(self, step: int) -> bool:
        return bool(self.validate_every and step) and step % self.validate_every == 0

    def _note_signal(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if number not in self.signals:
            self.signals[number] = now
            print(
                "\nfinishing the step, then saving; the same signal after a second ends at once",
                flush=True,
            )
        elif now - self.signals[number] >= SIGNAL_PAUSE:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


class LearningRates(LearningRateMonitor):
    """Logs the rate once a step, where Lightning's does with each of its batches."""

    def __init__(self) -> None:
        super().__init__(logging_interval="step")

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, index: int
    ) -> None:
        if index % trainer.accumulate_grad_batches == 0:
            super().on_train_batch_start(trainer, module, batch, index)


class RunProgress(ProgressBar):
    """One bar over the whole run: step, time left, loss, learning rate, images/s.

    Args:
        total_steps: None if the run's time ends it, of which it then shows how much has passed.
    """

    seconds_between = 0.5 if sys.stderr.isatty() else 10

    def __init__(self, total_steps: int | None, samples_per_step: int) -> None:
        super().__init__()
        self.total_steps = total_steps
        self.samples_per_step = samples_per_step
        self.enabled = True
        self.bar = None
        self.loss: Tensor | None = None  # of the last step, and its learning rate
        self.rate = 0.0

    def disable(self) -> None:
        """Lightning calls this on all processes but the first."""
        self.enabled = False

    def on_train_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.bar = tqdm(
            total=self.total_steps,
            initial=trainer.global_step,
            desc="training",
            unit="step",
            dynamic_ncols=True,
            mininterval=self.seconds_between,
            disable=not self.enabled,
        )
        self.shown = 0.0

    def on_train_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, outputs: Any, *step: Any
    ) -> None:
        steps = trainer.global_step - self.bar.n
        if not steps:
            return  # in the middle of a step of several batches
        self.bar.update(steps)
        self.loss = outputs["loss"]
        self.rate = trainer.optimizers[0].param_groups[0]["lr"]
        if time.monotonic() - self.shown > self.seconds_between:
            self._show(trainer, module)

    def _show(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if not self.enabled or self.loss is None:
            return
        self.shown = time.monotonic()
        loss = self.loss.item() * trainer.accumulate_grad_batches  # Lightning has divided it
        speed = self.bar.n - self.bar.initial
        speed /= max(1e-9, self.bar.format_dict["elapsed"])
        passed = {} if self.total_steps else {"time": f"{min(1, module.time_share):.0%}"}
        self.bar.set_postfix(
            {
                **passed,
                "loss": f"{loss:.4f}",
                "lr": f"{self.rate:.2e}",
                "images/s": f"{self.samples_per_step * speed:.1f}",
            },
            refresh=False,
        )

    def on_validation_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.bar is not None:
            self.bar.set_description_str("validating")

    def on_validation_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        if self.bar is not None and self.enabled:
            self.bar.set_description_str("training")
            figures = ", ".join(
                f"{name.removeprefix('val/psnr').removeprefix('_') or 'mean'} {value:.2f}"
                for name, value in trainer.callback_metrics.items()
                if name.startswith("val/")
            )
            tqdm.write(f"step {trainer.global_step}: validation PSNR (blind, dB): {figures}")

    def on_exception(
        self, trainer: L.Trainer, module: L.LightningModule, error: BaseException
    ) -> None:
        if isinstance(error, Interrupted):  # after others the device may not answer
            self._show(trainer, module)
        if self.bar is not None:
            self.bar.close()

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self._show(trainer, module)
        self.bar.close()


class SampleImages(Callback):
    """The first validation image of each degradation as a picture: degraded | restored | clean."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.shown: set[str] = set()

    def on_validation_epoch_start(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        self.shown = set()

    def on_validation_batch_end(
        self, trainer: L.Trainer, module: L.LightningModule, restored: Any, batch: Any, *step: Any
    ) -> None:
        task = batch.task[0]
        if task in self.shown or not trainer.is_global_zero:
            return
        self.shown.add(task)
        images = (batch.degraded[0], restored, batch.clean[0])
        path = self.folder / f"step_{trainer.global_step:07d}" / f"{task}.png"
        pixels = write_comparison(path, [to_pixels(image) for image in images])
        for logger in trainer.loggers:
            if hasattr(logger, "log_image"):  # wandb
                logger.log_image(f"samples/{task}", [pixels], step=trainer.global_step)
            elif hasattr(logger.experiment, "add_image"):  # TensorBoard
                logger.experiment.add_image(
                    f"samples/{task}", pixels, trainer.global_step, dataformats="HWC"
                )

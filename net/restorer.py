"""The training of a restoration network: loss, optimizer, schedule and validation (Lightning).

Source: the paper's training section. Deviations: each sample is named with probability 0.5, so
that one checkpoint serves blind and named use; two schedules (`utils.schedules`); a further loss
that teaches the network to tell the degradations apart, if it is given a weight.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import numpy as np
import torch
from torch import Tensor

from net import NETWORKS
from utils.inference import restore
from utils.losses import classification_loss, restoration_loss
from utils.metrics import psnr
from utils.replay import record
from utils.schedules import rate_factor

WEIGHT_DECAY = 1e-2
VALIDATION_TILE = 512  # pixels; fixed, so that the figure does not depend on free memory


class Restorer(L.LightningModule):
    """Trains one network of `NETWORKS`; batches are `Sample`s (data.datasets).

    Args (all plain values: they are saved, and a checkpoint is read without running code):
        network, network_arguments: which network, and its constructor's arguments.
        configuration: the name the arguments came from.
        text_encoder: where the text table came from.
        degradations: names of the table's rows, K of them.
        trained: names of those in this run.
        run: what else decides the weights (patches, balance, sizes); a resumed run must agree.
        rate: peak learning rate; schedule: as in `utils.schedules`.
        spectral_weight: of the loss between spectra.
        classification_weight: of the cross-entropy between what a network with `gives_scores`
            takes to be wrong and what is, the mean over its levels; 0 leaves it out.
        clip_norm: a step's gradient is shortened to it where it is longer; None leaves it.
        named_probability: share of the samples whose degradation is named.
        total_steps, steps_per_epoch: lengths, in optimizer steps.
        seed: of the choice of named samples.
    """

    def __init__(
        self,
        *,
        network: str,
        network_arguments: Mapping[str, Any],
        configuration: str,
        text_encoder: str,
        degradations: Sequence[str],
        trained: Sequence[str],
        run: Mapping[str, Any],
        rate: float,
        schedule: str,
        spectral_weight: float,
        classification_weight: float = 0.0,
        clip_norm: float | None = None,
        named_probability: float,
        total_steps: int,
        steps_per_epoch: int,
        seed: int,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.net = NETWORKS[network](**network_arguments)
        self._row = {name: index for index, name in enumerate(degradations)}
        self.time_share = 0.0  # of the run's time, kept by whoever ends it
        self.recorded_shape: tuple[int, ...] | None = None  # of a batch, to replay; set before fit
        self._pass = self._call_network

    def on_fit_start(self) -> None:
        if self.recorded_shape:
            inputs = [torch.rand(self.recorded_shape, device=self.device)]
            if self.net.can_be_named:
                inputs.append(inputs[0].new_zeros(len(inputs[0]), len(self._row)))
            with self.trainer.precision_plugin.forward_context():
                self._pass = record(self.net, inputs, **self._options)

    @property
    def _options(self) -> dict[str, bool]:
        return {"with_scores": True} if self.hparams.classification_weight else {}

    def _call_network(self, *inputs: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        return self.net(*inputs, **self._options)

    def training_step(self, batch: Any, batch_index: int) -> Tensor:
        inputs = [batch.degraded]
        if self.net.can_be_named:
            inputs.append(self._draw_named(batch.task, batch_index))
        result = self._pass(*inputs)
        restored, scores = result if self._options else (result, None)
        loss = restoration_loss(restored, batch.clean, self.hparams.spectral_weight)
        if scores is not None:
            rows = torch.tensor([self._row[task] for task in batch.task])
            rows = rows.to(self.device, non_blocking=True)
            entropy = classification_loss(scores, rows, batch.untouched)
            self.log("train/classification", entropy)
            loss = loss + self.hparams.classification_weight * entropy
        self.log("train/loss", loss)
        return loss

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        if self.hparams.clip_norm:
            torch.nn.utils.clip_grad_norm_(self.net.parameters(), self.hparams.clip_norm)

    def on_validation_epoch_start(self) -> None:
        self._psnr = torch.zeros(2, len(self._row), device=self.device)  # sums and counts

    def validation_step(self, batch: Any, batch_index: int) -> Tensor:
        """Blind restoration of one image; returns it, (3, H, W)."""
        with torch.compiler.set_stance("force_eager"):  # images of many sizes
            restored = restore(self.net, batch.degraded[0], tile=VALIDATION_TILE)
        row = self._row[batch.task[0]]
        self._psnr[0, row] += psnr(restored, batch.clean[0])
        self._psnr[1, row] += 1
        return restored

    def on_validation_epoch_end(self) -> None:
        sums, counts = self.all_gather(self._psnr).reshape(-1, *self._psnr.shape).sum(dim=0)
        means = (sums / counts)[counts > 0]
        for name, value, count in zip(self._row, sums / counts, counts, strict=True):
            if count:
                self.log(f"val/psnr_{name}", value)
        self.log("val/psnr", means.mean())

    def configure_optimizers(self) -> dict[str, Any]:
        optimizer = torch.optim.AdamW(
            self.net.parameters(),
            lr=self.hparams.rate,
            weight_decay=WEIGHT_DECAY,
            fused=self.device.type == "cuda",
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda step: rate_factor(
                self.hparams.schedule,
                step,
                self.hparams.total_steps,
                self.hparams.steps_per_epoch,
                self.time_share,
            ),
        )
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _draw_named(self, tasks: Sequence[str], batch_index: int) -> Tensor:
        """One-hot rows (B, K) for the samples to be named, zeros for the others.

        Coins are drawn for all batches of a step, in the order of the training stream, and keyed by
        the step: a run gives the same ones whether several processes, or batches whose gradients
        are accumulated, make up a step, and after it is resumed.
        """
        generator = np.random.default_rng((self.hparams.seed, self.global_step))
        num_batches = self.trainer.accumulate_grad_batches
        coins = generator.random((num_batches, self.trainer.world_size, len(tasks)))
        coins = coins[batch_index % num_batches, self.global_rank]
        named = torch.zeros(len(tasks), len(self._row))
        for sample, (task, coin) in enumerate(zip(tasks, coins, strict=True)):
            named[sample, self._row[task]] = float(coin < self.hparams.named_probability)
        return named.to(self.device, non_blocking=True)

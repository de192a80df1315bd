"""A training image that cannot be read costs one warning: the next one takes its place."""

import warnings
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback


class ReplacedImages(Callback):
    """Warns of each image that has been replaced, once, whichever worker has come upon it.

    Each of several processes warns of those of its own, though others leave warnings to the first.
    """

    def __init__(self) -> None:
        self.told: set[str] = set()

    def on_train_batch_start(
        self, trainer: L.Trainer, module: L.LightningModule, batch: Any, *step: Any
    ) -> None:
        for reason in batch.replaced:
            if reason and reason not in self.told:
                self.told.add(reason)
                with warnings.catch_warnings():
                    warnings.simplefilter("always")
                    warnings.warn(f"{reason}; the next image takes its place", stacklevel=2)

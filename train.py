"""Train a restoration network.

python train.py                                     # all five degradations, as the paper
python train.py --de_type derain                    # any subset
python train.py --resume                            # go on with the run in ckpt/
torchrun --nproc_per_node 4 train.py                # several GPUs (or --num_gpus 4, or SLURM)
"""

import atexit
import logging
import math
import multiprocessing
import os
import signal
import warnings
from argparse import Namespace
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.strategies import DDPStrategy
from torch.utils.data import DataLoader, Subset

from data.datasets import TrainingSet, TrainingStream, ValidationSet, check_sizes, split
from data.degradations import DEGRADATION_NAMES, DEGRADATIONS, TASKS
from data.pairing import Pair, describe_layout, find_data_sets, read_list
from net import CONFIGURATIONS
from net.checkpoint import read_checkpoint
from net.restorer import Restorer
from net.text import embed
from options import train_options
from utils.callbacks import AveragedWeights, Interrupted, RunControl, RunProgress, SampleImages
from utils.devices import CPU, check_gpus
from utils.errors import UserError, run
from utils.image_io import check_writable

MAY_CHANGE = ("configuration", "text_encoder", "total_steps", "steps_per_epoch")  # on --resume


class Machine(NamedTuple):
    """What Lightning's trainer needs to know, and how many processes that makes."""

    accelerator: str
    devices: int | list[int]
    num_nodes: int
    num_processes: int
    precision: str


def main() -> int:
    options = train_options()
    quieten_libraries()
    last, best = options.ckpt_dir / "last.ckpt", options.ckpt_dir / "best.ckpt"
    start = find_start(options, last, best)
    machine = choose_machine(options)
    training, validation = find_pairs(options)
    check_writable(options.ckpt_dir)

    training_set = TrainingSet(training, options.patch_size, options.seed, options.balance)
    validation_set = ValidationSet(validation, options.seed)
    samples_per_step = options.batch_size * machine.num_processes
    steps_per_epoch = math.ceil(training_set.epoch_samples / samples_per_step)
    total_steps = options.epochs * steps_per_epoch
    total_steps = min(total_steps, options.max_steps or total_steps)

    torch.manual_seed(options.seed)
    content = read_checkpoint(start) if start else None
    restorer = Restorer(
        network=options.network,
        network_arguments={
            **CONFIGURATIONS[options.configuration],
            "num_degradations": len(DEGRADATIONS),
            "text": options.text,
        },
        configuration=options.configuration,
        text_encoder=content["hyper_parameters"]["text_encoder"] if content else options.text,
        degradations=list(DEGRADATION_NAMES),
        trained=options.de_type,
        run={
            "patch_size": options.patch_size,
            "balance": options.balance,
            "samples_per_step": samples_per_step,
            "epoch_samples": training_set.epoch_samples,
        },
        rate=options.lr,
        schedule=options.schedule,
        spectral_weight=options.fft_weight,
        named_probability=options.named_probability,
        total_steps=total_steps,
        steps_per_epoch=steps_per_epoch,
        seed=options.seed,
    )
    first_step = 0
    if content:
        check_same_run(start, content["hyper_parameters"], dict(restorer.hparams))
        first_step = content["global_step"]
        if first_step >= total_steps:
            print(f"{start}: already finished, step {first_step} of {total_steps}")
            return 0
    elif options.text == "clip":
        texts = [degradation.text for degradation in DEGRADATIONS]
        embeddings, architecture = embed(texts, options.clip_pretrained, options.clip_quick_gelu)
        restorer.net.text.fill(embeddings)
        restorer.hparams.text_encoder = f"{architecture} {Path(options.clip_pretrained).name}"

    trainer = L.Trainer(
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.num_nodes,
        strategy=DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
        if machine.num_processes > 1
        else "auto",
        precision=machine.precision,
        max_epochs=1,  # one long epoch: the stream runs through the published ones
        max_steps=total_steps,
        val_check_interval=min(options.val_every or steps_per_epoch, total_steps),
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(50, total_steps),
        use_distributed_sampler=False,
        enable_model_summary=False,
        default_root_dir=options.ckpt_dir,
        logger=make_loggers(options),
        callbacks=[
            AveragedWeights(),
            RunControl(last, total_steps, options.save_every, options.max_minutes),
            RunProgress(total_steps, samples_per_step),
            SampleImages(options.ckpt_dir / "samples"),
            ModelCheckpoint(
                dirpath=options.ckpt_dir,
                filename=best.stem,
                monitor="val/psnr" if len(validation_set) else None,
                mode="max",
                save_on_train_epoch_end=not len(validation_set),
                enable_version_counter=False,
            ),
        ],
    )
    if trainer.is_global_zero:
        print(describe(restorer, training, validation, machine, first_step))
    loaders = make_loaders(options, trainer, training_set, validation_set, total_steps, first_step)
    try:
        trainer.fit(restorer, *loaders, ckpt_path=start, weights_only=True)
    except Interrupted as stop:
        if trainer.is_global_zero:
            print(f"stopped at {stop} of {total_steps}, saved {last}; --resume goes on from there")
        return 0
    if trainer.is_global_zero:
        print(f"trained {trainer.global_step} of {total_steps} steps: {last}, {best}")
    return 0


def find_start(options: Namespace, last: Path, best: Path) -> Path | None:
    """The checkpoint to go on from, or None for a new run."""
    if options.resume is None:
        for path in (last, best):
            if path.exists():
                raise UserError(
                    f"{path}: a run is already there; give --resume to go on with it, or another "
                    "--ckpt_dir for a new one"
                )
        return None
    if options.resume != "auto":
        return Path(options.resume)
    return last if last.exists() else None


def find_pairs(options: Namespace) -> tuple[dict[str, list[Pair]], dict[str, list[Pair]]]:
    """Training and held-out pairs of each degradation to train."""
    training, validation = {}, {}
    wanted = [entry for entry in DEGRADATIONS if entry.name in options.de_type]
    for task in TASKS:
        entries = [entry for entry in wanted if entry.task == task.name]
        if not entries:
            continue
        folder = getattr(options, f"{task.name}_dir")
        data_sets = find_data_sets(folder, task, task.train_folders)
        if not data_sets:
            raise UserError(
                f"--{task.name}_dir {folder}: no training images to {task.name}; expected "
                f"{describe_layout(task)}; put them there, or train others with --de_type"
            )
        pairs = [pair for data_set in data_sets for pair in data_set.pairs]
        if options.data_file_dir:
            pairs = read_list(options.data_file_dir / task.list_file, pairs)
        check_sizes(pairs, options.patch_size)
        kept, held_out = split(pairs, options.val_images)
        for entry in entries:
            training[entry.name], validation[entry.name] = kept, held_out
    return training, validation


def choose_machine(options: Namespace) -> Machine:
    """Accelerator and processes: as torchrun or SLURM started us, as the flags say, or one."""
    num_nodes = options.num_nodes
    wants_cpu = options.num_gpus == 0 or options.cuda == CPU
    if not wants_cpu and options.num_gpus is not None:
        check_gpus(options.num_gpus, f"--num_gpus {options.num_gpus}")
    if not wants_cpu and options.cuda is not None:
        check_gpus(options.cuda + 1, f"--cuda {options.cuda}")

    has_cuda = torch.cuda.is_available() and not wants_cpu
    has_mps = torch.backends.mps.is_available() and not wants_cpu
    accelerator = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    devices: int | list[int] = 1
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif has_cuda and options.num_gpus:
        devices = options.num_gpus
    elif has_cuda and options.cuda is not None:
        devices = [options.cuda]
    num_processes = (1 if isinstance(devices, list) else devices) * num_nodes

    bf16 = options.precision == "bf16" or (
        options.precision == "auto"
        and has_cuda
        and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    precision = "bf16-mixed" if bf16 else "32-true"
    return Machine(accelerator, devices, num_nodes, num_processes, precision)


def check_same_run(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `UserError` if the flags would not continue the run that a checkpoint holds."""

    def flatten(arguments: dict[str, Any]) -> dict[str, Any]:
        nested = ("network_arguments", "run")
        flat = {key: value for key, value in arguments.items() if key not in MAY_CHANGE + nested}
        return {**flat, **arguments["network_arguments"], **arguments["run"]}

    before, now = flatten(before), flatten(now)
    for key in now:
        if before.get(key) != now[key]:
            raise UserError(
                f"--resume {path}: that run has {key} {before.get(key)}, this one {now[key]}; "
                "give the flags and data it was started with, or start a new run"
            )


def make_loggers(options: Namespace) -> list[Logger]:
    """CSV always; TensorBoard and wandb when asked for."""
    csv = CSVLogger(options.ckpt_dir, name="logs")
    loggers: list[Logger] = [csv]
    if options.tensorboard:
        loggers.append(TensorBoardLogger(options.ckpt_dir, name="logs", version=csv.version))
    if options.wblogger:
        import wandb  # slow to import, and rarely asked for

        offline = "WANDB_MODE" not in os.environ and wandb.api.api_key is None
        if offline:
            warnings.warn("wandb: not logged in, so this run is logged offline", stacklevel=1)
        loggers.append(
            WandbLogger(project=options.wblogger, save_dir=options.ckpt_dir, offline=offline)
        )
    return loggers


def make_loaders(
    options: Namespace,
    trainer: L.Trainer,
    training_set: TrainingSet,
    validation_set: ValidationSet,
    total_steps: int,
    first_step: int,
) -> tuple[DataLoader, DataLoader | None]:
    """Loaders of this process's share of the training stream and of the validation images."""
    rank, num_processes = trainer.global_rank, trainer.world_size
    stream = TrainingStream(total_steps, options.batch_size, rank, num_processes, first_step)
    shared = dict(
        num_workers=options.num_workers,
        pin_memory=trainer.accelerator.__class__.__name__ == "CUDAAccelerator",
        worker_init_fn=leave_signals_to_parent,
    )
    training_loader = DataLoader(
        training_set, batch_size=options.batch_size, sampler=stream, drop_last=True, **shared
    )
    if not len(validation_set):
        return training_loader, None
    # every process gets at least one image; sums and counts are gathered, so a repeat is harmless
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


def describe(
    restorer: Restorer,
    training: dict[str, list[Pair]],
    validation: dict[str, list[Pair]],
    machine: Machine,
    first_step: int,
) -> str:
    """What is about to be trained, on what, where and for how long."""
    arguments = restorer.hparams
    millions = sum(parameter.numel() for parameter in restorer.net.parameters()) / 1e6
    lines = [
        f"{arguments.network} ({arguments.configuration}), {millions:.2f} M parameters, "
        f"text: {arguments.text_encoder}",
        f"{machine.num_processes} x {machine.accelerator}, {machine.precision}, "
        f"{arguments.run['samples_per_step']} patches a step",
        f"steps {first_step} to {arguments.total_steps}, "
        f"{arguments.steps_per_epoch} an epoch of {arguments.run['epoch_samples']} samples",
    ]
    lines += [
        f"  {name}: {len(pairs)} images, {len(validation[name])} held out for validation"
        for name, pairs in training.items()
    ]
    return "\n".join(lines)


def quieten_libraries() -> None:
    """Keep from the user what only concerns Lightning."""
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*ended before the epoch ended.*",  # the stream starts at the right step
        ".*exists and is not empty.*",
        ".*The number of training batches.*",
        ".*Consider setting `persistent_workers.*",
        ".*isinstance.treespec.*",
    ):
        warnings.filterwarnings("ignore", message)


if __name__ == "__main__":
    run(main)

"""Train a restoration network.

python train.py                                     # all five degradations, the paper's size
python train.py --de_type derain                    # any subset
python train.py --synthesize                        # from clean photographs alone
python train.py --resume                            # go on with the run in ckpt/
torchrun --nproc_per_node 4 train.py                # several GPUs (or --num_gpus 4, or SLURM)
"""

if __name__ == "__main__":
    import utils.start  # noqa: F401, before what takes long to import

# isort: split
import logging
import math
import os
import sys
import warnings
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.loggers import CSVLogger, Logger, TensorBoardLogger, WandbLogger
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.strategies import DDPStrategy

from data.datasets import TrainingSet, ValidationSet
from data.degradations import DEGRADATION_NAMES, DEGRADATIONS
from data.loaders import allow_open_files, make_loaders
from data.training import find_pairs
from data.variety import UNTOUCHED
from net import NETWORKS
from net.complexity import count_parameters
from net.continuing import check_same_init, check_same_run, find_start, is_whole
from net.restorer import Restorer
from net.text import embed
from net.transfer import check_same_texts, load_by_degradation, read_init
from options import (
    BEST,
    LAST,
    NOT_KEPT,
    OF_A_RUN,
    PREVIOUS,
    name_configuration,
    network_arguments,
    train_options,
    with_saved_flags,
)
from utils.callbacks import (
    AveragedWeights,
    BestCheckpoint,
    Interrupted,
    LearningRates,
    RunControl,
    RunProgress,
    SampleImages,
)
from utils.checkpoints import WholeCheckpoints, remove_unfinished
from utils.devices import Machine, choose_machine, is_first_process
from utils.errors import UserError, is_for_want_of_memory, run
from utils.files import FULL, check_writable, write_error, write_whole
from utils.finite import FiniteSteps
from utils.flags import keep_flags, write_flags
from utils.inference import MEMORY_SHARE
from utils.locks import hold_folder
from utils.memory import available_memory
from utils.printable import printable
from utils.replaced import ReplacedImages

LOST_WORKER = (  # PyTorch's words when a process that loads was killed, or has no room
    "DataLoader worker (pid",
    "unable to allocate shared memory",
)


class Plan(NamedTuple):
    """The lengths of a run."""

    samples_per_step: int
    steps_per_epoch: int
    total_steps: int


def main() -> int:
    flags, told = with_saved_flags(sys.argv[1:])
    try:
        options = train_options(flags)
    except UserError as error:
        if not told:
            raise
        raise UserError(f"{error}; {told}") from error
    if told and is_first_process():
        print(printable(told))
    quieten_libraries()
    allow_open_files(options.num_workers)
    with hold_folder(options.ckpt_dir):
        try:
            return train(options, flags)
        except (MemoryError, RuntimeError, OSError, EOFError) as error:
            if options.num_workers and has_lost_a_loader(error):
                last_line = str(error).rstrip().rsplit("\n", 1)[-1]
                raise UserError(
                    f"a process that loads images ended ({shorten(last_line, 200)}), most often "
                    "for want of memory or of room in /dev/shm: expected room for --num_workers "
                    f"{options.num_workers} and --cache_gb {options.cache_gb:g}; give less of "
                    "them, or more room, and --resume"
                ) from error
            if not is_for_want_of_memory(error):
                raise
            raise UserError(
                f"out of memory ({shorten(str(error) or 'MemoryError', 200)}): expected room for "
                f"--batch_size {options.batch_size} patches of --patch_size {options.patch_size}; "
                "give a smaller one of them (--accumulate makes a step of several small batches)"
            ) from error


def has_lost_a_loader(error: Exception) -> bool:
    """Whether an error is PyTorch's when a process that loads ended, idle or handing over."""
    at_hand_over = isinstance(error, ConnectionError | EOFError | FileNotFoundError)
    lost = any(words in str(error) for words in LOST_WORKER)
    return lost or (at_hand_over and not getattr(error, "filename", None))


def train(options: Namespace, flags: list[str]) -> int:
    """The run that the flags describe, from its start or from where it was."""
    last, best = options.ckpt_dir / LAST, options.ckpt_dir / BEST
    start, content = find_start(options.resume, options.ckpt_dir, OF_A_RUN)
    if options.resume and not start and is_first_process():
        print(f"--resume: no run in {options.ckpt_dir} to go on with, so a new one starts")
    machine = choose_machine(options.num_gpus, options.num_nodes, options.cuda, options.precision)
    if options.cuda_graph:
        check_recording(options, machine)
    training, validation, found = find_pairs(options)

    num_local = machine.num_processes // machine.num_nodes  # which share this machine's memory
    training_set = TrainingSet(
        training,
        options.patch_size,
        options.seed,
        options.balance,
        found.sizes,
        cache_bytes=min(1e9 * options.cache_gb, MEMORY_SHARE * available_memory() / num_local),
        damaged=found.damaged,
        max_pixels=options.max_pixels,
        variety=options.variety,
    )
    validation_set = ValidationSet(validation, options.seed, options.max_pixels)
    plan = make_plan(options, machine, training_set)
    if start:
        restorer, first_step = continue_restorer(options, plan, training_set, start, content)
    else:
        restorer, first_step = make_restorer(options, plan, training_set), 0
    validates = bool(len(validation_set))
    end = describe_end(options, plan, content, validates) if start else None
    del content  # of the size of the optimizer's state, which Lightning reads for itself
    if end:
        print(f"{start}: already finished, {end}")
        if not best.exists():  # stopped during its last validation
            write_whole(best, lambda file: file.write(start.read_bytes()))
        return 0

    if options.compile:
        restorer.net.compile_blocks()
    if options.cuda_graph:
        size = options.patch_size
        restorer.recorded_shape = (options.batch_size, 3, size, size)
    trainer = make_trainer(options, machine, plan, last, best, start, validates)
    if trainer.world_size != machine.num_processes:
        raise UserError(
            f"{trainer.world_size} processes were started for {machine.num_processes} devices; "
            "start train.py with torchrun, or with srun and one task a GPU"
        )
    if trainer.is_global_zero:
        remove_unfinished(options.ckpt_dir)
    loaders = make_loaders(
        training_set,
        validation_set,
        batch_size=options.batch_size,
        num_workers=options.num_workers,
        batches=range(first_step * options.accumulate, plan.total_steps * options.accumulate),
        pin_memory=machine.accelerator == "cuda",
        rank=trainer.global_rank,
        num_processes=trainer.world_size,
    )
    if trainer.is_global_zero:
        write_flags(options.ckpt_dir, keep_flags(flags, without=NOT_KEPT))
        print(describe(options, restorer, machine, start, first_step))
        for name, pairs in training.items():
            print(f"  {name}: {len(pairs)} images, {len(validation[name])} held out for validation")
        print(describe_cache(training_set, options.cache_gb))
    try:
        trainer.fit(restorer, *loaders, ckpt_path=start, weights_only=True)
    except OSError as error:
        if not options.ckpt_dir.is_dir() or lies_in(options.ckpt_dir, error):
            raise UserError(
                f"--ckpt_dir {options.ckpt_dir}: was removed during the run, or part of it; go on "
                "with --resume if last.ckpt is still there, or start anew"
            ) from error
        if error.errno not in FULL:
            raise
        raise write_error(options.ckpt_dir, error) from error
    except Interrupted as stop:
        end = f"stopped at {stop}, saved {last}; --resume goes on from there"
    else:
        saved = ", ".join(str(path) for path in (last, best) if path.exists())
        end = f"{describe_length(options, plan, trainer.global_step)}; saved {saved}"
    if trainer.is_global_zero:
        print(end)
    return 0


def lies_in(folder: Path, error: OSError) -> bool:
    """Whether an error is of a file that is missing in a folder."""
    if not isinstance(error, FileNotFoundError) or error.filename is None:
        return False
    return Path(error.filename).resolve().is_relative_to(folder.resolve())


def check_recording(options: Namespace, machine: Machine) -> None:
    """Raise `UserError` if `--cuda_graph` cannot be had."""
    if machine.accelerator != "cuda" or machine.num_processes > 1:
        raise UserError(
            f"--cuda_graph: is for one CUDA device, but this run has {machine.num_processes} of "
            f"{machine.accelerator}; leave it out"
        )
    for flag, given in (("--accumulate", options.accumulate > 1), ("--compile", options.compile)):
        if given:
            raise UserError(f"--cuda_graph: does not go together with {flag}; leave one out")


def make_plan(options: Namespace, machine: Machine, training_set: TrainingSet) -> Plan:
    """How many samples and steps the flags come to."""
    samples_per_step = options.batch_size * machine.num_processes * options.accumulate
    steps_per_epoch = math.ceil(training_set.epoch_samples / samples_per_step)
    total_steps = options.epochs * steps_per_epoch
    return Plan(
        samples_per_step, steps_per_epoch, min(total_steps, options.max_steps or total_steps)
    )


def make_restorer(
    options: Namespace,
    plan: Plan,
    training_set: TrainingSet,
    continued: Mapping[str, Any] | None = None,
) -> Restorer:
    """A new network and its training; weights and text table are those of `--init`, if given.

    Args:
        continued: arguments of the run that is continued, whose weights and text table come from
            its checkpoint.
    """
    embeddings, start, text_encoder, init, known = None, None, "", None, list(DEGRADATION_NAMES)
    if continued:
        text_encoder, init = continued["text_encoder"], continued.get("run", {}).get("init")
    elif options.init:
        start = read_init(
            options.init,
            options.network,
            network_arguments(options),
            options.configuration,
            vars(options),
        )
        text_encoder, init = start.description["text_encoder"], start.description["sha256"]
        known = start.net.origin["hyper_parameters"]["degradations"]
    new = [name for name in DEGRADATION_NAMES if name not in known]
    if new and NETWORKS[options.network].degradation_rows:
        warnings.warn(
            f"--init {options.init}: does not know {', '.join(new)}; what the network has for each "
            "degradation starts anew there",
            stacklevel=1,
        )
    if options.text == "clip" and (new or not text_encoder):
        texts = [degradation.text for degradation in DEGRADATIONS]
        embeddings, text_encoder = embed(texts, options.clip_pretrained, options.clip_quick_gelu)
        if start:
            had = dict(zip(known, start.net.text.embeddings, strict=True))
            now = dict(zip(DEGRADATION_NAMES, embeddings, strict=True))
            check_same_texts(options.init, options.clip_pretrained, had, now)

    torch.manual_seed(options.seed)
    restorer = Restorer(
        network=options.network,
        network_arguments=network_arguments(options),
        configuration=name_configuration(options),
        text_encoder=text_encoder or options.text or "none",
        degradations=list(DEGRADATION_NAMES),
        trained=options.de_type,
        run={
            "exclude_test_scenes": options.exclude_test_scenes,
            "patch_size": options.patch_size,
            "balance": options.balance,
            "synthesized": options.synthesize,
            "variety": options.variety,
            "left_clean": UNTOUCHED if options.variety else None,
            "init": init,
            "samples_per_step": plan.samples_per_step,
            "epoch_samples": training_set.epoch_samples,
        },
        rate=options.lr,
        schedule=options.schedule,
        spectral_weight=options.fft_weight,
        classification_weight=options.classification_weight,
        clip_norm=options.clip_norm,
        named_probability=options.named_probability,
        total_steps=plan.total_steps,
        steps_per_epoch=plan.steps_per_epoch,
        seed=options.seed,
    )
    if start:
        load_by_degradation(restorer.net, start.net.state_dict(), known, DEGRADATION_NAMES)
    if embeddings is not None:
        restorer.net.text.fill(embeddings)
    return restorer


def continue_restorer(
    options: Namespace,
    plan: Plan,
    training_set: TrainingSet,
    start: Path,
    content: Mapping[str, Any],
) -> tuple[Restorer, int]:
    """The same, for the run that a checkpoint holds, and the step it is at.

    Args:
        content: of the checkpoint at `start`.

    Raises:
        UserError: the flags would not continue that run.
    """
    before = content["hyper_parameters"]
    if options.init:
        check_same_init(start, before, options.init)
    restorer = make_restorer(options, plan, training_set, before)
    check_same_run(start, before, dict(restorer.hparams))
    return restorer, content["global_step"]


def describe_end(
    options: Namespace, plan: Plan, content: Mapping[str, Any], validates: bool
) -> str | None:
    """Why there is nothing left to do for the run of a checkpoint; None if there is."""
    step, minutes = content["global_step"], options.max_minutes
    if step > plan.total_steps:
        return f"step {step}, beyond the {plan.total_steps} that are asked for"
    if step == plan.total_steps:
        return f"step {step} of {plan.total_steps}"
    if options.schedule == "timed" and RunControl.had_its_time(content, minutes, validates):
        return f"step {step}, after --max_minutes {minutes:g}; with more of them it goes on"
    return None


def describe_length(options: Namespace, plan: Plan, steps: int) -> str:
    """What a run that came to its end has done."""
    if steps == plan.total_steps or not options.max_minutes:
        return f"trained {steps} of {plan.total_steps} steps"
    ended = f"after --max_minutes {options.max_minutes:g}"
    if options.schedule == "timed":
        return f"trained {steps} steps, ended {ended}"
    return f"at step {steps} of {plan.total_steps} {ended}, --resume goes on"


def make_trainer(
    options: Namespace,
    machine: Machine,
    plan: Plan,
    last: Path,
    best: Path,
    start: Path | None,
    validates: bool,
) -> L.Trainer:
    """Lightning's trainer, with the callbacks that average, save, show and stop."""
    validate_every = min(options.val_every or plan.steps_per_epoch, plan.total_steps)
    # SLURM's requeueing would start from a checkpoint that our stream of samples knows nothing of
    slurm = [SLURMEnvironment(auto_requeue=False)] if SLURMEnvironment.detect() else []
    finite, timed = FiniteSteps(last), options.schedule == "timed"
    # at another start it is damaged (passed over), or whole
    keeps_former = start in (None, last) or is_whole(last)
    return L.Trainer(
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.num_nodes,
        strategy=DDPStrategy(broadcast_buffers=False, gradient_as_bucket_view=True)
        if machine.num_processes > 1
        else "auto",
        plugins=[*slurm, WholeCheckpoints(last, last.with_name(PREVIOUS), keeps_former)],
        precision=machine.precision,
        deterministic=options.deterministic,
        max_epochs=1,  # one long epoch: the stream runs through the published ones
        max_steps=plan.total_steps,
        accumulate_grad_batches=options.accumulate,
        val_check_interval=options.accumulate * validate_every,  # in batches
        check_val_every_n_epoch=None,
        num_sanity_val_steps=0,
        log_every_n_steps=min(50, plan.total_steps),
        use_distributed_sampler=False,
        enable_model_summary=False,
        default_root_dir=options.ckpt_dir,
        logger=make_loggers(options),
        callbacks=[
            ReplacedImages(),
            finite,
            AveragedWeights(),
            LearningRates(),
            RunProgress(
                plan.total_steps if options.max_steps or not timed else None, plan.samples_per_step
            ),
            SampleImages(options.ckpt_dir / "samples"),
            BestCheckpoint(
                dirpath=options.ckpt_dir,
                filename=best.stem,
                monitor="val/psnr" if validates else None,
                mode="max",
                save_on_train_epoch_end=not validates,
                enable_version_counter=False,
            ),
            RunControl(
                last,
                finite,
                plan.total_steps,
                options.save_every,
                validate_every if validates else 0,
                options.max_minutes,
                timed,
            ),
        ],
    )


def make_loggers(options: Namespace) -> list[Logger]:
    """CSV always; TensorBoard and wandb when asked for.

    Raises:
        UserError: their folder cannot be written to.
    """
    check_writable(options.ckpt_dir / "logs")
    csv = CSVLogger(options.ckpt_dir, name="logs")
    loggers: list[Logger] = [csv]
    if options.tensorboard:
        loggers.append(TensorBoardLogger(options.ckpt_dir, name="logs", version=csv.version))
    if options.wblogger:
        if "WANDB_MODE" not in os.environ and not is_logged_in_to_wandb():
            warnings.warn("wandb: not logged in, so this run is logged offline", stacklevel=1)
            os.environ["WANDB_MODE"] = "offline"
        loggers.append(WandbLogger(project=options.wblogger, save_dir=options.ckpt_dir))
    return loggers


def is_logged_in_to_wandb() -> bool:
    """Whether there is a key in the environment, or one that `wandb login` left in .netrc."""
    netrc = Path(os.environ.get("NETRC", "~/.netrc")).expanduser()
    return bool(os.environ.get("WANDB_API_KEY")) or (
        netrc.is_file() and "wandb" in netrc.read_text()
    )


def describe(
    options: Namespace, restorer: Restorer, machine: Machine, start: Path | None, first_step: int
) -> str:
    """What is about to be trained, from what, where and for how long."""
    arguments = restorer.hparams
    millions = count_parameters(restorer.net) / 1e6
    weights = start or options.init
    end = f"{arguments.total_steps}"
    if options.max_minutes:
        end += f" at most, in --max_minutes {options.max_minutes:g}"
    lines = [
        f"{arguments.network} ({arguments.configuration}), {millions:.2f} M parameters, "
        f"text: {arguments.text_encoder}",
        f"weights of {weights}, into {options.ckpt_dir}" if weights else f"into {options.ckpt_dir}",
        f"{machine.num_processes} x {machine.accelerator}, {machine.precision}, "
        f"{arguments.run['samples_per_step']} patches a step",
        f"steps {first_step} to {end}, "
        f"{arguments.steps_per_epoch} an epoch of {arguments.run['epoch_samples']} samples",
    ]
    return "\n".join(lines)


def describe_cache(training_set: TrainingSet, cache_gb: float) -> str:
    """How many images will be decoded only once."""
    kept, all_images = len(training_set.cache), training_set.num_images
    if not kept:
        return f"images are decoded each time (--cache_gb {cache_gb:g})"
    gigabytes = f"{training_set.cache.num_bytes / 1e9:.2g} GB"
    if kept == all_images:
        return f"decoded once and kept in memory: all {kept} images, {gigabytes}"
    return (
        f"decoded once and kept in memory: {kept} of {all_images} images, {gigabytes}; the others "
        f"each time (--cache_gb {cache_gb:g}, and at most half of the free memory for all)"
    )


def quieten_libraries() -> None:
    """Keep from the user what only concerns Lightning, and what another process has said."""
    if not is_first_process():
        warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in (
        ".*does not have many workers.*",
        ".*ended before the epoch ended.*",  # the stream starts at the right step
        ".*exists and is not empty.*",
        ".*The number of training batches.*",
        ".*Consider setting `persistent_workers.*",
        ".*isinstance.treespec.*",
        ".*have no `val_dataloader`.*",
        ".*broadcast_buffers.*",
        ".*Grad strides do not match bucket view strides.*",
        ".*recommended to use `self.log.*sync_dist.*",
        ".*all_gather.*",
    ):
        warnings.filterwarnings("ignore", message)


if __name__ == "__main__":
    run(main)

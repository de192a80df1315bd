"""Going on with a run: the checkpoint to go on from, and whether the flags would continue it."""

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from net.checkpoint import load_network
from net.network import AMPromptIR
from net.resumable import read_run
from utils.errors import UserError

MAY_CHANGE = ("total_steps", "steps_per_epoch")  # on --resume; the second follows from others
OLDER = {  # what versions did that had no such choice
    "exclude_test_scenes": False,
    "balance": "equal",
    "classification_weight": 0.0,
    "clip_norm": None,
    "init": None,
    "left_clean": None,
    "synthesized": False,
    "variety": 0.0,
    **{name: values[0] for name, values in AMPromptIR.choices.items()},
}

FLAGS = {  # by another name
    "epoch_samples": "samples an epoch (of the data, by --balance and --val_images)",
    "left_clean": "share of --variety left clean",
    "rate": "lr",
    "samples_per_step": "samples a step (--batch_size x --accumulate x GPUs)",
    "spectral_weight": "fft_weight",
    "trained": "de_type",
    "synthesized": "synthesize",
}


def find_start(
    resume: str | None, folder: Path, names: Sequence[str]
) -> tuple[Path, dict[str, Any]] | tuple[None, None]:
    """The checkpoint to go on from and its content; None and None for a new run.

    Args:
        resume: a checkpoint, or `auto` for the first of `names` that is good for that, if there is
            any; None if a new run is to begin.
        folder: of the run; names: of its checkpoints there, the one to be preferred first.

    Raises:
        UserError: a run is there, and is not to be gone on with; or none of its files will do.
    """
    there = [folder / name for name in names if (folder / name).exists()]
    for path in there:
        if not path.is_file():
            raise UserError(f"{path}: not a regular file; move it elsewhere")
    if resume == "auto":
        for path in there:
            try:
                return path, read_run(path)
            except UserError as error:
                warnings.warn(f"{error}; passed over", stacklevel=2)
        if there:
            raise UserError(
                f"--resume: none of {', '.join(path.name for path in there)} in "
                f"{folder} can be gone on with; copy one there, or start a new run"
            )
        return None, None
    start = Path(resume) if resume else None
    if start and not start.is_file():
        what = "a folder" if start.is_dir() else "no such checkpoint"
        raise UserError(f"--resume {start}: {what}; give a checkpoint of a run, or no path")
    if there and (start is None or start.resolve().parent != folder.resolve()):
        raise UserError(
            f"{there[0]}: a run is already there; give --resume to go on with it, or another "
            "--ckpt_dir for a new one"
        )
    return (start, read_run(start)) if start else (None, None)


def is_whole(path: Path) -> bool:
    """Whether there is a checkpoint that a run can be gone on with from."""
    try:
        read_run(path)
    except UserError:
        return False
    return True


def check_same_run(path: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """Raise `UserError` if the flags would not continue the run that a checkpoint holds.

    What an older version did not save, and cannot be known, is warned of.

    Args:
        before, now: arguments of the `Restorer` in the checkpoint, and of the one to be trained.
    """

    def flatten(arguments: dict[str, Any]) -> dict[str, Any]:
        nested = ("network_arguments", "run")
        flat = {key: value for key, value in arguments.items() if key not in MAY_CHANGE + nested}
        return {**flat, **arguments["network_arguments"], **arguments.get("run", {})}

    saved = flatten(before)
    known, wanted = OLDER | saved, flatten(now)
    for key, value in wanted.items():
        had = known.get(key, value)
        if had != value:
            run = "that run" if key in saved else "that run, of an older version,"
            raise UserError(
                f"--resume {path}: {run} has {FLAGS.get(key, key)} {had}, this one {value}; "
                "give the flags and data (or the version) it was started with, or start a new run"
            )
    unknown = [FLAGS.get(key, key) for key in wanted if key not in known]
    if unknown:
        warnings.warn(
            f"--resume {path}: that run, of an older version, did not save {', '.join(unknown)}; "
            "it goes on the same only if flags and data are those it was started with",
            stacklevel=1,
        )


def check_same_init(path: Path, before: dict[str, Any], init: Path) -> None:
    """Raise `UserError` if the run that a checkpoint holds was not started from these weights.

    If they are not there any more, that is warned of: the run goes on without them.

    Args:
        before: arguments of the `Restorer` in the checkpoint; init: file of the weights.
    """
    had = before.get("run", {}).get("init")
    try:
        given = load_network(init).description["sha256"]
    except UserError as error:
        if not had:
            raise
        warnings.warn(f"--init {error}; that run goes on without it", stacklevel=1)
        return
    if had != given:
        started = f"from weights of sha256 {had:.12}" if had else "without --init"
        raise UserError(
            f"--resume {path}: that run was started {started}, but --init {init} is of sha256 "
            f"{given:.12}; leave --init out to go on with that run, or start a new one"
        )

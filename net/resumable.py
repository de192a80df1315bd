"""Whether a checkpoint holds all that its run is gone on with, seen before anything is.

Lightning and PyTorch would end in a traceback, or take a missing or wrong value without a word.
"""

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from net import NETWORKS
from net.checkpoint import PREFIX, check_types, check_weights, read_checkpoint
from utils.errors import UserError

MOST_STEPS = 10**9
LIGHTNINGS = re.compile(r"[2-9]\.\d+(\.\d+)?((a|b|rc|\.?dev|\.post)\d*)?")  # versions
OPTIMIZER_STEPS = "epoch_loop.automatic_optimization.optim_progress"
PROGRESS = (  # of Lightning's loops, that is needed
    "epoch_progress",
    "epoch_loop.batch_progress",
    "epoch_loop.scheduler_progress",
    OPTIMIZER_STEPS,
)
CALLBACKS = {  # numbers in the state of each, if it has any: older versions had fewer callbacks
    "FiniteSteps": ("skipped", "in_row"),
    "AveragedWeights": ("latest_update_step",),
    "RunControl": ("seconds",),
}


def read_run(path: Path) -> dict[str, Any]:
    """The content of a checkpoint that a run can be gone on with.

    Raises:
        UserError: as `read_checkpoint` and `check_resumable`.
    """
    content = read_checkpoint(path)
    check_resumable(path, content)
    return content


def check_resumable(path: Path, content: Mapping[str, Any]) -> None:
    """Raise `UserError` if a run cannot be gone on with from this content of a checkpoint.

    What older versions did not save may be missing.
    """
    missing = [key for key in ("optimizer_states", "loops", "global_step") if key not in content]
    if missing:
        raise UserError(
            f"{path}: holds no {missing[0]}, only weights to test with; "
            "go on from the last.ckpt of a run, or give --init to start from weights"
        )
    for part, check in CHECKS.items():
        try:
            check(content)
        except Exception as error:  # a file from elsewhere may hold anything
            reason = f"no {error}" if isinstance(error, KeyError) else error
            raise UserError(
                f"{path}: a run cannot be gone on with from its {part} ({reason}); "
                "take another checkpoint of that run, or start a new one"
            ) from error


def _check_version(content: Mapping[str, Any]) -> None:
    version = content["pytorch-lightning_version"]
    if not LIGHTNINGS.fullmatch(version):
        raise ValueError(f"{version!r:.40}, expected 2.0 or later")


def _check_arguments(content: Mapping[str, Any]) -> None:
    arguments = content["hyper_parameters"]
    check_types(content["global_step"], arguments)
    kinds = {"text_encoder": str, "network_arguments": dict}
    if "run" in arguments:  # older versions had none
        kinds["run"] = dict
    for key, kind in kinds.items():
        if not isinstance(arguments[key], kind):
            raise ValueError(f"{key} {arguments[key]!r:.40}, expected a {kind.__name__}")
    init = arguments.get("run", {}).get("init")
    if not isinstance(init, str | None):
        raise ValueError(f"init {init!r:.40}, expected a sha256 or None")
    if not _is_plain(arguments):
        raise ValueError("expected numbers, texts, and lists and tables of them")


def _is_plain(value: Any) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_plain(each) for key, each in value.items())
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, str | int | float)


def _check_steps(content: Mapping[str, Any]) -> None:
    _check_count("global_step", content["global_step"], MOST_STEPS)
    progress = content["loops"]["fit_loop"]
    if progress.get("state_dict"):
        raise ValueError("the state of a loader, which training has none of")
    for name in {*PROGRESS, *(name for name in progress if name.endswith("progress"))}:
        for counts in _find_counts(progress[name]):
            for key in {"ready", "completed", *counts}:
                _check_count(f"{name} {key}", counts[key])
        if name.endswith("batch_progress") and not isinstance(
            progress[name]["is_last_batch"], bool
        ):
            raise ValueError(f"{name}: is_last_batch is neither True nor False")
    stepped = progress.get("epoch_loop.state_dict", {}).get("_batches_that_stepped", 0)
    _check_count("_batches_that_stepped", stepped)
    _check_count("epochs", progress["epoch_progress"]["current"].get("processed", 0), most=1)
    steps = progress[OPTIMIZER_STEPS]["optimizer"]["step"]["total"]["completed"]
    if steps != content["global_step"]:
        raise ValueError(f"global_step {content['global_step']}, but {steps} of the optimizer")


def _find_counts(progress: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    parts = [progress]
    if "optimizer" in progress:
        parts = [progress["optimizer"][name] for name in ("step", "zero_grad")]
    return [part[name] for part in parts for name in ("total", "current")]


def _check_count(name: str, value: Any, most: float = math.inf) -> None:
    if type(value) is not int or not 0 <= value <= most:
        bound = f"from 0 to {most}" if most < math.inf else "0 or above"
        raise ValueError(f"{name} {value!r:.40}, expected a whole number, {bound}")


def _check_weights(content: Mapping[str, Any]) -> None:
    for key in ("state_dict", "current_model_state"):  # the averaged ones and the current ones
        weights = content[key]
        foreign = [name for name in weights if not name.startswith(PREFIX)]
        if foreign:
            raise ValueError(f"{foreign[0]!r:.80} in {key}")
        _empty_network(content, key)
        for name, value in weights.items():
            _check_finite(f"{name} in {key}", value)
    averaging = content["averaging_state"]
    if set(averaging) != {"n_averaged"} or averaging["n_averaged"].shape != ():
        raise ValueError("averaging_state: expected n_averaged, a number")
    _check_not_negative("n_averaged", averaging["n_averaged"])


def _empty_network(content: Mapping[str, Any], key: str = "state_dict") -> torch.nn.Module:
    """The network, without memory, that these weights are found to fit."""
    arguments = content["hyper_parameters"]
    weights = {name.removeprefix(PREFIX): value for name, value in content[key].items()}
    return check_weights(NETWORKS[arguments["network"]], arguments["network_arguments"], weights)


def _check_finite(name: str, value: Tensor | float) -> None:
    if not torch.as_tensor(value).isfinite().all():
        raise ValueError(f"{name}: values that are not finite")


def _check_not_negative(name: str, value: Tensor | float) -> None:
    number = torch.as_tensor(value).reshape(())
    if not 0 <= number < math.inf:
        raise ValueError(f"{name} {number.item()!r:.40}, expected a finite number from 0")


def _check_optimizer(content: Mapping[str, Any]) -> None:
    state = _only(content["optimizer_states"])
    group = _only(state["param_groups"])
    shapes = [weight.shape for weight in _empty_network(content).parameters()]
    if group["params"] != list(range(len(shapes))):
        raise ValueError(f"its parameters are not the {len(shapes)} of the network")
    for name in ("lr", "eps", "weight_decay"):
        _check_not_negative(name, group[name])
    _check_finite("betas", torch.tensor(group["betas"]).reshape(2))
    set_flags = [name for name in ("amsgrad", "maximize", "differentiable") if group.get(name)]
    if set_flags:
        raise ValueError(f"{set_flags[0]}, which training does not set")
    others = [group.get(name) for name in ("foreach", "fused", "capturable")]
    if not all(isinstance(value, bool | None) for value in others):
        raise ValueError(f"foreach, fused, capturable {others!r:.80}, expected True, False or None")
    for index, entry in state["state"].items():
        for name in ("exp_avg", "exp_avg_sq"):
            if entry[name].shape != shapes[index]:
                raise ValueError(f"{name} of parameter {index} is of another shape")
            _check_finite(f"{name} of parameter {index}", entry[name])
        _check_not_negative(f"step of parameter {index}", entry["step"])
    skipped = content["callbacks"].get("FiniteSteps", {}).get("skipped", 0)
    if not state["state"] and content["global_step"] > skipped:
        raise ValueError("it holds nothing of the parameters")


def _check_schedule(content: Mapping[str, Any]) -> None:
    schedule = _only(content["lr_schedulers"])
    _check_count("last_epoch", schedule["last_epoch"], MOST_STEPS)
    _check_count("_step_count", schedule["_step_count"])
    _check_finite("base_lrs", torch.as_tensor(_only(schedule["base_lrs"])).reshape(()))
    _only(schedule["lr_lambdas"])
    if not _is_plain(schedule):
        raise ValueError("expected numbers")


def _only(values: Any) -> Any:
    if not isinstance(values, list | tuple) or len(values) != 1:
        raise ValueError(f"{values!r:.40}, expected a list of one")
    return values[0]


def _check_callbacks(content: Mapping[str, Any]) -> None:
    for name, state in content["callbacks"].items():
        if not isinstance(state, dict):
            raise ValueError(f"{name}: {state!r:.40}, expected a table")
    for name, numbers in CALLBACKS.items():
        state = content["callbacks"].get(name)
        for number in numbers if state is not None else ():
            if not isinstance(state[number], int | float) or not 0 <= state[number] < math.inf:
                raise ValueError(f"{name}: {number} {state[number]!r:.40}, expected 0 or above")
    validated = content["callbacks"].get("RunControl", {}).get("validated", 0)
    _check_count("RunControl: validated", validated)  # older versions did not save it


CHECKS: dict[str, Callable[[Mapping[str, Any]], None]] = {
    "pytorch-lightning_version": _check_version,
    "steps": _check_steps,
    "hyper_parameters": _check_arguments,
    "callbacks": _check_callbacks,
    "weights": _check_weights,
    "optimizer_states": _check_optimizer,
    "lr_schedulers": _check_schedule,
}

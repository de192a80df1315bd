"""Reading a checkpoint: the network it holds, and what it says of itself.

A checkpoint is what training saves: weights (averaged, under `net.`) and plain values; or the same
in the safetensors format (`net.weights`), as a file or in a folder that `save_pretrained` wrote. A
published one of a baseline holds weights alone (bare, or under `state_dict` or `params`; with
`net.` or `module.` before the names, or without); which network it is for must be said. Files are
read so that none from elsewhere can run code (`weights_only`).
"""

import hashlib
import pickle
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from net import BASELINES, NETWORKS, RestorationNetwork
from net.complexity import count_macs, count_parameters
from net.weights import ENDING, FILE_NAME, pack_weights, unpack_weights
from utils.archive import check_archive
from utils.errors import UserError

FOLDER = Path("ckpt")
BESIDE_CODE = Path(__file__).parent.parent / FOLDER
SHIPPED = ("am_promptir_small.safetensors", "am_promptir_tiny.safetensors")  # inside FOLDER
DEFAULTS = ("best.ckpt", *SHIPPED)  # the first that is there: one's own, then those that ship
PREFIX = "net."
WIDEST = 4096  # channels at full resolution
WRAPPERS = ("state_dict", "params")  # what published checkpoints keep their weights under
WRAPPING_MODULES = re.compile(r"^((net|module)\.)+")  # and put before their names
DESCRIBED = ("network", "configuration", "network_arguments", "text_encoder", "trained")


class Trained(NamedTuple):
    """A network in evaluation mode, the degradations of its rows, and a description of its origin.

    degradations: empty for a network that cannot be told any.
    description: plain values for a results file (network, configuration, text, trained
    degradations, steps, sha256 of the file, parameters, multiply-accumulates, ...); None where a
    checkpoint does not tell.
    """

    net: RestorationNetwork
    degradations: list[str]
    description: dict[str, Any]

    def __repr__(self) -> str:
        return f"Trained({self.describe()})"

    @property
    def title(self) -> str:
        """Network, configuration and kind of text prompts, as a table's row says them."""
        text = self.description["network_arguments"].get("text")
        kind = f", text {text}" if text else ""
        return f"{self.description['network']} ({self.description['configuration']}{kind})"

    def pack(self, half: bool) -> bytes:
        """A safetensors file's content, in half precision if `half`. Raises `UserError`."""
        try:
            return pack_weights(self.net, self.net.origin, half)
        except OverflowError as error:
            raise UserError(f"--half: {error}; leave it out") from error

    def describe(self) -> str:
        """Network, text table, length and subject of the training, in one line."""
        description = self.description
        training = "trained elsewhere"
        if description["steps"] is not None:
            training = f"{description['steps']} steps on {' '.join(description['trained'])}"
            if (description["run"] or {}).get("init"):
                training += ", begun from other weights"
            if description["refitted"]:
                training += ", refitted"
        return (
            f"{description['network']} ({description['configuration']}), "
            f"text: {description['text_encoder']}, "
            f"sha256 {description['sha256']:.12}, {training}"
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The whole content of a training checkpoint, on the CPU.

    Raises:
        UserError: missing, cut short, holding code, or not one of this project's.
    """
    content = _read(path)
    _check_ours(path, content)
    return content


def default_checkpoint(names: Sequence[str] = DEFAULTS) -> Path:
    """The checkpoint to take where none is named, the first that is there.

    Raises:
        UserError: there is none.
    """
    places = [folder / name for folder in (FOLDER, BESIDE_CODE) for name in names]
    found = [path for path in places if path.is_file()]
    if not found:
        raise UserError(
            f"no checkpoint: none of {', '.join(names)} is in {FOLDER}/; train one with "
            "train.py, or give the path of one with --ckpt_name"
        )
    return found[0]


def load_network(name: Path, network: str | None = None) -> Trained:
    """Build the network that a checkpoint describes and load its weights.

    Args:
        name: a path, or a name inside ckpt/ (here, or beside the code), of a file or of a folder by
            `save_pretrained`.
        network: the baseline that a checkpoint which names none is for; others keep their own.

    Raises:
        UserError: as `read_checkpoint`, or the weights do not fit the network or are not finite.
    """
    try:
        places = (name, FOLDER / name, BESIDE_CODE / name)
        path = next((place for place in places if place.exists()), FOLDER / name)
        if path.is_dir():
            path = path / FILE_NAME
            if not path.is_file():
                raise UserError(
                    f"{path.parent}: a folder without {FILE_NAME}; expected a checkpoint file, or "
                    "a folder that save_pretrained wrote"
                )
    except OSError as error:  # not allowed, too long a name
        raise UserError(
            f"{name}: cannot be read ({error.strerror}); give the path of a checkpoint"
        ) from error
    content = _read(path)
    if network is None or _is_ours(content):
        _check_ours(path, content)
        trained = _load_ours(path, content, content["hyper_parameters"])
    else:
        trained = _load_published(path, content, network)
    weights = trained.net.state_dict()
    broken = [name for name, value in weights.items() if not value.isfinite().all()]
    if broken:
        raise UserError(
            f"{path}: {broken[0]} holds values that are not finite ({len(broken)} of "
            f"{len(weights)} tensors do); the training diverged or the file is damaged, use another"
        )
    return trained


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(
            f"{path}: no such checkpoint file; train one with train.py, or give the path of one"
        )
    try:
        path.open("rb").close()  # safetensors calls a file missing that it may not read
        if path.suffix == ENDING:
            return unpack_weights(path, PREFIX)
        check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, it is no checkpoint, is damaged or holds code besides weights; "
            "use a checkpoint that this project saved"
        ) from error
    except PermissionError as error:
        raise UserError(
            f"{path}: cannot be read ({error.strerror}); give a checkpoint that you may read"
        ) from error
    except Exception as error:  # whatever reading arbitrary bytes as an archive may raise
        raise UserError(
            f"{path}: cannot be read, it is no checkpoint, damaged or cut short; give the path of "
            "one, or copy or download it again"
        ) from error


def _is_ours(content: Any) -> bool:
    arguments = content.get("hyper_parameters") if isinstance(content, dict) else None
    return isinstance(arguments, dict) and isinstance(arguments.get("network"), str)


def _check_ours(path: Path, content: Any) -> None:
    if not _is_ours(content):
        raise UserError(
            f"{path}: not a checkpoint of this project (it names no network); to test a published "
            f"one of {', '.join(BASELINES)}, say which: test.py --network NAME"
        )
    network = content["hyper_parameters"]["network"]
    if network not in NETWORKS:
        raise UserError(
            f"{path}: made for the network {network!r}; expected one of {', '.join(NETWORKS)}"
        )


def _load_ours(path: Path, content: dict[str, Any], arguments: dict[str, Any]) -> Trained:
    try:
        check_types(content["global_step"], arguments)
        weights = content["state_dict"]
        names = [name for name in weights if name.startswith(PREFIX)]
        weights = {name.removeprefix(PREFIX): weights[name] for name in names}
        net = _build(NETWORKS[arguments["network"]], arguments["network_arguments"], weights)
        net.origin = {"hyper_parameters": dict(arguments), "global_step": content["global_step"]}
        description = {
            **_identify(path, net),
            "steps": content["global_step"],
            "run": arguments.get("run"),
            "training_seed": arguments.get("seed"),
            "refitted": arguments.get("refitted"),
            **{key: arguments[key] for key in DESCRIBED},
        }
        degradations = list(arguments["degradations"]) if net.can_be_named else []
        if net.degradation_rows and len(arguments["degradations"]) != net.num_degradations:
            raise ValueError(
                f"{len(arguments['degradations'])} degradations, not {net.num_degradations}"
            )
        if net.can_be_named and not net.text.filled:
            raise ValueError("its table of texts is empty")
    except Exception as error:  # a file from elsewhere may hold anything
        raise UserError(
            f"{path}: its weights do not fit the network {arguments['network']!r} "
            f"that it describes ({error}); use a checkpoint of this version"
        ) from error
    return Trained(net.eval(), degradations, description)


def _load_published(path: Path, content: Any, network: str) -> Trained:
    try:
        for wrapper in WRAPPERS:
            content = content.get(wrapper, content) if isinstance(content, dict) else content
        if not isinstance(content, dict):
            raise TypeError(f"a {type(content).__name__} in place of named weights")
        found = {WRAPPING_MODULES.sub("", name): value for name, value in content.items()}
        weights = {name: value for name, value in found.items() if isinstance(value, Tensor)}
        arguments = BASELINES[network].published_arguments(weights)
        unused = BASELINES[network].unused_weights
        names = [name for name in weights if not name.startswith(unused)]
        net = _build(BASELINES[network], arguments, {name: weights[name] for name in names})
    except Exception as error:  # a file from elsewhere may hold anything
        raise UserError(
            f"{path}: its weights are not those of {network} as published ({error}); expected such "
            "a checkpoint, so give --network the one that it is for"
        ) from error
    origin = dict(
        steps=None,
        network=network,
        configuration="paper",
        network_arguments=arguments,
        text_encoder="none",
        trained=[],
        run=None,
        training_seed=None,
        refitted=None,
    )
    return Trained(net.eval(), [], {**_identify(path, net), **origin})


def _build(
    network: type[RestorationNetwork], arguments: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> RestorationNetwork:
    """A network with these weights. Raises `ValueError` as `check_weights`."""
    check_weights(network, arguments, weights)
    net = network(**arguments)
    net.load_state_dict(weights)  # copies, and so widens half precision
    return net


def check_weights(
    network: type[RestorationNetwork], arguments: Mapping[str, Any], weights: Mapping[str, Tensor]
) -> RestorationNetwork:
    """The network, which takes no memory yet (device meta), that these weights fit.

    Raises:
        ValueError: the first weight that does not fit, and how many do not.
    """
    _check_extent(arguments, len(weights))
    with torch.device("meta"):
        empty = network(**arguments)
    expected = empty.state_dict()
    shared = [name for name in expected if name in weights]
    faults = {
        "missing": [name for name in expected if name not in weights],
        "unexpected": [name for name in weights if name not in expected],
        "of another shape": [n for n in shared if expected[n].shape != weights[n].shape],
        "of another kind of number": [
            n for n in shared if expected[n].is_floating_point() != weights[n].is_floating_point()
        ],
    }
    found = [f"{len(names)} {fault}, first {names[0]}" for fault, names in faults.items() if names]
    if found:
        raise ValueError("; ".join(found))
    return empty


def check_types(steps: Any, arguments: Mapping[str, Any]) -> None:
    """Raises `ValueError` for what later lines take for granted."""
    if not isinstance(steps, int) or steps < 0:
        raise ValueError(f"global_step {steps!r}: expected a number of steps")
    for key in ("trained", "degradations"):
        names = arguments[key]
        if not isinstance(names, list | tuple) or not all(isinstance(n, str) for n in names):
            raise ValueError(f"{key} {names!r}: expected a list of names")


def _check_extent(arguments: Mapping[str, Any], num_weights: int) -> None:
    """Refuse what would be long in building. Raises `ValueError`."""
    blocks = [*arguments.get("blocks", ()), arguments.get("refinement_blocks", 0)]
    if min(blocks) < 0 or sum(blocks) > num_weights:
        raise ValueError(f"blocks {blocks}: expected no more than its {num_weights} weights")
    if arguments.get("width", 0) > WIDEST:
        raise ValueError(f"width {arguments['width']}: expected at most {WIDEST}")


def _identify(path: Path, net: RestorationNetwork) -> dict[str, Any]:
    return {
        "checkpoint": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "parameters": count_parameters(net),
        "macs": count_macs(net),
    }

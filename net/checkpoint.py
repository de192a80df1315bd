"""Reading a checkpoint: the network it holds, and what it says of itself.

A checkpoint is what training saves: weights (averaged, under `net.`) and plain values. A published
one of a baseline holds weights alone (bare, or under `state_dict` or `params`); which network it is
for must be said. Files are read with `weights_only`, so that none from elsewhere can run code.
"""

import hashlib
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from net import NETWORKS, RestorationNetwork
from net.complexity import count_macs
from utils.errors import UserError

FOLDER = Path("ckpt")
PREFIX = "net."
WRAPPERS = ("state_dict", "params")  # what published checkpoints keep their weights under
DESCRIBED = ("network", "configuration", "network_arguments", "text_encoder", "trained")


class Trained(NamedTuple):
    """A network in evaluation mode, the degradations of its rows, and a description of its origin.

    degradations: empty for a network that cannot be told any.
    description: plain values for a results file (network, configuration, text, trained
    degradations, steps, sha256 of the file, parameters, multiply-accumulates, ...).
    """

    net: RestorationNetwork
    degradations: list[str]
    description: dict[str, Any]

    @property
    def title(self) -> str:
        """Network and configuration, as a table's row says them."""
        return "{network} ({configuration})".format_map(self.description)

    def describe(self) -> str:
        """Network, text table, length and subject of the training, in one line."""
        description = self.description
        training = "trained elsewhere"
        if description["steps"] is not None:
            training = f"{description['steps']} steps on {' '.join(description['trained'])}"
        return (
            f"{self.title}, text: {description['text_encoder']}, "
            f"sha256 {description['sha256']:.12}, {training}"
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The whole content of a training checkpoint, on the CPU.

    Raises:
        UserError: missing, cut short, holding code, or not one of this project's.
    """
    content = _read(path)
    if not _is_ours(content):
        raise UserError(
            f"{path}: not a checkpoint of this project (it names no network); to test a published "
            "one of a baseline, say which: test.py --network NAME"
        )
    network = content["hyper_parameters"]["network"]
    if network not in NETWORKS:
        raise UserError(
            f"{path}: made for the network {network!r}; expected one of {', '.join(NETWORKS)}"
        )
    return content


def load_network(name: Path, network: str | None = None) -> Trained:
    """Build the network that a checkpoint describes and load its weights.

    Args:
        name: a path, or the name of a file inside ckpt/.
        network: which network a checkpoint from elsewhere, which names none, is for.

    Raises:
        UserError: as `read_checkpoint`, or the weights do not fit the network.
    """
    path = name if name.exists() else FOLDER / name
    content = _read(path)
    if network is None or _is_ours(content):
        content = read_checkpoint(path)
        arguments = content["hyper_parameters"]
        if network not in (None, arguments["network"]):
            raise UserError(
                f"--network {network}: {path} was made for {arguments['network']}; leave it out"
            )
        return _load_ours(path, content, arguments)
    return _load_published(path, content, network)


def _read(path: Path) -> Any:
    if not path.is_file():
        raise UserError(
            f"{path}: no such checkpoint file; train one with train.py, or give the path of one"
        )
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, it is damaged or holds code besides weights; "
            "use a checkpoint that this project saved"
        ) from error
    except Exception as error:  # whatever reading arbitrary bytes as an archive may raise
        raise UserError(
            f"{path}: cannot be read, it is damaged or cut short; copy or download it again"
        ) from error


def _is_ours(content: Any) -> bool:
    arguments = content.get("hyper_parameters") if isinstance(content, dict) else None
    return isinstance(arguments, dict) and "network" in arguments


def _load_ours(path: Path, content: dict[str, Any], arguments: dict[str, Any]) -> Trained:
    try:
        net = NETWORKS[arguments["network"]](**arguments["network_arguments"])
        weights = content["state_dict"].items()
        net.load_state_dict(
            {name.removeprefix(PREFIX): value for name, value in weights if name.startswith(PREFIX)}
        )
        description = {
            **_identify(path, net),
            "steps": content["global_step"],
            "test_scenes_excluded": arguments["run"].get("exclude_test_scenes"),
            **{key: arguments[key] for key in DESCRIBED},
        }
        degradations = list(arguments["degradations"]) if net.can_be_named else []
    except Exception as error:  # a file from elsewhere may hold anything
        raise UserError(
            f"{path}: its weights do not fit the network {arguments['network']!r} "
            "that it describes; use a checkpoint of this version"
        ) from error
    return Trained(net.eval(), degradations, description)


def _load_published(path: Path, content: Any, network: str) -> Trained:
    arguments = dict(NETWORKS[network].configurations["paper"])
    net = NETWORKS[network](**arguments)
    try:
        for wrapper in WRAPPERS:
            content = content.get(wrapper, content)
        weights = {name.removeprefix(PREFIX): value for name, value in content.items()}
        net.load_state_dict(
            {
                name: value
                for name, value in weights.items()
                if isinstance(value, Tensor) and not name.startswith(net.unused_weights)
            }
        )
    except Exception as error:  # a file from elsewhere may hold anything
        raise UserError(
            f"{path}: its weights are not those of {network} as published; expected such a "
            "checkpoint, or one that train.py saved (then leave --network out)"
        ) from error
    origin = dict(
        steps=None,
        network=network,
        configuration="paper",
        network_arguments=arguments,
        text_encoder="none",
        trained=[],
        test_scenes_excluded=None,
    )
    return Trained(net.eval(), [], {**_identify(path, net), **origin})


def _identify(path: Path, net: RestorationNetwork) -> dict[str, Any]:
    return {
        "checkpoint": str(path),
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "parameters": sum(parameter.numel() for parameter in net.parameters()),
        "macs": count_macs(net),
    }

"""Reading a checkpoint: the network it holds, and what it says of itself.

A checkpoint is what training saves: weights (averaged, under `net.`) and plain values. It is read
with `weights_only`, so that a file from somewhere else cannot run code.
"""

import hashlib
import pickle
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from net import NETWORKS
from utils.errors import UserError

FOLDER = Path("ckpt")
PREFIX = "net."
DESCRIBED = ("network", "configuration", "network_arguments", "text_encoder", "trained")


class Trained(NamedTuple):
    """A network in evaluation mode, the degradations of its rows, and a description of its origin.

    description: plain values for a results file (network, configuration, text, trained
    degradations, steps, sha256 of the file, ...).
    """

    net: nn.Module
    degradations: list[str]
    description: dict[str, Any]

    def describe(self) -> str:
        """Network, text table, length and subject of the training, in one line."""
        return (
            "{network} ({configuration}), text: {text_encoder}, sha256 {sha256:.12}, "
            "{steps} steps on ".format_map(self.description)
            + " ".join(self.description["trained"])
        )


def read_checkpoint(path: Path) -> dict[str, Any]:
    """The whole content of a training checkpoint, on the CPU.

    Raises:
        UserError: missing, cut short, holding code, or not one of this project's.
    """
    if not path.is_file():
        raise UserError(
            f"{path}: no such checkpoint file; train one with train.py, or give the path of one"
        )
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UserError(
            f"{path}: refused, it is damaged or holds code besides weights; "
            "use a checkpoint that this project saved"
        ) from error
    except Exception as error:  # whatever reading arbitrary bytes as an archive may raise
        raise UserError(
            f"{path}: cannot be read, it is damaged or cut short; copy or download it again"
        ) from error
    arguments = content.get("hyper_parameters") if isinstance(content, dict) else None
    if not isinstance(arguments, dict) or "network" not in arguments:
        raise UserError(f"{path}: not a checkpoint of this project (it names no network)")
    if arguments["network"] not in NETWORKS:
        raise UserError(
            f"{path}: made for the network {arguments['network']!r}; "
            f"expected one of {', '.join(NETWORKS)}"
        )
    return content


def load_network(name: Path) -> Trained:
    """Build the network that a checkpoint describes and load its weights.

    Args:
        name: a path, or the name of a file inside ckpt/.

    Raises:
        UserError: as `read_checkpoint`, or the weights do not fit the network.
    """
    path = name if name.exists() else FOLDER / name
    content = read_checkpoint(path)
    arguments = content["hyper_parameters"]
    try:
        net = NETWORKS[arguments["network"]](**arguments["network_arguments"])
        weights = content["state_dict"].items()
        net.load_state_dict(
            {name.removeprefix(PREFIX): value for name, value in weights if name.startswith(PREFIX)}
        )
        description = {
            "checkpoint": str(path),
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            "steps": content["global_step"],
            "parameters": sum(parameter.numel() for parameter in net.parameters()),
            **{key: arguments[key] for key in DESCRIBED},
        }
    except Exception as error:  # a file from elsewhere may hold anything
        raise UserError(
            f"{path}: its weights do not fit the network {arguments['network']!r} "
            "that it describes; use a checkpoint of this version"
        ) from error
    return Trained(net.eval(), list(arguments["degradations"]), description)

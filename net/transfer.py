"""Starting from the weights of `--init`, which may know other degradations.

What a network has for each degradation are the rows of a few weights: its text, its learned maps
and what it is recognised by. They go over by name; everything else goes over as it is.
"""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from net import NETWORKS
from net.checkpoint import Trained, load_network
from net.contract import RestorationNetwork
from utils.errors import UserError

SAME_TEXT = 1e-3  # between two embeddings of unit length


def read_init(
    path: Path,
    network: str,
    network_arguments: Mapping[str, Any],
    configuration: str,
    flags: Collection[str],
) -> Trained:
    """What `--init` names.

    Args:
        network, network_arguments, configuration: what is to be trained.
        flags: names of train.py's, without dashes.

    Raises:
        UserError: it cannot be read, or is of another network than what is to be trained.
    """
    try:
        trained = load_network(path)
    except UserError as error:
        raise UserError(f"--init {error}") from error
    defaults = NETWORKS[network].__init__.__kwdefaults__ or {}  # not all are saved
    had, wanted = (
        {"network": name, **defaults, **arguments, "num_degradations": None}  # rows go by name
        for name, arguments in (
            (trained.description["network"], trained.description["network_arguments"]),
            (network, network_arguments),
        )
    )
    for name in {**wanted, **had}:
        if had.get(name) != wanted.get(name):
            size = trained.description["configuration"].partition(",")[0]
            if name != "network" and size != configuration:
                remedy = f"give --configuration {size}"
            elif name in flags:
                remedy = f"give --{name} {had.get(name)}"
            else:
                remedy = "use the version of the code that made it"
            raise UserError(
                f"--init {path}: it has {name.replace('_', ' ')} {had.get(name)}, the "
                f"flags ask for {wanted.get(name)}; {remedy}, or leave --init out"
            )
    return trained


def check_same_texts(
    path: Path, pretrained: str, had: Mapping[str, Tensor], now: Mapping[str, Tensor]
) -> None:
    """Raise `UserError` if CLIP's weights are not those that the texts of `--init` were made by.

    Args:
        path, pretrained: what `--init` and `--clip_pretrained` name.
        had, now: rows of the two tables by degradation, those of `had` of unit length.
    """
    for name in had.keys() & now.keys():
        if not torch.allclose(normalize(now[name], dim=0), had[name], atol=SAME_TEXT):
            raise UserError(
                f"--clip_pretrained {pretrained}: gives other texts than those in --init {path}; "
                "give the weights that its table was made by"
            )


def load_by_degradation(
    net: RestorationNetwork, weights: Mapping[str, Tensor], had: Sequence[str], has: Sequence[str]
) -> None:
    """Load weights whose rows are those of the degradations `had` into a network with `has`.

    Rows of degradations that the weights do not know stay as the network was built; those of
    degradations that the network does not have are dropped.
    """
    shared = [name for name in has if name in had]
    rows, sources = ([names.index(name) for name in shared] for names in (has, had))
    state = net.state_dict()
    for name, value in weights.items():
        if name.endswith(net.degradation_rows):
            state[name][rows] = value[sources]
        else:
            state[name] = value
    net.load_state_dict(state)

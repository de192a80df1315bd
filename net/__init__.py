"""The networks, by the name that `--network` and checkpoints carry."""

from net.baselines import AirNet, PromptIR, Restormer
from net.contract import RestorationNetwork
from net.network import AMPromptIR

BASELINES: dict[str, type[RestorationNetwork]] = {
    "promptir": PromptIR,
    "restormer": Restormer,
    "airnet": AirNet,
}
NETWORKS: dict[str, type[RestorationNetwork]] = {"am_promptir": AMPromptIR, **BASELINES}

__all__ = [
    "BASELINES",
    "NETWORKS",
    "AMPromptIR",
    "AirNet",
    "PromptIR",
    "RestorationNetwork",
    "Restormer",
]

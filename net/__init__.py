"""The networks, by the name that `--network` and checkpoints carry."""

from net.baselines import AirNet, PromptIR, Restormer
from net.contract import RestorationNetwork
from net.network import AMPromptIR

NETWORKS: dict[str, type[RestorationNetwork]] = {
    "am_promptir": AMPromptIR,
    "promptir": PromptIR,
    "restormer": Restormer,
    "airnet": AirNet,
}

__all__ = ["NETWORKS", "AMPromptIR", "AirNet", "PromptIR", "RestorationNetwork", "Restormer"]

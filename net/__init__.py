"""The networks, by the name that `--network` and checkpoints carry."""

from net.network import CONFIGURATIONS, AMPromptIR

NETWORKS = {"am_promptir": AMPromptIR}

__all__ = ["CONFIGURATIONS", "NETWORKS", "AMPromptIR"]

"""Networks to compare with, written anew under their published parameter names."""

from net.baselines.airnet import AirNet
from net.baselines.promptir import PromptIR
from net.baselines.restormer import Restormer

__all__ = ["AirNet", "PromptIR", "Restormer"]

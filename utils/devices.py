"""Choosing where to compute, and saying so when it is not there."""

import torch

from utils.errors import UserError

CPU = -1  # the index that asks for the CPU


def choose_device(index: int | None) -> torch.device:
    """The GPU of that index, the CPU for -1; for None the first GPU, else Apple's MPS, else CPU.

    Raises:
        UserError: there is no such GPU.
    """
    if index == CPU:
        return torch.device("cpu")
    if index is not None:
        check_gpus(index + 1, f"--cuda {index}")
        return torch.device("cuda", index)
    if torch.cuda.is_available():
        return torch.device("cuda", 0)
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def check_gpus(wanted: int, flag: str) -> None:
    """Raise `UserError` if this machine has fewer GPUs than wanted."""
    found = torch.cuda.device_count()
    if found < wanted:
        raise UserError(
            f"{flag}: this machine has {found} usable GPUs; leave the flag out to use what there "
            "is, or check the driver (nvidia-smi) and that torch.cuda.is_available() is True"
        )

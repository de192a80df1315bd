"""Choosing where to compute, and saying so when it is not there."""

import os
from typing import NamedTuple

import torch

from utils.errors import UserError

CPU = -1  # the index that asks for the CPU


class Machine(NamedTuple):
    """What Lightning's trainer needs to know, and how many processes that makes."""

    accelerator: str
    devices: int | list[int]
    num_nodes: int
    num_processes: int
    precision: str


def is_first_process() -> bool:
    """Whether this is the first of the processes that a launcher started for one run."""
    names = ("RANK", "LOCAL_RANK", "SLURM_PROCID")
    return all(os.environ.get(name, "0") == "0" for name in names)


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


def choose_machine(
    num_gpus: int | None, num_nodes: int, index: int | None, precision: str
) -> Machine:
    """Accelerator and processes: as torchrun or srun started us, as the flags say, or a single one.

    Args:
        num_gpus: of each node; 0 for the CPU, None to choose.
        index: of the one GPU to use, -1 for the CPU; None to choose.
        precision: `bf16`, `fp32`, or `auto` for bf16 where the GPU has it.

    Raises:
        UserError: there are not so many GPUs.
    """
    wants_cpu = num_gpus == 0 or index == CPU
    has_mps = torch.backends.mps.is_available() and not wants_cpu
    if not wants_cpu and num_gpus is not None and not (has_mps and num_gpus == 1):
        check_gpus(num_gpus, f"--num_gpus {num_gpus}")
    if not wants_cpu and index is not None:
        check_gpus(index + 1, f"--cuda {index}")

    has_cuda = torch.cuda.is_available() and not wants_cpu
    accelerator = "cuda" if has_cuda else "mps" if has_mps else "cpu"
    devices: int | list[int] = 1
    if "LOCAL_WORLD_SIZE" in os.environ:  # torchrun
        devices = int(os.environ["LOCAL_WORLD_SIZE"])
        num_nodes = int(os.environ["WORLD_SIZE"]) // devices
    elif int(os.environ.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in os.environ:  # srun
        num_nodes = int(os.environ.get("SLURM_NNODES", 1))
        devices = int(os.environ["SLURM_NTASKS"]) // num_nodes
    elif num_nodes > 1:
        raise UserError(
            f"--num_nodes {num_nodes}: start train.py on every node with torchrun or srun, which "
            "tell the processes of each other"
        )
    elif has_cuda and num_gpus:
        devices = num_gpus
    elif has_cuda and index is not None:
        devices = [index]
    num_processes = (1 if isinstance(devices, list) else devices) * num_nodes

    bf16 = precision == "bf16" or (
        precision == "auto" and has_cuda and torch.cuda.is_bf16_supported(including_emulation=False)
    )
    name = "bf16-mixed" if bf16 else "32-true"
    return Machine(accelerator, devices, num_nodes, num_processes, name)

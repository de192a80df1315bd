"""Weights in the safetensors format: tensors by name, and one JSON text that says what they are.

The text is what a training checkpoint says of itself (`hyper_parameters`, `global_step`), under
`DESCRIPTION` in the file's header. Reading runs no code. Half precision is widened when the weights
are loaded; a published network's file without the text holds weights alone.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

DESCRIPTION = "am_promptir"
ENDING = ".safetensors"
FILE_NAME = "model.safetensors"  # in a folder that save_pretrained wrote


def pack_weights(net: nn.Module, origin: Mapping[str, Any], half: bool = False) -> bytes:
    """A network as the bytes of such a file.

    Args:
        origin: plain values, as `RestorationNetwork.origin`.
        half: whether to halve the file: float16 in place of float32.

    Raises:
        OverflowError: a weight is too large for float16.
    """
    tensors = {name: value.detach().cpu() for name, value in net.state_dict().items()}
    if half:
        tensors = {name: value.half() for name, value in tensors.items()}
        broken = [name for name, value in tensors.items() if not value.isfinite().all()]
        if broken:
            raise OverflowError(f"{broken[0]} holds values beyond {torch.finfo(torch.half).max:g}")
    tensors = {name: value.contiguous() for name, value in tensors.items()}
    return save(tensors, {DESCRIPTION: json.dumps(origin)})


def unpack_weights(path: Path, prefix: str) -> dict[str, Any]:
    """The content of such a file as a checkpoint has it, with `prefix` before the weights' names.

    Raises:
        Exception: whatever reading arbitrary bytes may raise.
    """
    with safe_open(path, "pt") as file:
        weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, no mapping
        text = (file.metadata() or {}).get(DESCRIPTION)
    if text is None:
        return weights
    content = json.loads(text)
    arguments = content["hyper_parameters"]["network_arguments"]
    for name, value in arguments.items():  # JSON knows no tuple, constructors and flags do
        arguments[name] = tuple(value) if isinstance(value, list) else value
    return {**content, "state_dict": {prefix + name: value for name, value in weights.items()}}

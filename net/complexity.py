"""What a network costs: its parameters, and multiply-accumulates by torch's own counter."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

COUNTED_SIZE = 128  # pixels a side, as published counts have it


def count_parameters(net: nn.Module) -> int:
    """Number of trainable values."""
    return sum(parameter.numel() for parameter in net.parameters())


def count_macs(net: nn.Module) -> int:
    """Multiply-accumulates of convolutions and matrix products for one image of 128 x 128.

    Nothing is computed: a copy of the network runs on tensors without content.
    """
    net = copy.deepcopy(net).to("meta")
    counter = FlopCounterMode(display=False, custom_mapping=_deformable_convolution())
    with torch.no_grad(), counter:
        net(torch.empty(1, 3, COUNTED_SIZE, COUNTED_SIZE, device="meta"))
    return counter.get_total_flops() // 2


def _deformable_convolution() -> dict:
    """How to count torchvision's deformable convolution, once a network has loaded it."""
    if not hasattr(torch.ops.torchvision, "deform_conv2d"):
        return {}

    def count(image, weight, *rest, out_shape=None, **options) -> int:
        return 2 * weight[1:].numel() * out_shape.numel()

    return {torch.ops.torchvision.deform_conv2d: count}

"""A network that is not trained, and what memory it asks for."""

from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from net import AMPromptIR


def build(name="tiny", **changes):
    """A network as if it had been trained a little."""
    torch.manual_seed(0)
    net = AMPromptIR(**{**AMPromptIR.configurations[name], "text": "learned", **changes})
    with torch.no_grad():  # nothing is left at 0 or 1, where a missing term would not show
        for parameter in net.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    return net


class Made(TorchDispatchMode):
    """Notes how many bytes each new tensor takes that is no view or change of another."""

    def __init__(self):
        super().__init__()
        self.sizes = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        known = {id_of(value) for value in tree_leaves((arguments, options))}
        result = function(*arguments, **(options or {}))
        new = [value for value in tree_leaves(result) if id_of(value) not in {None, *known}]
        self.sizes += [value.untyped_storage().nbytes() for value in new]
        return result


def id_of(value):
    return value.untyped_storage()._cdata if isinstance(value, torch.Tensor) else None


def peak_of_tensors(function: Callable[[], object]) -> int:
    """The most bytes of memory that tensors made by a function take at once."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    held = peak = 0
    for event in profiler.profiler.kineto_results.events():
        if event.name() == "[memory]":
            held += event.nbytes()
            peak = max(peak, held)
    assert peak  # or the profiler's events have other names
    return peak

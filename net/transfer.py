"""Starting from the weights of a network that knows other degradations.

What a network has for each degradation are the rows of a few weights: its text, its learned maps
and what it is recognised by. They go over by name; everything else goes over as it is.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from net.contract import RestorationNetwork


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

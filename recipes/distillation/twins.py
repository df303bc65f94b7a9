"""Frozen copies of networks."""

import copy
from typing import Any, TypeVar

from torch import nn

Kind = TypeVar("Kind", bound=nn.Module)


def twin(network: Kind) -> Kind:
    """A frozen copy of a network; what is frozen already is not copied but shared.

    So is what exchanges tokens with other ranks.
    """
    frozen = [p for p in network.parameters() if not p.requires_grad]
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*frozen, *network.buffers())}
    if (exchange := vars(network).get("exchange")) is not None:
        shared[id(exchange)] = exchange
    return copy.deepcopy(network, shared).requires_grad_(False).eval()

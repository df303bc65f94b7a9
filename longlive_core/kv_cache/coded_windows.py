"""What attention in eight bits reads of a block's window: each layer's keys and values in E4M3."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from longlive_core.eight_bit import EncodedHeads, encode_window

Parts = Sequence[Tensor]


class CodedWindows:
    """The windows of all layers, while one block is made.

    A layer's past is encoded when the layer is first read, and its own tokens at each read
    (``longlive_core.eight_bit.head_window``). All of it begins anew with each block: neither codes
    nor scales depend on what another block had.
    """

    def __init__(self) -> None:
        self._windows: dict[int, list[EncodedHeads]] = {}

    def read(
        self, layer: int, own: Parts, past: Callable[[], Sequence[Parts]]
    ) -> tuple[EncodedHeads, EncodedHeads]:
        """Keys and values of a layer: the past, page after page, then the block's own.

        Args:
            layer: its number.
            own: the block's own keys and values, [samples, tokens, heads, head_dim].
            past: gives the pages of the past, of keys and of values; asked for once a layer.
        """
        known = self._windows.get(layer)
        if known is None:
            windows = [
                encode_window(_room(x, pages), x, pages, None)
                for x, pages in zip(own, past(), strict=True)
            ]
        else:
            windows = [
                encode_window(window.codes, x, (), window.scales)
                for x, window in zip(own, known, strict=True)
            ]
        self._windows[layer] = windows
        keys, values = windows
        return keys, values

    def tensors(self) -> dict[str, Tensor]:
        """The codes of all layers that were read so far, by name."""
        return {
            f"windows.{layer}.{kind}": window.codes
            for layer, windows in self._windows.items()
            for kind, window in zip(("keys", "values"), windows, strict=True)
        }


def _room(own: Tensor, past: Parts) -> Tensor:
    """Memory for the codes of a window."""
    samples, tokens, heads, head_dim = own.shape
    size = (samples, sum(part.shape[1] for part in past) + tokens, heads, head_dim)
    with torch.inference_mode(False):  # what is made under it can only be written under it
        return torch.empty(size, dtype=torch.float8_e4m3fn, device=own.device)

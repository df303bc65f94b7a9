"""What a cache holds beside its pages: room to decode them, and summaries to choose them by."""

import torch
from torch import Tensor

from longlive_core.kv_cache.codec import PageCodec
from longlive_core.kv_cache.layout import CacheLayout


def workspaces_of(
    layout: CacheLayout, codec: PageCodec, slots: int, device: torch.device
) -> list[Tensor]:
    """Room for decoded keys and for decoded values, not yet written."""
    samples, tokens, heads, head_dim = layout.page_shape
    room = (samples, codec.workspace_pages(slots) * tokens, heads, head_dim)
    with torch.inference_mode(False):  # what is made under it can only be written under it
        return [torch.empty(room, dtype=codec.dtype, device=device) for _ in range(2)]


def summaries_of(layout: CacheLayout, slots: int, device: torch.device) -> Tensor:
    """The mean keys of the page in each slot: [slots, layers, samples, heads, head_dim]."""
    size = (slots, layout.layers, layout.samples, layout.heads, layout.head_dim)
    with torch.inference_mode(False):
        return torch.zeros(size, dtype=torch.float32, device=device)

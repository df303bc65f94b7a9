"""Where the parts of a model are: on the device that computes, or in the host's memory.

A transformer's blocks may wait in page-locked memory and visit the device one after another. A text
encoder is used once for each prompt; it is in one of three places:

======= ============================================================================================
device  Where the transformer is.
offload Its weights stay in the host's memory, mapped from their file, and its layers visit the
        device while a prompt is encoded. Then nothing of it is left there. The same features.
cpu     It computes on the CPU, in float32: slower, for devices without room for a layer.
======= ============================================================================================
"""

import torch
from torch import nn

from longlive_core.block_offload import BlockOffload
from longlive_core.memory import device_memory
from longlive_models.adapters.attach import attach_files
from longlive_models.runtime import PRECISIONS, Runtime
from longlive_models.text import PocketTextEncoder, TextEncoder, UMT5TextEncoder
from longlive_models.wan import WanTransformer

TEXT_SHARE = 6
"""A text encoder stays on a device that has as many times its memory: else it takes too much of it
for what it does."""


def text_place(asked: str, needed: int, memory: int | None) -> str:
    """The place of a text encoder: what is asked for, and for "auto" by what it takes of a device.

    Args:
        asked: a name of ``choices.TEXT_ENCODERS``, or "auto".
        needed: its bytes on the device.
        memory: the bytes of the device, in use or not; None where that is not known.
    """
    if asked != "auto":
        return asked
    return "device" if memory is None or TEXT_SHARE * needed <= memory else "offload"


def place_transformer(transformer: WanTransformer, runtime: Runtime) -> None:
    """Put a transformer where ``runtime`` says, with its adapters, in place.

    Adapters are merged on the device, so a transformer that has some is there as a whole first.
    """
    _end_visits(transformer)
    if not runtime.lora and runtime.offload:
        transformer.offload = runtime.put_offloaded(transformer, transformer.blocks)
        return
    runtime.put(transformer)
    if runtime.lora:
        attach_files(transformer, runtime.lora, dtype=PRECISIONS[runtime.compute]).fuse()
    if runtime.offload:
        transformer.offload = BlockOffload(list(transformer.blocks), runtime.device)


def place_text(text: TextEncoder, runtime: Runtime) -> str:
    """Put a text encoder where ``runtime`` says, in place; returns the name of the place."""
    if not isinstance(text, nn.Module):
        return "device"
    _end_visits(text)
    place = text_place(runtime.text_encoder, _needed(text, runtime), _memory(runtime.device))
    if place == "cpu":
        runtime.put(text, torch.device("cpu"))
    elif place == "offload" and isinstance(text, PocketTextEncoder | UMT5TextEncoder):
        tables = text.tables if isinstance(text, UMT5TextEncoder) else ()
        offload = runtime.put_offloaded(text, text.layers, tables, page_locked=False, again=False)
        vars(text)["offload"] = offload
    else:
        runtime.put(text)
        return "device"
    return place


def _end_visits(module: nn.Module) -> None:
    """Let a module's blocks be its own again, if an earlier pipeline offloaded them."""
    offload = vars(module).get("offload")
    if offload is not None:
        offload.end()
        vars(module)["offload"] = None


def _needed(text: nn.Module, runtime: Runtime) -> int:
    """The bytes that a text encoder takes where it computes."""
    return sum(p.numel() for p in text.parameters()) * PRECISIONS[runtime.compute].itemsize


def _memory(device: torch.device) -> int | None:
    """The memory of a GPU; None for a CPU, whose memory is the host's."""
    return None if device.type == "cpu" else device_memory(device)

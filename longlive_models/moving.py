"""Where ``pipe.to(...)`` moves a model: the runtime of another device or type."""

from collections.abc import Sequence

import torch

from longlive_core.checks import shown
from longlive_models.runtime import PRECISIONS, Runtime
from longlive_models.runtime_options import RuntimeOptions


def moved(runtime: Runtime, where: Sequence[str | torch.device | torch.dtype]) -> Runtime:
    """The runtime with another device, type, or both; the same one if nothing changes.

    The lane becomes that of the device unless it was a thread or another device, and a plain cache
    gets the type of the weights.

    Raises:
        ValueError: there is no such device, a type that weights cannot have, or two of a kind.
    """
    types = [one for one in where if isinstance(one, torch.dtype)]
    devices = [one for one in where if not isinstance(one, torch.dtype)]
    if len(types) > 1 or len(devices) > 1 or not where:
        raise ValueError(
            f"to{shown(tuple(where))}: a model moves to one device, to one type, or both. Write "
            f"pipe.to('cuda') or pipe.to('cuda', torch.bfloat16)."
        )
    weights = runtime.weights
    if types:
        names = {dtype: name for name, dtype in PRECISIONS.items()}
        if types[0] not in names:
            raise ValueError(
                f"to({types[0]}) is no type that plain weights have here: they are float32 or "
                f"bfloat16. Other precisions are chosen with from_pretrained(weights=...)."
            )
        weights = names[types[0]]
    same = runtime.kv_cache == runtime.weights
    device = str(devices[0]) if devices else str(runtime.device)
    if device == str(runtime.device) and weights == runtime.weights:
        return runtime
    kept = runtime.lane == "thread" or runtime.lane.startswith("device:")
    return Runtime.choose(
        RuntimeOptions(
            device=device,
            quality=runtime.quality,
            weights=weights,
            kv_cache=weights if same and weights in PRECISIONS else runtime.kv_cache,
            attention=runtime.attention,
            lane=runtime.lane if kept else "auto",
            linear=runtime.linear,
            strict=runtime.strict,
            vae=runtime.vae,
            vae_latents=runtime.vae_latents,
            vae_tiles=runtime.vae_tiles,
            lora=runtime.lora,
            offload=runtime.offload,
            text_encoder=runtime.text_encoder,
        )
    )

"""`longlive doctor`: which backend each operation takes on this machine, and why not the others."""

import json
import platform
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longlive_cli.messages import say
from longlive_cli.option_groups import with_groups

if TYPE_CHECKING:
    from longlive_models.runtime_options import RuntimeOptions

WIDTH = 3072  # of LongLive-2.0-5B: some products want sizes that divide
QUANTIZED = ("fp8", "nvfp4", "nvfp4-w4a4")
OPTIONAL = ("xformers", "flash-attn", "flash-attn-4", "humming-kernels", "transformer-engine")


@with_groups
def doctor(
    head_dim: Annotated[int, typer.Option(min=1, help="The size of an attention head.")] = 128,
    training: Annotated[bool, typer.Option(help="Ask for backends that have a backward.")] = False,
    runtime: dict[str, Any] | None = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> None:
    """Say what this machine has, which backend each operation would use, and why.

    With the options of a run it answers for that run: what it names must be able to run here.
    """
    from longlive_cli.overrides import apply_mapping
    from longlive_models.runtime_options import RuntimeOptions

    asked = apply_mapping(RuntimeOptions(), runtime or {})
    installed = versions()
    names = devices() if asked.device == "auto" else [asked.device]
    found = [_device(replace(asked, device=name), head_dim, training) for name in names]
    if as_json:
        say(json.dumps({"versions": installed, "devices": found}))
        return
    for name, version in installed.items():
        say(f"{name:20} {version}")
    for device in found:
        say(f"\n{device['device']}: {device['name']}, {device['dtype']}")
        for operation in device["operations"]:
            say(f"  {operation['operation']}: {operation['backend']}")
            for name, standing in operation["reasons"].items():
                say(f"    {name:10} {standing}")


def versions() -> dict[str, str]:
    """The version of Python and of each package that matters here, or "not installed"."""
    from importlib import metadata  # it takes as long as a third of `longlive --help`

    found = {"python": platform.python_version()}
    for name in ("longlive", "torch", "pytorch-lightning", "transformers", "av", *OPTIONAL):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def devices() -> list[str]:
    """The names of the CPU and of every GPU, as torch takes them."""
    import torch

    return ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]


def _device(asked: "RuntimeOptions", head_dim: int, training: bool) -> dict[str, Any]:
    import torch

    from longlive_core.attention import ATTENTION, MASKED_ATTENTION
    from longlive_core.backends import Request
    from longlive_models.runtime import Runtime

    plain = Runtime.choose(replace(asked, weights="auto", linear="auto"))
    device = plain.device
    on_gpu = device.type == "cuda"
    dtype = torch.bfloat16 if on_gpu else torch.float32
    request = Request(device=device, dtype=dtype, head_dim=head_dim, needs_grad=training)
    receipts = [ATTENTION.receipt(request, asked.attention), MASKED_ATTENTION.receipt(request)]
    named = asked.weights != "auto"
    for weights in (asked.weights,) if named else QUANTIZED:
        receipts += Runtime.choose(replace(asked, weights=weights)).linear_receipts(WIDTH)
    receipts += plain.cache_receipts()
    return {
        "device": str(device),
        "name": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "dtype": str(dtype).removeprefix("torch."),
        "operations": [
            {"operation": r.operation, "backend": r.backend, "reasons": r.reasons} for r in receipts
        ],
    }

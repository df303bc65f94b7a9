"""`longlive doctor`: which backend each operation takes on this machine, and why not the others."""

import json
import platform
import re
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from longlive_cli.messages import in_one_line, say, spinning
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
    named: Annotated[
        bool,
        typer.Option(
            "--named", help="Test backends too that run only when named; some compile for minutes."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON line.")] = False,
) -> None:
    """Say what this machine has, which backend each operation would use, and why; and test them.

    Every backend that can run is tried, for a second at most, against its reference. The last line
    is the verdict; the status is 1 if a backend is wrong. With the options of a run it answers for
    that run: what it names must be able to run here.
    """
    from longlive_cli.overrides import apply_mapping
    from longlive_models.runtime_options import RuntimeOptions

    asked = apply_mapping(RuntimeOptions(), runtime or {})
    installed = versions()
    names = devices() if asked.device == "auto" else [asked.device]
    found = [_device(replace(asked, device=name), head_dim, training) for name in names]
    for device in found:
        device["tests"] = self_tests(device, head_dim, named)
    install = to_install(found)
    verdict = verdict_of(found)
    if as_json:
        report = {"versions": installed, "devices": found, "install": install, **verdict}
        say(json.dumps(report))
    else:
        _tell(installed, found, install)
        say(f"\n{verdict['verdict']}")
    if not verdict["right"]:
        raise typer.Exit(1)


def _tell(
    installed: dict[str, str], found: list[dict[str, Any]], install: dict[str, list[str]]
) -> None:
    """Print everything but the verdict."""
    for name, version in installed.items():
        say(f"{name:20} {version}")
    for device in found:
        say(f"\n{device['device']}: {device['name']}, {device['dtype']}")
        tests = {(test["operation"], test["backend"]): test for test in device["tests"]}
        for operation in device["operations"]:
            say(f"  {operation['operation']}: {operation['backend']}")
            width = max(10, *map(len, operation["reasons"]))
            for name, standing in operation["reasons"].items():
                test = tests.pop((operation["operation"], name), None)
                tested = "" if test is None else f"; {in_words(test)}"
                say(f"    {name:{width}} {standing}{tested}")
        for (name, backend), test in tests.items():  # of operations that no receipt names
            say(f"  {name}, {backend}: {in_words(test)}")
    for package, names in install.items():
        say(f"\npip install {package}: for {', '.join(names)}")


def self_tests(device: dict[str, Any], head_dim: int, named: bool) -> list[dict[str, Any]]:
    """What the test of each backend of a device found, as values that JSON can hold."""
    import torch

    from longlive_recipes.bench.self_tests import run

    dtype = getattr(torch, device["dtype"])
    with spinning(f"testing backends on {device['device']}"):
        findings = list(run(torch.device(device["device"]), dtype, head_dim=head_dim, named=named))
    return [asdict(finding) for finding in findings]


def in_words(test: dict[str, Any]) -> str:
    """What a test found, for people."""
    if test["problem"] is not None:
        return f"WRONG: {in_one_line(test['problem'])}"
    error = "the reference's bits" if test["error"] == 0 else f"error {test['error']:.1e}"
    return f"{'tested' if test['right'] else 'WRONG'}, {error}, {test['milliseconds']:.2f} ms"


def to_install(found: list[dict[str, Any]]) -> dict[str, list[str]]:
    """The packages that would add a backend on one of the devices, each with those backends."""
    wanted: dict[str, list[str]] = {}
    for device in found:
        for operation in device["operations"]:
            for name, standing in operation["reasons"].items():
                needs = re.match(r"it needs the package ([a-z0-9-]+)", standing)
                if needs:
                    backends = wanted.setdefault(needs[1], [])
                    whole = f"{operation['operation']} {name}"
                    if whole not in backends:
                        backends.append(whole)
    return wanted


def verdict_of(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Whether every backend that was tested is right, and the line that says so."""
    tests = [(device["device"], test) for device in found for test in device["tests"]]
    wrong = [
        f"{test['operation']} {test['backend']} on {device}"
        for device, test in tests
        if not test["right"]
    ]
    if wrong:
        verdict = (
            f"{len(wrong)} of {len(tests)} backends are wrong here: {', '.join(wrong)}. Name other "
            f"ones (--attention, --linear), or mend their packages."
        )
        return {"right": False, "verdict": verdict}
    where = ", ".join(device["device"] for device in found)
    return {"right": True, "verdict": f"All {len(tests)} backends that run on {where} are right."}


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

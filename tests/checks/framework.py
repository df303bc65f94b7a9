"""What a conformance check is made of: a golden case, a report of comparisons, a verdict.

A golden folder holds a `manifest.json` and one safetensors (or JSON) file a case. A check is a
module `tests/checks/group_N.py` with one function `check(case: Case) -> Verdict`. It takes sizes
from `case.config` and from tensor shapes, never from a case's name, so that it holds for other
folders of the same form, and it compares what is present: a trimmed folder may lack outputs.
"""

import importlib
import importlib.util
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.checks.settings import Settings

RULES: Mapping[str, str] = {
    "whole-page sink": (
        "a sink is a number of whole pages: a part of a page would have to be pinned and rolled "
        "apart from the rest of it, and the original loses such a sink at the first cut"
    ),
    "whole-page window": (
        "a window is a number of whole pages, as a page is the least that is kept or dropped"
    ),
    "room beside the sinks": (
        "a window has room for its sinks, the shot's anchor and the block itself: the original "
        "lets the anchor slide out of a window that is too small for it"
    ),
    "anchor beside a long cache": (
        "a shot's anchor is seen from its cut to its end: with a cache longer than its window the "
        "original loses it for as long as the sink, and sees the page after it in the step that "
        "moves it; the rest is held under a policy that loses it too"
    ),
    "one sink": (
        "the film's sink is as long before the first cut as after it: the original may protect "
        "another number of frames once a shot is pinned"
    ),
    "forgetting inside the sink": (
        "a cut that forgets keeps the pages of the sink that there are: the original writes the "
        "cut's block behind the whole sink's room, the unwritten part of which it then attends to"
    ),
    "saturation at 6": (
        "codes saturate at 6; the original's reference has no clamp, so that a block whose scale "
        "is subnormal and rounded down overflows into the sign bit: such blocks are left out whole"
    ),
    "anchor inside the sink": (
        "a cut inside the global sink needs no anchor: the original still moves an index through "
        "the sink, which changes nothing that is attended to, so that index is not compared"
    ),
}
"""Rules by which a case may be refused or may differ, and the reason for each."""

NOT_YET: Mapping[int, str] = {}
"""Groups that have no check yet, and what brings it."""

Kind = Literal["held", "held (parity)", "refused", "differs", "not yet", "failed"]


@dataclass(frozen=True)
class Verdict:
    """How a case went. `detail` is a rule's name, what brings a check, or the worst mismatch."""

    kind: Kind
    detail: str = ""

    def __post_init__(self) -> None:
        if self.kind in ("refused", "differs") and self.detail not in RULES:
            raise ValueError(
                f"verdict {self.kind!r} needs a rule of tests/checks/framework.py's RULES, got "
                f"{self.detail!r}. Write the rule and its reason there: {', '.join(RULES)}."
            )

    def __str__(self) -> str:
        return f"{self.kind}: {self.detail}" if self.detail else self.kind

    @classmethod
    def refused(cls, rule: str) -> "Verdict":
        """The library refuses what the case asks for, with a reason."""
        return cls("refused", rule)

    @classmethod
    def differs(cls, rule: str) -> "Verdict":
        """The library gives another result on purpose."""
        return cls("differs", rule)

    @classmethod
    def not_yet(cls, brought_by: str) -> "Verdict":
        """The library does not do this yet."""
        return cls("not yet", brought_by)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One case of a golden folder.

    `meta` is its manifest entry; `tensors` its `input.*` and `output.*` tensors under their full
    names; `weights` the `weight.*` tensors without that prefix, bfloat16 raised to float32, from
    the file that `weights_from` names where it names one; `data` the content of a JSON case.
    """

    name: str
    group: int
    meta: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    weights: Mapping[str, Tensor]
    data: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def config(self) -> Settings:
        """The sizes that the case was made with; empty where the manifest gives none."""
        return Settings(self.meta.get("config") or {})


def read_case(folder: Path, name: str, meta: Mapping[str, Any]) -> Case:
    """Read the case `name` of a golden folder."""
    path = folder / meta["file"]
    if path.suffix == ".json":
        data = json.loads(path.read_text())
        return Case(name=name, group=meta["group"], meta=meta, tensors={}, weights={}, data=data)
    tensors = load_file(path)
    source = meta.get("weights_from")
    weights = {**_weights(load_file(folder / source) if source else {}), **_weights(tensors)}
    own = {key: value for key, value in tensors.items() if not key.startswith("weight.")}
    return Case(name=name, group=meta["group"], meta=meta, tensors=own, weights=weights)


def _weights(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {
        key.removeprefix("weight."): value.float() if value.dtype == torch.bfloat16 else value
        for key, value in tensors.items()
        if key.startswith("weight.")
    }


class Report:
    """Collects a case's comparisons and keeps the worst mismatch."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.compared = 0
        self._worst = 0.0
        self._message = ""

    def close(self, label: str, got: Tensor, want: Tensor, rtol: float, atol: float) -> None:
        """Compare within `atol + rtol * |want|`, in float64 (complex values as (re, im) pairs)."""
        self.compared += 1
        got, want = _real(got), _real(want)
        if got.shape != want.shape:
            self._mismatch(float("inf"), f"{label}: shape {_shape(got)}, expected {_shape(want)}")
            return
        if got.numel() == 0:
            return
        same = (got == want) | (got.isnan() & want.isnan())
        excess = ((got - want).abs() / (atol + rtol * want.abs())).masked_fill(same, 0)
        excess = excess.nan_to_num(nan=float("inf"), posinf=float("inf"))
        worst = int(excess.argmax())
        place = tuple(int(i) for i in torch.unravel_index(torch.tensor(worst), got.shape))
        self._mismatch(
            float(excess.flatten()[worst]),
            f"{label}{list(place)}: {float(got[place]):.9g}, expected {float(want[place]):.9g} "
            f"(rtol {rtol:g}, atol {atol:g}, {int((excess > 1).sum())} of {got.numel()} outside)",
        )

    def equal(self, label: str, got: object, want: object) -> None:
        """Compare exactly: tensors by shape and value, anything else with `==`."""
        if isinstance(got, Tensor) and isinstance(want, Tensor):
            self.close(label, got, want, rtol=0.0, atol=torch.finfo(torch.float64).tiny)
            return
        self.compared += 1
        if got != want:
            self._mismatch(float("inf"), f"{label}: {_short(got)}, expected {_short(want)}")

    def verdict(self, parity: bool = False) -> Verdict:
        """The verdict; `parity` says that it holds under a switch that copies the original."""
        if not self.compared:
            return Verdict("failed", "nothing was compared")
        if self._message:
            return Verdict("failed", self._message)
        return Verdict("held (parity)" if parity else "held")

    def _mismatch(self, excess: float, message: str) -> None:
        if excess > max(1.0, self._worst):
            self._worst, self._message = excess, message


def _real(x: Tensor) -> Tensor:
    x = x.detach().cpu()
    return (torch.view_as_real(x) if x.is_complex() else x).double()


def _shape(x: Tensor) -> str:
    return str(tuple(x.shape))


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 120 else f"{text[:117]}..."


def checker(group: int) -> ModuleType | None:
    """The check module of a group, or None where there is none yet."""
    name = f"tests.checks.group_{group}"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def run_case(folder: Path, name: str, meta: Mapping[str, Any]) -> Verdict:
    """Read a case and check it; an exception of the check is a failure of the case.

    So is a setting that the check has not read: it might have changed the numbers.
    """
    module = checker(meta["group"])
    if module is None:
        return Verdict.not_yet(NOT_YET.get(meta["group"], f"a check of group {meta['group']}"))
    try:
        case = read_case(folder, name, meta)
        verdict: Verdict = module.check(case)
    except Exception as error:  # one broken case must not hide the verdicts of the others
        return Verdict("failed", f"{type(error).__name__}: {' '.join(str(error).split())[:400]}")
    if verdict.kind.startswith("held") and (unknown := case.config.unused()):
        return Verdict("failed", f"unknown key {', '.join(unknown)}")
    return verdict

"""Measure a preset: every configuration is compared first, then they take turns."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from longlive_core.backends import BackendUnavailable
from longlive_models import LongLivePipeline
from longlive_models.precision import in_short
from longlive_models.runtime import Runtime
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.preset.case import Case, Meter, StreamTimes, stream
from longlive_recipes.bench.preset.ceilings import measure_ceilings, work_of
from longlive_recipes.bench.preset.earlier import Earlier
from longlive_recipes.bench.preset.models import Preset, build, preset_of
from longlive_recipes.bench.preset.rows import Found, parts_of
from longlive_recipes.bench.preset.text import measure_text
from longlive_recipes.bench.preset.variants import LOSSLESS, PLAIN, Variant, variants
from longlive_recipes.bench.preset_options import PresetOptions
from longlive_recipes.bench.shared_sizes import relative_error


def measure(told: PresetOptions, device: torch.device, about: str) -> dict[str, Any]:
    """A preset's record: tables by heading, what was checked, and what ran.

    Raises AssertionError where not a single configuration is inside its tier.
    """
    with _Bench(told, preset_of(told.preset, device), device).running() as bench:
        return {
            "about": about,
            "parts": parts_of(bench.found),
            "checked": bench.checked(),
            "backends": bench.backends,
        }


@dataclass
class _Bench:
    told: PresetOptions
    preset: Preset
    device: torch.device
    cases: list[Case] = field(default_factory=list)
    pipes: dict[Any, tuple[LongLivePipeline, int]] = field(default_factory=dict)
    references: dict[str, list[Tensor]] = field(default_factory=dict)
    backends: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.meter = Meter(self.device)
        self.window = self.preset.spec.settings.window
        self.found = Found(
            preset=self.preset,
            work=[work_of(self.preset, seen + 1) for seen in range(self.window)],
            on_gpu=self.device.type == "cuda",
        )
        second = "device:cuda:1" if self.device.type == "cuda" else "device:cpu"
        self.variants = variants(
            self.told.quality, baseline=self.told.baseline, ranks=self.told.ranks, second=second
        )

    @contextmanager
    def running(self) -> "Iterator[_Bench]":
        """Everything in order; another tree's process ends with it."""
        found, repeats = self.found, self.told.repeats
        found.ceilings = measure_ceilings(self.preset, self.device, 3)
        found.text = measure_text(self.preset, self.device, 3)
        self._empty()
        for variant in self.variants:
            self._open(variant)
        require(bool(self.cases), "; ".join(f"{n}: {w}" for n, w in found.refused.items()))
        with ExitStack() as stack:
            other = self._earlier(stack)
            for case in self._decoding():
                case.decode_first()
            for _ in range(repeats):
                for case in self.cases:
                    case.block()
                for case in self._decoding():
                    case.decode()
                if other is not None:
                    found.earlier_blocks.append(other.block())
                    found.earlier_decodes.append(other.decode())
        found.cases = self.cases
        for case in self.cases:
            case.release()
        self._empty()
        for case in self.cases:
            if case.variant.end_to_end and self.told.stream_blocks:
                found.streams[case.variant.name] = self._stream(case)
        yield self

    def checked(self) -> str:
        """What was compared."""
        words = [
            f"{name}: {'the bytes of the plain path' if not error else f'{error:.3g} from it'}"
            for name, error in self.found.errors.items()
        ]
        return "latents of every block of a first window against the plain path's; " + ", ".join(
            words
        )

    def _open(self, variant: Variant) -> None:
        """Build, fill the window, compare; a variant that is outside its tier is said so."""
        try:
            pipe, held = self._pipe(variant)
        except BackendUnavailable as problem:
            self.found.refused[variant.name] = str(problem)
            return
        case = Case(variant, pipe, held)
        case.fill(self.window)
        wanted = self._reference(variant, case)
        errors = [relative_error(a, b) for a, b in zip(case.latents, wanted, strict=True)]
        same = all(torch.equal(a, b) for a, b in zip(case.latents, wanted, strict=True))
        self.found.errors[variant.name] = 0.0 if same else max(errors[0], 1e-12)
        self.found.block_errors[variant.name] = errors
        if (variant.tier in (PLAIN, LOSSLESS) and not same) or errors[0] > variant.most_error:
            self.found.refused[variant.name] = (
                f"outside its tier: {errors[0]:.3g} from the plain path, allowed "
                f"{variant.most_error:g}"
            )
            return
        self.cases.append(case)

    def _reference(self, variant: Variant, case: Case) -> list[Tensor]:
        """The plain path's latents for a variant."""
        wanted = variant.reference
        if wanted.name not in self.references:
            if variant.tier == PLAIN:
                self.references[wanted.name] = case.latents
            else:
                plain = Case(wanted, *self._built(wanted))
                plain.fill(self.window)
                self.references[wanted.name] = plain.latents
        return self.references[wanted.name]

    def _pipe(self, variant: Variant) -> tuple[LongLivePipeline, int]:
        """A variant's pipeline, shared by those that are told the same."""
        key = variant.runtime(str(self.device))
        if key not in self.pipes:
            self.pipes[key] = self._built(variant)
            pipe = self.pipes[key][0]
            self.backends += [f"{variant.name}: {line}" for line in in_short(pipe.receipts())]
        return self.pipes[key]

    def _built(self, variant: Variant) -> tuple[LongLivePipeline, int]:
        """A pipeline, and the bytes that it holds."""
        self._empty()
        before = self.meter.held
        pipe = build(self.preset, Runtime.choose(variant.runtime(str(self.device))))
        self._empty()
        return pipe, self.meter.held - before

    def _decoding(self) -> list[Case]:
        """One case of each way to decode: they differ by the pipeline's VAE alone."""
        plain = [case for case in self.cases if case.variant.end_to_end]
        return plain or self.cases[:1]

    def _earlier(self, stack: ExitStack) -> Earlier | None:
        if self.told.earlier is None:
            return None
        other = stack.enter_context(Earlier(self.told.earlier, self.preset, self.device))
        self.found.earlier_fill = other.fill()
        other.decode()
        return other

    def _stream(self, case: Case) -> StreamTimes:
        self._empty()
        return stream(case, self.told.stream_blocks)

    def _empty(self) -> None:
        """Give back what is no longer in use, so that what a GPU counts is in use."""
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

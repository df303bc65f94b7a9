"""Measure a preset: every configuration is compared first, then they take turns."""

import gc
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from longlive_core.backends import BackendUnavailable
from longlive_models import LongLivePipeline
from longlive_models.precision import in_short
from longlive_models.runtime import Runtime
from longlive_recipes.bench.checks import require
from longlive_recipes.bench.preset.case import Case, Meter, stream
from longlive_recipes.bench.preset.ceilings import measure_ceilings, work_of
from longlive_recipes.bench.preset.decoding import decode_error
from longlive_recipes.bench.preset.earlier import Earlier
from longlive_recipes.bench.preset.models import (
    Preset,
    build,
    preset_of,
    unfuse_,
    with_cache,
)
from longlive_recipes.bench.preset.rows import Found, parts_of
from longlive_recipes.bench.preset.text import measure_text
from longlive_recipes.bench.preset.variants import (
    LOSSLESS,
    PLAIN,
    REFERENCE,
    Variant,
    decoding_apart,
    main_variants,
    other_variants,
)
from longlive_recipes.bench.preset_options import PresetOptions
from longlive_recipes.bench.record import Keep, not_kept
from longlive_recipes.bench.shared_sizes import relative_error


def measure(
    told: PresetOptions, device: torch.device, about: str, keep: Keep = not_kept
) -> dict[str, Any]:
    """A preset's record: tables by heading, what was checked, and what ran.

    Args:
        keep: is given what is known after the tiers' blocks, the others', and decoding.

    Raises AssertionError where not a single configuration is inside its tier.
    """
    bench = _Bench(told, preset_of(told.preset, device), device)

    def record() -> dict[str, Any]:
        return {
            "about": about,
            "parts": parts_of(bench.found),
            "checked": bench.checked(),
            "backends": bench.backends,
        }

    for done in bench.run():
        keep({**record(), "unfinished": f"measured so far: {done}"})
    return record()


@dataclass
class _Bench:
    told: PresetOptions
    preset: Preset
    device: torch.device
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

    def run(self) -> Iterator[str]:
        """Everything in order; what is done, after each part.

        On a GPU four models and three windows are held at most, and another tree's.
        """
        found = self.found
        found.ceilings = measure_ceilings(self.preset, self.device, 3)
        found.text = measure_text(self.preset, self.device, 3)
        self._empty()
        with ExitStack() as stack:
            other = self._earlier(stack)
            told = self.told
            variants = main_variants(told.quality, told.baseline)
            self._make_references(variants)
            main = [self._open(one) for one in variants]
            cases = [case for case in main if case is not None]
            require(bool(cases), "; ".join(f"{n}: {w}" for n, w in found.refused.items()))
            found.cases += cases
            if other is not None:
                found.earlier_fill = other.fill()
            for _ in range(told.repeats):
                for case in cases:
                    case.block()
                if other is not None:
                    found.earlier_blocks.append(other.block())
            yield "blocks"
            self._measure_others({case.variant.name: case for case in cases})
            for case in cases:
                case.release()
            self._empty()
            yield "blocks of every configuration"
            self._decode(cases, other)
        self._empty()
        yield "blocks and decoding"
        cases = [case for case in cases if case.decodes]
        for case in found.cases:
            if told.stream_blocks and (case in cases or case.variant.whole):
                blocks = 2 if case.variant.whole else told.stream_blocks
                found.streams[case.variant.name] = stream(case, blocks)
        self._measure_second_gpu(cases)

    def checked(self) -> str:
        """What was compared."""
        words = [
            f"{name}: {'its bytes' if not error else f'{error:.3g} from it'}"
            for name, error in self.found.errors.items()
        ]
        return (
            "latents of the first blocks (a window, or two) against the plain operations', their "
            "order of sums written down; " + ", ".join(words)
        )

    def _measure_others(self, cases: dict[str, Case]) -> None:
        """Rows of fewer steps or bits, each in turns with the one that it is beside.

        Of the others' windows none is held longer than it is needed.
        """
        if not self.told.extras:
            return
        names = list(cases)
        for variant in other_variants(tuple(names)):
            for earlier in names[: names.index(variant.beside)]:
                cases[earlier].release()
            self._empty()
            case = self._open(variant)
            if case is None:
                continue
            beside = Case(cases[variant.beside].variant, *self._pipe(cases[variant.beside].variant))
            beside.adopt(cases[variant.beside])
            for _ in range(self.told.repeats):
                case.block()
                beside.block()
            self.found.beside[variant.name] = beside.blocks
            self.found.cases.append(case)
            case.release()
            self._empty()

    def _decode(self, cases: list[Case], other: Earlier | None) -> None:
        """Frames of the first block, and whether they are right; then later ones' in turns."""
        right = []
        for case in cases:
            case.decode_first()
            error = decode_error(case.pipe, *(x.to(self.device) for x in case.latents[:2]))
            self.found.decode_errors[case.variant.name] = error
            if error.problem is None:
                right.append(case)
            self._empty()
        if other is not None:
            other.decode()
        for _ in range(self.told.repeats):
            for case in right:
                case.decode()
            if other is not None:
                self.found.earlier_decodes.append(other.decode())

    def _measure_second_gpu(self, cases: list[Case]) -> None:
        """Streams whose second device decodes."""
        if self.told.ranks == 1 or not self.told.stream_blocks:
            return
        lane = "device:cuda:1" if self.device.type == "cuda" else "device:cpu"
        for case in cases:
            if case.variant.tier == PLAIN:
                continue
            variant = decoding_apart(case.variant, lane)
            apart = Case(variant, *self._built(variant))
            apart.blocks, apart.fills = case.blocks, case.fills
            apart.first_decode, apart.decodes = case.first_decode, case.decodes
            self.found.streams[variant.name] = stream(apart, self.told.stream_blocks)
            self.found.apart.append(apart)

    def _open(self, variant: Variant) -> Case | None:
        """Build, fill the window, compare; what is outside its tier is said so, and None."""
        try:
            case = Case(variant, *self._pipe(variant))
        except BackendUnavailable as problem:
            self.found.refused[variant.name] = str(problem)
            return None
        wanted = self.references[variant.reference.name]
        case.fill(self.window)
        pairs = list(zip(case.latents, wanted, strict=False))
        errors = [relative_error(a, b) for a, b in pairs]
        same = all(torch.equal(a, b) for a, b in pairs)
        self.found.errors[variant.name] = 0.0 if same else max(*errors, 1e-12)
        self.found.block_errors[variant.name] = errors
        if (variant.tier == LOSSLESS and not same) or errors[0] > variant.most_error:
            self.found.refused[variant.name] = (
                f"outside its tier: {max(errors):.3g} from the reference, allowed "
                f"{variant.most_error:g}"
            )
            return None
        return case

    def _make_references(self, variants: list[Variant]) -> None:
        """The reference's latents for all variants: a whole window's, or the first two blocks'."""
        others = other_variants(tuple(one.name for one in variants)) if self.told.extras else ()
        for variant in (*variants, *others):
            wanted = variant.reference
            if wanted.name not in self.references:
                plain = Case(wanted, *self._pipe(wanted))
                plain.fill(2 if variant.beside else self.window)
                self.references[wanted.name] = plain.latents
        self.pipes.clear()
        self._empty()

    def _pipe(self, variant: Variant) -> tuple[LongLivePipeline, int]:
        """A variant's pipeline; those of the same weights and paths share them."""
        key = variant.model
        if key not in self.pipes:
            self.pipes[key] = self._built(variant)
            pipe = self.pipes[key][0]
            self.backends += [f"{variant.name}: {line}" for line in in_short(pipe.receipts())]
        pipe, held = self.pipes[key]
        return with_cache(pipe, variant.kv_cache), held

    def _built(self, variant: Variant) -> tuple[LongLivePipeline, int]:
        """A pipeline, and the bytes that it holds."""
        self._empty()
        before = self.meter.held
        pipe = build(self.preset, Runtime.choose(variant.runtime(str(self.device))))
        if variant.tier in (REFERENCE, PLAIN):
            unfuse_(pipe, written_out=variant.tier == REFERENCE)
        self._empty()
        return pipe, self.meter.held - before

    def _earlier(self, stack: ExitStack) -> Earlier | None:
        if self.told.earlier is None:
            return None
        return stack.enter_context(Earlier(self.told.earlier, self.preset, self.device))

    def _empty(self) -> None:
        """Give back what is no longer in use, so that what a GPU counts is in use."""
        if self.device.type == "cuda":
            gc.collect()
            torch.cuda.empty_cache()

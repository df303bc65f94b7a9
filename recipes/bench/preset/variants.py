"""Which configurations of a preset are compared, and what each promises; no torch."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from longlive_models.runtime_options import RuntimeOptions

REFERENCE, PLAIN, LOSSLESS, HIGH = "reference", "plain", "lossless", "high"

PATHS = {REFERENCE: "bf16", PLAIN: "bf16", LOSSLESS: "bf16", HIGH: "fp8"}
"""The weights of each tier."""

MOST_ERROR = {PLAIN: 0.1, LOSSLESS: 0.0, HIGH: 0.3}
"""How far the first block's latents may be from the reference's, relative to them. torch's own
operations, which the plain path is timed with, sum in other orders. Random weights carry an error
on further than trained ones do: what it means for pictures is judged elsewhere."""

MOST_ERROR_FOUR_BITS = 0.6
"""The same for weights in four bits."""


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A configuration that is compared with the reference, and timed if it is inside its tier.

    Attributes:
        name: what the tables call it.
        tier: "reference" (the plain operations, their order of sums written down, not timed),
            "plain" (the same by torch's own kernels), "lossless" (the reference's bytes) or "high"
            (a stated error).
        weights, kv_cache: of ``RuntimeOptions``; the tier's weights unless given.
        lane: where it decodes; the device's usual one unless given.
        steps: denoising steps; the model's own unless given.
        beside: the variant that it takes turns with.
        most_error: how far its first block may be from the reference's.
        whole: whether a short stream of it tells the memory of the whole pipeline.
    """

    name: str
    tier: str
    weights: str | None = None
    kv_cache: str = "bf16"
    lane: str = "auto"
    steps: int | None = None
    beside: str = ""
    most_error: float = 0.0
    whole: bool = False

    def runtime(self, device: str) -> RuntimeOptions:
        """What a pipeline of it is told."""
        return RuntimeOptions(
            device=device,
            quality=HIGH if self.tier == HIGH else LOSSLESS,
            weights=PATHS[self.tier] if self.weights is None else self.weights,
            kv_cache=self.kv_cache,
            lane=self.lane,
        )

    @property
    def reference(self) -> "Variant":
        """The reference with as many steps; a lossless one's has its form of cache too."""
        cache = self.kv_cache if self.tier == LOSSLESS else "bf16"
        names = [REFERENCE, *([f"{cache} cache"] if cache != "bf16" else [])]
        names += [f"{self.steps} steps"] if self.steps is not None else []
        return Variant(name=", ".join(names), tier=REFERENCE, kv_cache=cache, steps=self.steps)

    @property
    def model(self) -> tuple[str, str]:
        """What those that can share a transformer and a VAE have in common."""
        return self.tier, PATHS[self.tier] if self.weights is None else self.weights


def main_variants(qualities: tuple[str, ...], baseline: bool) -> list[Variant]:
    """Those that take turns: the plain path if it is timed, and each quality."""
    plain = [Variant(name=PLAIN, tier=PLAIN, most_error=MOST_ERROR[PLAIN])] if baseline else []
    return [
        *plain,
        *(Variant(name=tier, tier=tier, most_error=MOST_ERROR[tier]) for tier in qualities),
    ]


def other_variants(tiers: tuple[str, ...]) -> Iterator[Variant]:
    """Rows of fewer steps or fewer bits, beside each tier."""
    for tier in tiers:
        if tier == PLAIN:
            continue
        most = MOST_ERROR[tier]
        four = MOST_ERROR_FOUR_BITS if most else 0.0
        yield Variant(name=f"{tier}, 2 steps", tier=tier, steps=2, beside=tier, most_error=most)
        yield Variant(
            name=f"{tier}, NVFP4 cache", tier=tier, kv_cache="nvfp4", beside=tier, most_error=four
        )
        if tier == HIGH:
            yield Variant(
                name="NVFP4 weights and cache",
                tier=tier,
                weights="nvfp4",
                kv_cache="nvfp4",
                beside=tier,
                most_error=four,
                whole=True,
            )


def decoding_apart(variant: Variant, lane: str) -> Variant:
    """The same with frames decoded on another device."""
    name = f"{variant.name}, decoding on the second GPU"
    return replace(variant, name=name, lane=lane, beside=variant.name)

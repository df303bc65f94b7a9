"""Generation over four-bit pages as the original does it: part of group 9.

The calls and the video are those of group 3, over a cache that treats fresh keys as the original
does. Codes flip on the noise of float32, so that results are near and most codes are equal.
"""

import re
from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from longlive_core.kv_cache import CacheLayout, PagedKVCache, Window
from longlive_core.nvfp4 import NVFP4PageCodec, ScaleRule, unswizzle
from tests.checks import group_3
from tests.checks.framework import Case, Report, Verdict

Place = tuple[int, int, str]  # page, layer, "k" or "v"


class OriginalCache(PagedKVCache):
    """The original's way with fresh keys, and a record of what is kept.

    Attention sees a block's own keys without their mean over a head's channels; what is encoded has
    that mean, so that later blocks see other keys than the block itself saw.
    """

    def __init__(self, codec: NVFP4PageCodec, layout: CacheLayout, policy: Window) -> None:
        super().__init__(layout, policy, codec)
        self.encoded: dict[Place, dict[str, Tensor]] = {}
        self.past: dict[Place, Tensor] = {}

    def write(self, layer: int, k: Tensor, v: Tensor, *, clean: bool = False) -> None:
        super().write(layer, k, v, clean=clean)
        for kind, page in zip("kv", (k, v), strict=True):
            if clean:
                store = self.codec.allocate(1, tuple(page.shape), page.device)
                self.codec.write(store, 0, page)
                self.encoded[self.order[-1], layer, kind] = self.codec.tensors(store)

    def read(self, layer: int) -> tuple[Tensor, Tensor]:
        k, v = super().read(layer)
        tokens = self.layout.tokens_per_page
        for kind, held in zip("kv", (k, v), strict=True):
            for page, part in zip(self.order, held.split(tokens, dim=1), strict=True):
                self.past[page, layer, kind] = part.clone()
        own = k[:, -tokens:]
        return torch.cat([k[:, :-tokens], own - own.mean(-1, keepdim=True)], dim=1), v


def check_pipeline(case: Case, report: Report, rules: Mapping[str, ScaleRule]) -> Verdict | None:
    """Compare calls, pages and latents; a verdict where the library does not run the case."""
    if verdict := group_3.standing(case):
        return verdict
    assert case.config["pipeline"].get("kv_quant", True), "pages of four bits"
    rule = rules[case.config["pipeline"].get("kv_quant_scale_rule", "mse")]
    codec = NVFP4PageCodec(rule=rule, dtype=torch.float32)
    numbers = re.search(r"rtol ([\d.e-]+) of max, >=([\d.]+)% of codes", case.meta["tolerance"])
    assert numbers, case.meta["tolerance"]
    # a tenth of the case's tolerance, which would not notice how fresh keys are treated
    share, equal = float(numbers[1]) / 10, float(numbers[2]) / 100

    def near(want: Tensor) -> tuple[float, float]:
        return 0.0, share * float(want.abs().max())

    make_cache, check_final = partial(OriginalCache, codec), partial(_check_pages, equal)
    group_3.compare(case, report, near, near, make_cache, check_final)
    return None


def _check_pages(equal: float, case: Case, report: Report, cache: OriginalCache) -> None:
    """The pages held at the end, in order of time: codes and scales, and values as they are read.

    The last page has just been encoded, and is not read yet.
    """
    tokens, pages = cache.layout.tokens_per_page, sorted(cache.order)

    def most(label: str, same: Tensor) -> None:
        share = float(same.double().mean())
        report.close(label, torch.tensor(min(share, equal)), torch.tensor(equal), rtol=0, atol=1e-9)

    for (page, layer, kind), q in cache.encoded.items():
        if page not in pages:
            continue
        cached, place = f"output.final_cache.layer{layer}.{kind}", pages.index(page)
        label = f"{cached}.block{place}"
        if (codes := case.tensors.get(f"{label}.codes_packed")) is not None:
            got = q["codes"].view(codes.shape)
            same = got & 0xF == codes & 0xF, got >> 4 == codes >> 4
            most(f"share of equal codes, {label}", torch.stack(same))
            blocked = case.tensors[f"{label}.scales_blocked_e4m3_bytes"].view(torch.float8_e4m3fn)
            scales = unswizzle(blocked, codes.shape[0], codes.shape[1] // 8).float()
            same_scales = q["block_scales"].view(scales.shape).float() == scales
            most(f"share of equal scales, {label}", same_scales)
            amax = case.tensors[f"{label}.amax"]
            report.close(f"{label} amax", q["amax"].flatten(), amax, rtol=1e-4, atol=0)
        values = case.tensors.get(f"{cached}.dequantized")
        if values is not None and page != pages[-1]:
            want = values[:, place * tokens : (place + 1) * tokens]
            got = cache.past[page, layer, kind]
            most(f"share of equal values, {label}", torch.isclose(got, want, rtol=1e-4))

"""A block of the steady state on one GPU, by kind of path: is it the same, and how long it takes.

Models come from the caller. ``SteadyBlock`` makes the same block of a film again and again: steps
and clean pass, its window full. ``compare_kernels`` holds the fused operations against what they
mean, and times them beside torch's own.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import median

import torch
from torch import Tensor

from longlive_core.attention import ATTENTION, attention
from longlive_core.backends import Request
from longlive_core.eight_bit import EncodedRows, encode_rows
from longlive_core.fused import Affine, Modulation, add, add_norm, gelu, norm, rotate_heads
from longlive_core.kv_cache import CacheLayout, PagedKVCache, PlainCodec, Window
from longlive_models.diffusion import euler, step_schedule
from longlive_models.wan import WanConfig, WanTransformer
from longlive_models.wan.rope import rotation
from longlive_recipes.bench.self_tests import FAILURES
from longlive_recipes.bench.shared_sizes import relative_error

SHIFT, EPS = 5.0, 1e-6
MOST_ERROR = 0.02
"""How far what is not lossless may be from what it means, if it should be near."""
PAGES = 4
STEPS = 4


class SteadyBlock:
    """Makes one block of a film whose window is full, as often as it is asked.

    Args:
        model: in evaluation mode, on its device, in the type that it computes in.
        latent_size: (height, width) of the latents.
        steps: denoising steps; a clean pass follows them.
        pages: of the window, the block's own among them.
        windows: whether attention in eight bits reads the past as it was encoded once.
    """

    def __init__(
        self,
        model: WanTransformer,
        latent_size: tuple[int, int],
        *,
        steps: int = STEPS,
        pages: int = PAGES,
        windows: bool = True,
    ) -> None:
        config = model.config
        self.model, self.index = model, pages - 1
        self.device = model.patch_embedding.weight.device
        self.dtype = model.patch_embedding.weight.dtype
        layout = CacheLayout(
            layers=config.num_layers,
            heads=config.num_heads,
            head_dim=config.head_dim,
            tokens_per_page=config.frames_per_block * config.tokens_per_frame(*latent_size),
        )
        window = Window(pages=pages, sink=1)
        codec = PlainCodec(self.dtype)
        self.cache = PagedKVCache(layout, window, codec, self.device, windows=windows)
        self.schedule = step_schedule(steps, SHIFT)
        drawn = torch.Generator().manual_seed(3)
        shape = (pages, 1, config.in_channels, config.frames_per_block, *latent_size)
        noise = torch.randn(shape, generator=drawn, dtype=torch.float32, device="cpu")
        self.noise = noise.to(self.device)
        words = (1, 1, config.text_len, config.text_dim)
        self.words = torch.randn(words, generator=drawn, dtype=torch.float32, device="cpu")
        frames = pages * config.frames_per_block
        self.places = torch.arange(frames, dtype=torch.float64, device=self.device)
        self.fill()

    @torch.no_grad()
    def fill(self) -> None:
        """Begin the film again: encode the text, and fill the pages of the past."""
        self.text = self.model.embed_text(self.words.to(self.device, self.dtype))
        self.cache.reset()
        for block in range(self.index):
            self.cache.begin_block(block)
            self._pass(self.noise[block], 0.0, block, store=True)
            self.cache.commit()

    @torch.no_grad()
    def run(self) -> Tensor:
        """The block's latents; it can be made again, for it is not committed."""
        self.cache.begin_block(self.index)
        latents = euler(
            lambda x, timestep: self._pass(x, timestep, self.index),
            self.noise[self.index],
            self.schedule,
        )
        self._pass(latents, 0.0, self.index, store=True)
        return latents

    def bytes(self) -> list[Tensor]:
        """The block's latents and its pages, of a film that is begun again."""
        self.fill()
        latents = self.run()
        held = self.cache.tensors().items()
        pages = [x.clone() for name, x in held if x.numel() and not name.startswith("windows")]
        return [latents, *pages]

    def seconds(self, repeats: int) -> float:
        """The median time of a block, on a GPU by its own clock."""
        self.run()
        return median(_seconds(self.run, self.device) for _ in range(repeats))

    def _pass(self, latents: Tensor, timestep: float, block: int, *, store: bool = False) -> Tensor:
        frames = latents.shape[2]
        return self.model(
            latents.to(self.dtype),
            torch.full((1, frames), timestep, dtype=torch.float32, device=self.device),
            self.text,
            positions=self.places[block * frames : (block + 1) * frames],
            memory=self.cache,
            store=store,
            velocity=not store,
        )


@dataclass(frozen=True, kw_only=True)
class Compared:
    """A fused operation beside torch's own.

    Attributes:
        problem: why it has no time: what it raised, or how far it is from what it means.
        error: its distance from what it means, relative; 0 for the same bits.
        torch_ms, fused_ms: the time of a call.
    """

    problem: str | None = None
    error: float | None = None
    torch_ms: float | None = None
    fused_ms: float | None = None


def compare_kernels(
    config: WanConfig, frames: int, tokens: int, device: torch.device, *, fused: str = "triton"
) -> dict[str, Compared]:
    """Hold each fused operation against "reference" at a block's sizes, and time what is right."""
    return {
        name: _compared(run, lossless, device, fused)
        for name, lossless, run in operations(config, frames, tokens, device)
    }


def _compared(
    run: Callable[[str], object], lossless: bool, device: torch.device, fused: str
) -> Compared:
    try:
        want, got = run("reference" if lossless else "torch"), run(fused)
    except FAILURES as problem:
        return Compared(problem=" ".join(str(problem).split())[:300] or type(problem).__name__)
    if lossless:
        unlike = sum(int((a != b).sum()) for a, b in zip(_bits(got), _bits(want), strict=True))
        if unlike:
            return Compared(problem=f"{unlike} numbers have other bits than the reference's")
        error = 0.0
    else:
        error = relative_error(_numbers(got), _numbers(want))
        if error > MOST_ERROR:
            return Compared(problem=f"{error:.2g} from what it means", error=error)
    del got, want
    return Compared(
        error=error,
        torch_ms=1e3 * _median(partial(run, "torch"), device),
        fused_ms=1e3 * _median(partial(run, fused), device),
    )


def operations(
    config: WanConfig, frames: int, tokens: int, device: torch.device
) -> Iterator[tuple[str, bool, Callable[[str], object]]]:
    """Each fused operation: its name, whether it is lossless, and it as a function of a backend."""
    dim, heads = config.dim, config.num_heads

    def drawn(*shape: int) -> Tensor:
        made = torch.randn(shape, dtype=torch.float32, device=device)
        return made.to(torch.bfloat16)

    x, y = drawn(1, frames, tokens, dim), drawn(1, frames, tokens, dim)
    x[..., 7] *= 40  # as a channel of the residual may stand out
    shift, scale, gate = drawn(1, frames, 6, dim).unbind(2)[:3]
    modulated, affine = Modulation(shift, scale), Affine(drawn(dim), drawn(dim))
    yield "norm, modulation", True, lambda b: norm(x, modulated, eps=EPS, backend=b)
    yield (
        "gate, residual, norm",
        True,
        lambda b: add_norm(x, y, gate, affine, eps=EPS, backend=b),
    )
    yield (
        "residual, norm, modulation",
        True,
        lambda b: add_norm(x, y, None, modulated, eps=EPS, backend=b),
    )
    yield (
        "residual, norm, modulation, E4M3",
        True,
        lambda b: add_norm(x, y, None, modulated, eps=EPS, encode=True, backend=b),
    )
    yield "gate, residual", True, lambda b: add(x, y, gate, backend=b)
    angles = rotation(
        torch.arange(frames, dtype=torch.float64, device=device)[None],
        (1, tokens),
        config.head_dim,
    )
    turns, weight, rows = (angles.cos, angles.sin), drawn(dim), x.flatten(1, 2)
    yield (
        "norm, rotation",
        True,
        lambda b: rotate_heads(rows, heads, weight=weight, eps=EPS, angles=turns, backend=b),
    )
    yield "norm", True, lambda b: rotate_heads(rows, heads, weight=weight, eps=EPS, backend=b)
    wide = drawn(frames * tokens, config.ffn_dim)
    yield (
        "GELU, E4M3",
        False,
        lambda b: gelu(wide, encode=True, backend="torch" if b == "reference" else b),
    )


def compare_attention(
    config: WanConfig, queries: int, keys: int, device: torch.device
) -> dict[str, dict[str, float | str]]:
    """Every backend of dense attention that runs here: error, milliseconds, TFLOP/s; or why not."""
    drawn = torch.Generator(device).manual_seed(0)

    def heads(tokens: int) -> Tensor:
        shape = (1, tokens, config.num_heads, config.head_dim)
        return torch.randn(shape, generator=drawn, dtype=torch.bfloat16, device=device)

    q, k, v = heads(queries), heads(keys), heads(keys)
    few = q[:, :512].contiguous()
    want = attention(few.float(), k.float(), v.float(), backend="sdpa")
    request = Request(device=device, dtype=torch.bfloat16, head_dim=config.head_dim, quality="high")
    rows: dict[str, dict[str, float | str]] = {}
    for name, standing in ATTENTION.explain(request).items():
        if name in ("reference", "fa4"):
            continue
        if not standing.startswith("usable"):
            rows[name] = {"problem": standing}
            continue
        try:
            error = relative_error(attention(few, k, v, backend=name), want)
            took = _median(partial(attention, q, k, v, backend=name), device)
        except FAILURES as problem:
            rows[name] = {"problem": " ".join(str(problem).split())[:300]}
            continue
        work = 4.0 * queries * keys * config.dim
        rows[name] = {"error": error, "ms": 1e3 * took, "TFLOP/s": work / took / 1e12}
    return rows


def encoding_ms(config: WanConfig, rows: int, device: torch.device) -> float:
    """The time of rounding attention's output to E4M3 on its own."""
    x = torch.randn(rows, config.dim, dtype=torch.bfloat16, device=device)
    return 1e3 * _median(lambda: encode_rows(x, torch.float8_e4m3fn), device)


def _bits(result: object) -> list[Tensor]:
    if isinstance(result, Tensor):
        return [result]
    assert isinstance(result, tuple)
    flat = [tensor for part in result for tensor in _bits(part)]
    return [x.view(torch.uint8) if x.dtype == torch.float8_e4m3fn else x for x in flat]


def _numbers(result: object) -> Tensor:
    assert isinstance(result, EncodedRows)
    return result.codes.float() * result.scales


def _median(run: Callable[[], object], device: torch.device, repeats: int = 10) -> float:
    run()
    return median(_seconds(run, device, calls=3) for _ in range(repeats))


def _seconds(run: Callable[[], object], device: torch.device, calls: int = 1) -> float:
    if device.type != "cuda":
        began = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - began) / calls
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(calls):
        run()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / calls

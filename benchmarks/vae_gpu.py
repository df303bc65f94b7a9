"""Decoding a block of LongLive-2.0-5B's VAE on a GPU: pieces, fused passes, tiles; bytes first.

    python benchmarks/vae_gpu.py --json vae_5b.json            # a GPU of 80 GB or more; a minute

The 48-channel VAE at 704 x 1280 in bf16, of random weights, 8 latents after the first ones. First
what has to hold: the fused passes give the bits of the same operations one by one; other pieces
and tiles give its bytes within the bounds that are stated. How far the layers as they are trained
(what cc03c32 ran) are from them is printed. Then seconds, in turns, the memory that each takes
above the weights, the ways to compute the last convolution, and where the time goes, kernel by
kernel. The status is 1 where something does not hold: nothing is timed then, but with --anyway.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from longlive_core.async_decode import start_host_copy
from longlive_models.stream import to_frames
from longlive_models.vae import WAN22_VAE, DecodeOptions, StreamState, WanVAE, few_channels
from longlive_models.vae.layers import FrameAttention

GIB = 2**30
LATENTS, HEIGHT, WIDTH = 8, 44, 80
PLAIN = "the layers, 8 at a time"
WAYS = {
    PLAIN: DecodeOptions(latents=8, backend="modules"),
    "fused, 8": DecodeOptions(latents=8, backend="triton"),
    "fused, 2": DecodeOptions(latents=2, backend="triton"),
    "fused, 1": DecodeOptions(latents=1, backend="triton"),
    "fused, 1, on 2 tiles": DecodeOptions(latents=1, tiles=2, backend="triton"),
    "fused, 1, on 4 tiles": DecodeOptions(latents=1, tiles=4, backend="triton"),
}
LAST: dict[str, few_channels.Convolve] = {
    "as it is": few_channels.plain,
    "of 16 channels": few_channels.widened,
    "of 32 channels": partial(few_channels.widened, channels=32),
    "of 64 channels": partial(few_channels.widened, channels=64),
    "groups of 2": partial(few_channels.grouped, group=2),
    "groups of 4": few_channels.grouped,
    "groups of 8": partial(few_channels.grouped, group=8),
    "products": few_channels.products,
}
MEAN, MOST, SHARE = 0.25, 2, 0.999
"""Bounds of bytes in bf16: the mean difference, and the share of those that differ by no more."""


def random_vae() -> WanVAE:
    """The VAE with random weights, whose pictures have contrast."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        vae = WanVAE(WAN22_VAE)
    vae = vae.eval().requires_grad_(False).to(torch.bfloat16)
    vae.reset_statistics()
    vae.channels_last_()
    for block in vae.decoder.middle:
        if isinstance(block, FrameAttention):
            torch.nn.init.normal_(block.proj.weight, std=0.02)
    spread = vae.decode(random_latents(3, 8, 8)).float().std().item()
    for parameter in vae.decoder.head[2].parameters():
        parameter.mul_(0.4 / spread)
    return vae


def random_latents(frames: int, height: int = HEIGHT, width: int = WIDTH) -> Tensor:
    """Latents as a block has them."""
    shape = (1, WAN22_VAE.latent_channels, frames, height, width)
    return torch.randn(shape, device="cuda").to(torch.bfloat16)


def decoded(vae: WanVAE, how: DecodeOptions, latents: Tensor, state: StreamState) -> Tensor:
    """Frames of a block that has a past."""
    vae.decode_with_(how)
    return vae.decode_block(latents, state)[0]


def check(vae: WanVAE) -> list[str]:
    """What does not hold, in words; prints what was compared."""
    wrong: list[str] = []
    vae.decode_with_(WAYS["fused, 1"])
    _, state = vae.decode_block(random_latents(2))
    latents = random_latents(2)
    made, states = [], []
    for backend in ("triton", "reference"):
        vae.decode_with_(replace(WAYS["fused, 1"], backend=backend))
        frames, after = vae.decode_block(latents, state)
        made.append(frames)
        states.append(after.history)
    off = (made[0].float() - made[1].float()).abs()
    same = torch.equal(*made) and all(map(torch.equal, *states))
    print(f"one pass against its operations: {'the same bits' if same else 'OTHER BITS'}")
    if not same:
        share = off.ne(0).float().mean().item()
        wrong.append(f"one pass gives other bits: {share:.2e} of pixels, {off.max():.2e} at most")
    del made, states, off
    wrong += check_spent(vae)
    latents = random_latents(LATENTS)
    want = to_frames(decoded(vae, WAYS["fused, 8"], latents, state)[0]).short()
    for name, how in WAYS.items():
        off = (to_frames(decoded(vae, how, latents, state)[0]).short() - want).abs()
        mean, near = off.float().mean().item(), off.le(MOST).float().mean().item()
        print(f"{name:26} against 'fused, 8': mean {mean:.4f} of 255, {near:.4%} within {MOST}")
        if name != PLAIN and (mean > MEAN or near < SHARE):
            wrong.append(f"{name}: mean {mean:.3f}, {near:.3%} within {MOST}")
    print(f"deviation of the bytes of these frames: {want.float().std().item():.1f}")
    return wrong + check_float32() + check_last()


def check_spent(vae: WanVAE) -> list[str]:
    """Whether a state that is written over strip by strip gives the bits of one that stays."""
    vae.decode_with_(WAYS["fused, 1, on 4 tiles"])
    made = []
    for spend in (False, True):
        torch.manual_seed(2)
        state, parts = None, []
        for _ in range(2):
            frames, state = vae.decode_block(random_latents(2), state, spend=spend)
            parts.append(frames)
        made.append((*parts, *state.history))
    same = all(map(torch.equal, *made))
    print(f"a state that is written over on tiles: {'the same bits' if same else 'OTHER BITS'}")
    return [] if same else ["a state that is written over on tiles gives other bits"]


def check_float32() -> list[str]:
    """Pieces and tiles in float32, at a small size: within 1e-5 of whole frames."""
    torch.manual_seed(1)
    config = replace(WAN22_VAE, encoder_dim=16, decoder_dim=32)
    with torch.device("cuda"):
        vae = WanVAE(config).eval().requires_grad_(False)
    vae.channels_last_()
    latents = torch.randn(1, config.latent_channels, 6, 8, 20, device="cuda")
    want, wrong = None, []
    for how in (
        DecodeOptions(latents=5, backend="modules"),
        DecodeOptions(latents=5, backend="triton"),
        DecodeOptions(latents=1, backend="triton"),
        DecodeOptions(latents=2, tiles=3, backend="triton"),
    ):
        vae.decode_with_(how)
        video = vae.decode(latents)
        want = video if want is None else want
        off = (video - want).abs().max().item() / want.abs().max().item()
        print(f"float32, {how.latents} at a time, {how.tiles} tiles, {how.backend}: {off:.1e}")
        if off > 1e-5:
            wrong.append(f"float32, {how}: off by {off:.1e}")
    return wrong


def check_last() -> list[str]:
    """The ways to compute the last convolution, against float32."""
    x, weight, bias = last_layer(2, 48, 64)
    want = few_channels.plain(x.float(), weight.float(), bias.float())
    wrong = []
    for name, way in LAST.items():
        off = (way(x, weight, bias).float() - want).abs().max().item()
        if off > 2**-7 * want.abs().max().item():
            wrong.append(f"the last convolution {name}: off by {off:.1e}")
    return wrong


def last_layer(frames: int, height: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Padded features, weight and bias of the last convolution."""
    x = torch.randn(1, frames + 2, height, width, 256, device="cuda", dtype=torch.bfloat16)
    weight = 0.01 * torch.randn(12, 256, 3, 3, 3, device="cuda", dtype=torch.bfloat16)
    weight = weight.contiguous(memory_format=torch.channels_last_3d)
    return x, weight, torch.randn(12, device="cuda", dtype=torch.bfloat16)


def seconds(work: Callable[[], object]) -> float:
    """How long the GPU works."""
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    begun.record()
    work()
    ended.record()
    ended.synchronize()
    return begun.elapsed_time(ended) / 1000


def measure(vae: WanVAE, rounds: int) -> dict[str, dict[str, float]]:
    """Seconds of a block by each way, in turns, and the most memory above the weights.

    Each block spends the state of the one before, as a stream's do.
    """
    latents = random_latents(LATENTS)
    weights = torch.cuda.memory_allocated() - latents.nbytes
    times: dict[str, list[float]] = {name: [] for name in WAYS}
    peaks: dict[str, float] = {}
    for turn in range(rounds + 1):
        for name, how in WAYS.items():
            vae.decode_with_(how)
            _, state = vae.decode_block(random_latents(2))
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            took = seconds(partial(vae.decode_block, latents, state, spend=True))
            del state
            peaks[name] = (torch.cuda.max_memory_allocated() - weights) / GIB
            if turn:
                times[name].append(took)
    return {
        name: {
            "seconds": statistics.median(found),
            "fastest": min(found),
            "gib_above_weights": peaks[name],
        }
        for name, found in times.items()
    }


def measure_last() -> dict[str, float]:
    """Milliseconds of the last convolution of one latent, by each way."""
    x, weight, bias = last_layer(4, 8 * HEIGHT, 8 * WIDTH)
    found = {}
    for name, way in LAST.items():
        way(x, weight, bias)
        found[name] = 1000 * min(seconds(partial(way, x, weight, bias)) for _ in range(5))
    return found


def measure_bytes() -> float:
    """Seconds of making bytes of a block's frames and copying them to pinned memory."""
    video = torch.rand(3, 4 * LATENTS, 16 * HEIGHT, 16 * WIDTH, device="cuda").to(torch.bfloat16)
    start_host_copy(to_frames(video))
    return min(seconds(lambda: start_host_copy(to_frames(video))) for _ in range(3))


def profile(vae: WanVAE, how: DecodeOptions, most: int = 12) -> list[tuple[str, float, int]]:
    """Kernels by their time in a block: name, milliseconds, calls."""
    latents = random_latents(LATENTS)
    vae.decode_with_(how)
    _, state = vae.decode_block(random_latents(1))
    vae.decode_block(latents, state)
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as found:
        vae.decode_block(latents, state)
        torch.cuda.synchronize()
    rows = [
        (event.key, event.self_device_time_total / 1000, event.count)
        for event in found.key_averages()
        if event.self_device_time_total
    ]
    rows.sort(key=lambda row: -row[1])
    rest = rows[most:]
    others = ("all others", sum(row[1] for row in rest), sum(row[2] for row in rest))
    return [*rows[:most], others]


@torch.no_grad()
def main() -> int:
    """Check, time, print, and write the numbers where they are asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--anyway", action="store_true", help="time what does not hold as well")
    options = parser.parse_args()
    began = time.perf_counter()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    vae = random_vae()
    wrong = check(vae)
    print(f"checked after {time.perf_counter() - began:.0f} s")
    if wrong:
        print("DOES NOT HOLD:", *wrong, sep="\n  ")
        if not options.anyway:
            return 1
    last, copying = measure_last(), measure_bytes()
    found = measure(vae, options.rounds)
    kernels = profile(vae, WAYS["fused, 1"])
    device, parts = torch.cuda.get_device_name(), kernels
    record = {
        "device": device,
        "does_not_hold": wrong,
        "torch": torch.__version__,
        "block": {"latents": LATENTS, "height": 16 * HEIGHT, "width": 16 * WIDTH},
        "decoding": found,
        "last_convolution_ms": last,
        "bytes_and_copy_seconds": copying,
        "kernels_of_fused_1": [
            {"kernel": name, "ms": ms, "calls": calls} for name, ms, calls in parts
        ],
    }
    if options.json is not None:
        options.json.write_text(json.dumps(record, indent=2) + "\n")
    print(f"\nwhere the time of 'fused, 1' goes, of {sum(ms for _, ms, _ in parts):.0f} ms:")
    for name, ms, calls in parts:
        print(f"  {ms:7.1f} ms {calls:5} x  {name[:100]}")
    print("\nthe last convolution, of one latent:")
    for name, ms in last.items():
        print(f"  {ms:7.3f} ms  {name}")
    print(f"\nbytes and their copy to the host: {1000 * copying:.1f} ms a block")
    print(f"\n{device}, a block of {LATENTS} latents at {16 * HEIGHT} x {16 * WIDTH}, in bf16:")
    plain = found[PLAIN]["seconds"]
    for name, row in found.items():
        print(
            f"  {name:26} {row['seconds']:.3f} s (fastest {row['fastest']:.3f}), "
            f"{plain / row['seconds']:.2f} times as fast, "
            f"{row['gib_above_weights']:5.1f} GiB above the weights"
        )
    print(f"{time.perf_counter() - began:.0f} s in all")
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main())

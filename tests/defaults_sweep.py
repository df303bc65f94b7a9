"""What the library gives for typed inputs, as hashes: run under some default of torch, by name.

    python -m tests.defaults_sweep none|bfloat16|float64|meta before|after [core]

``before`` sets the default before anything of the library is imported. ``core`` leaves out models
and recipes. Prints one JSON object: a hash of bytes, dtype and device for each name.
"""

import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

Results = Iterator[tuple[str, Callable[[], Any]]]


def set_default(kind: str) -> None:
    """Make it torch's default from here on."""
    if kind == "meta":
        torch.set_default_device("meta")
    elif kind != "none":
        torch.set_default_dtype(vars(torch)[kind])


def digest(value: Any) -> str:
    """A hash of all tensors and numbers within a value."""
    found = hashlib.sha256()
    feed(found, value)
    return found.hexdigest()[:16]


def feed(found: Any, value: Any) -> None:
    if isinstance(value, Tensor):
        found.update(f"{value.dtype} {tuple(value.shape)} {value.device}".encode())
        if value.device.type != "meta":
            found.update(value.detach().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    elif isinstance(value, dict):
        for name in value:
            found.update(str(name).encode())
            feed(found, value[name])
    elif isinstance(value, list | tuple):
        for one in value:
            feed(found, one)
    else:
        found.update(repr(value).encode())


def drawn(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    """Numbers that no default has a part in."""
    generator = torch.Generator("cpu").manual_seed(seed)
    return torch.randn(
        *shape, generator=generator, dtype=torch.float32, device=torch.device("cpu")
    ).to(dtype)


def numbers() -> Results:
    from longlive_core import nvfp4
    from longlive_core.eight_bit.rowwise import encode_rows
    from longlive_core.float8 import Float8Config, Float8Linear
    from longlive_core.float8 import quantize as quantize_8
    from longlive_core.noise import gaussian

    x, w = drawn(32, 64), drawn(48, 64, seed=1)
    yield "gaussian", lambda: gaussian(7, [0, 3], (4, 6, 6))
    for dtype in (torch.int8, torch.float8_e4m3fn):
        yield f"rows {dtype}", lambda dtype=dtype: encode_rows(x, dtype)
    for rule in nvfp4.ScaleRule:
        for rounding in ("nearest", "stochastic"):

            def packed(rule=rule, rounding=rounding) -> list[Tensor]:
                config = nvfp4.QuantizeConfig(rule=rule, rounding=rounding)
                q = nvfp4.quantize(
                    x.bfloat16(), config, generator=torch.Generator("cpu").manual_seed(5)
                )
                return [nvfp4.dequantize(q, torch.float32), *vars_of(q)]

            yield f"nvfp4 {rule} {rounding}", packed
    yield "rotate", lambda: nvfp4.rotate(x.bfloat16())

    def through(linear: torch.nn.Module, inputs: Tensor) -> list[Tensor]:
        inputs = inputs.clone().requires_grad_()
        y = linear(inputs)
        y.float().square().sum().backward()
        return [y, inputs.grad, *(p.grad for p in linear.parameters() if p.grad is not None)]

    def linear(dtype: torch.dtype) -> torch.nn.Linear:
        made = torch.nn.Linear(64, 48, dtype=dtype, device="cpu")
        with torch.no_grad():
            made.weight.copy_(w)
            made.bias.copy_(drawn(48, seed=2))
        return made

    for dtype in (torch.bfloat16, torch.float32):
        yield (
            f"nvfp4 linear {dtype}",
            lambda d=dtype: through(nvfp4.NVFP4Linear.from_linear(linear(d)), x.to(d)),
        )
        yield (
            f"float8 linear {dtype}",
            lambda d=dtype: through(Float8Linear.from_linear(linear(d), Float8Config()), x.to(d)),
        )

    def training() -> list[Tensor]:
        torch.manual_seed(3)
        return through(nvfp4.NVFP4TrainingLinear.from_linear(linear(torch.float32)), x)

    yield "nvfp4 training linear", training
    yield "float8", lambda: vars_of(quantize_8(x))


def vars_of(packed: Any) -> list[Any]:
    """All parts of a packed tensor."""
    names = (name for kind in type(packed).__mro__ for name in vars(kind).get("__slots__", ()))
    fields = packed.__dataclass_fields__ if hasattr(packed, "__dataclass_fields__") else names
    return [vars(packed)[name] if hasattr(packed, "__dict__") else None for name in fields]


def caches() -> Results:
    from longlive_core.attention import TableMask, attention, masked_attention
    from longlive_core.float8 import Float8PageCodec
    from longlive_core.kv_cache import (
        CacheLayout,
        Int8PageCodec,
        PageChoice,
        PagedKVCache,
        PlainCodec,
        Window,
    )
    from longlive_core.nvfp4 import NVFP4PageCodec
    from longlive_core.sequence_parallel import SequenceGroup, masked_mean

    q, k, v = (drawn(1, 24, 2, 16, seed=seed) for seed in range(3))
    yield "attention", lambda: attention(q, k, v)
    table = torch.tensor([[True, False], [True, True]], device="cpu")
    yield "masked attention", lambda: masked_attention(q, k, v, TableMask(table[None], 12))
    yield (
        "masked mean",
        lambda: masked_mean(drawn(4, 5), drawn(4, 5, seed=1) > 0, SequenceGroup()),
    )

    class ByContent:
        capacity = 3

        def choose(self, block: int, shot_start: int, summaries: dict) -> PageChoice:
            near = sorted(summaries, key=lambda page: float(summaries[page].abs().sum()))[:2]
            return PageChoice((*sorted(near), block), (*sorted(near), block))

    def filled(codec: Any, policy: Any) -> list[Any]:
        layout = CacheLayout(layers=1, heads=2, head_dim=64, tokens_per_page=8)
        cache = PagedKVCache(layout, policy, codec, "cpu")
        seen: list[Any] = []
        for block in range(4):
            cache.begin_block(block)
            page = drawn(1, 8, 2, 64, seed=block)
            cache.write(0, page, page + 1, clean=True)
            seen += [cache.read(0)[0].clone(), cache.read(0)[1].clone()]
            cache.commit()
        return [*seen, cache.snapshot().tensors]

    for policy in (Window(), ByContent()):
        for codec in (
            PlainCodec(torch.float32),
            PlainCodec(),
            Int8PageCodec(),
            Float8PageCodec(),
            NVFP4PageCodec(),
        ):
            name = f"{type(policy).__name__} {codec}"
            yield name, lambda codec=codec, policy=policy: filled(codec, policy)


def diffusion() -> Results:
    from longlive_models.diffusion import (
        FlowSchedule,
        few_step,
        step_schedule,
        unipc,
        unipc_schedule,
    )
    from longlive_models.objectives import block_causal_mask, teacher_forcing_mask

    for parity in (False, True):
        schedule = FlowSchedule(parity=parity)
        yield f"levels {parity}", lambda s=schedule: [s.sigmas, s.timesteps, s.weights]
        yield f"levels {parity} again", lambda s=schedule: s.sigma(drawn(3).abs() * 500)
        yield (
            f"draws {parity}",
            lambda s=schedule: s.draw(
                torch.Generator("cpu").manual_seed(1), batch=2, frames=5, frames_per_block=2
            ),
        )
    yield "unipc schedule", lambda: vars(unipc_schedule(4))
    x = drawn(1, 2, 3, 4, 4)
    yield "unipc", lambda: unipc(lambda x, t: x * 0.5, x, unipc_schedule(3))
    yield (
        "few step",
        lambda: few_step(lambda x, t: x * 0.5, x, step_schedule(3), fresh_noise=lambda i: x),
    )
    sizes = {"frames_per_block": 2, "tokens_per_frame": 3}
    yield "block causal", lambda: block_causal_mask(4, **sizes).dense(torch.device("cpu"))
    yield "teacher forcing", lambda: teacher_forcing_mask(4, **sizes).dense(torch.device("cpu"))


def videos() -> Results:
    from longlive_models.first_frame import encode_image
    from tests.models.tiny_pipeline import tiny_parts, tiny_pipeline, write_tiny_folder

    def parts() -> list[Any]:
        with torch.device("cpu"):
            return [dict(part.named_parameters()) for part in tiny_parts()]

    yield "parts", parts
    image = (drawn(32, 32, 3).abs() * 100).to(torch.uint8)

    def made(**how: Any) -> Any:
        with torch.device("cpu"):
            pipe = tiny_pipeline()
        return pipe("a red circle", seconds=2, seed=3, steps=2, **how).frames

    yield "video", made
    yield "video of an image", lambda: made(image=image)
    yield "video of an array", lambda: made(image=image.numpy())

    def stored() -> Any:
        from longlive_models import LongLivePipeline

        with tempfile.TemporaryDirectory() as folder:
            with torch.device("cpu"):
                write_tiny_folder(Path(folder))
            pipe = LongLivePipeline.from_pretrained(folder)
            return [
                pipe("a blue square", seconds=1).frames,
                encode_image(image, pipe.vae, 32, 32),
            ]

    yield "video from a folder", stored


def training() -> Results:
    from longlive_recipes import train_ar, train_vae
    from longlive_recipes.training.fit import fit
    from longlive_recipes.training.schedule import TrainingSchedule
    from tests.recipes.tiny_runs import ar_config, vae_config, write_tiny_vae

    def steps(kind: str) -> Any:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder)
            if kind == "vae":
                config = vae_config(path / "run", budget=TrainingSchedule(steps=1, warmup_steps=1))
                module: Any = train_vae.TrainVAEModule(config)
            else:
                with torch.device("cpu"):
                    vae = write_tiny_vae(path / "vae")
                budget = TrainingSchedule(steps=1, warmup_steps=1)
                config = ar_config(path / "run", vae, budget=budget)
                module = train_ar.TrainARModule(config)
            fit(module, config.run, config)
            return {name: p.detach().cpu() for name, p in module.named_parameters()}

    yield "a step of the transformer", lambda: steps("ar")
    yield "a step of the VAE", lambda: steps("vae")


def main(kind: str, when: str, *parts: str) -> None:
    """Print what the settings give."""
    if when == "before":
        set_default(kind)
    import longlive_core.nvfp4  # noqa: F401

    core: list[Callable[[], Results]] = [numbers, caches, diffusion]
    everything = core if "core" in parts else [*core, videos, training]
    groups = [(group.__name__, list(group())) for group in everything]
    if when == "after":
        set_default(kind)
    out = os.dup(1)
    os.dup2(2, 1)  # what training prints goes elsewhere
    found = {}
    for group, entries in groups:
        for name, compute in entries:
            try:
                found[f"{group}: {name}"] = digest(compute())
            except Exception as error:  # one that fails must not hide the others
                found[f"{group}: {name}"] = f"{type(error).__name__}: {str(error)[:200]}"
    os.write(out, json.dumps(found).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])

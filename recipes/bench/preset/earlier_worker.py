"""A block and its decoding in another source tree: a process that is told when to work.

    python earlier_worker.py TREE SIZES

``SIZES`` is JSON. Orders come as lines on standard input, and each is answered by a line of JSON.
This file imports only torch and the packages of that tree, by names that trees since cc03c32 have.
"""

import dataclasses
import json
import sys
import time
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn


def random_weights_(module: nn.Module, device: torch.device, seed: int) -> None:
    """Draw weights on the device, in bf16, in place of those of a module without memory.

    Matrices keep the size of what goes through them, norms are near one, biases near zero.
    """
    module.to(torch.bfloat16).to_empty(device=device)
    drawn = torch.Generator(device).manual_seed(seed)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            weight.normal_(generator=drawn)
            if name.endswith("modulation"):
                weight.mul_(0.2)
            elif name.endswith("gamma") or (weight.ndim == 1 and name.endswith("weight")):
                weight.mul_(0.1).add_(1)
            elif weight.ndim == 1:
                weight.mul_(0.02)
            else:
                weight.mul_(weight[0].numel() ** -0.5)


class _NoText:
    def __init__(self, config: Any, device: torch.device) -> None:
        self.text_len, self.text_dim, self.device = config.text_len, config.text_dim, device

    def encode(self, prompts: Any) -> Tensor:
        shape = (len(prompts), self.text_len, self.text_dim)
        return torch.full(shape, 0.01, dtype=torch.float32, device=self.device)


class Worker:
    """A transformer, a VAE and a full window of that tree."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.device = torch.device(told["device"])
        self.told = told
        wan = import_module("longlive_models.wan")
        vae = import_module("longlive_models.vae")
        self.config = _config(wan.WanConfig, told["transformer"])
        vae_config = _config(vae.VAEConfig, told["vae"])
        with torch.device("meta"):
            self.model, self.vae = wan.WanTransformer(self.config), vae.WanVAE(vae_config)
        dtype = torch.bfloat16 if self.device.type == "cuda" else torch.float32
        for seed, module in enumerate((self.model, self.vae), start=1):
            random_weights_(module, self.device, seed)
            module.to(dtype).eval().requires_grad_(False)
        self.vae.reset_statistics()
        self.vae.channels_last_()
        self.generator = self._generator(dtype)
        self.index, self.state = 0, None
        self.latents = torch.empty(0, dtype=torch.float32, device=self.device)

    def answer(self, order: str) -> dict[str, Any]:
        """Do what is said: "fill" the window, make a "block", or "decode" the last one."""
        if order == "fill":
            tree = import_module("longlive_models").__file__
            return {"tree": tree, "seconds": [self._block() for _ in range(self.told["window"])]}
        return {"seconds": self._block() if order == "block" else self._decode()}

    def _generator(self, dtype: torch.dtype) -> Any:
        cache = import_module("longlive_core.kv_cache")
        diffusion = import_module("longlive_models.diffusion")
        height, width = self.told["latent_size"]
        config, steps, shift = self.config, self.told["steps"], self.told["shift"]
        layout = cache.CacheLayout(
            layers=config.num_layers,
            heads=config.num_heads,
            head_dim=config.head_dim,
            tokens_per_page=config.frames_per_block * config.tokens_per_frame(height, width),
        )
        window = cache.Window(pages=self.told["window"], sink=1, shot_sink=1)
        if hasattr(diffusion, "BlockSampler"):
            sampler = diffusion.BlockSampler(name="unipc", steps=steps, shift=shift)
        else:
            sampler = diffusion.unipc_schedule(steps, shift)
        return import_module("longlive_models.generator").BlockGenerator(
            self.model,
            _NoText(config, self.device),
            cache.PagedKVCache(layout, window, cache.PlainCodec(dtype), self.device),
            sampler=sampler,
            latent_size=(height, width),
            seeds=[7],
        )

    def _block(self) -> float:
        began = self._now()
        made = self.generator.generate(self.index, [_prompt()])
        seconds = self._now() - began
        self.index, self.latents = self.index + 1, made.latents
        return seconds

    @torch.no_grad()
    def _decode(self) -> float:
        latents = self.latents.to(self.vae.conv2.weight.dtype)
        began = self._now()
        video, self.state = self.vae.decode_block(latents, self.state)
        ((video.float().clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8).cpu()
        return self._now() - began

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def _config(kind: Any, values: dict[str, Any]) -> Any:
    """A config of that tree, which may have fewer fields."""
    known = {field.name for field in dataclasses.fields(kind)}
    tuples = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    return kind(**{name: value for name, value in tuples.items() if name in known})


def _prompt() -> Any:
    try:
        place = import_module("longlive_models.prompts.storyboard")
    except ModuleNotFoundError:
        place = import_module("longlive_models.shots")
    return place.BlockPrompt(text="anything", shot=0, cut=False, offset=0.0)


def main() -> None:
    """Answer orders until there are no more."""
    sys.path[0] = sys.argv[1]  # in place of this file's own folder, whose names are common ones
    worker = Worker(json.loads(sys.argv[2]))
    for order in sys.stdin:
        sys.stdout.write(json.dumps(worker.answer(order.strip())) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

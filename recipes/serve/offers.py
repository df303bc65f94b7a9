"""The models that a server has loaded: one pipeline for each precision that it offers."""

import platform
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from longlive_models.checkpoints.hub import resolve
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.checkpoints.weight_hash import begin_hashing
from longlive_models.pipeline import LongLivePipeline
from longlive_models.precision import in_short
from longlive_models.runtime import Runtime
from longlive_models.settings import ModelSpec
from longlive_recipes.configs.generate import Generate
from longlive_recipes.configs.serve import Serve
from longlive_recipes.generation.within_memory import within_memory


@dataclass(frozen=True, kw_only=True, eq=False)
class Offer:
    """A precision that clients can choose, with its pipeline.

    ``base`` has the fields of a generation that are the server's: model, device and backends.
    """

    name: str
    base: Generate
    pipeline: LongLivePipeline


class Offers:
    """The pipelines of a server, the first of which is the default."""

    def __init__(self, model: str, spec: ModelSpec, offers: list[Offer]) -> None:
        self.model, self.spec = model, spec
        self.all = offers

    @classmethod
    def load(cls, config: Serve) -> "Offers":
        """Load the model once for each precision.

        Raises:
            ValueError: what a pipeline raises, or more memory is needed than there may be.
        """
        config, _ = within_memory(config, videos=config.limits.sessions)
        spec = read_spec(resolve(config.model, download=config.download), download=config.download)
        offers: list[Offer] = []
        for weights in dict.fromkeys((config.weights, *config.offer)):
            base = Generate(
                model=config.model,
                download=config.download,
                device=config.device,
                quality=config.quality,
                weights=weights,
                kv_cache=config.kv_cache,
                attention=config.attention,
                lane=config.lane,
                linear=config.linear,
                strict=config.strict,
                vae=config.vae,
                lora=config.lora,
                offload=config.offload,
                text_encoder=config.text_encoder,
            )
            runtime = Runtime.choose(base)
            if runtime.weights in [offer.name for offer in offers]:
                continue  # what "auto" chose is named again
            pipeline = LongLivePipeline.load(config.model, runtime, download=config.download)
            begin_hashing(pipeline.loaded_files)  # the first snapshot names the model
            offers.append(Offer(name=runtime.weights, base=base, pipeline=pipeline))
        return cls(config.model, spec, offers)

    @property
    def names(self) -> list[str]:
        """The precisions, the default first."""
        return [offer.name for offer in self.all]

    def named(self, weights: str | None) -> Offer:
        """The offer of this precision, the default for None. Raises ValueError for others."""
        if weights is None:
            return self.all[0]
        for offer in self.all:
            if offer.name == weights:
                return offer
        raise ValueError(
            f"this server has no weights in {weights}: it offers {', '.join(self.names)}. Choose "
            f"one of these, or start it with --offer {weights}."
        )

    def for_config(self, config: Generate) -> tuple[Offer, Generate]:
        """The offer for the config of a snapshot or a record, and that config on this server.

        The config's model, device and other paths are not used: the server has its own.
        """
        offer = self.named(config.weights)
        here = replace(
            config,
            model=offer.base.model,
            download=offer.base.download,
            device=offer.base.device,
            lane=offer.base.lane,
            strict=offer.base.strict,
            offload=offer.base.offload,
            text_encoder=offer.base.text_encoder,
        )
        return offer, here

    def facts(self) -> dict[str, Any]:
        """What is loaded, and what runs it, as values for JSON."""
        settings, first = self.spec.settings, self.all[0].pipeline
        timing = first.timing
        device = first.runtime.device
        return {
            "model": Path(self.model).name if Path(self.model).exists() else self.model,
            "width": settings.width,
            "height": settings.height,
            "fps": settings.fps,
            "frames_of_first_block": timing.frames(1),
            "frames_of_block": timing.frames(2) - timing.frames(1),
            "sampler": settings.sampler,
            "steps": settings.steps,
            "guidance": settings.guidance,
            "weights": self.names,
            "device": str(device),
            "machine": (
                torch.cuda.get_device_name(device)
                if device.type == "cuda"
                else f"{platform.machine()}, {torch.get_num_threads()} threads"
            ),
            "backends": {
                offer.name: [
                    *in_short(offer.pipeline.receipts()),
                    f"decode lane: {offer.pipeline.runtime.lane}",
                ]
                for offer in self.all
            },
        }

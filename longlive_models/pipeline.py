"""LongLivePipeline, which joins transformer, text encoder and VAE and makes videos of prompts."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

import torch

from longlive_core.backends import Receipt
from longlive_core.sequence_parallel import SequenceGroup
from longlive_models.checkpoints.hub import resolve
from longlive_models.checkpoints.weight_hash import FileHash, WeightHash
from longlive_models.diffusers_loading import LoadingWords, missing, where_and_how
from longlive_models.loading import ALONE, LoadedModel, check_text, load_model, reduce_amax
from longlive_models.lora_source import lora_texts
from longlive_models.moving import moved
from longlive_models.placing import place_text, place_transformer
from longlive_models.precision import model_receipts, set_precision
from longlive_models.prompts.storyboard import plan_video as plan_video
from longlive_models.runtime import Runtime as Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.saving import save_pipeline
from longlive_models.settings import GenerationSettings, ModelSpec
from longlive_models.text import TextEncoder
from longlive_models.vae import DecodeOptions, WanVAE
from longlive_models.vae.autoencoder import decoder_receipt
from longlive_models.vae.tiles import check_tiles
from longlive_models.video_maker import VideoMaker
from longlive_models.wan import WanTransformer, partition_blocks, share


class LongLivePipeline(VideoMaker):
    """Generates videos of any length from prompts, block by block.

    ::

        pipe = LongLivePipeline.from_pretrained("pocket")
        video = pipe("a red circle moves right on a navy background", seconds=5, seed=7)
        video.save("circle.mp4")

    Args:
        transformer, vae, text: the parts. They are changed in place: moved to the devices that
            ``runtime`` names, and the transformer's linears get its precision.
        settings: picture size, rates and defaults of the model.
        runtime: devices and types.
        weights: the folder or file whose hash is the ``fingerprint``, or that hash if it is known.
        group: the ranks that make each video together. All of them call the same methods with the
            same arguments; the first one decodes, the others' blocks have no frames.

        Raises:
            ValueError: the parts do not fit each other or the picture's size, or a block cannot be
                shared by so many ranks.
        BackendUnavailable: a backend that was named and cannot run, or emulation under ``strict``.
    """

    def __init__(
        self,
        transformer: WanTransformer,
        vae: WanVAE,
        text: TextEncoder,
        *,
        settings: GenerationSettings,
        runtime: Runtime,
        weights: Path | FileHash | None = None,
        group: SequenceGroup = ALONE,
    ) -> None:
        self.spec = ModelSpec(transformer=transformer.config, vae=vae.config, settings=settings)
        check_text(transformer.config, text)
        check_tiles(vae.config, self.spec.latent_size, runtime.vae_tiles)
        runtime.check(transformer.config)
        self._notes = set_precision(transformer, runtime, reduce_amax(self.spec, group))
        transformer.set_quality(runtime.quality)
        place_transformer(transformer, runtime)
        runtime.put(vae, runtime.decode_device)
        vae.reset_statistics()
        vae.channels_last_()
        vae.decode_with_(DecodeOptions(latents=runtime.vae_latents, tiles=runtime.vae_tiles))
        self.text_place = place_text(text, runtime)
        self.sp = partition_blocks(transformer.config, group, self.spec.latent_size)
        self.transformer = share(transformer, self.sp)
        self.vae = vae
        self.text = text
        self.runtime = runtime
        self._hash = WeightHash(self._parts(), weights, device=runtime.device)
        self.loaded_files: tuple[FileHash, ...] = ()

    @classmethod
    def from_pretrained(
        cls,
        model: str = "pocket",
        *,
        device: str = "auto",
        quality: str = "lossless",
        weights: str = "auto",
        kv_cache: str = "auto",
        attention: str = "auto",
        lane: str = "auto",
        linear: str = "auto",
        strict: bool = False,
        vae: str = "full",
        vae_latents: int = 0,
        vae_tiles: int = 1,
        lora: Any = (),
        offload: bool = False,
        text_encoder: str = "auto",
        download: bool = False,
        group: SequenceGroup = ALONE,
        **theirs: Unpack[LoadingWords],
    ) -> "LongLivePipeline":
        """Load a model by name, folder or hub id (see ``longlive_models.checkpoints.hub.resolve``).

        Precision and backends are arguments; "auto" decides by the device. ``pipeline.runtime``
        tells what was decided (see ``Runtime``), and ``pipeline.receipts()`` which backend every
        layer runs on. ``quality="high"`` lets "auto" round products and attention to eight bits
        where the hardware has them; "lossless" never changes a frame for speed. A folder may also
        hold LongLive-2.0-5B as it was published (see ``longlive_models.published``), or weights in
        four bits, as ``longlive quantize`` writes them: ``weights="nvfp4"`` computes with them as
        they are, plain precisions decode them once.
        ``vae="light"`` decodes with the narrower decoder in the model's folder ``vae_light``;
        ``vae_latents`` latent frames are decoded at a time (0: as their size allows), on
        ``vae_tiles`` strips of a frame: fewer, and more strips, take less memory.

        ``lora`` is an adapter's file (or folder, as PEFT writes one), a pair of a file and a
        weight, or a list of these. They are merged into plain weights, and stand beside packed
        ones; ``longlive_models.adapters`` says which layouts are read.

        With ``offload`` the transformer's blocks wait in the host's memory, and ``text_encoder``
        says where the text encoder is: "auto" leaves it on a device that has six times its memory
        (``longlive_models.placing``). Neither changes a frame, unless it computes on the "cpu".

        Words of Diffusers, such as ``torch_dtype`` and ``device_map``, mean what they mean there
        (``longlive_models.diffusers_loading``).

        Raises:
            ValueError: there is no such model, device or precision, or the model is not complete.
            BackendUnavailable: a backend that was named and cannot run, or emulation under
                ``strict``.
        """
        device, weights = where_and_how(theirs, device, weights)
        options = RuntimeOptions(
            device=device,
            quality=quality,
            weights=weights,
            kv_cache=kv_cache,
            attention=attention,
            lane=lane,
            linear=linear,
            strict=strict,
            vae=vae,
            vae_latents=vae_latents,
            vae_tiles=vae_tiles,
            lora=lora_texts(lora),
            offload=offload,
            text_encoder=text_encoder,
        )
        return cls.load(model, Runtime.choose(options), download=download, group=group)

    @classmethod
    def load(
        cls,
        model: str,
        runtime: Runtime,
        *,
        download: bool = False,
        group: SequenceGroup = ALONE,
        files: FileHash | None = None,
    ) -> "LongLivePipeline":
        """As ``from_pretrained``, for a given ``Runtime``; ``files``: the files' hash, if known."""
        folder = resolve(model, download=download)
        loaded = load_model(folder, runtime, download=download, group=group)
        return cls.of(loaded, runtime, group=group, files=files)

    @classmethod
    def of(
        cls,
        loaded: LoadedModel,
        runtime: Runtime,
        *,
        group: SequenceGroup = ALONE,
        files: FileHash | None = None,
    ) -> "LongLivePipeline":
        """A pipeline of loaded parts, which it owns from then on and changes in place."""
        parts, hashes = (loaded.transformer, loaded.vae, loaded.text), loaded.hashes(files)
        made = cls(
            *parts, settings=loaded.settings, runtime=runtime, weights=hashes[0], group=group
        )
        loaded.check_numbers()
        made.loaded_files = hashes
        return made

    if not TYPE_CHECKING:  # which would take every attribute for one of this kind

        def __getattr__(self, name):
            raise AttributeError(missing(name), name=name, obj=self)

    def receipts(self) -> dict[str, tuple[Receipt, ...]]:
        """The backends of attention, cache, norms, VAE and linears, and why no faster ones.

        ``longlive_models.precision.in_short`` makes a few lines of them.
        """
        attention = self.runtime.receipt(self.transformer.config.head_dim)
        layers = model_receipts(self.transformer, self.runtime, self._notes)
        return {
            "attention": (attention,),
            "kv_cache": self.runtime.cache_receipts(),
            "fused": self.runtime.fused_receipts(),
            "vae": (decoder_receipt(self.vae),),
            **layers,
        }

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the model to a folder that ``from_pretrained`` loads; returns the folder.

        Weights are written as they are: packed ones in four bits, plain ones in their type.

        Raises:
            ValueError: the folder exists, a part has no form in a folder, or ranks share the model.
        """
        return save_pipeline(self, Path(folder))

    def to(self, *where: str | torch.device | torch.dtype) -> "LongLivePipeline":
        """Move the model to a device, to a type (``torch.bfloat16``), or both; returns it.

        The decoding lane and a plain cache follow. End streams first: theirs stay where they are.

        Raises:
            ValueError: there is no such device or type, or quantized weights would have to move:
                their linears are made for the device that they were loaded for.
        """
        runtime = moved(self.runtime, where)
        if runtime == self.runtime:
            return self
        if (
            self.runtime.linears is not None
            or self.sp.group.size > 1
            or self.runtime.offload
            or self.text_place == "offload"
        ):
            waiting = ", some of them on the host," if self.text_place == "offload" else ""
            waiting = ", blocks of them on the host," if self.runtime.offload else waiting
            raise ValueError(
                f"weights in {self.runtime.weights} over {self.sp.group.size} rank(s){waiting} are "
                f"made for {self.runtime.device} while they are loaded: load them where they shall "
                f"run, with from_pretrained(..., device={str(runtime.device)!r})."
            )
        runtime.check(self.spec.transformer)
        self.runtime = runtime
        runtime.put(self.transformer)
        runtime.put(self.vae, runtime.decode_device)
        self.vae.reset_statistics()
        self.text_place = place_text(self.text, runtime)
        return self

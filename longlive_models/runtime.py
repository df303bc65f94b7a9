"""Runtime: the devices, types and backends of a pipeline, decided before weights are read."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from longlive_core import float8, nvfp4
from longlive_core.async_decode import make_lane
from longlive_core.attention import ATTENTION, Request
from longlive_core.backends import Receipt
from longlive_core.block_offload import BlockOffload
from longlive_core.fused import GELU, NORM, ROTATE
from longlive_core.kv_cache import Int8PageCodec, PageCodec, PlainCodec
from longlive_models.checkpoints.nvfp4 import PackedConfig
from longlive_models.checkpoints.to_device import move_weights
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.wan import WanConfig

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16}

LinearsConfig = nvfp4.LinearConfig | float8.Float8Config


@dataclass(frozen=True, kw_only=True)
class Runtime:
    """The devices, types and backends of a pipeline: ``RuntimeOptions`` after "auto" was decided.

    ``weights`` is the precision of the weights, ``compute`` the type of the arithmetic around them:
    bf16 on a GPU (fp32 if the weights are), always fp32 on a CPU. Precisions below bf16 apply to
    the linears of the transformer's blocks, which compute with their stored values; all other
    weights are bf16. On a CPU these are rounded to bf16 and then widened to fp32, once.

    ========== =====================================================================================
    fp32, bf16 Plain weights. Packed linears of the folder are decoded, once.
    fp8        Weights and inputs in FP8, scaled by rows.
    nvfp4      Weights in four bits, inputs as they are (W4A16).
    nvfp4-w4a4 Weights and inputs in four bits: hardware on Blackwell, emulated elsewhere.
    ========== =====================================================================================

    Attributes:
        device: the device of the transformer and the text encoder.
        quality: what fast paths may do, one of ``choices.QUALITIES``.
        weights: one of ``choices.WEIGHTS``.
        kv_cache: the form in which past keys and values are kept, one of ``choices.KV_CACHES``.
        attention: a backend of ``longlive_core.attention.ATTENTION``, or "auto".
        lane: where frames are decoded (``longlive_core.async_decode``).
        linear: a backend for the products of quantized linears, or "auto".
        strict: raise an error rather than emulate a number format.
        vae: which decoder makes the frames, "full" or "light".
        vae_latents, vae_tiles: how many latent frames it takes at a time, 0 being decided by their
            size, and into how many strips it cuts a frame.
        lora: adapters of the transformer, each as FILE:WEIGHT.
        offload: whether the transformer's blocks wait in the host's memory.
        text_encoder: where the text encoder is, or "auto" (``longlive_models.placing``).
    """

    device: torch.device
    quality: str = "lossless"
    weights: str
    kv_cache: str
    attention: str
    lane: str
    linear: str = "auto"
    strict: bool = False
    vae: str = "full"
    vae_latents: int = 0
    vae_tiles: int = 1
    lora: tuple[str, ...] = ()
    offload: bool = False
    text_encoder: str = "auto"

    @classmethod
    def choose(cls, options: RuntimeOptions) -> "Runtime":
        """Decide what the options leave to "auto": a GPU if there is one, with bf16; else fp32.

        Raises:
            ValueError: there is no such device or lane, or ``linear`` is given for plain weights.
        """
        name = options.device
        if name == "auto":
            name = "cuda" if torch.cuda.is_available() else "cpu"
        device = _device(name, f"device={name!r}")
        default = "fp32" if device.type == "cpu" else "bf16"
        weights = options.weights
        if weights == "auto":
            eight_bits = options.quality == "high" and why_not_eight_bits(device) is None
            weights = "fp8" if eight_bits else default
        if options.linear != "auto" and weights in PRECISIONS:
            raise ValueError(
                f"linear={options.linear!r} names a product of quantized weights, and "
                f"weights={weights!r} are plain. Leave it out, or use weights='nvfp4'."
            )
        lane = options.lane
        if lane == "auto":
            lane = "stream" if device.type == "cuda" else "inline"
        _check_lane(lane, device)
        return cls(
            device=device,
            quality=options.quality,
            weights=weights,
            kv_cache=default if options.kv_cache == "auto" else options.kv_cache,
            attention=options.attention,
            lane=lane,
            linear=options.linear,
            strict=options.strict,
            vae=options.vae,
            vae_latents=options.vae_latents,
            vae_tiles=options.vae_tiles,
            lora=options.lora,
            offload=options.offload,
            text_encoder=options.text_encoder,
        )

    @property
    def compute(self) -> str:
        """The type that the transformer computes in: "fp32" or "bf16"."""
        return self._compute_on(self.device)

    @property
    def linears(self) -> LinearsConfig | None:
        """The config of block linears that are quantized; None if they stay plain."""
        if self.weights in PRECISIONS:
            return None
        if self.weights == "fp8":
            return float8.Float8Config(
                backend=self.linear, strict=self.strict, quality=self.quality
            )
        best = nvfp4.LinearConfig().weight
        activation = best if self.weights == "nvfp4-w4a4" else None
        return nvfp4.LinearConfig(
            weight=best, activation=activation, backend=self.linear, strict=self.strict
        )

    def packed_linears(self, packed: PackedConfig) -> nvfp4.LinearConfig | None:
        """The config of linears that files hold packed; None if they are decoded after loading."""
        config = self.linears
        if not isinstance(config, nvfp4.LinearConfig):
            return None
        if config.activation is not None and packed.activation is not None:
            return replace(config, activation=packed.activation)
        return config

    def codec(self, reduce_amax: Callable[[Tensor], Tensor] | None = None) -> PageCodec:
        """The codec of the cache's pages; encoded pages are read in the type ``compute``.

        ``reduce_amax`` makes one amax of those of all ranks that hold heads of the same page.
        """
        dtype = PRECISIONS[self.compute]
        match self.kv_cache:
            case "fp8":
                return float8.Float8PageCodec(dtype=dtype)
            case "int8":
                return Int8PageCodec(dtype=dtype)
            case "nvfp4":
                return nvfp4.NVFP4PageCodec(dtype=dtype, reduce_amax=reduce_amax)
        return PlainCodec(PRECISIONS[self.kv_cache])

    @property
    def decode_device(self) -> torch.device:
        """The VAE's device: the one that the lane names, else the transformer's."""
        kind, _, device = self.lane.partition(":")
        return torch.device(device) if kind == "device" else self.device

    def put(self, module: nn.Module, device: torch.device | None = None) -> None:
        """Set a module's precision, device and compute type in place, and switch its gradients off.

        ``device`` is ``self.device`` by default.
        """
        device = self.device if device is None else device
        compute = PRECISIONS[self._compute_on(device)]
        if device.type == "cuda":
            move_weights(module, device, partial(_rounded_to, self._rounded, compute))
        module.to(self._rounded).to(device, compute)
        module.eval().requires_grad_(False)

    def placing(self, *, stay_plain: bool = False) -> Callable[[Tensor], Tensor] | None:
        """What brings one weight of the transformer to where ``put`` brings it, in its type.

        With it weights that were decoded need not all be in the host's memory. None if they may be
        quantized here, which is done from the values as they were; ``stay_plain`` says that these
        are not. None on a CPU, too.
        """
        if (self.linears is not None and not stay_plain) or self.device.type == "cpu":
            return None
        device = torch.device("cpu") if self.offload else self.device
        compute = PRECISIONS[self._compute_on(self.device)]
        return lambda tensor: _rounded_to(self._rounded, compute, tensor).to(device)

    def put_offloaded(
        self,
        module: nn.Module,
        blocks: nn.ModuleList,
        tables: Sequence[nn.Module] = (),
        *,
        page_locked: bool = True,
        again: bool = True,
    ) -> BlockOffload:
        """As ``put``, but ``blocks``, which are parts of the module, wait in the host's memory.

        Other parts, ``tables``, stay there for good. The further arguments are those of
        ``BlockOffload``.
        """
        compute = PRECISIONS[self._compute_on(self.device)]
        for part in (*blocks, *tables):
            part.to(self._rounded).to(compute)
            part.eval().requires_grad_(False)
        offload = BlockOffload(list(blocks), self.device, page_locked=page_locked, again=again)
        with _left_out(module, (blocks, *tables)):
            self.put(module)
        return offload

    def receipt(self, head_dim: int) -> Receipt:
        """The attention backend that runs here for heads of this size, and why no faster one does.

        Raises:
            BackendUnavailable: the backend that was named cannot run here.
        """
        request = Request(
            device=self.device,
            dtype=PRECISIONS[self.compute],
            head_dim=head_dim,
            quality=self.quality,
        )
        return ATTENTION.receipt(request, self.attention)

    def reads_windows(self, head_dim: int) -> bool:
        """Whether the cache gives attention its windows in E4M3 (``PagedKVCache.read_coded``).

        So where attention is "fa3-fp8" and pages are plain. Encoded pages are there to save memory,
        which a second copy of them in E4M3 would take.

        Raises:
            BackendUnavailable: see ``receipt``.
        """
        plain = isinstance(self.codec(), PlainCodec)
        return plain and self.receipt(head_dim).backend == "fa3-fp8"

    def fused_receipts(self) -> tuple[Receipt, ...]:
        """What runs between the products of the transformer's blocks, and why nothing faster."""
        request = Request(device=self.device, dtype=PRECISIONS[self.compute], quality=self.quality)
        tables = (NORM, ROTATE, GELU) if self.weights == "fp8" else (NORM, ROTATE)
        return tuple(table.receipt(request) for table in tables)

    def cache_receipts(self) -> tuple[Receipt, ...]:
        """The backends that decode the cache's pages here; none for plain pages."""
        codec = self.codec()
        if isinstance(codec, Int8PageCodec | float8.Float8PageCodec | nvfp4.NVFP4PageCodec):
            return (codec.receipt(self.device),)
        return ()

    def check(self, config: WanConfig) -> None:
        """Raise ``BackendUnavailable`` if a backend that is needed cannot run; reads no weight."""
        self.receipt(config.head_dim)
        self.linear_receipts(config.dim)

    def linear_receipts(self, width: int) -> tuple[Receipt, ...]:
        """The backends of quantized linears of this width here; none for plain linears.

        Raises:
            BackendUnavailable: the backend that was named cannot run here, or ``strict`` leaves
                none.
        """
        config, dtype = self.linears, PRECISIONS[self.compute]
        if isinstance(config, nvfp4.LinearConfig):
            return nvfp4.linear_receipts((width, width), config, device=self.device, dtype=dtype)
        if isinstance(config, float8.Float8Config):
            return float8.linear_receipts(config, device=self.device, dtype=dtype)
        return ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as plain values that JSON can hold."""
        return {
            "device": str(self.device),
            "quality": self.quality,
            "weights": self.weights,
            "compute": self.compute,
            "kv_cache": self.kv_cache,
            "attention": self.attention,
            "lane": self.lane,
            "linear": self.linear,
            "strict": self.strict,
            "vae": self.vae,
            "vae_latents": self.vae_latents,
            "vae_tiles": self.vae_tiles,
            "lora": list(self.lora),
            "offload": self.offload,
            "text_encoder": self.text_encoder,
        }

    @property
    def _rounded(self) -> torch.dtype:
        """The type that weights are rounded to if they are not quantized."""
        return PRECISIONS["fp32" if self.weights == "fp32" else "bf16"]

    def _compute_on(self, device: torch.device) -> str:
        return "fp32" if device.type == "cpu" or self.weights == "fp32" else "bf16"


def why_not_eight_bits(device: torch.device) -> str | None:
    """Why a device has no instructions for products in FP8; None if it has."""
    request = Request(device=device, dtype=torch.bfloat16)
    standing = float8.ROW_MATMUL.explain(request, strict=True)
    usable = any(why.startswith("usable") for why in standing.values())
    return None if usable else next(iter(standing.values()))


@contextmanager
def _left_out(module: nn.Module, parts: Sequence[nn.Module]) -> Iterator[None]:
    """Within it some parts of a module are none of it."""
    places = [
        (holder, name, child)
        for holder in module.modules()
        for name, child in holder.named_children()
        if any(child is part for part in parts)
    ]
    for holder, name, _ in places:
        setattr(holder, name, nn.ModuleList())
    try:
        yield
    finally:
        for holder, name, child in places:
            setattr(holder, name, child)


def _rounded_to(rounded: torch.dtype, compute: torch.dtype, tensor: Tensor) -> Tensor:
    return tensor.to(rounded).to(compute) if tensor.is_floating_point() else tensor


def _check_lane(lane: str, device: torch.device) -> None:
    """Raise ValueError for a lane that does not exist or cannot be used with ``device``."""
    if lane.startswith("device:"):
        _device(lane.removeprefix("device:"), f"lane={lane!r}")
    make_lane(lane).close()
    if lane == "stream" and device.type != "cuda":
        raise ValueError(
            f"lane='stream' needs a CUDA device, got {str(device)!r}: only CUDA has streams. "
            f"Use 'thread', 'inline' or 'auto'."
        )


def _device(name: str, asked: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ValueError(
            f"{asked} is no device: use 'auto', 'cpu', 'cuda' or 'cuda:1', say."
        ) from error
    if device.type not in ("cpu", "cuda"):
        raise ValueError(
            f"{asked} is a device that this library is not tested on: use 'cpu' or 'cuda'."
        )
    if device.type == "cpu" and device.index:
        raise ValueError(f"{asked} asks for CPU number {device.index}: there is one. Use 'cpu'.")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            f"{asked} asks for a GPU, but this torch ({torch.__version__}) sees none: "
            f"use 'cpu', or install a CUDA build of torch."
        )
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"{asked} asks for GPU number {device.index}, but this machine has "
            f"{torch.cuda.device_count()}, counted from 0: use 'cuda:0', say."
        )
    return device

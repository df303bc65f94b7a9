"""The config of converting a model's files, which is checked before torch is loaded."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from longlive_core.names import did_you_mean
from longlive_models.checkpoints.hub import EMBEDDED, WEIGHT_FILES
from longlive_recipes.generation.outputs import check_writable


@dataclass(frozen=True, kw_only=True)
class Format:
    """A layout that can be written.

    Attributes:
        words: what it is, for people.
        suffix: that of a file with one part; "" if it is always a folder.
        packed: whether it holds the transformer in NVFP4, which the source must have.
        alone: whether it holds a transformer alone.
        adapter: whether it holds an adapter (LoRA) rather than a model.
    """

    words: str
    suffix: str = ""
    packed: bool = False
    alone: bool = False
    adapter: bool = False


FORMATS: dict[str, Format] = {
    "longlive": Format(words="a model folder of this library"),
    "published": Format(words="the original's files, plain", suffix=".pt"),
    "published-nvfp4": Format(
        words="the original's packed file, model_4o6.pt", suffix=".pt", packed=True, alone=True
    ),
    "diffusers": Format(words="folders of Diffusers and transformers"),
    "comfyui": Format(words="ComfyUI's files, plain", suffix=".safetensors"),
    "comfyui-fp8": Format(words="ComfyUI's FP8 with scales", suffix=".safetensors", alone=True),
    "comfyui-nvfp4": Format(
        words="ComfyUI's NVFP4", suffix=".safetensors", packed=True, alone=True
    ),
    "gguf": Format(words="GGUF, plain", suffix=".gguf", alone=True),
    "gguf-q8_0": Format(words="GGUF in blocks of eight bits", suffix=".gguf", alone=True),
    "gguf-nvfp4": Format(words="GGUF's NVFP4", suffix=".gguf", packed=True, alone=True),
    "torchao": Format(words="TorchAO's NVFP4", suffix=".safetensors", packed=True, alone=True),
    "modelopt": Format(words="ModelOpt's NVFP4", suffix=".safetensors", packed=True, alone=True),
    "compressed-tensors": Format(
        words="compressed-tensors' NVFP4", suffix=".safetensors", packed=True, alone=True
    ),
    "mlx": Format(words="MLX's NVFP4", suffix=".safetensors", packed=True, alone=True),
    "transformer-engine": Format(
        words="Transformer Engine's NVFP4", suffix=".safetensors", packed=True, alone=True
    ),
    "lora-peft": Format(words="an adapter's folder, as PEFT writes it", adapter=True),
    "lora-kohya": Format(
        words="an adapter's file, as kohya writes it",
        suffix=".safetensors",
        alone=True,
        adapter=True,
    ),
}
"""The layouts that can be written, by name."""

DTYPES = ("keep", "bf16", "fp16", "fp32")
SOURCES = ("comfyui", "modelopt", "torchao", "mlx", "compressed_tensors", "transformer_engine")


@dataclass(frozen=True, kw_only=True)
class Convert:
    """The config of converting a model. Raises ValueError for an unknown format or type.

    Attributes:
        model: a folder, a file, or a hub id that is in the local cache.
        to: the layout to write, a name of ``FORMATS``.
        part: the part to convert, or all that there are.
        dtype: the type of plain weights; "keep" leaves them as they are stored, and decodes
            packed ones to bf16.
        source: the convention of packed weights, where the file does not say it.
        rule: the scale rule of packed weights, where the file does not say it.
        scales: the order of block scales, where a convention has two: of the source if it does
            not say it, and of what is written.
        lora: an adapter's file or folder of any layout, to be written in another; ``model`` is the
            one that it is for.
    """

    model: str
    to: str
    part: Literal["all", "transformer", "vae", "text_encoder"] = "all"
    dtype: str = "keep"
    source: str | None = None
    rule: str | None = None
    scales: Literal["linear", "swizzled"] | None = None
    lora: str | None = None

    def __post_init__(self) -> None:
        for what, value, known in (
            ("layout", self.to, tuple(FORMATS)),
            ("type", self.dtype, DTYPES),
            ("source", self.source, SOURCES),
            ("part", self.part, ("all", "transformer", "vae", "text_encoder")),
            ("order of scales", self.scales, ("linear", "swizzled")),
        ):
            if value is not None and value not in known:
                raise ValueError(
                    f"there is no {what} {value!r}{did_you_mean(value, known)}There are "
                    f"{', '.join(known)}."
                )
        if self.format.adapter and self.lora is None:
            raise ValueError(
                f"the layout {self.to} is of adapters, and none is named: write `longlive convert "
                f"MODEL --lora FILE --to {self.to}`, where MODEL is what the adapter is for."
            )
        if self.lora is not None and not self.format.adapter:
            raise ValueError(
                f"lora={self.lora!r} is an adapter, and {self.to} is a layout of models. Write it "
                f"to lora-peft or lora-kohya."
            )
        if self.lora is not None:
            self._check_adapter()
        if self.rule is not None:
            from longlive_recipes.configs.quantize_weights import check_rule

            check_rule(self.rule)

    def _check_adapter(self) -> None:
        """Raise ValueError for what is said of a model's weights, which an adapter has none of."""
        usual = {field.name: field.default for field in fields(self)}
        for name in ("part", "dtype", "source", "rule", "scales"):
            value = vars(self)[name]
            if value != usual[name]:
                raise ValueError(
                    f"{name}={value!r} is about a model's weights, and lora={self.lora!r} is an "
                    f"adapter, which is written as it is. Leave {name} out."
                )

    @property
    def format(self) -> Format:
        """The layout to write."""
        return FORMATS[self.to]


def check_paths(config: Convert, output: Path) -> None:
    """Raise ValueError if the output exists, lies in the model, or has a name that does not fit."""
    if output.exists() or output.is_symlink():
        raise ValueError(
            f"{output} exists: name another one with --output, or remove it. Nothing is replaced."
        )
    source = EMBEDDED.get(config.model, Path(config.model).expanduser())
    if source.is_dir() and output.resolve().is_relative_to(source.resolve()):
        raise ValueError(
            f"{output} lies in the model's own folder {source}, and would become a part of it. "
            f"Name another --output."
        )
    suffix = output.suffix
    fits = (config.format.suffix, ".pth") if config.to == "published" else (config.format.suffix,)
    if suffix in (*WEIGHT_FILES,) and suffix not in fits:
        wanted = f"ends in {config.format.suffix}" if config.format.suffix else "is a folder"
        raise ValueError(
            f"{output} ends in {suffix}, and {config.format.words} {wanted}. Name it so."
        )
    if config.format.alone and suffix != config.format.suffix:
        raise ValueError(
            f"{output} is to be one file in the layout {config.to}, which ends in "
            f"{config.format.suffix}. Name it so."
        )
    if config.format.alone and config.part not in ("all", "transformer"):
        raise ValueError(
            f"the layout {config.to} holds a transformer, and part={config.part!r} is none. Write "
            f"it to published, diffusers or comfyui."
        )
    check_writable(output, "output")

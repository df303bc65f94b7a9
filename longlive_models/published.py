"""Loading a model from the files of others, without converting them first.

The transformer may be a file or a folder in any layout of ``longlive_models.layouts``; the other
parts are looked for beside it, under the names that they are published with::

    model_bf16.pt                               transformer (or model_te.pt, which holds bf16 too;
                                                or model_4o6.pt, packed in four bits)
    Wan2.2_VAE.pth                              VAE
    models_t5_umt5-xxl-enc-bf16.pth             text encoder
    google/umt5-xxl/                            its tokenizer

The last three are the base model's, Wan2.2-TI2V-5B. They may lie in the folder of the transformer,
in a folder of their own inside it, or in the local hub cache. Folders of Diffusers
(``transformer``, ``vae``, ``text_encoder``, ``tokenizer``) and of ComfyUI (``diffusion_models``,
``vae``, ``text_encoders``) are searched too.
"""

from dataclasses import dataclass
from pathlib import Path

import torch

from longlive_models.checkpoints.folder import fill, unfilled
from longlive_models.checkpoints.hub import (
    INDEX,
    PUBLISHED_WEIGHTS,
    WEIGHT_FILES,
    is_foreign_transformer,
    is_published,
    snapshot,
)
from longlive_models.checkpoints.nvfp4 import ReduceAmax, load_packed
from longlive_models.layouts.part_files import PartFile, open_any, open_part
from longlive_models.layouts.sizes import transformer_config, umt5_config, vae_config
from longlive_models.layouts.whole import require_weights, require_whole, shapes_of
from longlive_models.quantized_filling import fill_quantized
from longlive_models.runtime import Runtime
from longlive_models.settings import GenerationSettings, ModelSpec
from longlive_models.text import UMT5Config, UMT5TextEncoder, load_umt5
from longlive_models.text.checkpoint import published_shapes
from longlive_models.text.umt5 import require_tokenizer
from longlive_models.vae import WAN22_VAE, WanVAE
from longlive_models.wan import WAN_5B, WanTransformer

BASE = "Wan-AI/Wan2.2-TI2V-5B"
VAE, TEXT, TOKENIZER = (
    "Wan2.2_VAE.pth",
    "models_t5_umt5-xxl-enc-bf16.pth",
    "google/umt5-xxl",
)
_INSIDE = ("", "Wan2.2-TI2V-5B", "wan_models/Wan2.2-TI2V-5B")
_NAMES = {
    VAE: (VAE, "Wan2.2_VAE.safetensors", "wan2.2_vae.safetensors"),
    TEXT: (
        TEXT,
        "models_t5_umt5-xxl-enc-bf16.safetensors",
        "umt5_xxl_bf16.safetensors",
        "umt5_xxl_fp16.safetensors",
        "umt5_xxl_fp8_e4m3fn_scaled.safetensors",
    ),
    TOKENIZER: (TOKENIZER, "tokenizer"),
}
"""The names under which each file of the base model is looked for."""

_FOLDERS = {VAE: ("vae",), TEXT: ("text_encoder", "text_encoders", "clip"), TOKENIZER: ()}
"""Folders that may be the part, as Diffusers saves it, or hold its file, as ComfyUI has it."""

LONGLIVE_5B = ModelSpec(
    transformer=WAN_5B,
    vae=WAN22_VAE,
    settings=GenerationSettings(height=704, width=1280, fps=24.0, steps=4),
)
"""The settings of LongLive-2.0-5B: 4 steps, no guidance, a window of 4 blocks."""


@dataclass(frozen=True, kw_only=True)
class PublishedFiles:
    """The paths of a model's parts, files or folders; all of them exist."""

    transformer: Path
    vae: Path
    text: Path
    tokenizer: Path


def find_files(path: Path, *, packed: bool = False, download: bool = False) -> PublishedFiles:
    """Find the parts of a model beside each other, those of the base model also in the hub cache.

    Args:
        path: the transformer's file, or the folder that holds it.
        packed: if the transformer is there in four bits and in bf16, take the former.
        download: fetch files of the base model that are missing.

    Raises:
        ValueError: some files are missing, which the message names, or what was named is no
            transformer.
    """
    roots = _roots(path)
    needed = (VAE, TEXT, TOKENIZER)
    if not all(_locate(roots, name) for name in needed):
        roots += _base(download=download)
    found = {name: place for name in needed if (place := _locate(roots, name))}
    weights = find_weights(path, packed=packed)
    missing = [name for name in needed if name not in found]
    if weights is None or missing:
        if weights is not None:
            open_part(weights, "transformer")  # another file in its place is told first
        names = missing if weights else [PUBLISHED_WEIGHTS[0], *missing]
        raise ValueError(
            f"{path} lacks {', '.join(names)} of the published model: {VAE}, {TEXT} and the "
            f"tokenizer's folder {TOKENIZER} are files of {BASE}. Put or link them there, or fetch "
            f"them with `hf download {BASE} {VAE} {TEXT} --include '{TOKENIZER}/*'`."
        )
    return PublishedFiles(
        transformer=weights, vae=found[VAE], text=found[TEXT], tokenizer=found[TOKENIZER]
    )


def find_weights(path: Path, *, packed: bool = False) -> Path | None:
    """The transformer's file or folder, or None; ``packed`` is that of ``find_files``."""
    if path.is_file() or is_foreign_transformer(path):
        return path
    names = PUBLISHED_WEIGHTS[::-1] if packed else PUBLISHED_WEIGHTS
    found = next((path / name for name in names if (path / name).exists()), None)
    inner = path / "transformer"
    return inner if found is None and is_foreign_transformer(inner) else found


def find_parts(path: Path) -> dict[str, Path]:
    """The parts of a model that lie in a folder of any layout, or the part that a file holds.

    Raises:
        ValueError: nothing of a model is there, or a file of something else.
    """
    if path.is_file() or (path / "config.json").is_file():
        return {open_any(path).part: path}
    if (path / INDEX).is_file() and not is_published(path):
        return {part: path / part for part in ("transformer", "vae", "text_encoder")}
    roots = _roots(path)
    found = {
        "transformer": find_weights(path) or _comfy_transformer(path),
        "vae": _locate(roots, VAE),
        "text_encoder": _locate(roots, TEXT),
    }
    parts = {part: place for part, place in found.items() if place is not None}
    if not parts:
        raise ValueError(
            f"{path} holds no part of a model under the names that are known: name the file itself."
        )
    return parts


def find_tokenizer(path: Path) -> Path | None:
    """The folder of the text encoder's tokenizer beside a model's parts; None if there is none."""
    inside = path / "text_encoder" / "tokenizer"
    return inside if inside.is_dir() else _locate(_roots(path), TOKENIZER)


def _comfy_transformer(path: Path) -> Path | None:
    """The only file of weights in ComfyUI's folder of transformers; None if there is none."""
    files = [
        file
        for name in ("diffusion_models", "unet")
        for file in sorted((path / name).glob("*"))
        if file.suffix in WEIGHT_FILES
    ]
    return files[0] if len(files) == 1 else None


@dataclass(frozen=True, kw_only=True)
class OpenedFiles:
    """The parts of a model after their names and shapes were read, and the tokenizer's folder."""

    transformer: PartFile
    vae: PartFile
    text: PartFile
    tokenizer: Path

    @property
    def text_config(self) -> UMT5Config:
        """The sizes of the text encoder."""
        return umt5_config(self.text.shapes, self.text.config, self.text.path)

    def spec(self) -> ModelSpec:
        """The sizes of the model. Raises ValueError if its parts do not fit each other."""
        transformer, vae, features = self.transformer, self.vae, self.text_config.dim
        config = transformer_config(transformer.shapes, transformer.config, transformer.path)
        if features != config.text_dim:
            raise ValueError(
                f"{self.text.path} gives features of {features}, and the transformer in "
                f"{transformer.path} takes {config.text_dim}: they are parts of different models. "
                f"Take both from one place."
            )
        return ModelSpec(
            transformer=config,
            vae=vae_config(vae.shapes, vae.config, vae.path),
            settings=LONGLIVE_5B.settings,
        )

    def checked_spec(self) -> ModelSpec:
        """The sizes of the model, whose files hold all of its weights and no others.

        Raises:
            ValueError: names, shapes or types in a file do not fit, or there is no tokenizer.
        """
        spec = self.spec()
        for part in (self.transformer, self.vae, self.text):
            require_whole(part)
        require_tokenizer(self.tokenizer)
        return spec


def open_files(files: PublishedFiles) -> OpenedFiles:
    """Open the parts of a model; reads no weights.

    Raises:
        ValueError: a file is incomplete, or of another part or model.
    """
    return OpenedFiles(
        transformer=open_part(files.transformer, "transformer"),
        vae=open_part(files.vae, "vae"),
        text=open_part(files.text, "text_encoder"),
        tokenizer=files.tokenizer,
    )


def holds_packed(transformer: Path) -> bool:
    """Whether the weights in a transformer's file or folder are in four bits; reads none."""
    return bool(open_part(transformer, "transformer").packed)


def load_published(
    files: PublishedFiles | OpenedFiles,
    *,
    runtime: Runtime,
    spec: ModelSpec | None = None,
    text_config: UMT5Config | None = None,
    reduce_amax: ReduceAmax | None = None,
    check: bool = True,
) -> tuple[WanTransformer, WanVAE, UMT5TextEncoder]:
    """Load the parts of a model to the CPU; the large files are mapped, not copied.

    Plain linears whose precision is below 16 bits are quantized on the way, one after another, on
    the device where they will run (``longlive_models.quantized_filling``).

    Args:
        files: the parts' files.
        runtime: names the backends of attention and of packed linears.
        spec, text_config: the sizes that the files must have; those of their shapes by default.
        reduce_amax: for linears whose inputs several ranks share (``NVFP4Linear``).
        check: search the weights for NaN and infinities, which reads every value.

    Raises:
        ValueError: a file holds other weights; nothing has been read of any then.
    """
    opened = open_files(files) if isinstance(files, PublishedFiles) else files
    spec = opened.spec() if spec is None else spec
    sizes = opened.text_config if text_config is None else text_config
    with unfilled():
        transformer = WanTransformer(spec.transformer, attention=runtime.attention)
        vae = WanVAE(spec.vae)
    for part, shapes, model in (
        (opened.transformer, shapes_of(transformer), "WanTransformer"),
        (opened.vae, shapes_of(vae), "WanVAE"),
        (opened.text, published_shapes(sizes), "UMT5 encoder"),
    ):
        require_weights(part, shapes, model)
    _fill_transformer(transformer, opened.transformer, runtime, reduce_amax, check=check)
    fill(vae, opened.vae.read(check=check), opened.vae.path)
    vae.reset_statistics()
    words = opened.text.read(check=check, placed=lambda weight: weight.to(torch.bfloat16))
    text = load_umt5(words, opened.tokenizer, config=sizes)
    return transformer, vae.eval(), text


def _fill_transformer(
    transformer: WanTransformer,
    part: PartFile,
    runtime: Runtime,
    reduce_amax: ReduceAmax | None,
    *,
    check: bool,
) -> None:
    config = part.packed_config()
    if config is None and runtime.linears is not None:
        fill_quantized(transformer, part, runtime, reduce_amax, check=check)
        return
    tensors = part.read(check=check, placed=runtime.placing())
    if config is None:
        fill(transformer, tensors, part.path)
        return
    load_packed(
        transformer,
        tensors,
        config,
        run=runtime.packed_linears(config),
        reduce_amax=reduce_amax,
        source=part.path,
    )


def _roots(path: Path) -> list[Path]:
    """The folders in which the base model's files are looked for."""
    folder = path.parent if path.is_file() else path
    roots = [folder / inside for inside in _INSIDE]
    if path.is_file() or (folder.name == "transformer" and is_foreign_transformer(folder)):
        roots += [folder.parent / inside for inside in _INSIDE]
    return roots


def _locate(roots: list[Path], name: str) -> Path | None:
    for root in roots:
        for known in _NAMES[name]:
            if (root / known).exists():
                return root / known
        for folder in _FOLDERS[name]:
            if (root / folder / "config.json").is_file():
                return root / folder
            for known in _NAMES[name]:
                if (root / folder / known).exists():
                    return root / folder / known
    return None


def _base(*, download: bool) -> list[Path]:
    """The base model's folder in the local hub cache, in a list; empty if it is not there."""
    try:
        return [snapshot(BASE, download=download, patterns=(VAE, TEXT, f"{TOKENIZER}/*"))]
    except ValueError:
        if download:
            raise
        return []

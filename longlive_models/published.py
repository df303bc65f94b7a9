"""LongLive-2.0-5B from its files as they were published, without converting them first.

The transformer's file comes from the LongLive-2.0 repository, the others from the base model's,
Wan2.2-TI2V-5B. All may lie in one folder; the base model's may also lie in a folder of its own
inside it, or in the local hub cache::

    model_bf16.pt                               transformer (or model_te.pt, which holds bf16 too;
                                                or model_4o6.pt, packed in four bits)
    Wan2.2_VAE.pth                              VAE
    models_t5_umt5-xxl-enc-bf16.pth             text encoder
    google/umt5-xxl/                            its tokenizer
"""

from dataclasses import dataclass
from pathlib import Path

from longlive_models.checkpoints.folder import fill, unfilled
from longlive_models.checkpoints.hub import PACKED_WEIGHTS, PUBLISHED_WEIGHTS, snapshot
from longlive_models.checkpoints.nvfp4 import ReduceAmax, load_packed, read_published
from longlive_models.runtime import Runtime
from longlive_models.settings import GenerationSettings, ModelSpec
from longlive_models.text import UMT5_XXL, UMT5Config, UMT5TextEncoder, load_umt5
from longlive_models.vae import WAN22_VAE, WanVAE, load_vae
from longlive_models.wan import WAN_5B, WanTransformer, read_state_dict

BASE = "Wan-AI/Wan2.2-TI2V-5B"
VAE, TEXT, TOKENIZER = (
    "Wan2.2_VAE.pth",
    "models_t5_umt5-xxl-enc-bf16.pth",
    "google/umt5-xxl",
)
_INSIDE = ("", "Wan2.2-TI2V-5B", "wan_models/Wan2.2-TI2V-5B")

LONGLIVE_5B = ModelSpec(
    transformer=WAN_5B,
    vae=WAN22_VAE,
    settings=GenerationSettings(height=704, width=1280, fps=24.0, steps=4),
)
"""LongLive-2.0-5B as it is meant to be run: 4 steps, no guidance, a window of 4 blocks."""


@dataclass(frozen=True, kw_only=True)
class PublishedFiles:
    """Where the published files are; all of them exist."""

    transformer: Path
    vae: Path
    text: Path
    tokenizer: Path


def find_files(folder: Path, *, packed: bool = False, download: bool = False) -> PublishedFiles:
    """The published files in ``folder``, the base model's also from the local hub cache.

    Args:
        folder: holds the transformer's file.
        packed: take the transformer in four bits where both are there, else in bf16.
        download: fetch what is missing of the base model's.

    Raises:
        ValueError: some are missing, by name.
    """
    roots = [folder / inside for inside in _INSIDE]
    needed = (VAE, TEXT, TOKENIZER)
    if not all(_locate(roots, name) for name in needed):
        roots += _base(download=download)
    found = {name: path for name in needed if (path := _locate(roots, name))}
    weights = find_weights(folder, packed=packed)
    missing = [name for name in needed if name not in found]
    if weights is None or missing:
        names = missing if weights else [PUBLISHED_WEIGHTS[0], *missing]
        raise ValueError(
            f"{folder} lacks {', '.join(names)} of the published model: {VAE}, {TEXT} and the "
            f"tokenizer's folder {TOKENIZER} are files of {BASE}. Put or link them there, or fetch "
            f"them with `hf download {BASE} {VAE} {TEXT} --include '{TOKENIZER}/*'`."
        )
    return PublishedFiles(
        transformer=weights, vae=found[VAE], text=found[TEXT], tokenizer=found[TOKENIZER]
    )


def find_weights(folder: Path, *, packed: bool = False) -> Path | None:
    """The transformer's file, if there is one; ``packed`` as ``find_files`` has it."""
    names = PUBLISHED_WEIGHTS[::-1] if packed else PUBLISHED_WEIGHTS
    return next((path for name in names if (path := _locate([folder], name))), None)


def load_published(
    files: PublishedFiles,
    *,
    runtime: Runtime,
    spec: ModelSpec = LONGLIVE_5B,
    text_config: UMT5Config = UMT5_XXL,
    reduce_amax: ReduceAmax | None = None,
) -> tuple[WanTransformer, WanVAE, UMT5TextEncoder]:
    """The parts of the published model on the CPU; the large files are mapped, not copied.

    ``spec`` and ``text_config`` say what sizes the files have: those of LongLive-2.0-5B unless
    given. ``runtime`` names the transformer's attention, and how linears run that a file holds
    packed, ``reduce_amax`` what ranks that share their inputs do. Raises ValueError if a file holds
    other weights.
    """
    with unfilled():
        transformer = WanTransformer(spec.transformer, attention=runtime.attention)
    if files.transformer.name == PACKED_WEIGHTS:
        tensors, config = read_published(files.transformer)
        run = runtime.packed_linears(config)
        load_packed(
            transformer,
            tensors,
            config,
            run=run,
            reduce_amax=reduce_amax,
            source=files.transformer,
        )
    else:
        fill(transformer, read_state_dict(files.transformer), files.transformer)
    vae = load_vae(files.vae, config=spec.vae)
    return transformer, vae, load_umt5(files.text, files.tokenizer, config=text_config)


def _locate(roots: list[Path], name: str) -> Path | None:
    return next((root / name for root in roots if (root / name).exists()), None)


def _base(*, download: bool) -> list[Path]:
    """The base model's folder in the local hub cache, if it is there or may be fetched."""
    try:
        return [snapshot(BASE, download=download, patterns=(VAE, TEXT, f"{TOKENIZER}/*"))]
    except ValueError:
        if download:
            raise
        return []

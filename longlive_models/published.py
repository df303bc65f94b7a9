"""Loading LongLive-2.0-5B from its files as they were published, without converting them first.

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
"""The settings of LongLive-2.0-5B: 4 steps, no guidance, a window of 4 blocks."""


@dataclass(frozen=True, kw_only=True)
class PublishedFiles:
    """The paths of the published files; all of them exist."""

    transformer: Path
    vae: Path
    text: Path
    tokenizer: Path


def find_files(folder: Path, *, packed: bool = False, download: bool = False) -> PublishedFiles:
    """Find the published files in ``folder``, and those of the base model also in the hub cache.

    Args:
        folder: the folder that holds the transformer's file.
        packed: if the transformer is there in four bits and in bf16, take the former.
        download: fetch files of the base model that are missing.

    Raises:
        ValueError: some files are missing; the message names them.
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
    """The transformer's file in ``folder``, or None; ``packed`` is that of ``find_files``."""
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
    """Load the parts of the published model to the CPU; the large files are mapped, not copied.

    ``spec`` and ``text_config`` are the sizes of the files, those of LongLive-2.0-5B by default.
    ``runtime`` names the backends of attention and of packed linears, and ``reduce_amax`` is for
    linears whose inputs several ranks share (``NVFP4Linear``). Raises ValueError if a file holds
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
    """The base model's folder in the local hub cache, in a list; empty if it is not there."""
    try:
        return [snapshot(BASE, download=download, patterns=(VAE, TEXT, f"{TOKENIZER}/*"))]
    except ValueError:
        if download:
            raise
        return []

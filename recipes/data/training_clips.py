"""A cache of one's own clips as a training recipe takes them: read, cut to length, checked."""

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from longlive_core.names import few
from longlive_models.checkpoints.folder import fingerprint
from longlive_models.checkpoints.tensor_files import read_safetensors
from longlive_models.prompts.storyboard import SCENE_CUT_PREFIX
from longlive_models.text import PocketTextConfig, UMT5Config
from longlive_models.text.tokenizer import WordTokenizer, words
from longlive_models.timing import BlockTiming
from longlive_recipes.data.cache_index import CachedClip, CacheIndex, file_hash, read_index
from longlive_recipes.data.splits import captions_of
from longlive_recipes.data.text_features import prompts_of
from longlive_recipes.moving_shapes.dataset import LatentClips
from longlive_recipes.training.export import find_vae


def load_clips(
    cache: Path, clips: Sequence[CachedClip], *, blocks: int, frames_per_block: int
) -> LatentClips:
    """The first ``blocks`` blocks of each of these clips, on the CPU.

    A shorter clip is filled up with zeros; it has fewer captions.

    Raises:
        ValueError: a file of the cache is not there, not whole, or lacks a clip.
    """
    found = {}
    for shard in dict.fromkeys(clip.shard for clip in clips):
        tensors = read_safetensors(cache / shard)
        for clip in (one for one in clips if one.shard == shard):
            if clip.tensor not in tensors:
                raise ValueError(
                    f"{cache / shard} does not hold clip {clip.number} of {clip.source!r}, as the "
                    f"index says: it was changed. Run `longlive data prepare` again, which makes "
                    f"what is missing."
                )
            found[clip.tensor] = _as_long(tensors[clip.tensor], blocks * frames_per_block)
    cuts = [(*clip.cuts, *[False] * blocks)[:blocks] for clip in clips]
    return LatentClips(
        torch.stack([found[clip.tensor] for clip in clips]),
        tuple(clip.captions[:blocks] for clip in clips),
        torch.tensor(cuts, dtype=torch.bool, device="cpu"),
    )


def _as_long(latents: Tensor, frames: int) -> Tensor:
    """The first frames, and zeros for those that are missing; a new tensor."""
    missing = max(0, frames - latents.shape[1])
    return torch.nn.functional.pad(latents[:, :frames].clone(), (0, 0, 0, 0, 0, missing))


def check_cache(
    cache: Path,
    *,
    size: tuple[int, int],
    timing: BlockTiming,
    text: PocketTextConfig | UMT5Config,
    vae: str,
    learns: bool = True,
) -> CacheIndex:
    """The index of a cache that fits what is trained on it.

    Args:
        size: height and width in pixels.
        vae: a folder or a model's name.
        learns: whether the text encoder is trained, and so can learn words.

    Raises:
        ValueError: another size, rate, length of blocks or VAE; words that the text encoder would
            not know, or captions that it would cut; files that are gone or were changed.
    """
    index = read_index(cache)
    held = index.settings
    for name, own, theirs in (
        ("world.size", size[0], held.height),
        ("width", size[1], held.width),
        ("world.fps", float(timing.fps), held.fps),
        ("model.frames_per_block", timing.frames_per_block, held.frames_per_block),
        ("the VAE's frames in a latent", timing.temporal_factor, held.temporal_factor),
    ):
        if own != theirs:
            raise ValueError(
                f"{name} is {own:g}, and the clips of {cache} were prepared for {theirs:g}: they "
                f"would be trained on as something else. Use {theirs:g}, or prepare them again."
            )
    if fingerprint(find_vae(vae)) != held.vae:
        raise ValueError(
            f"vae={vae!r} is not the VAE that encoded {cache}: its latents would decode to other "
            f"pictures. Name that one, or prepare the clips again with --model {vae}."
        )
    if isinstance(text, PocketTextConfig):
        _check_words(index, text, learns)
    elif missing := [prompt for prompt in prompts_of(index) if prompt not in index.prompts]:
        raise ValueError(
            f"{cache} has no features of {few(missing)}: its captions were kept as text alone, for "
            f"a text encoder that trains along, and this one is frozen. Prepare the clips again "
            f"with --model and the folder of the published model."
        )
    for shard, digest in index.shards.items():
        if not (cache / shard).is_file() or file_hash(cache / shard) != digest:
            raise ValueError(
                f"{cache / shard} is gone or was changed since it was written: what it holds is "
                f"not known. Run `longlive data prepare` again, which makes it anew."
            )
    return index


def _check_words(index: CacheIndex, text: PocketTextConfig, learns: bool) -> None:
    tokenizer = WordTokenizer(text.vocab, text.text_len)
    prompts = [SCENE_CUT_PREFIX + caption for caption in captions_of(index)]
    unknown = sorted({word for prompt in prompts for word in tokenizer.unknown(prompt)})
    if unknown and not learns:
        raise ValueError(
            f"the text encoder does not know {len(unknown)} words of the captions "
            f"({few(unknown)}), and is frozen, so that it would not learn them. Use other words, "
            f"or train all weights from that model (longlive train ar_pocket --set "
            f"start_from=MODEL), which learns new words."
        )
    if unknown:
        raise ValueError(
            f"text.vocab lacks {len(unknown)} words of the captions ({few(unknown)}): they would "
            f"all read as one unknown word. Add them; `longlive train --data` does."
        )
    longest = max(prompts, key=lambda prompt: len(words(prompt)))
    count = len(words(longest))
    if count > text.text_len - 1:
        raise ValueError(
            f"text.text_len={text.text_len} has room for {text.text_len - 1} words, and the "
            f"longest caption has {count} with what stands before it at a cut: its last ones would "
            f"be lost. Use --set text.text_len={count + 1} --set model.text_len={count + 1}, or "
            f"shorten it."
        )

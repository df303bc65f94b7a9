"""What VBench wants before it can judge: a folder of videos with its names, prompts, and weights.

VBench (github.com/Vchitect/VBench) brings its own prompts, in ``VBench_full_info.json``; nothing of
it is shipped here, and nothing is fetched. A video is called by its prompt and its number.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from longlive_core.checks import shown, whole
from longlive_models.documents import parse_json, read_text
from longlive_models.file_names import part

SAMPLES = 5
"""How many videos VBench takes of each prompt."""

CACHE = Path("~/.cache/vbench")
"""Where VBench looks for weights."""

_CLIP_B, _CLIP_L = "clip_model/ViT-B-32.pt", "clip_model/ViT-L-14.pt"
_GRIT = ("grit_model/grit_b_densecap_objectdet.pth",)
_VICLIP = ("ViCLIP/ViClip-InternVid-10M-FLT.pth",)

WEIGHTS: dict[str, tuple[str, ...]] = {
    "subject_consistency": ("dino_model/dino_vitbase16_pretrain.pth",),
    "background_consistency": (_CLIP_B,),
    "temporal_flickering": (),
    "motion_smoothness": ("amt_model/amt-s.pth",),
    "dynamic_degree": ("raft_model/models/raft-things.pth",),
    "aesthetic_quality": (_CLIP_L, "aesthetic_model/emb_reader/sa_0_4_vit_l_14_linear.pth"),
    "imaging_quality": ("pyiqa_model/musiq_spaq_ckpt-358bb6af.pth",),
    "object_class": _GRIT,
    "multiple_objects": _GRIT,
    "color": _GRIT,
    "spatial_relationship": _GRIT,
    "human_action": ("umt_model/l16_ptk710_ftk710_ftk400_f16_res224.pth",),
    "scene": ("caption_model/tag2text_swin_14m.pth",),
    "appearance_style": (_CLIP_B,),
    "temporal_style": _VICLIP,
    "overall_consistency": _VICLIP,
}
"""The files of each dimension, below VBench's cache."""

PROMPTS, VIDEOS = "prompts.jsonl", "videos"


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A folder that was made ready.

    Attributes:
        folder: it.
        prompts: the file for ``longlive generate --prompts``.
        videos: where the videos go.
        count: how many videos there will be.
        missing: the weight files that VBench lacks, each with the dimensions that need it.
    """

    folder: Path
    prompts: Path
    videos: Path
    count: int
    missing: dict[str, tuple[str, ...]]


def read_prompts(info: Path) -> list[tuple[str, tuple[str, ...]]]:
    """The prompts of VBench's list, each with its dimensions.

    Raises:
        ValueError: the file is not there, or is another one.
    """
    entries = parse_json(read_text(info, "VBench's list of prompts"), str(info))
    if not isinstance(entries, list):
        raise ValueError(
            f"{info} holds {shown(entries)}, and VBench's list of prompts is a list of objects: "
            f"name its VBench_full_info.json."
        )
    found: dict[str, tuple[str, ...]] = {}
    for place, entry in enumerate(entries):
        prompt = entry.get("prompt_en") if isinstance(entry, dict) else None
        dimensions = entry.get("dimension") if isinstance(entry, dict) else None
        if not isinstance(prompt, str) or not isinstance(dimensions, list) or not prompt.strip():
            raise ValueError(
                f"{info}, entry {place}: VBench's list has objects with 'prompt_en' and "
                f"'dimension', got {shown(entry)}. Name its VBench_full_info.json."
            )
        unknown = [one for one in dimensions if one not in WEIGHTS]
        if unknown:
            raise ValueError(
                f"{info}, entry {place}: {shown(unknown[0])} is no dimension of VBench, which has "
                f"{', '.join(WEIGHTS)}."
            )
        found[prompt] = (*found.get(prompt, ()), *dimensions)
    if not found:
        raise ValueError(f"{info} holds no prompts: name VBench's VBench_full_info.json.")
    return list(found.items())


def prepare(
    info: Path, folder: Path, *, samples: int = SAMPLES, seed: int = 0, cache: Path = CACHE
) -> Prepared:
    """Write VBench's folder: its list, the prompts for ``longlive generate``, room for the videos.

    Args:
        info: VBench's ``VBench_full_info.json``.
        folder: what is made; it must not exist.
        samples: videos of each prompt.
        seed: of the first video of each prompt; the others follow.
        cache: where VBench looks for weights.

    Raises:
        ValueError: the list cannot be read, or the folder exists.
    """
    samples = whole("samples", samples, at_least=1, why="VBench takes 5 videos of a prompt.")
    prompts = read_prompts(info)
    if folder.exists():
        raise ValueError(f"{folder} exists: VBench's folder is a new one. Name another --output.")
    new = folder.with_name(part(folder.name))
    (new / VIDEOS).mkdir(parents=True)
    try:
        lines = [
            json.dumps({"id": f"{prompt}-{number}", "prompt": prompt, "seed": seed + number})
            for prompt, _ in prompts
            for number in range(samples)
        ]
        (new / PROMPTS).write_text("\n".join(lines) + "\n", encoding="utf-8")
        shutil.copyfile(info, new / "VBench_full_info.json")
        new.rename(folder)
    except OSError:
        shutil.rmtree(new, ignore_errors=True)
        raise
    dimensions = dict.fromkeys(one for _, several in prompts for one in several)
    return Prepared(
        folder=folder,
        prompts=folder / PROMPTS,
        videos=folder / VIDEOS,
        count=len(prompts) * samples,
        missing=missing_weights(tuple(dimensions), cache),
    )


def missing_weights(dimensions: tuple[str, ...], cache: Path = CACHE) -> dict[str, tuple[str, ...]]:
    """The weight files that are not in VBench's cache, each with the dimensions that need it."""
    root = cache.expanduser()
    missing: dict[str, tuple[str, ...]] = {}
    for dimension in dimensions:
        for file in WEIGHTS[dimension]:
            if not (root / file).is_file():
                missing[file] = (*missing.get(file, ()), dimension)
    return missing

"""Draw the pictures of the README: an animation of six prompts and a sheet of their frames.

Run: `python examples/showcase.py FOLDER`
"""

import sys
from pathlib import Path

import torch

from longlive_models import LongLivePipeline
from longlive_models.video.files import VideoWriter, contact_sheet, write_png

PROMPTS = (
    "a red circle moves right on a navy background",
    "a yellow star bounces on a black background",
    "a pink heart orbits on a gray background",
    "a white cross grows on a teal background",
    "a purple ring moves left on a white background",
    "an orange diamond moves down on a navy background",
)


def main(folder: Path, seconds: float = 4.0) -> None:
    """Write ``pocket.gif`` (every other frame, three prompts a row) and ``pocket.png``."""
    folder.mkdir(parents=True, exist_ok=True)
    pipe = LongLivePipeline.from_pretrained("pocket")
    videos = [pipe(prompt, seconds=seconds, seed=seed) for seed, prompt in enumerate(PROMPTS)]
    clips = [video.frames[::2] for video in videos]
    rows = [torch.cat(clips[first : first + 3], dim=2) for first in (0, 3)]
    animation = torch.cat(rows, dim=1)
    size = (animation.shape[1], animation.shape[2])
    path = folder / "pocket.gif"
    with VideoWriter(path, fps=videos[0].fps / 2, size=size, overwrite=True) as writer:
        writer.write(animation)
    sheet = torch.cat([contact_sheet(clip[::3], columns=8) for clip in clips])
    write_png(folder / "pocket.png", sheet)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("name the folder whose pocket.gif and pocket.png are to be drawn")
    main(Path(sys.argv[1]))

"""A prompt becomes a video file, in a new folder.

Run: `python examples/generate_video.py`
"""

import tempfile
from pathlib import Path

from longlive_models import LongLivePipeline


def main(
    output: Path,
    prompt: str = "a blue square moves left on a white background",
    seconds: float = 2.0,
    model: str = "pocket",
) -> Path:
    """Generate and save a video. The same seed gives the same one, and the start of any longer."""
    pipe = LongLivePipeline.from_pretrained(model)
    video = pipe(prompt, seconds=seconds, seed=0)
    height, width = video.frames.shape[1:3]
    print(f"{len(video.frames)} frames of {width}x{height} at {video.fps:g} a second")
    return video.save(output)


if __name__ == "__main__":
    print(main(Path(tempfile.mkdtemp(prefix="longlive-"), "square.mp4")))

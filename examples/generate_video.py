"""A prompt becomes a video file.

Run: `python examples/generate_video.py`
"""

from pathlib import Path

from longlive_models import LongLivePipeline


def main(
    output: Path = Path("circle.mp4"),
    prompt: str = "a red circle moves right on a navy background",
    seconds: float = 2.0,
    model: str = "pocket",
) -> Path:
    """Generate and save a video. The same seed gives the same one, and the start of any longer."""
    pipe = LongLivePipeline.from_pretrained(model)
    video = pipe(prompt, seconds=seconds, seed=7)
    height, width = video.frames.shape[1:3]
    print(f"{len(video.frames)} frames of {width}x{height} at {video.fps:g} a second")
    return video.save(output, overwrite=True)


if __name__ == "__main__":
    main()

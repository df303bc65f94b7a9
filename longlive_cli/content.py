"""Reading what a command line asks to be made: prompts, a snapshot, or a record."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from longlive_cli.refusals import option_of, refuse_beside

if TYPE_CHECKING:
    from longlive_recipes.configs.generate import Generate, Snapshots, VideoJob
    from longlive_recipes.generation.inputs import Named

MOST_VIDEOS = 100_000
"""The most videos of one command: all of them are planned before the first is made."""


@dataclass(frozen=True, kw_only=True)
class Content:
    """The options that say what is shown; those that were not given are None or ()."""

    prompt: str | None = None
    prompts: Path | None = None
    one_video_a_line: bool = False
    storyboard: Path | None = None
    image: Path | None = None
    video: Path | None = None
    cut: bool = False
    video_prompt: str | None = None
    seed: int | None = None
    count: int = 1
    resume: Path | None = None
    forks: tuple[str, ...] = ()
    only_new: bool = False
    replay: Path | None = None
    one_video: bool = False
    """Whether the command makes one video, and so has no ``--prompts``."""

    def read(
        self,
        options: Mapping[str, Any],
        *,
        overrides: list[str] | None = None,
        file: Path | None = None,
        base: "Generate | None" = None,
    ) -> "tuple[Generate, list[VideoJob]]":
        """Read the config and the requested videos.

        Args:
            options: the options that are fields of the config; None if they were not given.
            overrides: ``name=value`` for other fields.
            file: a YAML file of fields.
            base: the config that they change, unless a snapshot or record has one.

            Raises:
                ValueError: nothing is to be shown, two options contradict each other, or a file
                    cannot be read.
        """
        from longlive_cli.overrides import apply_mapping, configure, refuse_given_twice
        from longlive_recipes.configs.generate import Generate

        named = {name: value for name, value in options.items() if value is not None}
        _refuse_empty(named)
        refuse_given_twice(named, overrides)
        self._refuse_what_does_not_go_together(named, file)
        config, jobs = self._from_the_past()
        if not jobs:
            config, jobs = configure(base or Generate(), file=file), self._from_prompts()
        return configure(apply_mapping(config, named), overrides=overrides), jobs

    def files(self) -> "list[Named]":
        """The files that say what is shown, without images, which the jobs have."""
        found: list[Named] = []
        for option, path in (("--prompts", self.prompts), ("--storyboard", self.storyboard)):
            inside = path.glob("**/*") if path is not None and path.is_dir() else ()
            found += [(option, one) for one in (path, *inside) if one is not None and one.is_file()]
        return found

    @staticmethod
    def output(jobs: "list[VideoJob]") -> Path:
        """The output without ``--output``."""
        from longlive_recipes.generation.outputs import default_output

        return default_output(jobs)

    def _refuse_what_does_not_go_together(
        self, options: Mapping[str, Any], file: Path | None
    ) -> None:
        shown = {
            "PROMPT": self.prompt,
            "--prompts": self.prompts,
            "--storyboard": self.storyboard,
        }
        rest = {
            "--image": self.image,
            "--video": self.video,
            "--seed": self.seed,
            "--count": None if self.count == 1 else self.count,
            **{
                f"--{name}": options.get(name)
                for name in ("seconds", "sampler", "steps", "guidance")
            },
            "--negative-prompt": options.get("negative_prompt"),
            "--config": file,
        }
        if self.forks and self.resume is None:
            raise ValueError(
                f"--fork {self.forks[0]!r} has no snapshot to begin with: write one with "
                f"--snapshot, and name it with --resume."
            )
        if self.only_new and self.resume is None:
            raise ValueError("--only-new leaves out what a video had before --resume FILE: add it.")
        if self.one_video_a_line and self.prompts is None:
            raise ValueError(
                "--one-video-a-line says how the lines of --prompts FILE are read: add it."
            )
        self._refuse_half_a_clip()
        if self.resume is not None:
            says = f"{self.resume} says what is shown, and how"
            refuse_beside("--resume", {**shown, **rest, "--replay": self.replay}, says)
        elif self.replay is not None:
            says = f"{self.replay} says what is shown, and how"
            refuse_beside("--replay", {**shown, **rest}, says)
        else:
            given = [name for name, value in shown.items() if value is not None]
            if len(given) != 1:
                got = " and ".join(given) if given else "none of them"
                files = "" if self.one_video else ", --prompts FILE"
                raise ValueError(
                    f"a video needs one of PROMPT{files} and --storyboard FILE, got {got}."
                )

    def _refuse_half_a_clip(self) -> None:
        if self.video is None and (self.cut or self.video_prompt is not None):
            given = "--cut" if self.cut else "--video-prompt"
            raise ValueError(
                f"{given} is about the clip of --video FILE, that a video goes on from: add it."
            )
        if self.video_prompt is not None and not self.cut:
            raise ValueError(
                "--video-prompt is for a clip that a cut follows: without one, the clip and what "
                "comes next are one shot with one prompt. Add --cut, or leave it out."
            )
        if self.video is not None and self.image is not None:
            raise ValueError(
                "--image and --video both say what the video begins with: leave one of them out."
            )

    def _from_the_past(self) -> "tuple[Any, list[VideoJob]]":
        if self.resume is None and self.replay is None:
            return None, []
        from longlive_recipes.generation.commands import parse_ending

        endings = [parse_ending(text) for text in self.forks]
        if self.resume is not None:
            _require(self.resume, "snapshot", "a video goes on from a file that --snapshot wrote")
        if self.replay is not None:
            _require(self.replay, "record", "it is the .json file beside a video")

        from longlive_recipes.generation import jobs

        if self.resume is not None:
            return jobs.resume(self.resume, endings, only_new=self.only_new)
        if self.replay is not None:
            config, job = jobs.replay(self.replay)
            return config, [job]
        return None, []

    def _from_prompts(self) -> "list[VideoJob]":
        """The requested videos, each with its own name, made of its id or number and its seed."""
        from longlive_models.file_names import require_distinct, require_name
        from longlive_models.prompts.files import VideoRequest, read_prompts
        from longlive_models.prompts.storyboard import Storyboard
        from longlive_recipes.configs.generate import GivenClip, VideoJob
        from longlive_recipes.generation.outputs import seed_names

        file = self.prompts or self.storyboard
        if file is None:
            requests = [VideoRequest(storyboard=Storyboard.of(self.prompt or ""))]
        else:
            requests = read_prompts(file, lines="videos" if self.one_video_a_line else "shots")
        if self.storyboard is not None and self.storyboard.suffix.lower() not in (".json", ".txt"):
            raise ValueError(
                f"a storyboard is a .json file of shots, or a .txt file with a shot a line, got "
                f"{self.storyboard}: several videos come from --prompts."
            )
        if len(requests) * self.count > MOST_VIDEOS:
            raise ValueError(
                f"{len(requests)} prompts, {self.count} times each, are more than the "
                f"{MOST_VIDEOS:,} videos that one command plans: lower --count."
            )
        clip = None
        if self.video is not None:
            path = Path(os.path.realpath(self.video))
            clip = GivenClip(path=path, cut=self.cut, prompt=self.video_prompt)
        alone = "video" if file is None else file.stem
        jobs: list[VideoJob] = []
        for place, request in enumerate(requests):
            first = (self.seed or 0) if request.seed is None else request.seed
            seeds = range(first, first + self.count)
            image = request.image or self.image
            start = request.id or (alone if len(requests) == 1 else f"{place:03d}")
            names = [request.id] if request.id and self.count == 1 else seed_names(seeds, start)
            for name, seed in zip(names, seeds, strict=True):
                require_name(name, "an id")
                jobs.append(
                    VideoJob(
                        name=name,
                        story=request.storyboard,
                        seed=seed,
                        image=Path(os.path.realpath(image)) if image else None,
                        clip=None if request.image else clip,
                    )
                )
        require_distinct([job.name for job in jobs], f"prompts of {file}")
        return jobs


def look_at_files(
    content: Content,
    config_file: Path | None,
    config: "Generate",
    jobs: "list[VideoJob]",
    output: Path,
    overwrite: bool,
    snapshots: "Snapshots | None",
    *,
    typed: bool = False,
) -> "list[Named]":
    """Check all inputs and outputs, and that the model exists, before torch is loaded.

    Args:
        typed: commands are read from standard input, which may be a file.

    Returns:
        the inputs beside the jobs' own.

    Raises:
        ValueError: see ``outputs.check_files`` of the recipes, and ``hub.resolve`` of the models.
    """
    from longlive_models.checkpoints.hub import resolve
    from longlive_recipes.generation.outputs import check_files

    reads = content.files()
    if config_file is not None:
        reads.append(("--config", config_file))
    if typed and Path("/dev/stdin").exists():
        reads.append(("standard input", Path("/dev/stdin")))
    check_files(config, jobs, output, overwrite, snapshots, reads)
    if not config.download:
        resolve(config.model)
    return reads


def _require(path: Path, what: str, why: str) -> None:
    """Raise ValueError unless a file exists that is no video."""
    from longlive_models.video.file_name import SUFFIXES

    if path.suffix.lower() in SUFFIXES and path.exists():
        beside = f" Name {path.with_suffix('.json')}." if what == "record" else " Name that file."
        raise ValueError(f"{path} is a video, and no {what} of one: {why}.{beside}")
    if not path.is_file():
        raise ValueError(f"there is no {what} {str(path)!r}: {why}. Check the path.")


def _refuse_empty(options: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that was given and is empty; a negative prompt may be."""
    for name, value in options.items():
        if isinstance(value, str) and not value.strip() and name != "negative_prompt":
            raise ValueError(
                f"{option_of(name)} {value!r} says nothing: write a value, or leave the "
                f"option out for its default."
            )


def read_snapshots(path: Path | None, every: int | None) -> Any:
    """The config of snapshots; None if none are asked for.

    Raises:
        ValueError: an interval without a file, or one below a block.
    """
    from longlive_recipes.configs.generate import Snapshots

    if path is None:
        if every is not None:
            raise ValueError(
                f"--snapshot-every {every} says how often, and nothing says where: add --snapshot "
                f"FILE."
            )
        return None
    return Snapshots(path=path, every=every)

"""Generation over several ranks: each video by a group of ranks, several videos at the same time.

The ranks of a group denoise a video together: each has some frames of a block, and some heads in
attention and in the cache. The first of them decodes and writes. Groups share out the videos. The
same seed gives the same video for any number of ranks, up to the order of sums.

Command:  longlive generate "a red circle moves right on a navy background" --nproc 2
"""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from pytorch_lightning import LightningModule, Trainer
from torch.utils.data import DataLoader

from longlive_models.runtime import Runtime
from longlive_recipes.configs.generate import Generate, Snapshots, VideoJob
from longlive_recipes.generate import Progress, generate_one
from longlive_recipes.generation.plan import Plan, plan
from longlive_recipes.generation.session import load_pipeline, open_stream, open_video_session
from longlive_recipes.generation.sidecar import Result
from longlive_recipes.training.fit import lightning_is_brief
from longlive_recipes.training.parallel import Parallel, Ranks
from longlive_recipes.training.sharded_strategy import strategy


def spread(ranks: int, videos: int, nodes: int = 1) -> Parallel:
    """Divide ``ranks`` ranks into equal groups that each make a video: as many as there are videos.

    ``nodes`` machines have the same number of ranks each.
    """
    data = max(size for size in range(1, ranks + 1) if ranks % size == 0 and size <= videos)
    return Parallel(data=data, sequence=ranks // data, nodes=nodes)


def check(
    config: Generate,
    jobs: Sequence[VideoJob],
    parallel: Parallel,
    snapshots: Snapshots | None = None,
) -> None:
    """Raise ValueError for what cannot be done on several ranks."""
    goes_on = any(job.resume_point is not None or job.ending is not None for job in jobs)
    if goes_on or snapshots is not None:
        raise ValueError(
            f"a video goes on, is steered or is written to a snapshot on one rank, got "
            f"{parallel.ranks}: a snapshot holds all heads of the past. Leave out --nproc."
        )
    if config.device.startswith("cuda:"):
        raise ValueError(
            f"device={config.device!r} is one device, and {parallel.ranks} ranks take one each: "
            f"use 'cuda', 'cpu' or 'auto'."
        )
    on_gpu = config.device == "cuda" or (config.device == "auto" and torch.cuda.is_available())
    parallel.check_room(torch.device("cuda" if on_gpu else "cpu"))


def run(
    config: Generate,
    jobs: Sequence[VideoJob],
    output: Path,
    parallel: Parallel,
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> list[Result]:
    """Generate all jobs over several ranks, which this process starts unless torchrun did.

    Returns:
        in the first process all results, in order; in others none.

    Raises:
        ValueError, BackendUnavailable: what ``plan`` or ``check`` raises.
    """
    planned = plan(config, jobs, output, overwrite, ranks=parallel.ranks)
    return run_plan(planned, jobs, parallel, progress=progress, overwrite=overwrite)


def run_plan(
    planned: Plan,
    jobs: Sequence[VideoJob],
    parallel: Parallel,
    *,
    progress: Progress | None = None,
    overwrite: bool = False,
) -> list[Result]:
    """As ``run``, for a plan."""
    check(planned.config, jobs, parallel)
    module = GenerateModule(planned, jobs, progress=progress, overwrite=overwrite)
    accelerator = "gpu" if planned.device.startswith("cuda") else "cpu"
    with lightning_is_brief():
        trainer = Trainer(
            accelerator=accelerator,
            devices=parallel.ranks // parallel.nodes,
            num_nodes=parallel.nodes,
            strategy=strategy(parallel),
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader: DataLoader[int] = DataLoader(range(len(jobs)), batch_size=None)  # type: ignore[arg-type]
        trainer.predict(module, loader, return_predictions=False)
    made = module.ranks.gather(module.results)
    return [results[place] for place in range(len(jobs)) for results in made if place in results]


class GenerateModule(LightningModule):
    """Makes the videos that Lightning's sampler gives this rank's group.

    Attributes:
        results: the results of the videos that this rank wrote, by the index of the job.
    """

    def __init__(
        self,
        planned: Plan,
        jobs: Sequence[VideoJob],
        *,
        progress: Progress | None,
        overwrite: bool,
    ) -> None:
        super().__init__()
        self.planned = planned
        self.jobs = jobs
        self.progress = progress
        self.overwrite = overwrite
        self.ranks = Ranks()
        self.results: dict[int, Result] = {}

    def configure_model(self) -> None:
        """Find this rank's place; the model comes once the device is known."""
        if self.device_mesh is not None:
            self.ranks = Ranks.of(self.device_mesh)

    def on_predict_start(self) -> None:
        own = replace(self.planned.config, device=str(self.trainer.strategy.root_device))
        planned = replace(self.planned, runtime=Runtime.choose(own))
        self.pipeline = load_pipeline(planned, self.ranks.sequence)

    def predict_step(self, place: int) -> int:
        began = time.perf_counter()
        video = self.planned.videos[place]
        job = replace(self.jobs[place], name=video.name)
        if self.ranks.sequence.rank > 0:  # another rank decodes and writes
            for _ in open_stream(self.pipeline, self.planned, job):
                pass
            return place
        session = open_video_session(
            self.pipeline, self.planned, job, video, overwrite=self.overwrite, began=began
        )
        self.results[place] = generate_one(session, job, self.progress, None)
        return place

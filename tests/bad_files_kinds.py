"""Kinds of files that the library reads: how a good one is made, read, and may still change."""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, Literal

import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from longlive_cli.overrides import configure
from longlive_models import Storyboard, Video
from longlive_models.checkpoints.folder import load_folder, load_part
from longlive_models.checkpoints.model_folder import read_spec
from longlive_models.checkpoints.tensor_files import read_tensors
from longlive_models.first_frame import load_image
from longlive_models.lora import LoRAConfig, add_lora, load_lora, save_lora
from longlive_models.prompts.files import read_prompts
from longlive_models.settings import read_settings
from longlive_models.stream_snapshot import SnapshotSummary, StreamSnapshot
from longlive_models.video.reader import read_video
from longlive_recipes.configs.generate import Generate, VideoJob
from longlive_recipes.generate import run
from longlive_recipes.generation.jobs import replay
from longlive_recipes.run_record import as_plain, read_run_record, write_run_record
from longlive_recipes.train_ar import ar_tiny
from longlive_recipes.training.checkpoint_files import read_state
from tests.models.tiny_pipeline import tiny_pipeline, write_tiny_folder
from tests.recipes.tiny_runs import Toy, quiet_run, train_toy

Form = Literal["text", "document", "weights", "binary"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of file.

    Attributes:
        name: of the kind.
        write: makes a good file, and what it needs beside it, in a folder; returns the file.
        read: the library's reader of that file.
        form: what may be wrong with it.
        lines: any text is one.
        whole: a part of one is none.
            may_be_missing: its reader takes that as well.
        good: patterns of "FIELD is VALUE", with "missing" and "unknown" for values, and of what
            may be wrong with any file, that leave it good.
    """

    name: str
    write: Callable[[Path], Path]
    read: Callable[[Path], object]
    form: Form = "document"
    lines: bool = False
    whole: bool = True
    may_be_missing: bool = False
    good: tuple[str, ...] = ()

    @property
    def either(self) -> bool | None:
        """Whether a text of something else is one: what is right where it is seen or not."""
        return None if self.lines else False

    def takes(self, damage: str) -> bool:
        """Whether it may still be read."""
        return any(re.fullmatch(pattern, damage) for pattern in self.good)


def document(name: str, content: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        path = folder / name
        path.write_text(content if isinstance(content, str) else json.dumps(content) + "\n")
        return path

    return write


@cache
def model() -> Path:
    """A whole model, small."""
    return write_tiny_folder(Path(mkdtemp()) / "tiny")


def of_model(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        return write_tiny_folder(folder / "tiny") / name

    return write


def index_of_weights(folder: Path) -> Path:
    torch.manual_seed(0)
    for number in (1, 2):
        tensors = {f"layer{number}.weight": torch.randn(4, 4)}
        save_file(tensors, folder / f"model-0000{number}-of-00002.safetensors")
    places = {f"layer{n}.weight": f"model-0000{n}-of-00002.safetensors" for n in (1, 2)}
    index = {"metadata": {"total_size": 128}, "weight_map": places}
    return document("model.safetensors.index.json", index)(folder)


def linears() -> nn.ModuleDict:
    return nn.ModuleDict({"q": nn.Linear(16, 16), "k": nn.Linear(16, 16)})


def adapter(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.manual_seed(0)
        net = linears()
        add_lora(net, LoRAConfig(rank=4, alpha=8.0, targets=("q", "k")))
        save_lora(net, folder / "adapter", base_model="pocket")
        return folder / "adapter" / name

    return write


def snapshot(folder: Path) -> Path:
    pipe = tiny_pipeline(guidance=1.0)
    with pipe.stream("a red circle", seconds=2, seed=1) as stream:
        next(stream)
        stream.cut("a blue square", at="next")
        next(stream)
        return stream.snapshot(folder / "v.snapshot", notes={"video": "v.mp4"})


def record(folder: Path) -> Path:
    config = Generate(model=str(model()), device="cpu", seconds=1.0)
    story = Storyboard.of(["a red circle", "a blue square"])
    event = {"block": 1, "text": "a circle", "memory": "keep", "forget": False}
    run(config, [VideoJob(name="a", story=story, seed=3, events=(event,))], folder / "a.png")
    replayed = json.loads((folder / "a.json").read_text())
    needed = {name: replayed[name] for name in ("replay", "model_sha256", "settings")}
    return document("a.json", needed)(folder)


def record_of_run(folder: Path) -> Path:
    write_run_record(folder, Toy(run=quiet_run(folder)).budget, torch.device("cpu"))
    write_run_record(folder, None, torch.device("cpu"), resumed={"step": 3})
    kept = ("recipe", "config", "resumed")
    whole = json.loads((folder / "run.json").read_text())
    return document("run.json", {name: whole[name] for name in kept})(folder)


def checkpoint(folder: Path) -> Path:
    train_toy(Toy(run=quiet_run(folder / "run")))
    return folder / "run" / "checkpoints" / "last.ckpt"


def pickled(folder: Path) -> Path:
    torch.save({"a": torch.ones(3, 4), "b": torch.zeros(2)}, folder / "weights.pt")
    return folder / "weights.pt"


def picture(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        image = Image.effect_noise((48, 40), 60).convert("RGB")
        image.save(folder / name)
        return folder / name

    return write


def video(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        torch.manual_seed(0)
        frames = torch.randint(0, 256, (9, 32, 48, 3)).to(torch.uint8)
        path = Video(frames, 8).save(folder / name)
        return sorted(path.iterdir())[4] if path.is_dir() else path

    return write


def sample(name: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "sample").mkdir()
        for shot in (0, 1):
            document(f"sample/shot_{shot}.json", {"caption": f"a red circle {shot}"})(folder)
        (folder / "sample" / "shot_durations.txt").write_text("1\n2\n")
        return folder / "sample" / name

    return write


def of_train(folder: Path) -> Path:
    return document("train.yaml", as_plain(ar_tiny()))(folder)


def read_adapter(path: Path) -> LoRAConfig:
    return load_lora(linears(), path.parent)


def read_both(path: Path) -> StreamSnapshot:
    SnapshotSummary.read(path)
    return StreamSnapshot.load(path)


UNSET = "(null|missing)"
FREE = "is (null|a list|an object|a text|-1|1e300|true|a list in lists|missing|unknown)"
"""What nobody reads."""
LAST = ("all but its last byte",)  # of a checksum behind the last pixel

GENERATE = {
    "seconds": 2.0,
    "steps": 3,
    "guidance": 1.5,
    "negative_prompt": "",
    "fps": 8.0,
    "crf": 16,
    "weights": "bf16",
    "lane": "inline",
    "strict": False,
}
SHOTS = [{"prompt": "a red circle", "seconds": 2.0}, {"prompt": "a blue square", "blocks": 1}]
REQUEST = {"id": "a", "prompt": "a red circle", "seed": 3, "image": "a.png"}

KINDS = (
    Kind(
        name="prompts.txt",
        write=document("prompts.txt", "a red circle\na blue square\n"),
        read=read_prompts,
        form="text",
        lines=True,
    ),
    Kind(
        name="prompts.jsonl",
        write=document("prompts.jsonl", REQUEST),
        read=read_prompts,
        good=("(id|prompt|image) is a text", f"(id|seed|image) is {UNSET}"),
    ),
    Kind(
        name="storyboard",
        write=document("s.json", {"shots": SHOTS}),
        read=read_prompts,
        good=(
            'only "a"',
            r"shots\.\d is a text",
            r"shots\.\d\.prompt is a text",
            rf"shots\.\d\.(seconds|blocks) is {UNSET}",
            r"shots\.0\.seconds is 1e300",  # a plan refuses it
        ),
    ),
    Kind(
        name="caption",
        write=sample("shot_1.json"),
        read=lambda path: read_prompts(path.parents[1]),
        good=(
            "caption is a text",
            "the top is unknown",
        ),
    ),
    Kind(
        name="durations",
        write=sample("shot_durations.txt"),
        read=lambda path: read_prompts(path.parents[1]),
        form="text",
        may_be_missing=True,
        good=(r"its first \d+ %", "all but its last byte", "only 3"),
    ),
    Kind(
        name="config of generate",
        write=document("c.yaml", GENERATE),
        read=lambda path: configure(Generate(), path),
        good=(
            f"(seconds|steps|guidance|negative_prompt|fps|crf) is {UNSET}",
            "(weights|lane|strict) is missing",
            "(seconds|fps) is 1e300",
            "strict is true",
            "(negative_prompt|lane) is (a text|NaN|-1|1e300)",
        ),
    ),
    Kind(
        name="config of train",
        write=of_train,
        read=lambda path: configure(ar_tiny(), path),
        good=(
            ".* is missing",
            r"(model|text|world|sets|phases|window|quantized|budget|run) is an object",  # no change
            r"(parallel|optimization|optimization\.betas|sample_prompts) is an object",
            r"(recycling|adapter|plain) is an object",
            r"adapter\.targets(\.\d)? is (a text|NaN|-1|1e300)",
            r"(optimization\.muon|run\.loggers) is (a list|an object)",
            r"(optimization\.muon|sample_prompts)(\.\d)? is (a text|NaN|-1|1e300)",
            r"(model\.patch_size|text\.vocab) is an object",
            r"quantized\.(activation|weight|gradient)(\.block)? is an object",
            "model.rope_theta is 1e300",
            r"(vae|latent_cache|start_from|data|width|run\.best_metric) is null",
            "(vae|latent_cache|start_from|data) is (a text|NaN|-1|1e300)",
            r"(run\.output|(quantized|float8)\.backend) is (a text|NaN|-1|1e300)",
            r"model\.(cross_attn_norm|qk_norm) is true",
            r"(quantized|float8)\.(forward|input_gradient|weight_gradient|hadamard|strict) is true",
            r"run\.(compile|benchmark|progress_bar) is true",
            "checkpointing is true",
            "quantized.*bound is null",
            "budget.minutes is null",
            "(sample_prompts|sets) is a list",
            "optimization.max_grad_norm is 1e300",
        ),
    ),
    Kind(
        name="model_index.json",
        write=of_model("model_index.json"),
        read=lambda path: read_settings(path.parent),
        good=(
            rf"(pipeline|transformer|vae|text_encoder)(\.\d)? {FREE}",
            "the top is unknown",
            r"generation\.(guidance|negative_prompt|shift|window|t_scale) is missing",
            r"generation\.(sink|shot_sink|shot_offset|sampler) is missing",
            r"generation\.fps is 1e300",
            r"generation\.shot_offset is -1",
            r"generation\.negative_prompt is a text",
        ),
    ),
    *(
        Kind(
            name=f"config of {part}",
            write=of_model(f"{part}/config.json"),
            read=lambda path: read_spec(path.parents[1]),
            good=(
                "(patch_size|eps|rope_theta|frames_per_block|cross_attn_norm|qk_norm) is missing",
                "(dim|text_len|num_layers|num_heads|ffn_dim) is missing",
                "rope_theta is 1e300",
                "(cross_attn_norm|qk_norm) is true",
                "vocab is a list",
                r"vocab\.\d is a text",
                r"temporal_downsample\.\d is true",
                r"latent_(mean|std)\.\d is 1e300",
                r"latent_mean\.\d is -1",
            ),
        )
        for part in ("transformer", "vae", "text_encoder")
    ),
    Kind(
        name="weights",
        write=of_model("vae/model.safetensors"),
        read=lambda path: load_part(path.parent),
        form="weights",
    ),
    Kind(
        name="index of weights",
        write=index_of_weights,
        read=lambda path: load_folder(path.parent),
        good=(
            "gone",
            rf"metadata(\.total_size)? {FREE}",
            "the top is unknown",
            r"weight_map\.layer\d\.weight is missing",
        ),
    ),
    Kind(
        name="config of an adapter",
        write=adapter("adapter_config.json"),
        read=read_adapter,
        good=(
            f"(task_type|base_model_name_or_path) {FREE}",
            f"(peft_type|lora_dropout) is {UNSET}",
            "(bias|use_dora|fan_in_fan_out|init_lora_weights) is (null|a list|an object|missing)",
            f"use_rslora is ({UNSET}|true)",
            "init_lora_weights is true",
            "lora_alpha is (-1|1e300)",
        ),
    ),
    Kind(
        name="adapter",
        write=adapter("adapter_model.safetensors"),
        read=read_adapter,
        form="weights",
    ),
    Kind(name="torch.save", write=pickled, read=read_tensors, form="binary"),
    Kind(name="checkpoint", write=checkpoint, read=read_state, form="binary"),
    Kind(
        name="snapshot",
        write=snapshot,
        read=read_both,
        form="weights",
        good=("a weight of .*",),  # the checks of the next block refuse it
    ),
    Kind(
        name="record",
        write=record,
        read=replay,
        good=(
            rf"settings(\.\w+)? {FREE}",  # compared with those of the model here
            r"replay\.config\.\w+ is missing",
            f"replay.image_sha256 is ({UNSET}|a text)",  # older records have none
            "replay.seed is -1",  # a plan refuses it
            "replay.config is an object",
            "model_sha256 is a text",  # compared with that of the model here
            r"replay\.config\.(device|lane|attention|linear|model) is a text",
            rf"replay\.config\.(sampler|seconds|steps|guidance|negative_prompt|fps|crf) is {UNSET}",
            r"replay\.config\.(negative_prompt) is a text",
            r"replay\.config\.(seconds|fps) is 1e300",
            r"replay\.config\.(strict|download) is true",
            f"replay.image is ({UNSET}|a text)",
            f"replay.clip is {UNSET}",
            rf"replay\.shots\.\d\.(seconds|blocks) is {UNSET}",
            r"replay\.shots\.\d(\.prompt)? is a text",
            r"replay\.events is a list",
            r"replay\.events\.\d\.(memory|forget) is missing",
            r"replay\.events\.\d\.text is a text",
            "the top is unknown",
        ),
    ),
    Kind(
        name="run.json",
        write=record_of_run,
        read=lambda path: read_run_record(path.parent),
        good=(
            rf"config(\.\w+)+ {FREE}",
            "config is an object",
            "config is unknown",
            "recipe is a text",
            "resumed is (a list|a list in lists|missing)",
            rf"resumed\.0(\.\w+)* {FREE}",
            "the top is unknown",
        ),
        may_be_missing=True,
    ),
    *(
        Kind(name=f"picture {name}", write=picture(name), read=load_image, form="binary", good=LAST)
        for name in ("a.png", "a.jpg", "a.webp", "a.bmp")
    ),
    *(
        Kind(name=f"video {name}", write=video(name), read=read_video, form="binary", whole=False)
        for name in ("a.mp4", "a.gif")
    ),
    Kind(
        name="frames",
        write=video("a.png"),
        read=lambda path: read_video(path.parent, fps=8),
        form="binary",
        good=LAST,
    ),
)

"""Options that several commands share: their names and their help."""

from pathlib import Path
from typing import Annotated

import typer

from longlive_cli import complete


def file_name(text: str) -> Path:
    """A path from the command line. Raises BadParameter for one that names nothing."""
    if not text.strip():
        raise typer.BadParameter("'' names no file. Write a name, or leave the option out.")
    if "\0" in text:
        raise typer.BadParameter("a file's name holds no NUL character.")
    return Path(text)


Prompt = Annotated[str | None, typer.Argument(help="What the video shows.")]
Prompts = Annotated[
    Path | None,
    typer.Option(
        help="A file of prompts instead: .txt (one shot a line), .jsonl (one video a line) or "
        ".json (a storyboard).",
    ),
]
OneVideoALine = Annotated[
    bool,
    typer.Option(
        "--one-video-a-line",
        help="Each line of the .txt file is a video of its own, not a shot of one video.",
    ),
]
Storyboard = Annotated[
    Path | None,
    typer.Option(help="A file of shots for one video, with cuts between them: .json or .txt."),
]
Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        parser=file_name,
        metavar="PATH",
        help="A file (.mp4, .gif, or .png for a folder of frames), or a folder for several "
        "videos.  [default: video.mp4, or videos/ for several]",
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option(help="How long a video lasts.  [default: what its shots say, else 5]"),
]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same video.  [default: 0]")]
Sampler = Annotated[
    str | None,
    typer.Option(
        help="The sampler: unipc, euler, or few_step for distilled models.  [default: the model's]",
        autocompletion=complete.samplers,
    ),
]
Steps = Annotated[
    str | None,
    typer.Option(
        metavar="<n,n,...>",
        help="Denoising steps a block, or by block: 4,2 is four in the first and two in all "
        "others.  [default: the model's]",
    ),
]
Guidance = Annotated[
    float | None,
    typer.Option(
        help="How strongly the prompt is followed; 1 is as trained.  [default: the model's]"
    ),
]
NegativePrompt = Annotated[
    str | None,
    typer.Option(
        help="A prompt that the video moves away from; it needs a guidance above 1.  "
        "[default: the model's]"
    ),
]
Count = Annotated[
    int,
    typer.Option(
        min=1,
        max=10_000,
        help="Make each video this many times, from the seeds SEED, SEED+1, ...; their names say "
        "which: circle-seed0.mp4, circle-seed1.mp4.",
    ),
]
FPS = Annotated[
    float | None,
    typer.Option(
        "--fps",
        help="Frames a second that the file plays at. The frames stay the same, and --seconds are "
        "the model's: at twice its rate, 5 s of video play in 2.5 s.  [default: the model's]",
    ),
]
CRF = Annotated[
    int | None,
    typer.Option("--crf", help="Quality of an mp4, from 0, the best, to 51.  [default: 16]"),
]
Model = Annotated[
    str | None,
    typer.Option(
        help="A shipped model's name, a folder or a hub id.  [default: pocket]",
        autocompletion=complete.among("pocket"),
    ),
]
Download = Annotated[
    bool | None,
    typer.Option(
        "--download",
        help="Fetch the files of a hub id that are not in the local cache. Without it nothing "
        "touches the network.",
    ),
]
Nproc = Annotated[
    int, typer.Option(min=1, help="Ranks that make the videos: a GPU each, or a CPU process.")
]
Nodes = Annotated[
    int, typer.Option(min=1, help="Machines that share --nproc; run the command on each of them.")
]
Device = Annotated[
    str | None,
    typer.Option(
        help="auto, cpu, cuda, cuda:1, ...  [default: auto]",
        autocompletion=complete.among(*complete.DEVICES),
    ),
]
Quality = Annotated[
    str | None,
    typer.Option(
        help="lossless: fast paths give the plain path's frames. high: products and attention in "
        "eight bits, where the hardware has them.  [default: lossless]",
        autocompletion=complete.among("lossless", "high"),
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(
        help="fp32, bf16, fp8, nvfp4, nvfp4-w4a4, or auto.  [default: auto]",
        autocompletion=complete.weights,
    ),
]
KVCache = Annotated[
    str | None,
    typer.Option(
        help="Precision of past keys and values: fp32, bf16, fp8, int8, nvfp4, or auto.  "
        "[default: auto]",
        autocompletion=complete.kv_caches,
    ),
]
Attention = Annotated[
    str | None,
    typer.Option(
        help="The attention backend, by name; `longlive doctor` lists what there is.  "
        "[default: auto]"
    ),
]
Lane = Annotated[
    str | None,
    typer.Option(
        help="Where frames are decoded: inline, thread, stream, device:cuda:1, ...  "
        "[default: auto]",
        autocompletion=complete.among("auto", "inline", "thread", "stream"),
    ),
]
Linear = Annotated[
    str | None,
    typer.Option(
        help="The backend of products of quantized weights, by name; `longlive doctor` lists what "
        "there is.  [default: auto]"
    ),
]
Strict = Annotated[
    bool | None,
    typer.Option("--strict", help="Refuse to emulate a number format that the hardware lacks."),
]
LoRA = Annotated[
    list[str] | None,
    typer.Option(
        "--lora",
        metavar="FILE[:WEIGHT]",
        help="An adapter for the transformer: a .safetensors or .pt file, or PEFT's folder, and "
        "the factor of what it adds. May be given for each of several.",
    ),
]
VAE = Annotated[
    str | None,
    typer.Option(
        "--vae",
        help="What decodes the frames: full, or light, a faster one that some models have beside "
        "it.  [default: full]",
        autocompletion=complete.among("full", "light"),
    ),
]
Offload = Annotated[
    bool | None,
    typer.Option(
        "--offload",
        help="Let the transformer's blocks wait in the host's memory, and visit the GPU one after "
        "another: the same frames, for a card of 12 or 16 GB.",
    ),
]
TextPlace = Annotated[
    str | None,
    typer.Option(
        "--text-encoder",
        help="Where the text encoder is: device, offload (its layers visit the device while a "
        "prompt is encoded), cpu, or auto: on the device if that has six times its memory.  "
        "[default: auto]",
        autocompletion=complete.among("auto", "device", "offload", "cpu"),
    ),
]
MaxMemory = Annotated[
    str | None,
    typer.Option(
        metavar="SIZE",
        help="Take no more of the device's memory than this, such as 24GB: picks what is left to "
        "auto (precisions, where blocks and the text encoder wait), and says what.",
    ),
]
VAELatents = Annotated[
    int | None,
    typer.Option(
        "--vae-latents",
        help="How many latent frames are decoded at a time; 0: as their size allows. 1 takes the "
        "least memory.  [default: 0]",
    ),
]
VAETiles = Annotated[
    int | None,
    typer.Option(
        "--vae-tiles",
        help="Into how many strips the decoder cuts a frame, for less memory still.  [default: 1]",
    ),
]
Image = Annotated[
    Path | None,
    typer.Option(
        help="A png or jpg file that the video starts with, cropped to its proportions; of several "
        "videos, those that name none."
    ),
]
Video = Annotated[
    Path | None,
    typer.Option(
        parser=file_name,
        metavar="FILE",
        help="A clip that the video goes on from: its last blocks are remembered as if they had "
        "been made. Of any size and rate: it is cropped and resampled. The output has what comes "
        "after it.",
    ),
]
Cut = Annotated[bool, typer.Option("--cut", help="With --video: begin a new shot after the clip.")]
VideoPrompt = Annotated[
    str | None,
    typer.Option(help="With --cut: what the clip shows.  [default: the first shot's prompt]"),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="No progress and no notes: errors and results alone.")
]
Verbose = Annotated[
    bool,
    typer.Option(
        "--verbose",
        "-v",
        help="Say what runs where, and why nothing faster; how long each block takes.",
    ),
]
Snapshot = Annotated[
    Path | None,
    typer.Option(
        parser=file_name,
        metavar="FILE",
        help="A file to save the video's state to when Ctrl-C stops it (after the block that is "
        "being made; a second Ctrl-C does not wait), for --resume.",
    ),
]
SnapshotEvery = Annotated[
    int | None,
    typer.Option(
        metavar="BLOCKS", help="Write the snapshot each so many blocks too: what a kill can cost."
    ),
]
Resume = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Continue from a snapshot. The file that the video was being written to is continued "
        "in place: frames after the snapshot are dropped, and it ends as if it had never stopped. "
        "With --output the earlier frames are copied to the new file first.",
    ),
]
Trace = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="Write what each lane (denoise, clean pass, decode, host copy, encode) did when, as "
        "JSON for ui.perfetto.dev, and print the critical path and the bubbles.",
        parser=file_name,
    ),
]
Fork = Annotated[
    list[str] | None,
    typer.Option(
        metavar="PROMPT",
        help="With --resume: an ending of its own, under this prompt (or '/cut PROMPT', '/recache "
        "PROMPT', '/forget PROMPT', as in `longlive live`). Each --fork makes a whole video beside "
        "the one that the snapshot is of: NAME-fork1, NAME-fork2, ...",
    ),
]
OnlyNew = Annotated[
    bool,
    typer.Option("--only-new", help="With --resume: write what comes after the snapshot alone."),
]
Replay = Annotated[
    Path | None,
    typer.Option(
        metavar="RECORD",
        help="Make the same video again from the .json file beside it, steering included.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change another field; they are listed below.",
        autocompletion=complete.generate_fields,
    ),
]
Config = Annotated[Path | None, typer.Option(help="A YAML file of fields.")]
AsJson = Annotated[
    bool, typer.Option("--json", help="Print one JSON line a video instead of text.")
]
DryRun = Annotated[bool, typer.Option(help="Check everything, print the plan, generate nothing.")]
Overwrite = Annotated[bool, typer.Option(help="Replace outputs that exist.")]
ResultFile = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        parser=file_name,
        metavar="PATH",
        help="Store the whole result as JSON here.",
    ),
]
ResultFolder = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        parser=file_name,
        metavar="FOLDER",
        help="Store each record as JSON here, and its table beside it.",
    ),
]
NewFolder = Annotated[
    Path,
    typer.Option(
        "--output",
        "-o",
        parser=file_name,
        metavar="PATH",
        help="The folder to write; it must not exist.",
    ),
]

Page = Annotated[
    Path | None,
    typer.Option(
        parser=file_name,
        metavar="FILE",
        help="Write a page as well: tables with bars, and the videos if there are some, in one "
        "file.",
    ),
]

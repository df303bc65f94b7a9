"""The node pack of ComfyUI, without ComfyUI and with stand-ins of its API."""

import importlib.util
import inspect
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from longlive_core.testing import assert_bitwise_equal
from longlive_models.video.files import read_video
from tests.models.tiny_pipeline import FPS, tiny_pipeline, write_tiny_folder

PACK = Path(__file__).parents[2] / "examples" / "comfyui" / "__init__.py"
USUAL = {"seconds": 1.0, "seed": 3, "steps": 0, "guidance": 0.0, "sampler": "model", "cut": False}


class Interrupted(Exception):
    """What ComfyUI raises when a person presses its button."""


@pytest.fixture
def pack() -> ModuleType:
    """The pack, loaded as ComfyUI loads it: from its folder, under a name of ComfyUI's."""
    spec = importlib.util.spec_from_file_location("custom_nodes.longlive", PACK)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def comfy(monkeypatch, tmp_path):
    """Stand-ins of what the pack uses of ComfyUI; what was told to its bar, and whether to stop."""

    class State:
        bars: list[list[int]] = []
        stop_at = None

    class ProgressBar:
        def __init__(self, total: int) -> None:
            State.bars.append([total])

        def update_absolute(self, value: int) -> None:
            State.bars[-1].append(value)

    def throw() -> None:
        if State.stop_at is not None and State.bars and State.bars[-1][-1] >= State.stop_at:
            raise Interrupted

    State.bars = []
    utils, management, paths = (ModuleType(n) for n in ("utils", "management", "folder_paths"))
    vars(utils)["ProgressBar"] = ProgressBar
    vars(management)["throw_exception_if_processing_interrupted"] = throw
    vars(paths)["get_output_directory"] = lambda: str(tmp_path)
    monkeypatch.setitem(sys.modules, "comfy", ModuleType("comfy"))
    monkeypatch.setitem(sys.modules, "comfy.utils", utils)
    monkeypatch.setitem(sys.modules, "comfy.model_management", management)
    monkeypatch.setitem(sys.modules, "folder_paths", paths)
    return State


def test_every_node_is_whole(pack):
    """Its function takes its fields, and gives as many values as it names."""
    assert pack.NODE_CLASS_MAPPINGS.keys() == pack.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in pack.NODE_CLASS_MAPPINGS.values():
        fields = node.INPUT_TYPES()
        names = [*fields["required"], *fields.get("optional", {})]
        taken = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert [*taken][1:] == names
        assert len(node.RETURN_TYPES) == len(getattr(node, "RETURN_NAMES", node.RETURN_TYPES))
        assert node.CATEGORY == "LongLive"


def test_a_model_is_loaded_and_makes_what_the_pipeline_makes(pack, comfy, tmp_path):
    folder = str(write_tiny_folder(tmp_path / "model"))
    (pipe,) = pack.LongLiveLoad().load(folder, "auto", "auto")
    images, fps = pack.LongLiveGenerate().generate(pipe, "a red circle\n", **USUAL)
    video = pipe("a red circle", seconds=1, seed=3)
    assert fps == FPS and images.dtype == torch.float32
    assert_bitwise_equal((images * 255).round().to(torch.uint8), video.frames)
    assert comfy.bars == [[4, 1, 2, 3, 4]]  # two blocks of two steps


def test_lines_are_shots_and_zeros_leave_it_to_the_model(pack, comfy):
    pipe = tiny_pipeline()
    how = {**USUAL, "seconds": 2.0, "steps": 3, "guidance": 2.0, "sampler": "euler"}
    images, _ = pack.LongLiveGenerate().generate(pipe, "a red circle\n\na blue square", **how)
    video = pipe(
        ["a red circle", "a blue square"], seconds=2, seed=3, steps=3, guidance=2.0, sampler="euler"
    )
    assert_bitwise_equal(pack.to_bytes(images), video.frames)


def test_a_picture_begins_a_video_and_a_clip_goes_on(pack, comfy):
    pipe = tiny_pipeline()
    clip = torch.rand(13, 32, 32, 3, generator=torch.Generator().manual_seed(0))
    node = pack.LongLiveGenerate()
    images, _ = node.generate(pipe, "a red circle", **USUAL, image=clip[:1])
    started = pipe("a red circle", seconds=1, seed=3, image=pack.to_bytes(clip)[0])
    assert_bitwise_equal(pack.to_bytes(images), started.frames)
    how = {**USUAL, "cut": True}
    images, _ = node.generate(pipe, "a red circle", **how, clip=clip)
    more = pipe("a red circle", seconds=1, seed=3, video=pack.to_bytes(clip), cut=True)
    assert_bitwise_equal(pack.to_bytes(images), more.frames)


def test_the_button_stops_a_video(pack, comfy):
    comfy.stop_at = 2
    with pytest.raises(Interrupted):
        pack.LongLiveGenerate().generate(tiny_pipeline(), "a red circle", **USUAL)
    assert comfy.bars == [[4, 1, 2]]


def test_files_are_numbered_and_stay_in_the_output_folder(pack, comfy, tmp_path):
    images = torch.rand(9, 32, 32, 3)
    node = pack.LongLiveSave()
    shown = [node.save(images, 8.0, "../a")["ui"]["text"][0] for _ in range(2)]
    assert shown == [str(tmp_path / "a_00001.mp4"), str(tmp_path / "a_00002.mp4")]
    frames, fps = read_video(shown[0])
    assert (len(frames), fps) == (9, 8.0)


def test_without_comfyui_there_is_no_bar(pack):
    assert pack._progress() is None and pack._output_folder() == "."

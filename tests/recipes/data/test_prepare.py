"""A cache holds what the VAE makes of clips; kills, full disks and broken clips cost little."""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import pytest
import torch

from longlive_models.checkpoints.folder import load_part
from longlive_models.checkpoints.tensor_files import read_safetensors
from longlive_models.first_frame import image_to_pixels
from longlive_models.vae import VAEConfig, load_vae
from longlive_models.video import read_video
from longlive_recipes.data import cache as cache_module
from longlive_recipes.data.cache_index import read_index
from longlive_recipes.data.layouts import find_sources
from longlive_recipes.data.prepare import prepare
from tests.recipes.data.made_clips import (
    CAPTIONS,
    caption,
    folder_of_clips,
    stories,
    tiny,
    write_clip,
    write_with_av,
)
from tests.recipes.tiny_runs import ROOT


def made(config, clips, cache, **more):
    return prepare(config, find_sources(clips), cache, **more)


def tensors(cache):
    index = read_index(cache)
    return {c.tensor: read_safetensors(cache / c.shard)[c.tensor].clone() for c in index.clips}


def test_latents_are_those_of_the_whole_clip_at_once(tmp_path, vae):
    clips = folder_of_clips(tmp_path / "clips", (70,))
    made(tiny(vae), clips, tmp_path / "cache")
    index = read_index(tmp_path / "cache")
    [clip] = index.clips
    assert clip.captions == (CAPTIONS[0],) * 2
    assert clip.cuts == (False, False)
    frames, _ = read_video(clips / "0.mp4")
    video = torch.cat([image_to_pixels(frame, 32, 32) for frame in frames[:61]], 2)
    settings, weights = load_part(vae)
    with torch.no_grad():
        whole = load_vae(weights, config=VAEConfig.from_dict(settings)).encode(video)[0]
    [latents] = tensors(tmp_path / "cache").values()
    assert latents.dtype == torch.bfloat16
    assert torch.allclose(latents.float(), whole, atol=0.03, rtol=0.01)


def test_a_story_is_clips_with_cuts(tmp_path, vae):
    result = made(tiny(vae, blocks=3), stories(tmp_path / "clips"), tmp_path / "cache")
    assert result.by_blocks == {1: 2, 3: 1}
    held = read_index(tmp_path / "cache").clips
    clips = {clip.source: clip for clip in held if clip.number == 0}
    # shot 2 has 30 frames, one block; 10 has 70, two blocks of 32
    assert clips["b"].captions == ("shot 2 of b", "shot 10 of b", "shot 10 of b")
    assert clips["b"].cuts == (False, True, False)
    assert clips["a"].cuts == (False,)
    [rest] = [clip for clip in held if clip.number == 1]
    assert (rest.captions, rest.cuts) == (("shot last of b",), (False,))


def test_what_is_done_is_not_done_again(tmp_path, vae, monkeypatch):
    clips = folder_of_clips(tmp_path / "clips")
    first = made(tiny(vae), clips, tmp_path / "cache")
    assert (first.clips, first.new, first.by_blocks) == (3, 3, {1: 1, 2: 2})
    before = tensors(tmp_path / "cache")
    monkeypatch.setattr("longlive_recipes.data.prepare.ClipEncoder", None)  # none is needed
    again = made(tiny(vae), clips, tmp_path / "cache")
    assert (again.clips, again.new, again.dropped) == (3, 0, 0)
    assert all(torch.equal(before[name], one) for name, one in tensors(tmp_path / "cache").items())
    caption(write_clip(clips / "new.mp4", 29, seed=7), "new")
    with pytest.raises(TypeError, match="not callable"):  # for a new clip one is
        made(tiny(vae), clips, tmp_path / "cache")


def test_a_changed_caption_and_a_new_clip_are_followed(tmp_path, vae):
    clips = folder_of_clips(tmp_path / "clips")
    made(tiny(vae), clips, tmp_path / "cache")
    caption(clips / "0.mp4", "another story")
    (clips / "1.mp4").unlink()
    caption(write_clip(clips / "new.mp4", 29, seed=7), "new")
    result = made(tiny(vae), clips, tmp_path / "cache")
    assert (result.clips, result.new, result.dropped) == (3, 2, 2)
    texts = {clip.source: clip.captions[0] for clip in read_index(tmp_path / "cache").clips}
    assert texts == {"0.mp4": "another story", "2.mp4": CAPTIONS[2], "new.mp4": "new"}
    on_disk = {file.name for file in (tmp_path / "cache").glob("*.safetensors")}
    assert on_disk == set(read_index(tmp_path / "cache").shards)


def test_a_file_of_the_cache_that_changed_is_made_again(tmp_path, vae):
    clips = folder_of_clips(tmp_path / "clips")
    one_each = replace(tiny(vae), shard_mib=1)
    made(one_each, clips, tmp_path / "cache")
    before = tensors(tmp_path / "cache")
    [shard] = read_index(tmp_path / "cache").shards
    file = tmp_path / "cache" / shard
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    result = made(one_each, clips, tmp_path / "cache")
    assert result.new == 3
    assert all(torch.equal(before[name], one) for name, one in tensors(tmp_path / "cache").items())


def test_other_settings_and_other_clips_are_refused(tmp_path, vae):
    clips = folder_of_clips(tmp_path / "clips", (29,))
    made(tiny(vae), clips, tmp_path / "cache")
    with pytest.raises(ValueError, match=r"made with other settings \(height: 32 -> 16\)"):
        made(tiny(vae, height=16), clips, tmp_path / "cache")
    caption(write_clip(tmp_path / "others" / "z.mp4", 29, seed=9), "z")
    with pytest.raises(ValueError, match=r"holds clips of other videos \(0\.mp4\)"):
        made(tiny(vae), tmp_path / "others", tmp_path / "cache")
    assert len(tensors(tmp_path / "cache")) == 1


BROKEN = {
    "cut.mp4": "it ends inside its first block",
    "half.mkv": "it is cut: ",
    "empty.mp4": "it is empty",
    "dot.mkv": "its frames are 1x1, and would be made more than 8 times as large",
    "text.mp4": "Invalid data found when processing input",
    "short.mp4": "it lasts 0.833 s, and a clip's first block takes 2.42 s",
    "mute.mp4": "its caption mute.txt is not there",
    "same.mp4": "it is 0.mp4 again: the same frames and captions",
    "sound.mp4": "without a video in it",
}


def test_broken_clips_are_listed_with_the_reason_and_the_others_cached(tmp_path, vae):
    clips = folder_of_clips(tmp_path / "clips", (40,))
    whole = (clips / "0.mp4").read_bytes()
    (clips / "cut.mp4").write_bytes(whole[: len(whole) // 2])
    long = write_with_av(tmp_path / "long.mkv", [Fraction(n, 24) for n in range(96)])
    (clips / "half.mkv").write_bytes(long.read_bytes()[: long.stat().st_size // 2])
    (clips / "empty.mp4").touch()
    write_with_av(clips / "dot.mkv", [Fraction(0)], size=(1, 1), codec="ffv1", pixels="gray")
    (clips / "text.mp4").write_text("no video at all")
    write_clip(clips / "short.mp4", 10)
    (clips / "mute.mp4").write_bytes(whole)
    (clips / "same.mp4").write_bytes(whole)
    write_sound(clips / "sound.mp4")
    for name in BROKEN.keys() - {"mute.mp4"}:
        caption(clips / name, CAPTIONS[0])
    result = made(tiny(vae), clips, tmp_path / "cache")
    assert (result.clips, result.new) == (1, 1)
    reasons = {one.name: one.reason for one in result.skipped}
    assert reasons.keys() == BROKEN.keys()
    for name, reason in BROKEN.items():
        assert reason in reasons[name], name
    assert read_index(tmp_path / "cache").skipped == result.skipped


def write_sound(path):
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000)
        frame = av.AudioFrame(format="fltp", layout="mono", samples=1024)
        frame.sample_rate = 8000
        frame.planes[0].update(bytes(frame.planes[0].buffer_size))
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def test_a_folder_of_broken_clips_is_refused_before_anything_is_written(tmp_path, vae):
    caption(write_clip(tmp_path / "clips" / "a.mp4", 10), "x")
    with pytest.raises(ValueError, match=r"none of the 1 clips .* the first, a\.mp4: it lasts"):
        made(tiny(vae), tmp_path / "clips", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


def test_frames_that_turn_out_to_be_damaged_cost_that_clip_alone(tmp_path, vae):
    clips = folder_of_clips(tmp_path / "clips", (70, 61))
    file = write_with_av(
        clips / "damaged.mkv", [Fraction(n, 12) for n in range(70)], codec="ffv1", pixels="yuv420p"
    )
    data = bytearray(file.read_bytes())
    for place in range(len(data) * 3 // 4, len(data) * 3 // 4 + 400):
        data[place] ^= 0xFF
    file.write_bytes(data)
    caption(file, "damaged")
    result = made(tiny(vae), clips, tmp_path / "cache")
    assert result.clips == 2
    assert [one.name for one in result.skipped] == ["damaged.mkv"]


def test_a_full_disk_loses_nothing_that_was_cached(tmp_path, vae, monkeypatch):
    clips, cache = folder_of_clips(tmp_path / "clips"), tmp_path / "cache"
    monkeypatch.setattr(cache_module, "SECONDS", 0.0)  # a file a clip
    save, calls = cache_module.save_tensors, []

    def full(tensors, path):
        calls.append(path)
        if len(calls) == 3:
            path.write_bytes(b"a part of it")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        save(tensors, path)

    monkeypatch.setattr(cache_module, "save_tensors", full)
    with pytest.raises(OSError, match="No space left") as told:
        made(tiny(vae), clips, cache)
    assert "2 clips are in" in told.value.__notes__[0]
    assert len(tensors(cache)) == 2
    assert not list(cache.glob("*.part"))
    result = made(tiny(vae), clips, cache)
    assert (result.clips, result.new) == (3, 1)


@pytest.mark.parametrize("place", [1, 4, 5])
def test_a_kill_at_any_write_costs_one_file(tmp_path, vae, place):
    """The process is killed before its ``place``-th renaming: files and indices in turn."""
    clips, cache = folder_of_clips(tmp_path / "clips"), tmp_path / "cache"
    code = (
        "import os, signal, sys\n"
        "from pathlib import Path\n"
        "from longlive_recipes.data import cache, prepare\n"
        "from longlive_recipes.data.layouts import find_sources\n"
        "from tests.recipes.data.made_clips import tiny\n"
        "cache.SECONDS, rename, left = 0.0, os.replace, [int(sys.argv[4])]\n"
        "def killed(*paths):\n"
        "    left[0] -= 1\n"
        "    if not left[0]: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    rename(*paths)\n"
        "os.replace = killed\n"
        "prepare.prepare(tiny(sys.argv[1]), find_sources(Path(sys.argv[2])), Path(sys.argv[3]))\n"
    )
    command = [sys.executable, "-c", code, str(vae), str(clips), str(cache), str(place)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    kept = len(read_index(cache).clips) if (cache / "index.json").exists() else 0
    assert kept == (place - 1) // 2
    result = made(tiny(vae), clips, cache)
    assert (result.clips, result.new) == (3, 3 - kept)
    fresh = tmp_path / "fresh"
    made(tiny(vae), clips, fresh)
    expected = tensors(fresh)
    assert all(torch.equal(expected[name], one) for name, one in tensors(cache).items())


def test_progress_counts_blocks_up_to_all_of_them(tmp_path, vae):
    told = []
    clips = folder_of_clips(tmp_path / "clips")
    made(tiny(vae), clips, tmp_path / "cache", progress=lambda *words: told.append(words))
    counts = [done for done, _, _ in told]
    assert counts == sorted(counts)
    assert counts[0] == 0 and counts[-1] == 5
    assert {total for _, total, _ in told} == {5}

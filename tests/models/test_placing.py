"""Where parts are does not change a frame: blocks that visit the device, text encoders on the host.

The CPU stands for the device: what visits it is copied, so all but the streams is as on a GPU.
"""

import pytest
import torch

from longlive_core import block_offload
from longlive_models import LongLivePipeline
from longlive_models.placing import TEXT_SHARE, text_place
from longlive_models.runtime import Runtime
from longlive_models.runtime_options import RuntimeOptions
from longlive_models.text import UMT5TextEncoder
from tests.live_bytes import LiveBytes
from tests.models.test_published import load, whole  # noqa: F401  (a fixture)
from tests.models.tiny_pipeline import tiny_parts, tiny_pipeline

PROMPT = "a red circle"


def made(pipe: LongLivePipeline, **how) -> torch.Tensor:
    return pipe(PROMPT, seconds=2.5, seed=3, **how).frames


def pipeline(**how) -> LongLivePipeline:
    return tiny_pipeline(Runtime.choose(RuntimeOptions(device="cpu", **how)))


@pytest.mark.parametrize("weights", ["fp32", "bf16", "fp8", "nvfp4", "nvfp4-w4a4"])
def test_offloaded_blocks_make_the_same_frames(weights):
    plain = pipeline(weights=weights)
    offloaded = pipeline(weights=weights, offload=True)
    assert offloaded.transformer.offload is not None and plain.transformer.offload is None
    assert torch.equal(made(offloaded), made(plain))
    assert torch.equal(made(offloaded, guidance=1), made(plain, guidance=1))
    assert offloaded.fingerprint == plain.fingerprint
    assert offloaded.receipts() == plain.receipts()


def test_steering_and_snapshots_go_on_with_offloaded_blocks(tmp_path):
    frames = []
    for pipe in (pipeline(), pipeline(offload=True, text_encoder="offload")):
        stream = pipe.stream(PROMPT, seconds=5, seed=1)
        shown = [next(stream).frames]
        stream.prompt("a blue square", memory="recache")
        shown.append(next(stream).frames)
        path = stream.snapshot(tmp_path / f"{len(frames)}.safetensors")
        stream.close()
        shown += [block.frames for block in pipe.resume(path)]
        frames.append(torch.cat(shown))
    assert torch.equal(*frames)


def test_a_text_encoder_that_visits_gives_the_same_features(whole):  # noqa: F811
    pipes = {place: load(whole, text_encoder=place) for place in ("device", "offload", "cpu")}
    assert {place: pipe.text_place for place, pipe in pipes.items()} == {p: p for p in pipes}
    plain = pipes["device"].text.encode([PROMPT])
    for pipe in pipes.values():
        assert isinstance(pipe.text, UMT5TextEncoder)
        assert torch.equal(pipe.text.encode([PROMPT]), plain)
    assert torch.equal(made(pipes["offload"]), made(pipes["device"]))


def test_nothing_of_a_text_encoder_is_left_when_a_prompt_is_encoded():
    pipe = pipeline(text_encoder="offload")
    layer = sum(p.nbytes for p in pipe.text.layers[0].parameters())
    with LiveBytes() as count:
        kept = pipe.text.encode([PROMPT])
        assert count.now < kept.nbytes + 1024 < kept.nbytes + layer
    assert count.peak > layer


def test_parts_may_be_used_again_by_another_pipeline():
    parts, settings = tiny_parts(), tiny_pipeline().settings
    wanted = made(pipeline())
    for how in ({"offload": True, "text_encoder": "offload"}, {"offload": True}, {}):
        runtime = Runtime.choose(RuntimeOptions(device="cpu", **how))
        pipe = LongLivePipeline(*parts, settings=settings, runtime=runtime)
        assert torch.equal(made(pipe), wanted)
        assert (pipe.transformer.offload is not None) is bool(how)


def test_adapters_are_merged_before_blocks_leave(tmp_path):
    from longlive_models.lora import LoRAConfig, add_lora, save_lora

    model = tiny_parts()[0]
    add_lora(model, LoRAConfig(rank=2))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.3)
    save_lora(model, tmp_path / "lora.safetensors")
    lora = (str(tmp_path / "lora.safetensors"),)
    for weights in ("fp32", "nvfp4"):
        wanted = made(pipeline(weights=weights, lora=lora))
        assert torch.equal(made(pipeline(weights=weights, lora=lora, offload=True)), wanted)
        assert not torch.equal(made(pipeline(weights=weights)), wanted)


def test_a_saved_model_is_whole(tmp_path):
    folder = pipeline(offload=True, text_encoder="offload").save_pretrained(tmp_path / "model")
    again = LongLivePipeline.from_pretrained(str(folder), device="cpu")
    assert torch.equal(made(again), made(pipeline()))


@pytest.mark.parametrize("how", [{"offload": True}, {"text_encoder": "offload"}])
def test_what_waits_on_the_host_is_not_moved(how):
    with pytest.raises(ValueError, match="of them on the host, are made for cpu while they are"):
        pipeline(**how).to(torch.bfloat16)


def test_auto_leaves_a_text_encoder_where_there_is_room():
    gib = 2**30
    assert text_place("auto", gib, None) == "device"
    assert text_place("auto", gib, TEXT_SHARE * gib) == "device"
    assert text_place("auto", gib, TEXT_SHARE * gib - 1) == "offload"
    for asked in ("device", "offload", "cpu"):
        assert text_place(asked, gib, gib) == asked
    assert pipeline().text_place == "device", "a CPU's memory is the host's"


def test_places_that_are_none_are_refused():
    with pytest.raises(ValueError, match="text_encoder='gpu' is no place for a text encoder"):
        RuntimeOptions(text_encoder="gpu")


@pytest.mark.parametrize("weights", ["fp32", "nvfp4"])
def test_no_weight_is_read_where_it_waits(monkeypatch, weights):
    """On a GPU that would be another device: here what waits holds NaN and nothing."""
    wanted = pipeline(weights=weights)
    hollow = pipeline(weights=weights, offload=True, text_encoder="offload")
    show = block_offload._Block.show

    def away(block, buffer):
        show(block, buffer)
        if buffer is None:
            for put, tensor in zip(block._puts, block.host, strict=True):
                nothing = float("nan") if tensor.is_floating_point() else 0
                put(torch.full_like(tensor, nothing))

    monkeypatch.setattr(block_offload._Block, "show", away)
    for module in (hollow.transformer, hollow.text):
        for block in vars(module)["offload"]._blocks:
            block.show(None)
    made = []
    for pipe in (wanted, hollow):
        plan = pipe.plan(PROMPT, seconds=2)
        generator = pipe.generator([5], pipe.settings)
        generator._weights_checked = True  # that reads every weight, wherever it is
        made.append([generator.generate(i, [plan.block(i)]).latents for i in range(2)])
    assert all(torch.equal(a, b) for a, b in zip(*made, strict=True))
    for part in (*hollow.transformer.blocks, *hollow.text.layers):
        floats = [x for x in part.state_dict().values() if x.is_floating_point()]
        assert floats and all(x.isnan().all() for x in floats), "it was hollow all the time"

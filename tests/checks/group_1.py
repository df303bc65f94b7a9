"""Group 1: the forward without a cache, of all with all and causal by blocks."""

import torch
from torch import Tensor

from longlive_models.objectives import block_causal_mask
from longlive_models.wan import WanTransformer
from longlive_models.wan.embeddings import sinusoid
from tests.checks.framework import Case, Report, Verdict
from tests.checks.transformers import batch, build, recorded, texts, tolerance


@torch.no_grad()
def check(case: Case) -> Verdict:
    report = Report(case)
    model = build(case.config, case.weights)
    if "frames" in case.config:
        _check_causal(case, report, model)
    else:
        _check_bidirectional(case, report, model)
    return report.verdict()


def _check_bidirectional(case: Case, report: Report, model: WanTransformer) -> None:
    x = case.tensors["input.x"]
    samples, _, frames, height, width = x.shape
    tokens = frames * model.config.tokens_per_frame(height, width)
    text = batch(texts(case, "input.context"), model.config.text_len, samples)
    runs = {
        "per_sample": case.tensors["input.t_per_sample"][:, None].expand(-1, frames),
        "per_token": case.tensors["input.t_per_token"],
        # what pads the sequence is hidden from attention and cut from the output
        "per_token_padded": case.tensors["input.t_per_token_padded"][:, :tokens],
    }
    wide = sinusoid(case.tensors["input.t_per_sample"], model.config.freq_dim)
    if "output.sinusoid_t_per_sample" in case.tensors:
        report.close("sinusoid", wide, case.tensors["output.sinusoid_t_per_sample"], 1e-12, 1e-12)
    for run, timesteps in runs.items():
        _run(case, report, model, f"{run}.", x, timesteps, text)


def _check_causal(case: Case, report: Report, model: WanTransformer) -> None:
    x, timesteps = case.tensors["input.x"], case.tensors["input.t_per_frame"]
    samples, _, frames, height, width = x.shape
    tokens = model.config.tokens_per_frame(height, width)
    first = 1 if case.config["independent_first_frame"] else None
    layout = (frames, tokens, model.config.frames_per_block)
    mask = block_causal_mask(*layout, first_block_frames=first)
    if "output.frame_mask" in case.tensors:
        by_frame = mask.dense(torch.device("cpu"))[::tokens, ::tokens]
        report.equal("frame_mask", by_frame, case.tensors["output.frame_mask"])
    text = batch(texts(case, "input.context"), model.config.text_len, samples)
    _run(case, report, model, "", x, timesteps, text, mask=mask)
    if prompts := texts(case, "input.block_context"):
        text_of_blocks = batch(prompts, model.config.text_len, samples)
        _run(case, report, model, "block_prompts.", x, timesteps, text_of_blocks, mask=mask)
    if "input.rope_temporal_offset" in case.tensors:
        positions = torch.arange(frames) + case.tensors["input.rope_temporal_offset"]
        _run(
            case, report, model, "rope_offset.", x, timesteps, text, mask=mask, positions=positions
        )


def _run(
    case: Case,
    report: Report,
    model: WanTransformer,
    run: str,
    x: Tensor,
    timesteps: Tensor,
    text: Tensor,
    **how: object,
) -> None:
    """Compare the flow of a run and the intermediate values that it has recorded."""
    names = {
        "time_projection": "time_projection",
        "text_embedding": "text_embedding",
        "block0.self_attn": "blocks.0.self_attn",
        "block0.cross_attn": "blocks.0.cross_attn",
        "head": "head",
        **{f"block{i}": f"blocks.{i}" for i in range(model.config.num_layers)},
    }
    present = {k: v for k, v in names.items() if f"output.{run}{k}" in case.tensors}
    rtol, atol = tolerance(case)
    with recorded(model, present) as outputs:
        flow = model(x, timesteps, text, **how)
    if f"output.{run}flow" in case.tensors:
        outputs["flow"] = flow
    for label, got in outputs.items():
        want = case.tensors[f"output.{run}{label}"]
        if label == "time_projection" and got.shape[1] != want.shape[1]:
            got = got.repeat_interleave(want.shape[1] // got.shape[1], dim=1)  # frame to tokens
        report.close(f"{run}{label}", got.reshape(want.shape), want, rtol, atol)

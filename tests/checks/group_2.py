"""Group 2: the teacher-forcing forward, its mask and its gradients."""

import torch
from torch import nn

from longlive_models.objectives import teacher_forcing_mask
from tests.checks.framework import Case, Report, Verdict
from tests.checks.transformers import batch, build, recorded, texts, tolerance


def check(case: Case) -> Verdict:
    report = Report(case)
    rtol, atol = tolerance(case)
    model = build(case.config, case.weights)
    noisy, clean, t, aug_t = (
        case.tensors[f"input.{k}"] for k in ("noisy_x", "clean_x", "t", "aug_t")
    )
    samples, _, frames, height, width = noisy.shape
    tokens = model.config.tokens_per_frame(height, width)
    text = batch(texts(case, "input.context"), model.config.text_len, samples)
    mask = teacher_forcing_mask(frames, tokens, model.config.frames_per_block)
    how = {"mask": mask, "clean": clean}
    if "input.rope_temporal_offset" in case.tensors:
        how["positions"] = torch.arange(frames) + case.tensors["input.rope_temporal_offset"]

    if "output.frame_mask" in case.tensors:
        by_frame = mask.dense(torch.device("cpu"))[::tokens, ::tokens]
        report.equal("frame_mask", by_frame, case.tensors["output.frame_mask"])
    layers = {f"tf.block{i}_clean_then_noisy": f"blocks.{i}" for i in range(len(model.blocks))}
    with recorded(model, layers) as outputs:
        flow = model(noisy, t, text, **how)
    outputs["tf.flow"] = flow
    # the original's training mask knows neither window nor sink, so neither does this one
    outputs["tf_local_window_sink.flow"] = flow
    with torch.no_grad():
        outputs["tf_aug.flow"] = model(noisy, t, text, clean_timesteps=aug_t, **how)
    for label, got in outputs.items():
        if (want := case.tensors.get(f"output.{label}")) is not None:
            report.close(label, got.reshape(want.shape), want, rtol, atol)
    if "input.grad_target" in case.tensors:
        _check_gradients(case, report, model, flow)
    return report.verdict()


def _check_gradients(case: Case, report: Report, model: nn.Module, flow: torch.Tensor) -> None:
    loss = nn.functional.mse_loss(flow, case.tensors["input.grad_target"])
    loss.backward()
    rtol, atol = 1e-3, 1e-6
    parameters = dict(model.named_parameters())
    for key, want in case.tensors.items():
        if key == "output.grad.loss":
            report.close("loss", loss, want, 1e-4, 1e-6)
        elif key.startswith("output.grad."):
            name = key.removeprefix("output.grad.")
            gradient = parameters[name].grad
            assert gradient is not None, name
            report.close(f"grad.{name}", gradient, want, rtol, atol)

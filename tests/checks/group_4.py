"""Group 4: rotary positions."""

import torch
from torch import Tensor

from longlive_models.wan.rope import frequencies, rotate, rotation
from tests.checks.framework import Case, Report, Verdict

RTOL, ATOL = 1e-5, 1e-6


def check(case: Case) -> Verdict:
    report = Report(case)
    theta = case.config["theta"]
    for entry in case.config["cases"]:
        _check_table(case, report, f"hd{entry['head_dim']}", entry["head_dim"], theta)
        _check_application(case, report, entry, theta)
    return report.verdict()


def _check_table(case: Case, report: Report, name: str, head_dim: int, theta: float) -> None:
    rows = case.tensors.get(f"input.{name}.freqs_row_index")
    want = case.tensors.get(f"output.{name}.freqs_rows")
    if rows is None or want is None:
        return
    pairs = head_dim // 2
    spatial = pairs // 3
    axes = (pairs - 2 * spatial, spatial, spatial)
    angles = torch.cat([rows.double()[:, None] * frequencies(n, theta, "cpu") for n in axes], -1)
    report.close(
        f"{name}.freqs_rows",
        torch.polar(torch.ones_like(angles), angles),
        _complex(want),
        RTOL,
        ATOL,
    )


def _complex(pairs: Tensor) -> Tensor:
    return torch.view_as_complex(pairs.contiguous())


def _check_application(case: Case, report: Report, entry: dict, theta: float) -> None:
    name, (frames, rows, columns) = entry["case"], entry["grid"]
    x = case.tensors.get(f"input.{name}.x")
    if x is None:
        return
    first = entry["start_frame"] + torch.arange(frames, dtype=torch.float64)
    start = torch.arange(frames, dtype=torch.float64)
    slow = entry["tscale_variant"]
    variants = {
        "rope_apply": (start, 1.0),
        "causal": (first, 1.0),
        "causal_offset": (first + entry["scalar_offset"], 1.0),
        "causal_tscale": (first + slow["temporal_offset"], slow["t_scale"]),
    }
    for kind in ("per_frame", "per_sample"):
        offset = case.tensors.get(f"input.{name}.offset_{kind}")
        if offset is not None:
            variants[f"causal_offset_{kind}"] = (first + offset, 1.0)
    for variant, (positions, t_scale) in variants.items():
        want = case.tensors.get(f"output.{name}.{variant}")
        if want is None:
            continue
        turn = rotation(
            positions.reshape(-1, frames),
            (rows, columns),
            entry["head_dim"],
            theta=theta,
            t_scale=t_scale,
        )
        tokens = frames * rows * columns  # the original leaves tokens behind them as they are
        got = torch.cat((rotate(x[:, :tokens], turn), x[:, tokens:]), dim=1)
        report.close(f"{name}.{variant}", got, want, RTOL, ATOL)

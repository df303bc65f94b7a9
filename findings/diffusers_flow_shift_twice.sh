#!/usr/bin/env bash
# Package:  Diffusers 0.42.1 with torch 2.13.0
# Expected: FlowMatchEulerDiscreteScheduler(shift=5) samples on sigmas that were shifted once, as
#           the ones are that it was made with, and as after set_shift(5)
# Behavior: sigma_min is taken from sigmas that are shifted already, and set_timesteps shifts what
#           it spaces between the two ends once more. The last sigma is five times too large, and
#           the ones between differ as well (diffusers issue 13243).
# Seen:     2026-11-30
#           Diffusers 0.42.1, shift 5, 4 steps: [1.0, 0.9097, 0.7173, 0.0244, 0.0]
#           by set_shift(5): [1.0, 0.9092, 0.7149, 0.005, 0.0]; made with 0.005 as its last
# Here:     schedules of our own are shifted once; no scheduler of Diffusers is called.
set -uo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv" || exit 2
"$work/venv/bin/pip" install -qq "torch==2.13.0" "diffusers==0.42.1" numpy || exit 2
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import sys

import diffusers
from diffusers import FlowMatchEulerDiscreteScheduler

made = FlowMatchEulerDiscreteScheduler(shift=5.0)
least = made.sigmas[-1].item()
told = FlowMatchEulerDiscreteScheduler(shift=1.0)
told.set_shift(5.0)
sigmas = []
for scheduler in (made, told):
    scheduler.set_timesteps(4)
    sigmas.append([round(sigma, 4) for sigma in scheduler.sigmas.tolist()])
print(f"Diffusers {diffusers.__version__}, shift 5, 4 steps: {sigmas[0]}")
print(f"by set_shift(5): {sigmas[1]}; made with {least:.3f} as its last")
sys.exit(0 if sigmas[0][3] > 4 * least and abs(sigmas[1][3] - least) < 1e-4 else 1)
PYTHON

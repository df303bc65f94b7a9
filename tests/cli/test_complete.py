"""What a shell is offered behind Tab."""

import pytest
from typer.testing import CliRunner

from longlive_cli.main import app


def offered(line: str) -> list[str]:
    """The words that bash would show behind a line; one that ends in a space asks for any word."""
    words = line.split()
    place = len(words) - (0 if line.endswith(" ") else 1)
    env = {"_LONGLIVE_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(place)}
    done = CliRunner().invoke(app, [], prog_name="longlive", env=env)
    return [word for word in done.output.split("\n") if word]


@pytest.mark.parametrize(
    ("line", "some"),
    [
        ("longlive ", ["generate", "live", "train", "evaluate", "quantize", "bench", "doctor"]),
        ("longlive train ar_", ["ar_pocket", "ar_tiny"]),
        ("longlive train ar_tiny --set budget.", ["budget.minutes=", "budget.steps="]),
        ("longlive evaluate --recipe pocket_", ["pocket_quick"]),
        ("longlive evaluate --set held", ["heldout="]),
        ("longlive recipes show gen", ["generate"]),
        ("longlive generate --weights nv", ["nvfp4", "nvfp4-w4a4"]),
        ("longlive live --kv-cache i", ["int8"]),
        ("longlive generate --sampler ", ["unipc", "euler", "few_step"]),
        ("longlive live --sampler e", ["euler"]),
        ("longlive generate --device cp", ["cpu"]),
        ("longlive generate --model po", ["pocket"]),
        ("longlive generate --set att", ["attention="]),
        ("longlive data ", ["prepare", "check"]),
        ("longlive data prepare x --dev", ["--device"]),
        ("longlive quantize a --rule amax", ["amax_6", "amax_4"]),
        ("longlive convert a --to comfy", ["comfyui", "comfyui-fp8", "comfyui-nvfp4"]),
        ("longlive bench v", ["vae_decode"]),
        ("longlive bench nvfp4 kv", ["kv_decode"]),
        ("longlive bench nvfp4 --set page", ["page_tokens=", "pages="]),
        ("longlive bench generation balanced_sp --set ", ["page_tokens=", "latent_frames="]),
        ("longlive bench generation --lane st", ["stream"]),
        ("longlive generate --neg", ["--negative-prompt"]),
    ],
)
def test_values_and_names_are_offered(line, some):
    found = offered(line)
    assert set(some) <= set(found)
    start = line.rpartition(" ")[2]
    assert all(word.startswith(start) for word in found)


def test_nothing_is_offered_for_the_fields_of_no_recipe():
    assert offered("longlive train nothing --set bud") == []

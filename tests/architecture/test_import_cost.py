"""Importing is free: no heavy package for help, nothing but torch for the core, no device."""

import subprocess
import sys

from tests.architecture.source import FILES, ROOT, module_name

MISSING = "safetensors einops pytorch_lightning tensorboard transformers huggingface_hub av typer"
MISSING += " rich click yaml diffusers prompt_toolkit"


def run(code: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""


def modules(package: str) -> list[str]:
    """Modules that can be imported anywhere: kernels are imported by the backend that runs them."""
    return [
        module_name(file)
        for file in FILES
        if file.parts[0] == package and "kernels" not in file.parts
    ]


def test_help_loads_nothing_heavy():
    run(
        "import sys\n"
        "from longlive_cli.main import app\n"
        "commands = 'generate live serve train evaluate convert bench data recipes'\n"
        "commands += ' plan doctor'\n"
        "for command in commands.split():\n"
        "    try:\n"
        "        sys.stdout = open('/dev/null', 'w')\n"
        "        app([command, '--help'])\n"
        "    except SystemExit as stop:\n"
        "        assert not stop.code\n"
        "heavy = {'torch', 'numpy', 'transformers', 'av', 'pytorch_lightning', 'prompt_toolkit'}\n"
        "heavy |= {'fastapi', 'uvicorn'}\n"
        "heavy &= set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )


def test_the_core_imports_where_only_torch_and_jaxtyping_are():
    imports = "\n".join(f"import {name}" for name in modules("longlive_core"))
    run(
        "import sys\n"
        f"for name in {MISSING.split()!r}:\n"
        "    sys.modules[name] = None\n"  # an import of it raises ModuleNotFoundError
        f"{imports}\n"
        "import torch\n"
        "assert not torch.cuda.is_initialized()\n"
    )


def test_importing_everything_is_silent_and_touches_no_device():
    names = [name for p in ("longlive_models", "recipes", "longlive_cli") for name in modules(p)]
    imports = "\n".join(f"import {name}" for name in names)
    run(
        "import os, av, pytorch_lightning, torch, transformers\n"  # what they do is theirs
        "before, threads = dict(os.environ), torch.get_num_threads()\n"
        f"{imports}\n"
        "assert dict(os.environ) == before\n"
        "assert torch.get_num_threads() == threads\n"
        "assert torch.get_default_dtype() == torch.float32\n"
        "assert not torch.cuda.is_initialized()\n"
    )

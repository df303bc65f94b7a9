"""Who may import whom: arrows point down, primitives ignore each other, packages have homes."""

import sys
from collections.abc import Iterator
from pathlib import Path

from tests.architecture.source import FILES, ROOT, imported_by, module_name

OURS = ("longlive_core", "longlive_models", "longlive_recipes", "longlive_cli")
LEVEL = {
    "longlive_core": 0,
    "longlive_models": 1,
    "recipes": 2,
    "longlive_recipes": 2,
    "longlive_cli": 3,
}
PRIMITIVES = {"nvfp4", "float8", "kv_cache", "sequence_parallel", "async_decode"}
OPTIONAL = {  # may be missing, so never imported together with a file of ours
    "triton",
    "torchao",
    "flash_attn",
    "flash_attn_interface",
    "fa3_fwd_interface",
    "xformers",
    "transformer_engine",
    "transformer_engine_torch",  # its binding
    "humming",
    "gguf",
    "fastapi",  # the extra `serve`, in a room of its own
    "uvicorn",
    "starlette",
    "pydantic",
    "h11",
    "diffusers",  # asked for its tables where somebody has models of it
}
HOMES = {
    "difflib": lambda file: file == Path("longlive_core/names.py"),  # one "did you mean"
    "triton": lambda file: "kernels" in file.parts,
    "torch.distributed": lambda file: (
        file.parts[:2] == ("longlive_core", "sequence_parallel")
        or file.parts[:2] == ("recipes", "training")
        and file.stem in ("parallel", "sharded_checkpoints", "sharded_strategy")
        or file == Path("recipes/bench/ranks.py")
    ),
    "lightning": lambda file: file.parts[0] == "recipes",
    "pytorch_lightning": lambda file: file.parts[0] == "recipes",
    "typer": lambda file: file.parts[0] == "longlive_cli",
    "prompt_toolkit": lambda file: file == Path("longlive_cli/live_terminal.py"),
    "rich": lambda file: file.parts[0] in ("longlive_cli", "recipes"),
    "transformers": lambda file: (
        file.parts[:2] in (("longlive_models", "text"), ("longlive_models", "ecosystem"))
    ),
    "diffusers": lambda file: file.parts[:2] == ("longlive_models", "ecosystem"),
    "gguf": lambda file: file == Path("longlive_models/layouts/gguf_files.py"),
    "peft": lambda file: False,  # its adapters know our layers as linears; nothing is imported
    "av": lambda file: file.parts[:2] == ("longlive_models", "video"),
    "PIL": lambda file: file.parts[:2] == ("longlive_models", "video"),
    **dict.fromkeys(
        ("fastapi", "starlette", "pydantic", "h11"),
        lambda file: file.parts[:3] == ("recipes", "serve", "web"),
    ),
    "uvicorn": lambda file: file.parts[:2] == ("recipes", "serve"),
    "yaml": lambda file: (
        file.parts[0] in ("longlive_cli", "recipes") or file == Path("longlive_models/documents.py")
    ),
}


def imports() -> Iterator[tuple[Path, str, bool]]:
    """Every import of every file: (file, module, whether importing the file does it)."""
    for file in FILES:
        for name, at_import in imported_by(file):
            yield file, name, at_import


def top(name: str) -> str:
    return name.partition(".")[0]


def refuse(found: list[str], rule: str) -> None:
    assert not found, f"{rule}:\n" + "\n".join(sorted(set(found)))


def test_arrows_point_down():
    up = [
        f"{file} imports {name}"
        for file, name, _ in imports()
        if top(name) in OURS and LEVEL[top(name)] > LEVEL[file.parts[0]]
    ]
    refuse(up, "longlive_cli -> recipes -> longlive_models -> longlive_core, never up")
    outside = ("tests", "benchmarks", "examples", "findings", "recipes")
    wrong = [f"{file} imports {name}" for file, name, _ in imports() if top(name) in outside]
    refuse(wrong, "recipes/ is imported as longlive_recipes; tests and the like are not imported")


def test_primitives_do_not_know_each_other():
    found = []
    for file, name, _ in imports():
        own, parts = file.parts[1], name.split(".")
        if file.parts[0] == parts[0] == "longlive_core" and own in PRIMITIVES and len(parts) > 1:
            found += [f"{file} imports {name}"] if parts[1] in PRIMITIVES - {own} else []
    refuse(found, "the consumer writes the contract, the composition root introduces the parts")


def test_a_primitive_is_used_through_its_public_list():
    found = []
    for file, name, _ in imports():
        parts = name.split(".")
        inner = ROOT.joinpath(*parts[:3])
        is_module = len(parts) > 2 and (inner.is_dir() or inner.with_suffix(".py").is_file())
        if file.parts[0] != "longlive_core" and parts[0] == "longlive_core" and is_module:
            found.append(f"{file} imports {name}")
    refuse(found, "from longlive_core.kv_cache import Window, not from a module inside")


def test_third_parties_stay_at_home():
    away = [
        f"{file} imports {name}"
        for file, name, _ in imports()
        for package, is_home in HOMES.items()
        if (name == package or name.startswith(f"{package}.")) and not is_home(file)
    ]
    refuse(away, "each third party has one home")
    early = [
        f"{file} imports {n}"
        for file, n, at_import in imports()
        if at_import
        and top(n) in OPTIONAL
        # rooms of their own: what a backend runs, and the server
        and "kernels" not in file.parts
        and file.parts[:2] != ("recipes", "serve")
    ]
    refuse(early, "an optional package is imported inside the backend that needs it")


def test_the_core_needs_torch_and_jaxtyping_alone():
    allowed = {"torch", "jaxtyping", "longlive_core"} | OPTIONAL | set(sys.stdlib_module_names)
    found = [
        f"{file} imports {name}"
        for file, name, _ in imports()
        if file.parts[0] == "longlive_core" and top(name) not in allowed
    ]
    refuse(found, "longlive_core needs torch and jaxtyping alone")


def test_no_modules_import_each_other():
    """Imports inside functions are counted: what waits for a call hides a circle, it ends none."""
    modules = {module_name(file): file for file in FILES}
    graph = {
        name: {target for target, _ in imported_by(file) if target in modules}
        for name, file in modules.items()
    }
    for name, targets in graph.items():  # `from package import module` is for the module alone
        named = {top_of(target) for target in targets} & targets
        targets -= {package for package in named if modules[package].name == "__init__.py"}
        targets -= {name}
    left = dict(graph)
    while leaves := [name for name, targets in left.items() if not targets & left.keys()]:
        for name in leaves:
            del left[name]
    refuse(sorted(left), "modules that import each other, or import such modules")


def top_of(name: str) -> str:
    return name.rpartition(".")[0]

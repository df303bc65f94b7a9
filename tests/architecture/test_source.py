"""What can be counted in the source: sizes, hidden switches, silent excepts, prints, leftovers."""

import ast
import re
from collections.abc import Iterator

from tests.architecture.source import FILES, PACKAGES, ROOT, text, tree

LONGEST_FILE, LONGEST_FUNCTION = 400, 80
PAGES = [
    page.relative_to(ROOT)
    for folder, pattern in ((".", "*.md"), *((p, "**/*.md") for p in (*PACKAGES, "docs")))
    for page in sorted((ROOT / folder).glob(pattern))
    if page.name not in ("CHANGELOG.md", "renames.md")  # they name what was
]


def nodes() -> Iterator[tuple[str, ast.AST]]:
    for file in FILES:
        for node in ast.walk(tree(file)):
            yield f"{file}:{vars(node).get('lineno', 0)}", node


def refuse(found: list[str]) -> None:
    assert not found, "\n".join(["", *found])


def test_files_and_functions_stay_readable():
    lengths = {file: len(text(file).splitlines()) for file in FILES}
    refuse([f"{file} has {n} lines" for file, n in lengths.items() if n > LONGEST_FILE])
    found = []
    for where, node in nodes():
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            found += [f"{where} {node.name} has {lines} lines"] if lines > LONGEST_FUNCTION else []
    refuse(found)


def hidden(node: ast.AST) -> str | None:
    """What a node does that a caller could not see, or None."""
    match node:
        case ast.Attribute(attr="environ" | "getenv") | ast.alias(name="environ" | "getenv"):
            return "reads the environment"
        case ast.Global():
            return "writes a global"
        case ast.Call(func=ast.Name(id="print")):
            return "prints: only the command line speaks, with typer"
        case ast.Call(func=ast.Name(id="getattr"), args=[_, _, _]):
            return "has a default where a field should be"
        case ast.Name(id="NotImplementedError"):
            return "is a stub"
        case ast.ImportFrom(module="__future__"):
            return "hides annotations from jaxtyping"
        case ast.ExceptHandler() if swallows(node):
            return "swallows whatever goes wrong"
    return None


SHARDS = "recipes/training/sharded_checkpoints.py"
READERS_OF_PICKLES = ("longlive_models/checkpoints/tensor_files.py", SHARDS)


def runs(node: ast.AST) -> str | None:
    """How a call could run code that a file holds, or None."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name(id="torch"), attr="load"), keywords=named):
            safe = [n.value for n in named if n.arg == "weights_only"]
            only = len(safe) == 1 and isinstance(safe[0], ast.Constant) and safe[0].value is True
            return None if only else "loads a pickle without weights_only=True"
        case ast.Call(func=ast.Attribute(attr="load" | "loads", value=ast.Name(id=module))):
            return f"{module} runs what it loads" if module in UNSAFE else None
        case ast.Call(func=ast.Name(id="eval" | "exec") | ast.Attribute(attr="add_safe_globals")):
            return "runs text, or lets pickles name more"
        case ast.Attribute(attr="load_from_checkpoint" | "dcp_to_torch_save"):
            return "leaves the reading of pickles to others"
        case ast.keyword(arg="trust_remote_code" | "allow_pickle", value=ast.Constant(value=True)):
            return "runs code of the folder that it reads"
    return None


UNSAFE = ("pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve", "np", "numpy", "dcp")


def test_no_file_runs_code():
    """Files are data: two readers of pickles allow names by a list, and all others use them."""
    allowed = SHARDS, "dcp runs what it loads"  # with its own reader and planner
    found = [(where, how) for where, node in nodes() if (how := runs(node))]
    refuse([f"{where} {how}" for where, how in found if (where.partition(":")[0], how) != allowed])
    loads = [where.partition(":")[0] for where, node in nodes() if is_torch_load(node)]
    assert set(loads) == set(READERS_OF_PICKLES)


def is_torch_load(node: ast.AST) -> bool:
    return isinstance(node, ast.Attribute) and ast.unparse(node) == "torch.load"


def swallows(handler: ast.ExceptHandler) -> bool:
    """Whether it catches everything and neither raises it nor keeps it for the caller."""
    caught = (
        {n.id for n in ast.walk(handler.type) if isinstance(n, ast.Name)} if handler.type else {}
    )
    if handler.type is not None and not {"Exception", "BaseException"} & set(caught):
        return False
    inside = [node for statement in handler.body for node in ast.walk(statement)]
    kept = any(isinstance(n, ast.Name) and n.id == handler.name for n in inside)
    return not kept and not any(isinstance(n, ast.Raise) for n in inside)


def test_nothing_is_hidden():
    found = [f"{where} {what}" for where, node in nodes() if (what := hidden(node))]
    environment = [line for line in found if line.startswith("longlive_cli/launcher.py")]
    assert len(environment) == 1, "what started the process is asked in one place"
    refuse([line for line in found if line not in environment])


def test_the_rules_see_what_they_are_for():
    bad = [
        "os.environ['A']",
        "from os import getenv",
        "def f():\n    global x",
        "print(1)",
        "getattr(a, 'b', None)",
        "raise NotImplementedError",
        "from __future__ import annotations",
        "try:\n    f()\nexcept:\n    pass",
        "try:\n    f()\nexcept (OSError, Exception):\n    g()",
    ]
    good = [
        "getattr(a, name)",
        "try:\n    f()\nexcept OSError:\n    pass",
        "try:\n    f()\nexcept Exception as error:\n    keep(error)",
        "try:\n    f()\nexcept BaseException:\n    close()\n    raise",
    ]
    assert [code for code in bad if not any(map(hidden, ast.walk(ast.parse(code))))] == []
    assert [code for code in good if any(map(hidden, ast.walk(ast.parse(code))))] == []


def test_no_leftovers():
    refuse([str(f) for f in FILES if re.search(r"\b(TODO|FIXME|XXX|HACK)\b", text(f))])


BRITISH = re.compile(
    r"(?:quanti|normali|optimi|initiali|synchroni|stabili|materiali|seriali|paralleli|utili)s"
    r"(?:e[drs]?|ing|ation)|neighbour|favour|behaviour|travelled|signalled|centre|licence|colour",
    re.IGNORECASE,
)
BRITISH_ON_DISK = {
    "recipes/run_record.py": ("optimisation", "quantised"),  # the fields of older records
    **dict.fromkeys(  # an attribute of a moving shape, a name in evaluations on disk
        (
            *(str(f) for f in FILES if f.parent.name == "moving_shapes"),
            "recipes/evaluate.py",
            "longlive_cli/commands/evaluate.py",
            "README.md",
            "longlive_models/pocket/README.md",
        ),
        ("colour",),
    ),
}


def british(name: str, content: str) -> list[str]:
    """British spellings in a file that are no names on disk."""
    known = BRITISH_ON_DISK.get(name, ())
    return [word for word in BRITISH.findall(content) if word.lower() not in known]


def test_words_have_the_spelling_of_torch():
    files = [*FILES, *PAGES]
    found = {str(file): british(str(file), text(file)) for file in files}
    refuse([f"{file}: {', '.join(words)}" for file, words in found.items() if words])
    words = ["quantised", "neighbour", "Colour"]
    assert british("a.py", "Dequantised neighbours, a Colour") == words
    assert british("a.py", "quantized neighbors raise otherwise") == []


def test_every_file_says_what_it_holds():
    refuse([str(file) for file in FILES if not ast.get_docstring(tree(file))])

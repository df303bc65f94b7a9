"""What can be counted in the source: sizes, hidden switches, silent excepts, prints, leftovers."""

import ast
import re
from collections.abc import Iterator

from tests.architecture.source import FILES, PACKAGES, ROOT, text, tree

LONGEST_FILE, LONGEST_FUNCTION = 400, 80
MOST_RECIPES = 14
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


def test_recipes_are_few():
    """What is no recipe has a folder, so that a person sees at a glance what can be run."""
    modules = [str(file) for file in FILES if file.parts[0] == "recipes" and len(file.parts) == 2]
    modules.remove("recipes/__init__.py")
    assert 0 < len(modules) <= MOST_RECIPES, f"{', '.join(modules)}: put into a folder what is none"


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
    assert environment, "what started the process is asked in one file"
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


ANYTHING = ("dict[str, Any]", "Mapping[str, Any]", "MutableMapping[str, Any]")


def unpacked(module: ast.Module) -> Iterator[tuple[int, str]]:
    """Calls with ``**`` of a dict whose values nobody checks: the line, and what is unpacked.

    Refused is a name that the function around it declares as ``dict[str, Any]``, takes as
    ``**name: Any``, or fills as ``{"key": value}`` or ``dict(key=value)``; such a dict itself; and
    what a function of the same file returns as ``dict[str, Any]``. Write the arguments, or pass one
    dataclass. What torch calls with such a dict, it gets back (``__torch_function__``). A method
    may pass its own ``**name`` on to the same method of ``super()``: that one checks the arguments,
    and a later version of it may take further ones.
    """
    functions = [node for node in ast.walk(module) if isinstance(node, ast.FunctionDef)]
    makers = {f.name for f in functions if f.returns and ast.unparse(f.returns) in ANYTHING}
    for function in functions:
        if function.name.startswith("__torch_"):
            continue
        loose = {name for node in ast.walk(function) for name in _loose(node)}
        for call in ast.walk(function):
            for named in call.keywords if isinstance(call, ast.Call) else ():
                match named:
                    case ast.keyword(arg=None, value=ast.Name(id=name)) if (
                        function.args.kwarg
                        and name == function.args.kwarg.arg
                        and ast.unparse(call.func) == f"super().{function.name}"
                    ):
                        continue
                    case ast.keyword(arg=None, value=ast.Name(id=name)) if name in loose:
                        yield call.lineno, name
                    case ast.keyword(arg=None, value=ast.Dict(keys=keys) as shown):
                        if all(key is None or isinstance(key, ast.Constant) for key in keys):
                            yield call.lineno, ast.unparse(shown)
                    case ast.keyword(arg=None, value=ast.Call(func=ast.Name(id=name))):
                        if name in makers:
                            yield call.lineno, name


def _loose(node: ast.AST) -> Iterator[str]:
    """Names that a part of a function makes dicts of unchecked values."""
    match node:
        case ast.AnnAssign(target=ast.Name(id=name)) if ast.unparse(node.annotation) in ANYTHING:
            yield name
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Dict(keys=[_, *_] as keys)):
            if all(isinstance(key, ast.Constant) for key in keys):
                yield name
        case ast.Assign(targets=[ast.Name(id=name)], value=ast.Call(func=ast.Name(id="dict"))):
            if node.value.keywords:
                yield name
        case ast.arguments():
            for one in (*node.posonlyargs, *node.args, *node.kwonlyargs):
                if one.annotation and ast.unparse(one.annotation) in ANYTHING:
                    yield one.arg
            rest = node.kwarg
            if rest and (rest.annotation is None or ast.unparse(rest.annotation) == "Any"):
                yield rest.arg


def test_no_dict_of_anything_is_unpacked():
    found = [(file, *where) for file in FILES for where in sorted(set(unpacked(tree(file))))]
    refuse([f"{file}:{line} **{what}" for file, line, what in found])


def test_what_unpacks_is_seen():
    bad = [
        "def f(a: dict[str, Any]):\n    g(**a)",
        "def f(**a: Any):\n    g(1, **a)",
        "def f():\n    a: dict[str, Any] = h()\n    g(**a)",
        "def f():\n    a = {'x': 1, 'y': 'z'}\n    g(**a)",
        "def f():\n    a = dict(x=1, y='z')\n    g(**a)",
        "def f(a):\n    g(**{**a, 'x': 1})",
        "def h() -> dict[str, Any]:\n    return {}\ndef f():\n    g(**h())",
        "def f(self, **a: Any):\n    super().g(**a)",
        "def f(self, **a: Any):\n    b: dict[str, Any] = a\n    super().f(**b)",
    ]
    good = [
        "def f(a: dict[str, Any]):\n    return {**a}",
        "def f(a: dict[str, int]):\n    g(**a)",
        "def f(x: int):\n    g(x=x)",
        "def f(a):\n    g(**{a: 1})",
        "def __torch_function__(self, func, kwargs: dict[str, Any]):\n    func(**kwargs)",
        "def f(self, x: int, **a: Any):\n    super().f(x, **a)",
    ]
    assert [code for code in bad if not any(unpacked(ast.parse(code)))] == []
    assert [code for code in good if any(unpacked(ast.parse(code)))] == []


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
            "recipes/bench/pairs.py",
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

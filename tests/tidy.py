"""The rules of this repository, as functions from modules to complaints. `test_tidy.py` applies and proves them.

Sizes are a ratchet: `RATCHET` freezes what was too large when it was written down. An entry may only shrink, and one
that is no longer needed is a complaint too.
"""

import ast
import gc
import hashlib
import io
import re
import subprocess
import tokenize
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
MAY_IMPORT = {
    "proto": {"proto"},
    "mesh": {"proto", "mesh"},
    "nodes": {"proto", "mesh", "nodes"},
    "launch": {"proto", "mesh", "nodes", "launch"},
    "bench": {"proto", "mesh", "nodes", "launch", "bench"},
    "tests": {"proto", "mesh", "nodes", "launch", "bench", "tests"},
}
EXAMPLES = "launch/examples/"  # scripts that show users how theirs look: the rules of our modules are not theirs
PURE_STDLIB = {
    *("__future__", "abc", "argparse", "array", "base64", "binascii", "bisect", "collections", "contextlib", "copy"),
    *(
        "dataclasses",
        "enum",
        "fnmatch",
        "fractions",
        "functools",
        "hashlib",
        "heapq",
        "hmac",
        "ipaddress",
        "itertools",
        "json",
    ),
    *("math", "operator", "random", "re", "statistics", "string", "struct", "textwrap", "types", "typing"),
    *("unicodedata", "zlib"),
}
PURE_CALLS = {"hash", "id", "open", "print", "input"}  # salted, addresses, or IO
BANNED_IMPORTS = {"pickle", "marshal", "shelve", "dill", "cloudpickle", "zmq.asyncio"}
BANNED_CALLS = {"eval", "exec"}
BANNED_ATTRIBUTES = {"recv_pyobj", "send_pyobj"}
NO_SLEEP = {"mesh", "tests"}  # a wait that is not for something is too long or too short
NOTE = re.compile(r"\b(FIXME|TODO|XXX|HACK)\b")
FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 60
LINE_CHARS_MAX = 120
TEXTS = {".py", ".sh", ".cfg", ".toml", ".md", ".json", ".yaml", ".yml", ""}
# Names of places and programs that only one workplace has, as hashes so that this file does not name them either.
FOREIGN = {"43e4051478c18ea0", "d293dd49f26ee80a", "8307837dba9423ba", "ae6d3525ade1e8b8", "ec465dbc882a16de"}

RATCHET: dict[str, int] = {}  # "path" or "path::function": lines


class Module(NamedTuple):
    path: str
    text: str
    tree: ast.Module
    nodes: tuple[ast.AST, ...]  # of the tree: each check looks at all of them

    @property
    def package(self) -> str:
        return self.path.split("/", 1)[0]

    @property
    def name(self) -> str:
        return self.path.removesuffix(".py").removesuffix("/__init__").replace("/", ".")

    @property
    def kind(self) -> str:
        """`Pure`, `Shell`, or nothing."""
        return next(
            (kind for kind in ("Pure", "Shell") if (ast.get_docstring(self.tree) or "").startswith(kind + ".")), ""
        )


def parsed(path: str, text: str) -> Module:
    tree = ast.parse(text, path)
    return Module(path, text, tree, tuple(ast.walk(tree)))


@cache
def files() -> tuple[str, ...]:
    """What belongs to the repository: tracked or about to be, or simply there where git is not."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    names = listed.stdout.splitlines() or [str(path.relative_to(ROOT)) for path in ROOT.glob("[a-z]*/**/*.py")]
    return tuple(sorted(name for name in names if (ROOT / name).is_file()))


@cache
def modules() -> dict[str, Module]:
    paths = [path for path in files() if path.endswith(".py") and path.split("/", 1)[0] in MAY_IMPORT]
    gc.disable()  # a million nodes that stay: no collection need look at them
    found = [parsed(path, (ROOT / path).read_text()) for path in paths]
    gc.freeze()
    gc.enable()
    return {module.name: module for module in found}


def ours(module: Module) -> bool:
    return module.package != "tests" and not module.path.startswith(EXAMPLES)


# --- The checks: (module, all modules by name) -> (line, what is wrong) -----------------------------

Complaints = Iterator[tuple[int, str]]
Known = dict[str, Module]


def check_kind(module: Module, known: Known) -> Complaints:
    """Every module says what it is: its docstring begins with Pure. or Shell."""
    if ours(module) and not module.kind:
        yield 1, "the docstring must begin with 'Pure.' or 'Shell.'"


def check_direction(module: Module, known: Known) -> Complaints:
    """proto <- mesh <- nodes <- launch, bench; nothing imports tests."""
    for line, name in imports(module, known):
        package = name.split(".", 1)[0]
        if package in MAY_IMPORT and package not in MAY_IMPORT[module.package]:
            yield line, f"{module.package} must not import {package}"


def check_pure_imports(module: Module, known: Known) -> Complaints:
    """Pure modules import pure modules, msgspec and harmless parts of the standard library."""
    for line, name in imports(module, known) if module.kind == "Pure" else ():
        package = name.split(".", 1)[0]
        if package in MAY_IMPORT:
            if name in known and known[name].kind != "Pure":
                yield line, f"a pure module imports {name}, which is not pure"
        elif package != "msgspec" and package not in PURE_STDLIB:
            yield line, f"a pure module imports {name}"


def check_pure_calls(module: Module, known: Known) -> Complaints:
    """Pure modules have no hidden inputs: no hash, id, IO, shared random numbers or globals."""
    plain = [item.name for node in module.nodes if isinstance(node, ast.Import) for item in node.names]
    shared = "random" in plain  # else `random` is an argument, as it should be
    for node in module.nodes if module.kind == "Pure" else ():
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in PURE_CALLS:
                yield node.lineno, f"{name}() in a pure module"
            case ast.Attribute(value=ast.Name(id="random"), attr=name) if shared and name != "Random":
                yield node.lineno, f"random.{name} in a pure module: draw from a Random that was given"
            case ast.ImportFrom(module="random", names=names) if any(item.name != "Random" for item in names):
                yield node.lineno, "from random import ... in a pure module: only Random"
            case ast.Global():
                yield node.lineno, "global in a pure module"


def check_pure_sets(module: Module, known: Known) -> Complaints:
    """The order of a set is nobody's: pure modules ask it for membership, sort it, and never walk it."""
    if module.kind != "Pure":
        return
    names = set_names(module)
    for node in module.nodes:
        match node:
            case ast.For(iter=walked) | ast.comprehension(iter=walked):
                pass
            case ast.List(elts=[ast.Starred(value=walked), *_]) | ast.Tuple(elts=[ast.Starred(value=walked), *_]):
                pass
            case ast.Call(func=ast.Name(id="list" | "tuple" | "iter" | "enumerate"), args=[walked, *_]):
                pass
            case ast.Call(func=ast.Attribute(value=walked, attr="pop"), args=[]):
                pass
            case _:
                continue
        if is_set(walked, names):
            yield walked.lineno, f"walks the set {ast.unparse(walked)}: sort it, or keep a dict"


def check_bans(module: Module, known: Known) -> Complaints:
    """Nothing that runs what it reads, nothing that waits by the clock, nothing that hides a failure."""
    for line, name in imports(module, known):
        if any(name == banned or name.startswith(banned + ".") for banned in BANNED_IMPORTS):
            yield line, f"{name} is banned"
    for node in module.nodes:
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in BANNED_CALLS:
                yield node.lineno, f"{name}() is banned"
            case ast.Attribute(attr=name) if name in BANNED_ATTRIBUTES:
                yield node.lineno, f"{name} is banned"
            case ast.Attribute(value=ast.Name(id="time"), attr="sleep") if module.package in NO_SLEEP:
                yield node.lineno, "time.sleep: wait for what you wait for"
            case ast.ImportFrom(module="time", names=names) if any(item.name == "sleep" for item in names):
                yield node.lineno, "time.sleep: wait for what you wait for"
            case ast.ExceptHandler(type=caught, body=[ast.Pass() | ast.Expr(value=ast.Constant())]) if is_broad(caught):
                yield node.lineno, "swallows every exception"
            case ast.Call(func=ast.Name(id="suppress") | ast.Attribute(attr="suppress"), args=[caught]) if is_broad(
                caught
            ):
                yield node.lineno, "swallows every exception"


def check_notes(module: Module, known: Known) -> Complaints:
    """What is left to do is an issue, not a comment."""
    if not NOTE.search(module.text):
        return
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type == tokenize.COMMENT and NOTE.search(token.string):
            yield token.start[0], "a note to ourselves: open an issue"


def check_sizes(module: Module, known: Known) -> Complaints:
    """A file fits in a head and a function on a screen."""
    for name, line, size, limit in sizes(module):
        allowed = RATCHET.get(name, limit)
        if size > allowed:
            yield line, f"{name} has {size} lines: at most {allowed}"


Check = Callable[[Module, Known], Complaints]
CHECKS: list[Check] = [
    *(check_kind, check_direction, check_pure_imports, check_pure_calls, check_pure_sets),
    *(check_bans, check_notes, check_sizes),
]


# --- What the checks share ----------------------------------------------------------------------------


def imports(module: Module, known: Known) -> Iterator[tuple[int, str]]:
    """Every import that can happen at run time, wherever it stands, as (line, full name)."""
    typing_only = {
        inner
        for node in module.nodes
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for statement in node.body
        for inner in ast.walk(statement)
    }
    for node in module.nodes:
        if node in typing_only:
            continue
        match node:
            case ast.Import(names=names):
                yield from ((node.lineno, item.name) for item in names)
            case ast.ImportFrom(module=base, level=0, names=names) if base:
                for item in names:
                    full = f"{base}.{item.name}"
                    yield node.lineno, full if full in known or full in BANNED_IMPORTS else base
            case ast.ImportFrom():
                yield node.lineno, module.name  # A relative import stays in its package.


def set_names(module: Module) -> set[str]:
    """Names and attributes that are given a set somewhere in this module."""
    names = set()
    for node in module.nodes:
        match node:
            case ast.AnnAssign(target=target, annotation=kind) if re.match(r"(frozen)?set\b", ast.unparse(kind)):
                names.add(ast.unparse(target).removeprefix("self."))
            case ast.arg(arg=name, annotation=ast.expr() as kind) if re.match(r"(frozen)?set\b", ast.unparse(kind)):
                names.add(name)
            case ast.Assign(targets=[target], value=value) if is_set(value, set()):
                names.add(ast.unparse(target).removeprefix("self."))
    return names


def is_set(node: ast.expr, names: set[str]) -> bool:
    match node:
        case ast.Set() | ast.SetComp():
            return True
        case ast.Call(func=ast.Name(id="set" | "frozenset")):
            return True
        case ast.BinOp(op=ast.BitOr() | ast.BitAnd() | ast.Sub() | ast.BitXor(), left=left, right=right):
            return is_set(left, names) or is_set(right, names)
        case ast.Name() | ast.Attribute():
            return ast.unparse(node).removeprefix("self.") in names
    return False


def is_broad(caught: ast.expr | None) -> bool:
    return caught is None or ast.unparse(caught) in {"Exception", "BaseException"}


def sizes(module: Module) -> Iterator[tuple[str, int, int, int]]:
    """(name, line, lines, limit) of the file and of each function in it."""
    yield module.path, 1, module.text.count("\n"), FILE_LINES_MAX
    for node in module.nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            size = (node.end_lineno or node.lineno) - node.lineno + 1
            yield f"{module.path}::{node.name}", node.lineno, size, FUNCTION_LINES_MAX


def foreign(text: str) -> Iterator[tuple[int, str]]:
    """Roots of absolute paths and names of programs that only one workplace has."""
    for number, line in enumerate(text.splitlines(), 1):
        for word in re.findall(r"(?<![\w.}])/[a-z]+/|[a-z]+(?:_[a-z]+)+", line):
            if hashlib.blake2b(word.encode(), digest_size=8).hexdigest() in FOREIGN:
                yield number, f"{word} means nothing elsewhere"

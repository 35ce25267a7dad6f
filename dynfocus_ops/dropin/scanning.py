"""What `patch` would look at in a source tree: read, never imported or run."""

import ast
import inspect
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from dynfocus_ops.dropin.dialects import NAMES, REPLACEMENTS


@dataclass(frozen=True)
class Found:
    path: Path
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.what}"


def scan(path: Path) -> list[Found]:
    """Candidates, files that import one by name, inline copies and files that cannot be read, in `path` or below it."""
    files = [path] if path.is_file() else sorted(file for file in path.rglob("*.py") if file.is_file())
    return [found for file in files for found in scan_file(file)]


def scan_file(file: Path) -> Iterator[Found]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)
            tree = ast.parse(file.read_bytes(), str(file))
    except (SyntaxError, ValueError, OSError) as error:
        yield Found(file, 1, f"not read: {error}")
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef):
            if node.name in NAMES:
                yield Found(file, node.lineno, nomination(node))
            elif is_inline_copy(node):
                yield Found(file, node.lineno, f"{node.name}: an inline copy, nothing that can be swapped")
        elif isinstance(node, ast.ImportFrom):
            for name in sorted({alias.name for alias in node.names} & NAMES):
                yield Found(file, node.lineno, f"imports {name} from {'.' * node.level}{node.module or ''}")


def nomination(node: ast.FunctionDef) -> str:
    dialects = [
        replacement.dialect
        for replacement in REPLACEMENTS
        if replacement.name == node.name and fits(node.args, replacement.parameters)
    ]
    verdict = f"may be {', '.join(dialects)}" if dialects else "has the parameters of no dialect"
    return f"{node.name}({ast.unparse(node.args)}): {verdict}"


def fits(args: ast.arguments, parameters: list[inspect.Parameter]) -> bool:
    """As patching.misfit, on source."""
    names = [arg.arg for arg in (*args.posonlyargs, *args.args)]
    if args.vararg or args.kwarg or args.kwonlyargs or len(names) > len(parameters):
        return False
    shared, rest = parameters[: len(names)], parameters[len(names) :]
    defaults = [ast.unparse(default) for default in args.defaults]
    ours = [repr(parameter.default) for parameter in shared if parameter.default is not parameter.empty]
    return (
        names == [parameter.name for parameter in shared]
        and defaults == ours
        and all(parameter.default is not parameter.empty for parameter in rest)
    )


def is_inline_copy(node: ast.FunctionDef) -> bool:
    """Whether it takes pairwise distances, their smallest few, a density and its highest scores, all in one body."""
    calls = [call for call in ast.walk(node) if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute)]
    names = [call.func.attr for call in calls if isinstance(call.func, ast.Attribute)]
    return "cdist" in names and "exp" in names and names.count("topk") >= 2

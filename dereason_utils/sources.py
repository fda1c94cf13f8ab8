"""Which code a stage runs, and its hash: so that a changed plot trains nothing again."""

import ast
import datetime
import functools
import hashlib
import json
from pathlib import Path

import pydantic
import yaml

from dereason_utils import paths

PACKAGE = "dereason_utils"
# Modules that move files, check names and print, but compute no result: a change in them redoes nothing. The
# profile's numbers count through `profiles.stage_settings`, file formats through `manifest.FORMAT_VERSION`.
PLUMBING = (
    "disk",
    "errors",
    "manifest",
    "notebook",
    "paths",
    "profiles",
    "progress",
    "run",
    "sources",
    "workflow",
)


# Modules that were mended so that the results committed before stay what a new run would give; each with the hash that
# it had then, why that is so and what was compared. Its next change, if it is another one, does away with its entry.
SAME_RESULTS = Path(__file__).with_name("same_results.yaml")


class SameResults(pydantic.BaseModel):
    """A module whose code, of hash `code`, counts as that of hash `counts_as` for what a stage's results depend on."""

    model_config = pydantic.ConfigDict(extra="forbid")

    code: str
    counts_as: str
    changed: datetime.date
    why: str


def code_hash(stage: str) -> str:
    """Hash of the code that a stage runs: its notebook's cells and every module they import, near and far.

    Comments, docstrings, layout, outputs and Markdown do not count: editing them trains nothing again, nor does a
    change that SAME_RESULTS lists. That speaks of 01 to 05; the tables and figures of 06 are drawn again in a minute.
    """
    files = [paths.notebook_path(stage), *modules(stage)]
    listed = same_results().values() if stage != paths.STAGES[-1] else ()
    counts_as = {entry.code: entry.counts_as for entry in listed}
    hashes = (module_hash(path) for path in files)
    return hashlib.sha256("".join(counts_as.get(code, code) for code in hashes).encode()).hexdigest()


def module_hash(path: Path) -> str:
    return _code(path)[0]


@functools.cache
def same_results() -> dict[str, SameResults]:
    """By the module's path below the package."""
    listed = yaml.safe_load(SAME_RESULTS.read_text(encoding="utf-8")) or {}
    return {module: SameResults.model_validate(entry) for module, entry in listed.items()}


def modules(stage: str) -> list[Path]:
    """Files of this package that the notebook imports, directly or through others, without the plumbing.

    Of a folder all modules count, because it may start some as programs of their own.
    """
    found: set[Path] = set()
    waiting = set(_code(paths.notebook_path(stage))[1])
    while waiting:
        name = waiting.pop()
        path = _module_file(name)
        if path is None or path in found or name.split(".")[1] in PLUMBING:
            continue
        found.add(path)
        if path.name == "__init__.py":
            waiting |= {f"{name}.{other.stem}" for other in path.parent.glob("*.py")} - {f"{name}.__init__"}
        waiting |= _code(path)[1]
    return sorted(found)


def _code(path: Path) -> tuple[str, frozenset[str]]:
    """(hash of a file's code, what it imports of this package); a notebook that is not there has none."""
    if not path.is_file():
        return "", frozenset()
    stat = path.stat()
    return _read_code(path, (stat.st_mtime_ns, stat.st_size))


@functools.cache
def _read_code(path: Path, stamp: tuple[int, int]) -> tuple[str, frozenset[str]]:
    """Kept by the file's time and size: every step asks for all of them, and parsing takes a second."""
    notebook = path.suffix == ".ipynb"
    tree = notebook_code(path) if notebook else ast.parse(path.read_text(encoding="utf-8"))
    package = PACKAGE if notebook else ".".join(path.parent.relative_to(paths.REPO).parts)
    imports = frozenset(_imports(tree, package))
    return hashlib.sha256(repr(_plain(_without_docstrings(tree))).encode()).hexdigest(), imports


def notebook_code(path: Path) -> ast.Module:
    """All code cells as one module without IPython's own lines (%magic, !shell); empty without a notebook."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []
    lines = [
        line for cell in cells if cell["cell_type"] == "code" for line in "".join(cell["source"]).splitlines()
    ]
    return ast.parse("\n".join(line for line in lines if not line.lstrip().startswith(("%", "!"))))


def _imports(tree: ast.AST, package: str) -> set[str]:
    """Dotted names below PACKAGE that code in `package` may import; some may be functions, not modules."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    parts = [name.split(".") for name in names if name.startswith(f"{PACKAGE}.")]
    return {".".join(name[:end]) for name in parts for end in range(2, len(name) + 1)}


def _module_file(name: str) -> Path | None:
    base = paths.REPO.joinpath(*name.split("."))
    for path in (base.with_suffix(".py"), base / "__init__.py"):
        if path.is_file():
            return path
    return None


def _plain(node):
    """A syntax tree as nested lists, the same under every version of Python: `ast.dump` shows fields that one lacks.

    What is absent or empty is left out, so that a field that a later version adds changes nothing.
    """
    if isinstance(node, ast.AST):
        fields = [[name, _plain(value)] for name, value in ast.iter_fields(node) if value not in (None, [])]
        return [type(node).__name__, *sorted(fields, key=lambda field: field[0])]
    return [_plain(part) for part in node] if isinstance(node, list) else node


def _without_docstrings(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            node.body = [
                line
                for line in node.body
                if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))
            ]
    return tree

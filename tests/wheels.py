"""The sources of the releases that requirements-gpu.lock pins, read and never imported: they need a GPU.

The wheels are downloaded once, without dependencies, into $DEREASON_CACHE/.wheels: what does not begin with a dot is
a model there.
"""

import ast
import functools
import re
import subprocess
import sys
import zipfile

import pytest

from dereason_utils import paths

FOLDER = ".wheels"
PLATFORM = ["--python-version", "3.11", "--platform", "manylinux_2_28_x86_64", "--only-binary=:all:"]


def pinned(package: str) -> str:
    lines = (paths.REPO / "requirements-gpu.lock").read_text().splitlines()
    return next(line.split("==")[1].split()[0] for line in lines if line.startswith(f"{package}=="))


@functools.cache
def wheel(package: str, version: str | None = None) -> zipfile.ZipFile:
    """The opened wheel of the locked release, or of `version`; skips the test when it cannot be downloaded."""
    folder, version = paths.cache_root() / FOLDER, version or pinned(package)
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if not list(folder.glob(pattern)):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            *PLATFORM,
            "-d",
            str(folder),
        ]
        done = subprocess.run(
            [*command, f"{package}=={version}"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"{package}=={version} cannot be downloaded: a package index would run this test")
    return zipfile.ZipFile(next(folder.glob(pattern)))


@functools.cache
def module(package: str, path: str) -> ast.Module:
    return ast.parse(wheel(package).read(path).decode())


def find(tree: ast.AST, name: str) -> ast.AST:
    """The function or class `name`, or `Class.method`."""
    for part in name.split("."):
        tree = next(
            node
            for node in ast.walk(tree)
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name == part
        )
    return tree


def parameters(function: ast.FunctionDef) -> tuple[list[str], set[str], bool]:
    """(positional names, all names, whether it takes any keyword)."""
    given = function.args
    positional = [a.arg for a in [*given.posonlyargs, *given.args]]
    return positional, {*positional, *(a.arg for a in given.kwonlyargs)}, given.kwarg is not None


def fields(tree: ast.AST, name: str) -> set[str]:
    """The annotated fields of a class."""
    return {
        node.target.id
        for node in find(tree, name).body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }


def own_calls(file: str, name: str) -> list[ast.Call]:
    """Our calls of `name` (the last part of what is called) in a file of the package."""
    tree = ast.parse((paths.REPO / "dereason_utils" / file).read_text())
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if re.split(r"\W", ast.unparse(call.func))[-1] == name]


def bind(call: ast.Call, function: ast.FunctionDef, method: bool) -> None:
    """Assert that the function has a parameter for every argument of the call; `method` drops self."""
    positional, names, _ = parameters(function)
    assert len(call.args) <= len(positional) - method, ast.unparse(call)
    given = {keyword.arg for keyword in call.keywords if keyword.arg}
    assert given <= names, f"{ast.unparse(call)}: unknown {given - names}"

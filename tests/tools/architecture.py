# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The layers of plugins/ and the bounds of their code, read from the syntax trees.

Every rule is a function from a source file to complaints, which name the file and line.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = "ansible_collections.vmkeep.libvirt.plugins."

MODEL, PLAN, HOST, FLOW, RUN, MODULES = "_model", "_plan", "_host", "_flow", "_run", "modules"
# What the files of a layer may import from this collection, beside their own layer.
BELOW = {
    MODEL: set(),
    PLAN: {MODEL},
    HOST: {MODEL},
    FLOW: {MODEL, PLAN, HOST},
    RUN: {MODEL, PLAN, HOST, FLOW},
    MODULES: {RUN},
}
FOREIGN = {HOST: {"libvirt", "libvirt_qemu"}, RUN: {"ansible"}, MODULES: {"ansible"}}
PURE = (MODEL, PLAN)
# The standard library without the outside world: files, programs, network, threads, clock, chance.
IMPURE_IMPORTS = """
    asyncio concurrent ctypes fcntl fileinput ftplib glob http io linecache logging mmap
    multiprocessing pathlib platform pwd grp queue random resource sched secrets select
    selectors shutil signal smtplib socket socketserver sqlite3 ssl subprocess syslog tempfile
    termios threading time urllib.request"""
PURE_NAMES_OF_OS = """
    os.path os.sep os.stat_result os.fspath os.path.basename os.path.commonpath os.path.dirname
    os.path.isabs os.path.join os.path.normpath os.path.relpath os.path.split
    os.path.splitext"""
IMPURE_BUILTINS = {"open", "print", "input", "exec", "eval"}
ONLY_IN_RUN = {"exit_json", "fail_json", "check_mode"}
LONGEST_FUNCTION, LONGEST_FILE = 40, 300
LICENSE_LINE = "# GNU General Public License v3.0+ (see LICENSE or "
PRIVATE_NOTE = "This util is PRIVATE to the collection."


@dataclass(frozen=True)
class Source:
    """A file under plugins/, with its layer (empty for doc fragments) and syntax tree."""

    path: str
    layer: str
    text: str
    tree: ast.Module

    def complaint(self, node: ast.AST | None, text: str) -> str:
        return f"{self.path}:{getattr(node, 'lineno', 1)}: {text}"


def sources(plugins: Path) -> list[Source]:
    found = []
    for path in sorted(plugins.rglob("*.py")):
        name, text = path.relative_to(plugins).as_posix(), path.read_text()
        tree = ast.parse(text, filename=name, feature_version=(3, 9))
        found.append(Source(name, layer_of(name), text, tree))
    return found


def layer_of(path: str) -> str:
    """Return the layer of a file below plugins/; an unknown folder is a layer of its own."""
    parts = path.split("/")
    if parts[0] != "module_utils":
        return parts[0] if parts[0] == MODULES else ""
    return parts[1] if len(parts) > 2 else RUN


def layer_of_import(name: str) -> str:
    """Return the layer of a dotted name below plugins/ (of a file, or of something in it)."""
    parts = name.split(".")
    if parts[0] != "module_utils":
        return parts[0]
    return parts[1] if parts[1] in BELOW else RUN


def imports(source: Source) -> Iterator[tuple[ast.AST, str]]:
    """Yield every imported name in full; those of this collection start with a dot."""
    package = source.path.split("/")[:-1]
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node, alias.name.replace(HERE, ".")
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join(filter(None, [*above, node.module]))
            base = f".{base}" if node.level else base.replace(HERE, ".")
            for alias in node.names:
                yield node, f"{base}.{alias.name}"


def dotted(node: ast.AST) -> str:
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else "?"


def functions(source: Source) -> Iterator[tuple[ast.AST, int]]:
    for node in ast.walk(source.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node, node.end_lineno - node.lineno + 1


def layers(source: Source) -> Iterator[str]:
    """An import points down, or stays in its layer (modules do not import each other)."""
    if source.layer and source.layer not in BELOW:
        yield source.complaint(None, f"{source.layer} is no layer of the design")
        return
    for node, name in imports(source):
        if source.layer and name.startswith("."):
            target = layer_of_import(name[1:])
            stays = target == source.layer != MODULES
            if not stays and target not in BELOW[source.layer]:
                yield source.complaint(node, f"{source.layer} imports {name[1:]}")


def foreign_packages(source: Source) -> Iterator[str]:
    """Only _host knows libvirt, only the runner and the modules know Ansible."""
    for node, name in imports(source):
        package = name.partition(".")[0]
        allowed = FOREIGN.get(source.layer, set())
        if package and package not in sys.stdlib_module_names and package not in allowed:
            yield source.complaint(node, f"{source.layer} imports {package}")


def programs(source: Source) -> Iterator[str]:
    """Only _host starts programs."""
    for node, name in imports(source):
        if source.layer != HOST and name.partition(".")[0] in {"subprocess", "pty"}:
            yield source.complaint(node, f"{source.layer} imports {name}")
    for node in ast.walk(source.tree):
        if isinstance(node, ast.Attribute) and node.attr == "run_command":
            yield source.complaint(node, "run_command: programs are started in _host")


def purity(source: Source) -> Iterator[str]:
    """_model and _plan compute; they touch no file, program, clock or random number."""
    if source.layer not in PURE:
        return
    for node, name in imports(source):
        if set(IMPURE_IMPORTS.split()) & {name.partition(".")[0], ".".join(name.split(".")[:2])}:
            yield source.complaint(node, f"{source.layer} imports {name}")
        if name.startswith("os.") and name not in PURE_NAMES_OF_OS.split():
            yield source.complaint(node, f"{source.layer} imports {name}")
    for node in ast.walk(source.tree):
        name = dotted(node).replace("posixpath.", "os.path.")
        if name.startswith("os.") and name not in PURE_NAMES_OF_OS.split():
            yield source.complaint(node, f"{source.layer} uses {name}")
        if isinstance(node, ast.Call) and dotted(node.func) in IMPURE_BUILTINS:
            yield source.complaint(node, f"{source.layer} calls {dotted(node.func)}")


def one_exit(source: Source) -> Iterator[str]:
    """One runner decides about check mode, success and failure."""
    for node in ast.walk(source.tree):
        used = isinstance(node, ast.Attribute) and node.attr in ONLY_IN_RUN
        if used and source.path != "module_utils/_run.py":
            yield source.complaint(node, f"{node.attr} outside _run.py")


def size(source: Source) -> Iterator[str]:
    for node, lines in functions(source):
        if lines > LONGEST_FUNCTION:
            yield source.complaint(node, f"{node.name} has {lines} lines")
    lines = len(source.text.splitlines())
    if source.path.startswith("module_utils/") and lines > LONGEST_FILE:
        yield source.complaint(None, f"{lines} lines")


def oldest_python(source: Source) -> Iterator[str]:
    """What Python 3.9 parses but cannot run (what it cannot parse fails in sources())."""
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        names = {keyword.arg for keyword in node.keywords}
        if dotted(node.func).endswith("dataclass") and names & {"slots", "kw_only"}:
            yield source.complaint(node, "slots and kw_only need Python 3.10")
        if dotted(node.func) == "zip" and "strict" in names:
            yield source.complaint(node, "zip(strict=) needs Python 3.10")


def header(source: Source) -> Iterator[str]:
    if LICENSE_LINE not in source.text[:300]:
        yield source.complaint(None, "no licence header")
    if "from __future__ import annotations" not in source.text:
        yield source.complaint(None, "no annotations import")
    private = PRIVATE_NOTE in (ast.get_docstring(source.tree) or "")
    if source.path.startswith("module_utils/") and not private:
        yield source.complaint(None, "the docstring does not say that it is private")


RULES = [layers, foreign_packages, programs, purity, one_exit, size, oldest_python, header]

# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Roots of other Debian releases, made of packages by mmdebstrap and kept in the cache.

Packages come from where this machine gets its own, by its mirrors, proxies and settings of apt.
``python -m tools.debian_root SUITE PACKAGE...`` prints the directory of such a root.
"""

from __future__ import annotations

import dataclasses
import fcntl
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from tools.common import CACHE

ROOTS = CACHE / "debian"
# What tells apt the way to its sources: proxies, certificates, a clock that is wrong.
SETTINGS = ("http", "https", "Retries", "Check-Valid-Until", "Check-Date")
# Documentation is a third of the files.
LEAVE_OUT = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# Nothing boots by an initrd that the package of a kernel makes.
ENVIRONMENT = {**os.environ, "INITRD": "No"}
# What it mounts is seen by nobody else, and what it starts ends with it, even if it is killed.
ALONE = ("unshare", "--mount", "--pid", "--fork", "--kill-child")
DRAFT = ".new-"
WEEK = 7 * 24 * 3600
BUILD_SECONDS = 1800


class RootError(Exception):
    """A root cannot be built; the text says why."""


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What a root is made of.

    ``hooks`` are shell commands that run when the packages are there, with the root as ``$1``;
    ``files`` is a directory whose files are then laid over it. Its ``name`` follows from all that.
    """

    suite: str
    packages: tuple[str, ...]
    hooks: tuple[str, ...] = ()
    files: Path | None = None

    @property
    def name(self) -> str:
        parts = [self.suite, *sorted(self.packages), *self.hooks, *LEAVE_OUT]
        parts += [f"{name} {path.read_bytes()!r}" for name, path in self.laid_over()]
        return f"{self.suite}-{hashlib.sha256(chr(0).join(parts).encode()).hexdigest()[:12]}"

    def laid_over(self) -> list[tuple[str, Path]]:
        """Path in the root and source of each file that is laid over it."""
        if self.files is None:
            return []
        found = (path for path in sorted(self.files.rglob("*")) if path.is_file())
        return [(path.relative_to(self.files).as_posix(), path) for path in found]


def obstacle() -> str:
    """Why no root can be made here, '' if one can."""
    if os.geteuid() != 0:
        return "only root can make a root of Debian, whose files have owners of their own"
    done = subprocess.run([*ALONE, "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        return f"a root of Debian needs mounts of its own ({done.stderr.strip()})"
    return ""


def debian_root(recipe: Recipe) -> Path:
    """The directory of a root in the cache, built by the first call (in about a minute)."""
    return kept(ROOTS / recipe.name, lambda target: build_root(recipe, target))


def kept(path: Path, build: Callable[[Path], None]) -> Path:
    """A directory of the cache that the first call lets ``build`` make, whole or not at all.

    Its neighbours that nobody has asked for in a week make room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with (path.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            _make_room(path.parent)
            with tempfile.TemporaryDirectory(prefix=DRAFT, dir=path.parent) as draft:
                build(Path(draft, path.name))
                Path(draft, path.name).rename(path)
        os.utime(path)
    return path


def _make_room(folder: Path) -> None:
    limit = time.time() - WEEK
    for found in filter(Path.is_dir, folder.iterdir()):
        if found.name.startswith(DRAFT) or found.stat().st_mtime < limit:
            shutil.rmtree(found)


def build_root(recipe: Recipe, target: Path) -> None:
    """Make the root in a directory that does not exist yet; only root can."""
    if reason := obstacle():
        raise RootError(reason)
    print(f"Building a root of Debian {recipe.suite}", file=sys.stderr, flush=True)
    try:
        done = subprocess.run(
            _command(recipe, target),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
            env=ENVIRONMENT,
            umask=0o022,  # whatever ours is: a root has users of its own
            timeout=BUILD_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise RootError(f"mmdebstrap was not done within {BUILD_SECONDS} s") from error
    if done.returncode:
        raise RootError(f"mmdebstrap ended with {done.returncode}:\n{done.stdout[-4000:]}")
    for name, path in recipe.laid_over():
        (target / name).unlink(missing_ok=True)  # a link would lead out of the root
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(path.read_bytes())
        (target / name).chmod(0o644)


def _command(recipe: Recipe, target: Path) -> list[str]:
    options = ["--mode=root", "--variant=minbase", "--format=directory", "--quiet"]
    options += [f"--include={','.join(recipe.packages)}"]
    options += [f"--aptopt={setting}" for setting in apt_settings()]
    # A root is whole or thrown away, so nothing has to wait for the disk.
    options += ["--dpkgopt=force-unsafe-io"]
    options += [f"--dpkgopt=path-exclude={path}" for path in LEAVE_OUT]
    options += [f"--customize-hook={hook}" for hook in recipe.hooks]
    return [*ALONE, "mmdebstrap", *options, recipe.suite, str(target), *sources(recipe.suite)]


def apt_settings() -> list[str]:
    """The settings of apt on this machine that have to do with the way to its sources."""
    options = ["--format", '%F "%v";%n', *(f"Acquire::{name}" for name in SETTINGS)]
    return [line for line in _ask("apt-config", "dump", *options) if not line.endswith('"";')]


def sources(suite: str) -> list[str]:
    """Lines of sources.list(5): the mirrors of this machine, for another release.

    None where this machine does not run Debian: mmdebstrap then takes the usual ones.
    """
    fields = "$(ORIGIN) $(REPO_URI) $(RELEASE) $(COMPONENT)"
    targets = _ask("apt-get", "indextargets", "--format", fields, "Created-By: Packages")
    release = Path("/etc/os-release").read_text()
    own = re.search(r"^VERSION_CODENAME=(\w+)", release, re.MULTILINE)
    return translated(targets, own[1] if own else "none", suite)


def translated(targets: Iterable[str], own: str, suite: str) -> list[str]:
    """The sources of a suite where ``targets`` lists those of our own release."""
    wanted = re.compile(rf"Debian (\S+) {own}((?:-updates|-security)?) main")
    found = filter(None, map(wanted.fullmatch, targets))
    return sorted({f"deb {match[1]} {suite}{match[2]} main" for match in found})


def _ask(*words: str) -> list[str]:
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


if __name__ == "__main__":
    try:
        print(debian_root(Recipe(sys.argv[1], tuple(sys.argv[2:]))))
    except RootError as error:
        sys.exit(str(error))

# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``sanity``: ansible-test, in copies of the checkout, without an ignore file.

Compile and import checks run on every Python of this machine that ansible-test knows. Importing
takes about as long as all else, so ansible-test does that in a copy of its own meanwhile.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tools.common import (
    CACHE,
    HOME,
    ROOT,
    TOOLS,
    Tally,
    files_of_the_checkout,
    run,
    tally_of_junit,
    tool_environment,
)

PLACE = Path("ansible_collections") / "vmkeep" / "libvirt"
PYTHONS = CACHE / "pythons"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
MINOR_VERSIONS = range(8, 16)
# ansible-test takes every file in bin/ for Python; ours are checked by lint.
LEFT_OUT = ("bin/", ".ci/")


@dataclass(frozen=True)
class Lane:
    """A run of ansible-test, with a copy of the checkout and a home directory of its own."""

    name: str
    which: tuple[str, str]

    @property
    def tree(self) -> Path:
        return CACHE / "sanity" / self.name / PLACE

    @property
    def home(self) -> Path:
        return HOME / self.name

    def run(self) -> Tally:
        copy_the_checkout(self.tree)
        prepare_home(self.home)
        env = {**tool_environment(), "HOME": str(self.home)}
        env["PATH"] = f"{TOOLS}:{PYTHONS}:{SYSTEM_PATH}"
        options = ["--venv", "--python", "default", "--junit", "--color", "no", "--truncate", "0"]
        status = run(["ansible-test", "sanity", *self.which, *options], cwd=self.tree, env=env)
        return tally_of_junit(sorted((self.tree / "tests/output/junit").glob("*.xml")), status)


LANES = (Lane("import", ("--test", "import")), Lane("rest", ("--skip-test", "import")))


def run_sanity(_options: list[str]) -> Tally:
    print("Pythons:", ", ".join(sorted(link_pythons(), key=minor_version)), flush=True)
    with ThreadPoolExecutor(len(LANES)) as pool:
        return sum(pool.map(Lane.run, LANES), Tally())


def copy_the_checkout(tree: Path) -> None:
    """Lay out the files where ansible-test wants them."""
    shutil.rmtree(tree, ignore_errors=True)
    for name in files_of_the_checkout():
        if not name.startswith(LEFT_OUT):
            target = tree / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target, follow_symlinks=False)
    # Else ansible-test asks the outer repository, which ignores the whole cache.
    subprocess.run(["git", "init", "--quiet"], cwd=tree, check=True)


def prepare_home(home: Path) -> None:
    """Put our pip bootstrap where ansible-test looks for its own, and keep pip's settings."""
    cache = home / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in pip_versions():
        name = f"get_pip_{version.replace('.', '_')}.py"
        shutil.copy(Path(__file__).with_name("pip_bootstrap.py"), cache / name)
    for folder in (".pip", ".config/pip"):
        settings, link = Path.home() / folder, home / folder
        link.unlink(missing_ok=True)
        if settings.is_dir():
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(settings)


def pip_versions() -> list[str]:
    """Return the versions of pip that this ansible-test pins."""
    package = importlib.util.find_spec("ansible_test")
    if package is None or not package.submodule_search_locations:
        sys.exit("ansible-test is not installed: run bin/setup test")
    source = Path(package.submodule_search_locations[0]) / "_internal" / "python_requirements.py"
    return re.findall(r"\bpip='([\d.]+)'", source.read_text())


def link_pythons() -> list[str]:
    """Gather the Pythons that really start: a version manager's shims may not."""
    shutil.rmtree(PYTHONS, ignore_errors=True)
    PYTHONS.mkdir(parents=True)
    for minor in MINOR_VERSIONS:
        name = f"python3.{minor}"
        managed = sorted(Path.home().glob(f".pyenv/versions/3.{minor}.*/bin/{name}"))
        candidates = [shutil.which(name, path=SYSTEM_PATH), *managed, shutil.which(name)]
        good = next((path for path in candidates if path and starts(path)), None)
        if good:
            (PYTHONS / name).symlink_to(good)
    return [path.name for path in PYTHONS.iterdir()]


def starts(python: str | Path) -> bool:
    """Tell whether a Python runs and can make a virtual environment with pip."""
    argv = [str(python), "-c", "import ensurepip, venv"]
    done = subprocess.run(argv, capture_output=True, stdin=subprocess.DEVNULL, check=False)
    return done.returncode == 0


def minor_version(name: str) -> int:
    return int(name.rpartition(".")[2])

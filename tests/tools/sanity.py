# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The part ``sanity``: ansible-test, in a copy of the checkout, without an ignore file.

Compile and import checks run on every Python of this machine that ansible-test knows.
"""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import sys
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

TREE = CACHE / "sanity" / "ansible_collections" / "vmkeep" / "libvirt"
PYTHONS = CACHE / "pythons"
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
MINOR_VERSIONS = range(8, 16)
# ansible-test takes every file in bin/ for Python; ours are checked by lint.
LEFT_OUT = ("bin/", ".ci/")


def run_sanity(_options: list[str]) -> Tally:
    copy_the_checkout()
    prepare_home()
    print("Pythons:", ", ".join(sorted(link_pythons(), key=minor_version)), flush=True)
    env = tool_environment()
    env["PATH"] = f"{TOOLS}:{PYTHONS}:{SYSTEM_PATH}"
    options = ["--venv", "--python", "default", "--junit", "--color", "no", "--truncate", "0"]
    status = run(["ansible-test", "sanity", *options], cwd=TREE, env=env)
    return tally_of_junit(sorted((TREE / "tests" / "output" / "junit").glob("*.xml")), status)


def copy_the_checkout() -> None:
    """Lay out the files where ansible-test wants them."""
    shutil.rmtree(TREE, ignore_errors=True)
    for name in files_of_the_checkout():
        if not name.startswith(LEFT_OUT):
            target = TREE / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target, follow_symlinks=False)
    # Else ansible-test asks the outer repository, which ignores the whole cache.
    subprocess.run(["git", "init", "--quiet"], cwd=TREE, check=True)


def prepare_home() -> None:
    """Put our pip bootstrap where ansible-test looks for its own, and keep pip's settings."""
    cache = HOME / ".ansible" / "test" / "cache"
    cache.mkdir(parents=True, exist_ok=True)
    for version in pip_versions():
        name = f"get_pip_{version.replace('.', '_')}.py"
        shutil.copy(Path(__file__).with_name("pip_bootstrap.py"), cache / name)
    for folder in (".pip", ".config/pip"):
        settings, link = Path.home() / folder, HOME / folder
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

# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Whether histories find faults that are built in, and after how many actions."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from .faults import FAULTS, PLACE, Fault
from .ledger import ROOT

# A fault that was not found in so many is a gap of the engine.
MOST = 300


def prove(names: list[str], seed: int | None, count: int, jobs: int) -> int:
    """A line for each fault, or for those whose names begin so; how many were not found.

    So many faults are looked for side by side, each in `count` histories at most, of which that of
    the seed is the first, or the one that is known to find it.
    """
    chosen = [fault for fault in FAULTS if fault.name.startswith(tuple(names or [""]))]

    def found(fault: Fault) -> bool:
        with copy_with(fault) as folder:
            played, actions, last, words = _find(folder, seed or fault.seed or 1, count)
        told = f"{played} histories, {actions} actions, seed {last}: {words or 'NOT FOUND'}"
        print(f"{fault.name}: {told}", flush=True)
        return bool(words)

    with ThreadPoolExecutor(jobs) as pool:
        missed = list(pool.map(found, chosen)).count(False)
    print(f"\n{len(chosen)} faults, {missed} not found")
    return missed


@contextlib.contextmanager
def copy_with(fault: Fault) -> Iterator[Path]:
    """A checkout in which a fault is built in."""
    folder = Path(tempfile.mkdtemp(prefix="vmkeep-fault-"))
    try:
        for part in ("plugins", "tests", "meta"):
            shutil.copytree(ROOT / part, folder / part, symlinks=True)
        shutil.copy(ROOT / "galaxy.yml", folder)
        (folder / ".cache").mkdir()
        (folder / ".cache" / "lab").symlink_to(ROOT / ".cache" / "lab")
        path = folder / PLACE / fault.file
        path.write_text(path.read_text().replace(fault.old, fault.new, 1))
        yield folder
    finally:
        shutil.rmtree(folder)


def _find(folder: Path, seed: int, count: int) -> tuple[int, int, int, str]:
    """(histories, actions, last seed, first line of what was found) until there is something."""
    environment = {**os.environ, "PYTHONPATH": f"{folder}/tests:{folder}/.cache/collections"}
    options = ["--seed", str(seed), "--count", str(count), "--no-shrink", "--first-fault"]
    command = [sys.executable, "-m", "histories", *options]
    subprocess.run(command, cwd=folder, env=environment, capture_output=True, check=False)
    lines = [
        json.loads(line)
        for path in (folder / ".cache" / "histories").glob("*.jsonl")
        for line in path.read_text().splitlines()
    ]
    last = lines[-1] if lines else {"seed": seed, "fault": ""}
    actions = sum(line["actions"] for line in lines)
    words = last["fault"].partition("\n")[0][:160]
    # That is of the engine itself, and nothing that was found.
    return len(lines), actions, last["seed"], "" if words.startswith("Traceback") else words

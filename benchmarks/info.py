# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""How long it takes to describe a long backing chain, and many images."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from .pairs import Comparison, Goal, in_turns
from .programs import (
    INSIDE,
    WHOLE,
    BenchmarkError,
    Timed,
    milliseconds,
    run_module,
    run_program,
)
from .report import Part

CHAIN = "qemu-img info --backing-chain --output=json"
LOOP = f"a shell loop of {CHAIN}"


def make_chain(folder: Path, depth: int) -> Path:
    """A chain of so many images; returns the active one."""
    below: tuple[str, ...] = ()
    path = folder / "none"
    for number in range(depth):
        path = folder / f"layer{number:03}.qcow2"
        create("-f", "qcow2", *below, str(path), "1G")
        below = ("-b", str(path), "-F", "qcow2", "-u")
    return path


def create(*words: str) -> None:
    run_program("qemu-img", "create", "-q", *words)


def make_images(folder: Path, count: int) -> list[Path]:
    """So many images that stand alone."""
    paths = [folder / f"image{number:03}.qcow2" for number in range(count)]
    for path in paths:
        create("-f", "qcow2", str(path), "1G")
    return paths


def compare(
    pairs: int,
    what: str,
    goal: Goal,
    ours: Callable[[], Timed],
    peer: Callable[[], float],
    peer_name: str,
) -> list[Comparison]:
    ours()
    peer()
    runs, theirs = in_turns(pairs, ours, peer)
    other = tuple(1000 * seconds for seconds in theirs)
    kinds: dict[str, Callable[[Timed], float]] = {
        "reading, inside": lambda run: run.call,
        INSIDE: lambda run: run.inside,
        WHOLE: lambda run: run.whole,
    }
    goals = iter((goal, None, None))
    return [
        Comparison(
            f"{what}: {kind}", milliseconds(runs, seconds), other, peer_name, next(goals), True
        )
        for kind, seconds in kinds.items()
    ]


def looked_at(folder: Path, paths: list[Path], depth: int) -> Timed:
    """One call of qcow2_info for the paths; each must show so many images."""
    wish = {"path": [str(path) for path in paths]}
    timed = run_module(folder, "qcow2_info", wish, call="look_at_images")
    if [image["depth"] for image in timed.result["images"]] != [depth] * len(paths):
        raise BenchmarkError("qcow2_info did not show all images")
    return timed


def measure(pairs: int, *, quick: bool) -> Part:
    depth, count = (20, 10) if quick else (200, 100)
    with tempfile.TemporaryDirectory(prefix="vmkeep-bench-") as name:
        folder = Path(name)
        active, images = make_chain(folder, depth), make_images(folder, count)
        loop = 'for image in "$@"; do ' + CHAIN + ' "$image" || exit 1; done'
        rows = [
            *compare(
                pairs,
                f"a chain of {depth}",
                Goal(15, faster=True),
                lambda: looked_at(folder, [active], depth),
                lambda: run_program(*CHAIN.split(), str(active)),
                CHAIN,
            ),
            *compare(
                pairs,
                f"{count} images",
                Goal(100, faster=True),
                lambda: looked_at(folder, images, 1),
                lambda: run_program("sh", "-c", loop, "loop", *map(str, images)),
                LOOP,
            ),
        ]
    return Part("info", rows)

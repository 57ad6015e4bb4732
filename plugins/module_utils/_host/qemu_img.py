# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The one adapter for qemu-img.

It never guesses: formats are always given, paths are absolute and stand behind ``--``, and an
image has been read by our own reader before it comes here. What changes an image returns the
lines that qemu-img wrote to stderr although it succeeded; they belong into the result, since
qemu-img can lose things and still exit with 0.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from typing import Any

from .._model.problem import BadInput, Conflict, Problem
from .._model.reference import is_reference, shown
from .program import Answer, Limits, run

QUICK = 60.0
LONG = 3600.0
CHECK_MEMORY = 1 << 30
_CACHES = 64 << 20
# Exit statuses of qemu-img check: what it found, where the check itself was completed.
_FOUND = {0: "clean", 2: "corrupt", 3: "leaks"}
_UNSUPPORTED = 63


def check(
    path: str, format: str, *, data_file: str | None = None, timeout: float = QUICK
) -> dict[str, Any]:
    """What ``qemu-img check`` finds in one image, without its backing files.

    Returns its JSON in snake case and ``result``: clean, leaks, corrupt or unsupported. Raises
    Problem where the check could not be completed, for example because a VM uses the image.
    """
    target = node_of(path, format, data_file)
    limits = Limits(memory=CHECK_MEMORY, cpu_seconds=max(1, int(timeout)))
    answer = run(
        ["qemu-img", "check", "--output=json", "--", target], limits=limits, timeout=timeout
    )
    if answer.rc == _UNSUPPORTED:
        return {"result": "unsupported"}
    if answer.rc not in _FOUND:
        raise answer.problem()
    report = {key.replace("-", "_"): value for key, value in _json(answer).items()}
    report.update(result=_FOUND[answer.rc], filename=path)
    return report


def create_overlay(
    path: str,
    backing: str,
    backing_format: str,
    size: int,
    *,
    options: Mapping[str, str] | None = None,
) -> tuple[str, ...]:
    """Make ``path`` a qcow2 image of ``size`` bytes on ``backing``, which is not opened.

    The file must be there already and empty, so that owner and mode are the caller's and
    nothing is overwritten. ``options`` are those of ``qemu-img create -o``.
    """
    _check_empty(path)
    extra = ["-o", ",".join(f"{k}={_escaped(v)}" for k, v in options.items())] if options else []
    base = ["-u", "-F", backing_format, "-b", _plain(backing)]
    return change("create", "-q", "-f", "qcow2", *base, *extra, "--", absolute(path), str(size))


def convert(
    path: str,
    format: str,
    source: str,
    source_format: str,
    *,
    depth: int = 1,
    timeout: float = LONG,
) -> tuple[str, ...]:
    """Write what ``source`` and all below, ``depth`` images, hold into ``path``, an empty file."""
    _check_empty(path)
    how = ["-q", "-f", source_format, "-O", format, "--", absolute(source), absolute(path)]
    return change("convert", *how, timeout=timeout, limits=_deep(depth))


def measure(source: str, source_format: str, *, depth: int = 1, in_use: bool = False) -> int:
    """About how many bytes :func:`convert` takes for what ``source`` and all below it hold.

    ``in_use``: a VM may write to it meanwhile.
    """
    used = ["-U"] if in_use else []
    how = ["--output=json", *used, "-f", source_format, "-O", "qcow2", "--", absolute(source)]
    answer = run(["qemu-img", "measure", *how], limits=_deep(depth), timeout=QUICK)
    if answer.rc:
        raise answer.problem()
    return int(_json(answer)["required"])


def create_image(path: str, size: int) -> tuple[str, ...]:
    """Make ``path``, an empty file, a qcow2 image of ``size`` bytes."""
    _check_empty(path)
    return change("create", "-q", "-f", "qcow2", "--", absolute(path), str(size))


def commit(
    top: str, base: str, *, rate_limit: int | None = None, timeout: float = LONG
) -> tuple[str, ...]:
    """Write what the images from ``top`` down hold into ``base``; ``top`` stays as it is.

    ``rate_limit`` is in bytes per second. Bitmaps are not carried over.
    """
    rate = ["-r", str(rate_limit)] if rate_limit else []
    place = ["-f", "qcow2", "-b", absolute(base)]
    return change("commit", "-q", "-d", *place, *rate, "--", absolute(top), timeout=timeout)


def resize(path: str, size: int) -> tuple[str, ...]:
    """Make a qcow2 image one of ``size`` bytes; what it gets in addition reads as zero."""
    return change("resize", "-q", "--shrink", "-f", "qcow2", "--", absolute(path), str(size))


def rebase_unsafe(path: str, backing: str, backing_format: str) -> tuple[str, ...]:
    """Write another backing file into the header; ``backing`` '' leaves the image without one."""
    base = ["-F", backing_format] if backing else []
    place = ["-u", "-f", "qcow2", *base, "-b", _plain(backing) if backing else ""]
    return change("rebase", "-q", *place, "--", absolute(path))


def rebase(
    path: str, backing: str, backing_format: str, *, timeout: float = LONG
) -> tuple[str, ...]:
    """Put an overlay on another backing file and keep its content: what differs is copied.

    By writing through, what was copied is in the image before the header names the other file;
    else a qemu-img that is killed at its end leaves the new name without the data.
    """
    below = ["-F", backing_format, "-b", absolute(backing)]
    place = ["-t", "writethrough", "-f", "qcow2", *below]
    return change("rebase", "-q", *place, "--", absolute(path), timeout=timeout)


def difference(
    path: str, backing: str, backing_format: str, *, depth: int = 1, timeout: float = LONG
) -> tuple[str, ...]:
    """Let a new overlay hold just what differs between what it stands on and another image.

    That image, of a chain of ``depth``, it then stands on. Unlike with :func:`rebase`, the overlay
    is worth nothing until this returns.
    """
    how = ["-q", "-f", "qcow2", "-F", backing_format, "-b", absolute(backing)]
    return change("rebase", *how, "--", absolute(path), timeout=timeout, limits=_deep(depth))


def pull(
    path: str, backing: str, backing_format: str, *, rate_limit: int = 0, timeout: float = LONG
) -> tuple[str, ...]:
    """Put an overlay on an image further down its own chain, or on none where ``backing`` is ''.

    Its content stays, as with :func:`rebase`. ``rate_limit`` is in bytes written per second;
    qemu-img has no option for that, so QEMU's own throttle stands between image and file.
    """
    below = ["-F", backing_format, "-b", absolute(backing)] if backing else ["-b", ""]
    place = ["-t", "writethrough", *below]
    if not rate_limit:
        return change("rebase", "-q", *place, "-f", "qcow2", "--", absolute(path), timeout=timeout)
    limit = ["--object", f"throttle-group,id=limit,x-bps-write={rate_limit}"]
    file = {f"file.file.{key}": value for key, value in _protocol(path).items()}
    node = {"driver": "qcow2", "file.driver": "throttle", "file.throttle-group": "limit", **file}
    options = ",".join(f"{key}={_escaped(value)}" for key, value in node.items())
    return change("rebase", "-q", *limit, "--image-opts", *place, "--", options, timeout=timeout)


def _deep(depth: int) -> Limits:
    """Each image of a chain has caches of its own."""
    return Limits(memory=Limits().memory + depth * _CACHES, files=Limits().files + 4 * depth)


def same_content(
    path: str, format: str, other: str, other_format: str, *, timeout: float = LONG, depth: int = 1
) -> bool:
    """Whether two images of one size, with all that they stand on, have the same content."""
    compared = ["-q", "-f", format, "-F", other_format, "--", absolute(path), absolute(other)]
    answer = run(["qemu-img", "compare", *compared], limits=_deep(depth), timeout=timeout)
    if answer.rc not in (0, 1):
        raise answer.problem()
    return answer.rc == 0


def repair(path: str, *, everything: bool = False, timeout: float = LONG) -> str:
    """Give back clusters of a qcow2 image that are counted and not used.

    With ``everything`` the counts are made anew. Returns what a check finds after that: clean,
    leaks or corrupt.
    """
    how = ["-r", "all" if everything else "leaks"]
    answer = run(
        ["qemu-img", "check", "-q", *how, "--", node_of(path, "qcow2")],
        limits=Limits(),
        timeout=timeout,
    )
    if answer.rc not in _FOUND:
        raise answer.problem()
    return _FOUND[answer.rc]


def snapshot_create(path: str, name: str, *, timeout: float = LONG) -> tuple[str, ...]:
    """Take an internal snapshot; a name that is there already is used a second time."""
    return _snapshot("-c", name, path, timeout)


def snapshot_delete(path: str, name: str, *, timeout: float = LONG) -> tuple[str, ...]:
    """Delete an internal snapshot; of several with this name, the one that QEMU finds first."""
    return _snapshot("-d", name, path, timeout)


def snapshot_apply(path: str, id: str, *, timeout: float = LONG) -> tuple[str, ...]:
    """Go back to an internal snapshot. QEMU looks for an id first, and then for a name."""
    return _snapshot("-a", id, path, timeout)


def _snapshot(how: str, which: str, path: str, timeout: float) -> tuple[str, ...]:
    return change("snapshot", "-q", how, which, "--", node_of(path, "qcow2"), timeout=timeout)


def change(
    *arguments: str, timeout: float = QUICK, limits: Limits | None = None
) -> tuple[str, ...]:
    """Run qemu-img; returns what it wrote to stderr. Raises Problem where it fails."""
    answer = run(["qemu-img", *arguments], limits=limits or Limits(), timeout=timeout)
    if answer.rc:
        raise answer.problem()
    return tuple(answer.stderr.splitlines())


def node_of(path: str, format: str, data_file: str | None = None) -> str:
    """An image as a reference that leaves QEMU nothing to guess and no backing file to open."""
    node: dict[str, Any] = {"driver": format, "file": _protocol(path)}
    if format == "qcow2":
        node["backing"] = None
    if data_file:
        node["data-file"] = _protocol(data_file)
    return f"json:{json.dumps(node)}"


def _protocol(path: str) -> dict[str, str]:
    block = stat.S_ISBLK(os.stat(path).st_mode)
    return {"driver": "host_device" if block else "file", "filename": absolute(path)}


def _check_empty(path: str) -> None:
    facts = os.lstat(path)
    if facts.st_size or not stat.S_ISREG(facts.st_mode):
        raise Conflict(f"{shown(path)} is not an empty file", todo="remove it or choose another")


def absolute(path: str) -> str:
    """The path itself. Raises BadInput for one that is not absolute."""
    if not path.startswith("/"):
        raise BadInput(f"{shown(path)} is no absolute path")
    return path


def _plain(name: str) -> str:
    """A backing file name as it goes into a header: a path, absolute or not."""
    if is_reference(name) or not name:
        raise BadInput(f"{shown(name)} is no path", wanted="a path to a backing file")
    return name


def _escaped(value: str) -> str:
    return value.replace(",", ",,")


def _json(answer: Answer) -> dict[str, Any]:
    try:
        return dict(json.loads(answer.stdout))
    except ValueError as error:
        raise Problem(f"'{answer.command}' printed no JSON: {answer.stdout[:200]}") from error

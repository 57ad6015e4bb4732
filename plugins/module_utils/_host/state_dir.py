# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state directory: a place that nobody but this user can write to.

What lies in it decides what a run does to VMs and files, so it is not used where somebody else
could have put something there, or could put something else in its place.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import os
import pwd
import stat
from collections.abc import Iterator

from .._model.problem import Unsupported
from .durable import NO_ROOM, no_room_for, permission

_PRIVATE = 0o700
_PARTS = ("freeze", "images", "journal", "lock", "save", "snapshots", "stamps", "storage")
_OF_OTHERS = stat.S_IWGRP | stat.S_IWOTH
IMAGES = "images"
"""The state directory of what is done to images lies in that of VMs under this name."""


def state_directory(state_dir: str, part: str) -> str:
    """``state_dir/part``, made private if it is not there.

    Raises Unsupported if it cannot be used, and Unwritten if there is no room for it.
    """
    path = os.path.join(state_dir, part)
    try:
        for trouble in _troubles(state_dir, part):
            raise _unusable(path, *trouble)
        if not os.path.isdir(path):
            _make(path)
            for trouble in _troubles(state_dir, part):
                raise _unusable(path, *trouble)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room_for(path, error, "directory") from error
        todo = permission() if isinstance(error, PermissionError) else ""
        raise _unusable(path, error.strerror or str(error), todo) from error
    return path


def check_state_directory(state_dir: str) -> None:
    """Raise Unsupported where a run could not use it. Nothing is made, so check mode can ask."""
    path = state_dir
    try:
        for part in ("", *_PARTS):
            path = os.path.join(state_dir, part).rstrip("/")
            for trouble in _troubles(state_dir, part):
                raise _unusable(path, *trouble)
    except OSError as error:
        todo = permission() if isinstance(error, PermissionError) else ""
        raise _unusable(path, error.strerror or str(error), todo) from error


def _make(path: str) -> None:
    """Make what is missing of a path, private whatever the umask."""
    if os.path.isdir(path):
        return
    above = os.path.dirname(path)
    if above != path:
        _make(above)
    try:
        os.mkdir(path, _PRIVATE)
    except FileExistsError:
        if os.path.isdir(path):  # another run was quicker
            return
        raise
    os.chmod(path, _PRIVATE)


def _troubles(state_dir: str, part: str) -> Iterator[tuple[str, str]]:
    """What is against using a part of a state directory, as (why, what to do)."""
    yield from _links(os.path.abspath(state_dir))
    real = os.path.realpath(state_dir)
    ours = [real]
    if os.path.basename(real) == IMAGES:
        ours.insert(0, os.path.dirname(real))
    yield from _above(os.path.dirname(ours[0]))
    if part:
        ours.append(os.path.join(real, part))
    for place in ours:
        if os.path.lexists(place):
            yield from _not_private(place)
    there = filter(os.path.lexists, [*reversed(ours), *_upward(real)])
    last = next(there, os.sep)
    if os.statvfs(last).f_flag & os.ST_RDONLY:
        yield "it is on a read-only file system", f"mount the file system of {last} for writing"
    if not os.access(last, os.W_OK | os.X_OK):
        yield "it is not writable for this user", permission()


def _not_private(place: str) -> Iterator[tuple[str, str]]:
    facts = os.lstat(place)
    mode = stat.S_IMODE(facts.st_mode)
    if not stat.S_ISDIR(facts.st_mode):
        yield f"{place} is no directory", "move it away, or set another 'state_dir'"
        return
    if facts.st_uid != os.geteuid():
        yield (
            f"{place} belongs to {_user(facts.st_uid)}, mode {mode:04o}, and this is"
            f" {_user(os.geteuid())}",
            f"run the task as its owner, set another 'state_dir', or look what is in it and then:"
            f" chown {_user(os.geteuid())} {place}",
        )
    if mode & _OF_OTHERS:
        yield (
            f"{place} belongs to {_user(facts.st_uid)}, and with mode {mode:04o} others can write"
            " to it",
            f"look what they may have put there, then: chmod 0700 {place}",
        )


def _above(place: str) -> Iterator[tuple[str, str]]:
    """Directories in which somebody else could put another one in the place of ours."""
    for above in (place, *_upward(place)):
        if not os.path.lexists(above):
            continue
        facts = os.stat(above)
        mode = stat.S_IMODE(facts.st_mode)
        if facts.st_uid not in (0, os.geteuid(), _overflow()):
            yield (
                f"{above} belongs to {_user(facts.st_uid)}, mode {mode:04o}, who could replace"
                " what is in it",
                "set 'state_dir' to a place under directories of root or of this user",
            )
        elif mode & stat.S_ISVTX:
            continue
        elif mode & stat.S_IWOTH or (mode & stat.S_IWGRP and facts.st_gid not in _own_groups()):
            yield (
                f"others can replace what is in {above} (mode {mode:04o}, {_user(facts.st_uid)})",
                f"chmod go-w {above}, or set another 'state_dir'",
            )


def _links(path: str) -> Iterator[tuple[str, str]]:
    """Symbolic links on the way that lead nowhere, and those of others: they can lead anywhere."""
    for place in (path, *_upward(path)):
        if os.path.islink(place) and not os.path.exists(place):
            yield (
                f"{place} is a symbolic link that leads nowhere",
                "mount or make what it leads to, or set another 'state_dir'",
            )
        elif os.path.islink(place) and os.lstat(place).st_uid not in (0, os.geteuid()):
            yield (
                f"{place} is a symbolic link of {_user(os.lstat(place).st_uid)}",
                "look where it leads and remove it, or set another 'state_dir'",
            )


def _upward(place: str) -> Iterator[str]:
    while place != os.path.dirname(place):
        place = os.path.dirname(place)
        yield place


def _own_groups() -> tuple[int, int]:
    """The groups that may write above: root's, and the one that many systems give each user."""
    return (0, os.getegid())


def _overflow() -> int:
    """Whom the kernel names in a user namespace in place of users that it does not know there."""
    try:
        with open("/proc/sys/kernel/overflowuid", encoding="ascii") as file:
            return int(file.read()) if _in_namespace() else 0
    except (OSError, ValueError):
        return 0


def _in_namespace() -> bool:
    """Whether not all users are known here (user_namespaces(7))."""
    with open("/proc/self/uid_map", encoding="ascii") as file:
        return file.read().split() != ["0", "0", "4294967295"]


def _user(number: int) -> str:
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _unusable(path: str, why: str, todo: str = "") -> Unsupported:
    return Unsupported(
        f"the state directory {path} cannot be used: {why}",
        wanted="a private directory that outlives the run",
        todo=todo or "set the option 'state_dir', or run as the user who owns it",
    )

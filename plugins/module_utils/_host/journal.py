# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The journal: what a run is about to do to a VM, durable before the first change.

One file a VM, ``STATE_DIR/journal/UUID.json``, replaced atomically and fsynced; it exists
only while a run is under way or after it died.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from .._model.problem import Conflict, Problem
from .._model.step import Step, from_dict, to_dict
from .._model.version import VERSION
from .durable import (
    NO_ROOM,
    draft_of,
    new_file,
    not_understood,
    read_json,
    remove,
    unwritten,
    write_json,
)
from .state_dir import state_directory

FORMAT = 1
_WHAT = "the journal of an interrupted run"
_LOST = (
    "inspect the VM or image by hand (vm_snapshot_info, qcow2_info) and remove the file when it is"
    " in order"
)
_FIELDS = {"format": int, "version": str, "run": str, "status": str, "path": str}
_LISTS = ("group", "marks", "sound")
_OF_VM = ("run", "status", "group", "marks", "steps")
# The notes of a run add less than that to a journal.
_NOTES = 4096


def journal_path(state_dir: str, uuid: str) -> str:
    """Where the journal of a VM stands."""
    return os.path.join(state_dir, "journal", f"{uuid}.json")


def read_journal(state_dir: str, uuid: str) -> dict[str, Any] | None:
    """What a dead run left of a VM, None if nothing. Raises as :func:`read_checked` does."""
    return read_checked(journal_path(state_dir, uuid), from_dict, _OF_VM)


def read_checked(
    path: str, to_step: Callable[[Mapping[str, Any]], object], fields: Collection[str]
) -> dict[str, Any] | None:
    """A journal, None if there is none. ``to_step`` decodes its steps, and raises Problem.

    It has to have these ``fields``. All is checked here, so whoever gets a journal can rely on it.
    Raises Conflict for one that this version does not understand, and Denied or Problem where it
    cannot be read.
    """
    content = read_json(path, _WHAT)
    if content is None:
        return None
    try:
        why = _complaint(content, fields) or _wrong_step(content["steps"], to_step)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        why = f"it is not as this collection writes it ({error!r})"
    if why:
        raise _of_another_version(path, content, why)
    return content


def _complaint(content: Mapping[str, Any], fields: Collection[str]) -> str:
    """What is wrong with a journal but for its steps, '' if nothing."""
    if content.get("format") != FORMAT:
        return f"it is of format {content.get('format')!r}, and this version knows format {FORMAT}"
    strange = sorted(content.keys() - {*_FIELDS, *_LISTS, "steps"})
    if strange:
        return f"its fields {', '.join(map(repr, strange))} are not known"
    missing = sorted(set(fields) - content.keys())
    if missing:
        return f"it has no {', '.join(missing)}"
    wrong = [key for key, kind in _FIELDS.items() if not isinstance(content.get(key, kind()), kind)]
    wrong += [key for key in _LISTS if not _texts(content.get(key, []))]
    wrong += ["steps"] if not isinstance(content["steps"], list) else []
    return f"its fields {', '.join(wrong)} are of another type" if wrong else ""


def _texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _wrong_step(
    entries: Sequence[Mapping[str, Any]], to_step: Callable[[Mapping[str, Any]], object]
) -> str:
    for entry in entries:
        if entry.keys() != {"step", "done"} or not isinstance(entry["done"], bool):
            return f"its steps have {sorted(entry)}, and this version knows a step and done"
        try:
            to_step(entry["step"])
        except Problem as problem:
            return problem.found
    return ""


def _of_another_version(path: str, content: Mapping[str, Any], why: str) -> Conflict:
    by = ", ".join(
        f"{word}{content[key]}"
        for key, word in (("version", "version "), ("run", ""))
        if isinstance(content.get(key), str)
    )
    return not_understood(path, _WHAT, why, by=by, lost=_LOST)


def check_room(state_dir: str, content: Mapping[str, Any]) -> None:
    """Raise Unwritten where there is no room for such a journal. Nothing is written."""
    place = os.path.join(state_dir, "journal")
    while not os.path.isdir(place) and place != os.path.dirname(place):
        place = os.path.dirname(place)
    space = os.statvfs(place)
    free = (space.f_bavail if os.geteuid() else space.f_bfree) * space.f_frsize
    size = len(json.dumps(content))
    if free < 2 * size + _NOTES:
        path = os.path.join(state_dir, "journal", "")
        full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        raise unwritten(path, full, 2 * size + _NOTES)


class Journal:
    """The open journal of one VM. Every method returns when its change is on disk.

    Beside the journal room is kept for the next change, so that a file system that becomes full
    during a run is no reason to stop in its middle. All methods raise Unwritten; what is on disk is
    then as it was before.
    """

    def __init__(self, state_dir: str, uuid: str, content: dict[str, Any]) -> None:
        state_directory(state_dir, "journal")
        self._path = journal_path(state_dir, uuid)
        self.content = content

    def write(self) -> None:
        """Make the present content durable under the journal's name, with room for what follows."""
        self._write()
        try:
            self._keep_room()
        except OSError as error:
            if error.errno in NO_ROOM:
                remove(self._path)
                raise unwritten(self._path, error, self._size() + self._room()) from error

    def done(self, index: int) -> None:
        """Mark a step as done."""
        self.content["steps"][index]["done"] = True
        self._write_again()

    def mark(self, note: str) -> None:
        """Note something that a later run has to know."""
        self.content["marks"].append(note)
        try:
            self._write_again()
        except Problem:
            # What it announces will not be done.
            self.content["marks"].remove(note)
            raise

    def close(self) -> None:
        """Remove the journal: the VM is in a clean state."""
        remove(self._path)

    def _write(self) -> None:
        # Always the same draft: what a run that died while writing left is replaced.
        write_json(self._path, self.content)

    def _write_again(self) -> None:
        self._write()
        with contextlib.suppress(OSError):  # this time there was enough
            self._keep_room()

    def _size(self) -> int:
        return len(json.dumps(self.content))

    def _room(self) -> int:
        return self._size() + _NOTES

    def _keep_room(self) -> None:
        """Take what the next change needs, under the name of its draft."""
        descriptor = new_file(draft_of(self._path))
        try:
            os.posix_fallocate(descriptor, 0, self._room())
        finally:
            os.close(descriptor)


def new_content(
    run: str, status: str, steps: Sequence[Step], group: Sequence[str]
) -> dict[str, Any]:
    """A journal's first content. ``group`` are the UUIDs of a consistent group."""
    return {
        "format": FORMAT,
        "version": VERSION,
        "run": run,
        "status": status,
        "group": list(group),
        "marks": [],
        "steps": [{"step": to_dict(step), "done": False} for step in steps],
    }

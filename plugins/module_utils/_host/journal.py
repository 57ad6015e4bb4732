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
import json
import os
from collections.abc import Sequence
from typing import Any

from .._model.problem import Conflict
from .._model.step import Step, to_dict
from .lock import state_directory

FORMAT = 1


def journal_path(state_dir: str, uuid: str) -> str:
    """Where the journal of a VM stands."""
    return os.path.join(state_dir, "journal", f"{uuid}.json")


def read_journal(state_dir: str, uuid: str) -> dict[str, Any] | None:
    """What a dead run left, None if nothing; Conflict if it cannot be understood."""
    path = journal_path(state_dir, uuid)
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise _unreadable(path, f"not of format {FORMAT}")
    return content


def _unreadable(path: str, why: str) -> Conflict:
    return Conflict(
        f"the journal {path} of an interrupted run cannot be read: {why}",
        wanted="to finish or undo that run first",
        todo="use the version of the collection that wrote it, or inspect the VM or image by hand"
        " (vm_snapshot_info, qcow2_info) and remove the file",
    )


class Journal:
    """The open journal of one VM. Every method returns when its change is on disk."""

    def __init__(self, state_dir: str, uuid: str, content: dict[str, Any]) -> None:
        self._directory = state_directory(state_dir, "journal")
        self._path = journal_path(state_dir, uuid)
        # Always the same name: what a run that died while writing left is written over.
        self._draft = f"{self._path}.new"
        self._content = content

    def write(self) -> None:
        """Make the present content durable under the journal's name."""
        write_durably(self._path, self._draft, self._content)

    def done(self, index: int) -> None:
        """Mark a step as done."""
        self._content["steps"][index]["done"] = True
        self.write()

    def mark(self, note: str) -> None:
        """Note something that a later run has to know."""
        self._content["marks"].append(note)
        self.write()

    def close(self) -> None:
        """Remove the journal: the VM is in a clean state."""
        for path in (self._path, self._draft):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        fsync_directory(self._directory)


def write_durably(path: str, draft: str, content: dict[str, Any]) -> None:
    """Replace a file by this content as JSON, whole or not at all; it is on disk afterwards.

    ``draft`` is the name that it has while it is written, in the same directory.
    """
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        os.write(descriptor, json.dumps(content).encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    os.replace(draft, path)
    fsync_directory(os.path.dirname(path))


def new_content(
    run: str, status: str, steps: Sequence[Step], group: Sequence[str]
) -> dict[str, Any]:
    """A journal's first content. ``group`` are the UUIDs of a consistent group."""
    return {
        "format": FORMAT,
        "run": run,
        "status": status,
        "group": list(group),
        "marks": [],
        "steps": [{"step": to_dict(step), "done": False} for step in steps],
    }


def fsync_directory(path: str) -> None:
    """Make names that were created, renamed or removed in a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The tree that snapshots form.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from .snapshot import Snapshot, oldest_first


def descendants(snapshots: Iterable[Snapshot], name: str) -> tuple[str, ...]:
    """``name`` and all that descend from it, parents before children."""
    children = _children(oldest_first(snapshots))
    found, todo = [], [name]
    while todo:
        found.append(todo.pop(0))
        todo.extend(snapshot.name for snapshot in children.get(found[-1], ()))
    return tuple(found)


def tree_text(snapshots: Iterable[Snapshot]) -> str:
    """The tree as ``virsh snapshot-list --tree`` draws it, by names; the current one is marked.

    Not by age: libvirt counts seconds, and a plan could not tell which of two will be the older.
    """
    children = _children(sorted(snapshots, key=_by_name))
    roots = children.get("", [])
    lines = [line for root in roots for line in _branch(root, children, last=root is roots[-1])]
    return "\n".join(line.rstrip() for line in lines).rstrip("\n")


def _by_name(snapshot: Snapshot) -> tuple[str, str]:
    """As virsh sorts: upper and lower case are one."""
    return (snapshot.name.lower(), snapshot.name)


def _children(snapshots: Sequence[Snapshot]) -> dict[str, list[Snapshot]]:
    """By parent, '' for those without one, in the order that they are given in."""
    names = {snapshot.name for snapshot in snapshots}
    children: dict[str, list[Snapshot]] = {}
    for snapshot in snapshots:
        children.setdefault(snapshot.parent if snapshot.parent in names else "", []).append(
            snapshot
        )
    return children


def _branch(snapshot: Snapshot, children: Mapping[str, list[Snapshot]], *, last: bool) -> list[str]:
    """A snapshot and what is below it; a blank line follows the last leaf of a branch."""
    lines = [f"{snapshot.name} *" if snapshot.current else snapshot.name]
    below = children.get(snapshot.name, [])
    if not below:
        return [*lines, ""] if last else lines
    lines.append("  |")
    for child in below:
        first, *rest = _branch(child, children, last=child is below[-1])
        lines.append(f"  +- {first}")
        lines.extend(("    " if child is below[-1] else "  | ") + line for line in rest)
    return lines

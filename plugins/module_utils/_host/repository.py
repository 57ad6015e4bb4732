# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading a repository of restore points: a plain directory, see docs/repository.md.

``REPOSITORY/NAME.UUID/ID/`` holds one restore point of one VM. It exists once its manifest has
been renamed into place; a folder without one is debris of a dead run.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
import uuid as uuid_module
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields

from .._model.backup import (
    MANIFEST,
    VERIFIED,
    RestorePoint,
    is_id,
    moment,
)
from .._model.fault import as_problem
from .._model.manifest import parse_manifest
from .._model.names import check_path, file_part
from .._model.problem import Conflict, Damaged, Denied, NotFound, Problem
from .._model.stock import LONGEST_NAME, Stock, Verified, longest_names
from .repository_read import is_folder, listed, small_text, unread

IDENTITY = "vmkeep-repository.json"
FORMAT = 1
_NAME_LENGTH = 100
_OUTCOME = {field.name for field in fields(Verified)}
# What a run that died has left beside files that the manifest names.
_OF_A_RUN = re.compile(r"(\.new|\.merged|\Aprogress\.json)\Z")


def identity(repository: str) -> str:
    """The id of a repository, '' for a directory that is none yet. Raises Problem."""
    check_path(repository, "the option 'repository'")
    if not is_folder(repository, linked=True):
        raise NotFound(
            f"the repository {repository} is not there, or is no directory",
            wanted="a directory for restore points",
            todo="create it, and mount what belongs there",
        )
    try:
        content = json.loads(small_text(os.path.join(repository, IDENTITY)))
    except FileNotFoundError:
        return ""
    except (ValueError, RecursionError) as error:
        raise _foreign(repository, str(error)) from error
    known = isinstance(content, dict) and content.get("format") == FORMAT
    if not known or not isinstance(content.get("id"), str):
        raise _foreign(repository, f"it is not of format {FORMAT}")
    return str(content["id"])


def enclosing(path: str) -> str:
    """The repository that a path lies in, '' for none: all in there is subject to its rules."""
    above = os.path.realpath(path)
    while above != os.path.dirname(above):
        above = os.path.dirname(above)
        if os.path.lexists(os.path.join(above, IDENTITY)):
            return above
    return ""


def stocked(paths: Iterable[str]) -> dict[str, str]:
    """Those of the paths that lie in a repository, and in which."""
    return {path: found for path in paths if (found := enclosing(path))}


def _foreign(repository: str, why: str) -> Conflict:
    return Conflict(
        f"{os.path.join(repository, IDENTITY)} cannot be understood: {why}",
        wanted="a repository of this collection",
        todo="use the version of the collection that made it, or another directory",
    )


def folder_of(repository: str, name: str, uuid: str) -> str:
    """The folder of a VM, whatever it was called when that was made; it may not be there yet."""
    for found in listed(repository):
        if found.endswith(f".{uuid}"):
            return os.path.join(repository, found)
    return os.path.join(repository, f"{file_part(name)[:_NAME_LENGTH]}.{uuid}")


def folders(repository: str) -> tuple[tuple[str, str], ...]:
    """(folder, uuid) of all VMs in a repository, sorted."""
    found = []
    for name in listed(repository):
        path, uuid = os.path.join(repository, name), name.rpartition(".")[2]
        try:
            taken = _is_uuid(uuid) and is_folder(path)
        except Exception:
            taken = path.endswith(f".{uuid}")  # who reads it tells what is wrong with it
        if taken:
            found.append((path, uuid))
    return tuple(sorted(found))


def _is_uuid(text: str) -> bool:
    try:
        return str(uuid_module.UUID(text)) == text
    except ValueError:
        return False


def read_stock(repository: str, directory: str) -> Stock:
    """What there is of one VM: manifests and what is wrong with their files, debris.

    Whatever is wrong with one point is told of this one.
    """
    points: list[RestorePoint] = []
    broken: dict[str, str] = {}
    unclear: dict[str, Problem] = {}
    debris: list[str] = []
    for id in filter(is_id, listed(directory)):
        folder = os.path.join(directory, id)
        try:
            if not is_folder(folder):
                continue
            point = of_vm(directory.rpartition(".")[2], folder)
            debris.extend(_unnamed(folder, point))
            points.append(point)
        except FileNotFoundError:
            debris.append(folder)
        except Damaged as problem:
            broken[id] = problem.found
        except Exception as error:
            unclear[id] = as_problem(error, f"restore point {folder}")
            broken[id] = unclear[id].found
    broken.update(_bereft(directory, points, debris))
    points.sort(key=lambda point: (point.sequence, point.id))
    verified = _verified(directory, points, unclear)
    troubles = _troubles(directory, points, broken, unclear)
    return Stock(
        repository=repository,
        directory=directory,
        points=tuple(points),
        broken=broken,
        troubles=troubles,
        debris=tuple(path for path in debris if os.path.basename(path) not in broken),
        staged=tuple(point.id for point in points if _staged(directory, point)),
        verified=verified,
        unclear=unclear,
    )


def _bereft(
    directory: str, points: Sequence[RestorePoint], debris: Sequence[str]
) -> dict[str, str]:
    """Folders without a manifest that are no leftovers: nobody removes what another stands on."""
    parents = {os.path.join(directory, point.parent.id) for point in points if point.parent}
    lost = parents.intersection(debris)
    return {os.path.basename(path): f"{path}/{MANIFEST} is missing" for path in lost}


def read_point(folder: str) -> RestorePoint:
    """The manifest of a restore point. FileNotFoundError where there is none, Damaged if bad."""
    path = os.path.join(folder, MANIFEST)
    point = parse_manifest(small_text(path), path)
    if point.id != os.path.basename(folder):
        raise Damaged(
            f"{path} is the manifest of {point.id}, and stands in another folder",
            wanted="the manifest of this folder",
            todo="find out who moved it, and restore from another point",
        )
    return point


def of_vm(uuid: str, folder: str) -> RestorePoint:
    """A restore point of this VM and no other."""
    point = read_point(folder)
    if point.uuid != uuid:
        raise Damaged(f"{folder} is a restore point of another VM, {point.vm} ({point.uuid})")
    return point


def _unnamed(folder: str, point: RestorePoint) -> list[str]:
    """Files of ours in a point that its manifest does not name: what else is there is not ours."""
    named = {name for file in point.files for name in (file.name, file.staged)}
    names = (name for name in listed(folder) if name not in named and _OF_A_RUN.search(name))
    return [os.path.join(folder, name) for name in names]


def _troubles(
    directory: str,
    points: Sequence[RestorePoint],
    broken: Mapping[str, str],
    unclear: dict[str, Problem],
) -> dict[str, str]:
    by_id = {point.id: point for point in points}
    lengths = longest_names(directory, points)
    found: dict[str, str] = {}
    for point in points:
        try:
            trouble = _missing(directory, point) or _orphaned(point, by_id, broken)
        except Exception as error:
            unclear[point.id] = as_problem(error, f"restore point {directory}/{point.id}")
            trouble = unclear[point.id].found
        if not trouble and lengths.get(point.id, 0) > LONGEST_NAME:
            trouble = "it stands on so many others that QEMU cannot open them by their names"
        if trouble:
            found[point.id] = trouble
    return found


def _missing(directory: str, point: RestorePoint) -> str:
    for file in point.files:
        path = path_of(directory, point, file.name)
        try:
            facts = os.lstat(path)
        except (FileNotFoundError, NotADirectoryError) as error:
            return f"{path}: {error.strerror}"
        except OSError as error:
            raise unread(path, error) from error
        if not stat.S_ISREG(facts.st_mode):
            return f"{path} is no regular file"
        if facts.st_size != file.size:
            return f"{path} has {facts.st_size} bytes, its manifest says {file.size}"
    return ""


def _orphaned(
    point: RestorePoint, by_id: Mapping[str, RestorePoint], broken: Mapping[str, str]
) -> str:
    if point.parent is None:
        return ""
    parent = by_id.get(point.parent.id)
    if point.parent.id in broken:
        return f"it stands on {point.parent.id}: {broken[point.parent.id]}"
    if parent is None:
        return f"the restore point {point.parent.id}, which it stands on, is not there"
    if not point.stands_on(parent):
        return f"the manifest of {parent.id} is not the one that it was made on"
    if parent.sequence >= point.sequence or parent.uuid != point.uuid:
        return f"{parent.id} cannot be what it was made on"
    return ""


def path_of(directory: str, point: RestorePoint, name: str) -> str:
    """Where a file of a restore point stands now."""
    folder = os.path.join(directory, point.id)
    file = point.file(name)
    if file and file.staged and os.path.lexists(os.path.join(folder, file.staged)):
        return os.path.join(folder, file.staged)
    return os.path.join(folder, name)


def _staged(directory: str, point: RestorePoint) -> bool:
    folder = os.path.join(directory, point.id)
    return any(f.staged and os.path.lexists(os.path.join(folder, f.staged)) for f in point.files)


def _verified(
    directory: str, points: Sequence[RestorePoint], unclear: dict[str, Problem]
) -> dict[str, Verified]:
    """What is on record of the points. One that may not be read may say that its point is bad."""
    found = {}
    for point in points:
        path = os.path.join(directory, point.id, VERIFIED)
        # A record that is gone or damaged only means that the point has to be verified again.
        with contextlib.suppress(Exception):
            try:
                content = json.loads(small_text(path))
            except Denied as problem:
                unclear[point.id] = problem
                continue
            # Another version may have more to say of it.
            record = Verified(**{key: content[key] for key in content.keys() & _OUTCOME})
            values = (record.at, record.digest, record.trouble)
            if all(isinstance(value, str) for value in values) and moment(record.at):
                found[point.id] = record
    return found

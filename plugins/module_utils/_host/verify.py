# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Reading every byte of restore points, and holding their images against their manifests.

Nothing is opened by QEMU that does not have the digest of its manifest and that our own reader has
not looked at first.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timezone

from .._model.backup import FULL, IMAGE, RestorePoint, StoredDisk, StoredFile, in_utc
from .._model.fault import as_problem
from .._model.image import Image
from .._model.problem import BadInput, Damaged, NotFound, Problem, Unsupported, Unwritten
from .._model.reference import full_name, shown
from .._model.stock import Stock, Verified
from . import qemu_img
from .digest import trouble_with
from .image_file import read_image
from .repository import path_of
from .repository_write import record_verified


def verify(
    stock: Stock, chosen: Iterable[RestorePoint], *, parallel: int, timeout: float
) -> tuple[Mapping[str, str], Mapping[str, Problem]]:
    """id -> what is wrong with the files of a point, '' if all are good; and what cannot be told.

    Of the chosen points and all that they stand on; each file is read once, ``parallel`` of them
    side by side. That a parent is not there is known without reading and not told here. The caller
    keeps the images from being replaced. What cannot be told, for example because qemu-img is not
    there, has an entry in the second mapping instead.
    """
    points = {each.id: each for point in chosen for each in stock.lineage(point)}
    jobs = [(point, file) for point in points.values() for file in point.files]
    found, untold = _troubles(stock, jobs, parallel, timeout)
    good = {id: "" for id in points if id not in untold}
    return {**good, **found}, untold


def verify_for_merge(
    stock: Stock, point: RestorePoint, *, parallel: int, timeout: float
) -> Mapping[str, str]:
    """What is wrong with what a point is made full from: its own files, and the images below.

    Raises Problem where it cannot be told.
    """
    jobs = [(point, file) for file in point.files]
    for disk in point.disks:
        below = list(stock.images(point, disk.target))[1:]
        files = ((each, each.file(image.file)) for each, image in below)
        jobs += [(each, file) for each, file in files if file]
    found, untold = _troubles(stock, jobs, parallel, timeout)
    for problem in untold.values():
        raise problem
    return found


def record_bad(stock: Stock, path: str, trouble: str) -> None:
    """Keep of the restore point of a file that it was found bad, where that can be written."""
    point = stock.point(os.path.basename(os.path.dirname(path)))
    if point:
        at = in_utc(datetime.now(timezone.utc))
        with contextlib.suppress(Unwritten):
            record_verified(stock.directory, point, Verified(at, point.digest, trouble))


def _troubles(
    stock: Stock, jobs: Sequence[tuple[RestorePoint, StoredFile]], parallel: int, timeout: float
) -> tuple[dict[str, str], dict[str, Problem]]:
    """id -> what is wrong with its files; and why that cannot be told of one."""

    def look(job: tuple[RestorePoint, StoredFile]) -> str | Problem:
        try:
            return _trouble_with_file(stock, job[0], job[1], timeout)
        except Exception as error:
            return as_problem(error, f"restore point {job[0].id}")

    with ThreadPoolExecutor(max_workers=parallel) as pool:
        found = list(pool.map(look, jobs))
    troubles: dict[str, str] = {}
    untold: dict[str, Problem] = {}
    for (point, _file), trouble in zip(jobs, found):
        if isinstance(trouble, Problem):
            untold.setdefault(point.id, trouble)
        else:
            troubles[point.id] = troubles.get(point.id) or trouble
    # What is known to be bad is bad, whatever else is not known of it.
    untold = {id: problem for id, problem in untold.items() if not troubles.get(id)}
    return {id: text for id, text in troubles.items() if id not in untold}, untold


def _trouble_with_file(stock: Stock, point: RestorePoint, file: StoredFile, timeout: float) -> str:
    path = path_of(stock.directory, point, file.name)
    trouble = trouble_with(path, file)
    if trouble or file.role != IMAGE:
        return trouble
    disk = next(disk for disk in point.disks if disk.file == file.name)
    return _trouble_with_header(stock, point, disk, path) or _trouble_inside(path, timeout)


def _trouble_with_header(stock: Stock, point: RestorePoint, disk: StoredDisk, path: str) -> str:
    """Where the image itself contradicts the manifest.

    Each image is held against the name of the one below, so all together are the whole chain.
    """
    try:
        image = read_image(path, format="qcow2", roots=[stock.directory], snapshots=False)
    except (BadInput, Damaged, NotFound, Unsupported) as problem:
        return problem.found
    if image.data_file:
        return f"{path} keeps its data in another file, {shown(image.data_file)}"
    if image.corrupt:
        return f"{path} is marked as corrupt by QEMU"
    if image.virtual_size != disk.virtual_size:
        size = disk.virtual_size
        return f"{path} is a disk of {image.virtual_size} bytes, its manifest says {size}"
    return _trouble_with_backing(stock, point, disk, image)


def _trouble_with_backing(stock: Stock, point: RestorePoint, disk: StoredDisk, image: Image) -> str:
    path, name = image.filename, image.backing_filename
    if disk.type == FULL:
        return f"{path} is to be full, and stands on {shown(name)}" if name else ""
    parent = stock.point(point.parent.id) if point.parent else None
    if parent is None:
        return ""
    below = parent.disk(disk.target)
    if below is None:
        return f"{path} stands on an image of {parent.id}, which has none of {disk.target}"
    wanted = os.path.join(stock.directory, parent.id, below.file)
    # A name in the header that leads to the same file in another way would not be followed by all.
    if os.path.normpath(full_name(path, name or "")) != os.path.normpath(wanted):
        return f"{path} stands on {shown(name or '')}, its manifest says {shown(wanted)}"
    if image.backing_format != "qcow2":
        return f"{path} says that what it stands on is {shown(image.backing_format or 'anything')}"
    return ""


def _trouble_inside(path: str, timeout: float) -> str:
    found = qemu_img.check(path, "qcow2", timeout=timeout)["result"]
    return f"qemu-img check finds {path} corrupt" if found == "corrupt" else ""

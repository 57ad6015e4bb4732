# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Why a snapshot that libvirt lists could not be gone back to.

An image holds its point as long as nothing is written to it, nor to any image that it stands on.
An image that is the active one of a disk is being written to. Of others their stamps tell, where
they have some: then any write counts, also that of a merge by hand which left the content as it
was, since nobody can see that. Where there are none, what stands on an image now tells: one that
carries an image which once stood higher has got the data of those in between. A memory file has a
stamp, too: a guest that goes on with other memory than its disks were left with destroys them.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timezone
from itertools import takewhile
from shlex import quote

from .._model.image import Image
from .._model.reference import full_name
from .._model.snapshot import Snapshot
from .._model.stamp import SECOND, Seen
from .._model.state import OFF, DiskState, VmState
from .._model.tree import descendants
from .rechained import higher_point, other_bases
from .standing import depth_of, displaced, lost_overlay, part_of


def damages(vm: VmState, found: Snapshot) -> Iterator[str]:
    """Each thing that a snapshot has lost, in words; none for one that is whole.

    An overlay may be gone, as that of a snapshot beside the present state is.
    """
    for entry in found.taken:
        image = found.image_before(entry.target)
        if image in vm.missing:
            yield f"image {image}, which held that point of {entry.target}, is gone"
        else:
            images = held(vm, found, entry.target)
            higher = higher_point(vm, found, entry.target)
            if higher:
                yield f"its record names {image}, and that point of {entry.target} is in {higher}"
            yield from _inside(vm, found, entry.target)
            yield from _written(vm, found, entry.target, images)
            for other in other_bases(vm, found, entry.target, images):
                part = part_of(found, entry.target, other.image)
                then = other.then or "nothing"
                yield f"{part}, stands on {other.now or 'nothing'} now, and stood on {then} then"
    yield from _memory(vm, found)


def _memory(vm: VmState, found: Snapshot) -> Iterator[str]:
    """Why the VM could not go on from the memory file, or from none of that point."""
    path = found.memory_file
    seen, unfit = _seen(vm, found, path), dict(vm.unfit).get(path)
    if path in vm.missing:
        yield f"its memory file {path} is gone"
    elif unfit:
        yield f"its memory file {path} is no save of it: {unfit}"
    elif seen is not None and seen.written:
        yield f"its memory file {path} {_when(seen)}"


def _inside(vm: VmState, found: Snapshot, target: str) -> Iterator[str]:
    """Whether an image still holds an internal snapshot, and not another one of that name."""
    image = found.image_before(target)
    chain = vm.chain_of(image)
    if target in found.overlays or not chain:
        return
    seen = _seen(vm, found, image)
    there = any(entry.name == found.name for entry in chain[0].snapshots)
    if seen is not None and seen.written and there:
        yield f"image {image} of {target} holds another snapshot of that name"
    elif (not found.ours or (seen is not None and seen.written)) and not there:
        yield f"image {image} of {target} does not hold it any more"


def held(vm: VmState, found: Snapshot, target: str) -> tuple[Image, ...]:
    """The images of a disk that must stay as they are for a snapshot, the topmost first.

    What an internal snapshot has of its own image stays as it is whatever is written there.
    () where they cannot be read.
    """
    chain = vm.chain_of(found.image_before(target))
    return chain if target in found.overlays else chain[1:]


def at_rest(vm: VmState, found: Snapshot) -> Iterator[Image]:
    """The images that a snapshot needs as they are and that nobody has provably written to since.

    Of an image that holds it inside nobody can tell what else that holds.
    """
    for entry in found.taken:
        for image in held(vm, found, entry.target):
            seen = [_seen(vm, found, path) for path, _format in files_of([image])]
            if all(each is not None and each.written is False for each in seen):
                yield image


def files_of(images: Iterable[Image]) -> Iterator[tuple[str, str]]:
    """(path, format) of each image, and of the file that has its data where it has not itself."""
    for image in images:
        yield image.filename, image.format
        if image.data_file:
            yield full_name(image.filename, image.data_file), "raw"


def way_on(vm: VmState, found: Snapshot) -> str:
    """What to do about a snapshot that is not whole."""
    last = "go back to another one; remove this one (state: absent)"
    late = [seen for entry in found.taken for seen in _late(vm, found, entry.target)]
    late.extend(_late_memory(vm, found))
    if not late or len(late) < len(list(damages(vm, found))):
        return last
    commands = dict.fromkeys(
        f"touch --date=@{seen.then // SECOND}.{seen.then % SECOND:09d} {quote(seen.image)}"
        for seen in late
    )
    known = "; ".join(commands)
    return f"if you know that the content is that of then, give it its time back ({known}); {last}"


def _late(vm: VmState, found: Snapshot, target: str) -> Iterator[Seen]:
    """The images against which nothing speaks but the time of their last write."""
    for image in held(vm, found, target):
        for path, _format in files_of([image]):
            seen = _seen(vm, found, path)
            if seen is not None and seen.written and seen.then and _writer(vm, image) is None:
                yield seen


def _late_memory(vm: VmState, found: Snapshot) -> Iterator[Seen]:
    """The same of its memory file."""
    seen = _seen(vm, found, found.memory_file)
    if seen is not None and seen.written and found.memory_file not in dict(vm.unfit):
        yield seen


def _written(vm: VmState, found: Snapshot, target: str, images: Sequence[Image]) -> Iterator[str]:
    """For each image of a chain why it no longer holds what it did."""
    if not images:
        yield from _gone(vm, found, target)
    for image in images:
        part = part_of(found, target, image.filename)
        writer = _writer(vm, image)
        seen = _seen(vm, found, image.filename)
        if writer is not None:
            yield lost_overlay(vm, found, target, image.filename) or (
                f"{part}, is the active image of {writer.target} now, which is written to"
            )
        elif seen is not None and seen.written:
            yield f"{part}, {_when(seen)}"
        elif seen is None or seen.written is None:
            later = _found_on(vm, found, target, image.filename)
            since = _written_since(vm, found, image.filename)
            if since is not None:
                yield f"{part}, was written to since snapshot {since.snapshot} was taken above it"
            elif _ran_on(vm, found, target, image.filename):
                yield f"{part}, is what the VM has run on since"
            elif later:
                yield f"{part}, had no overlay above it any more when snapshot {later} was taken"
            else:
                yield from displaced(vm, found, target, images, image)
        yield from _written_beside(vm, found, image)


def _ran_on(vm: VmState, found: Snapshot, target: str, image: str) -> bool:
    """Whether one that was taken later found the disk of a guest on an image.

    libvirt knows the second of each: of the same one nobody can tell which was the first.
    """
    return any(
        other.created > found.created and other.state != OFF and other.image_before(target) == image
        for other in vm.snapshots
    )


def _written_since(vm: VmState, found: Snapshot, image: str) -> Seen | None:
    """What a snapshot above this one has recorded of an image, if that was written to since."""
    above = descendants(vm.snapshots, found.name)[1:]
    known = (seen for seen in vm.seen if seen.image == image and seen.written)
    return next((seen for seen in known if seen.snapshot in above), None)


def _found_on(vm: VmState, found: Snapshot, target: str, image: str) -> str:
    """One that was taken above it, and found the disk on its point: the overlay was merged; or ''.

    Our ways back to a point put a new overlay on it.
    """
    if target not in found.overlays or image != found.image_before(target):
        return ""
    above = descendants(vm.snapshots, found.name)[1:]
    on = {each.name for each in vm.snapshots if each.image_before(target) == image}
    return next((name for name in above if name in on), "")


def _written_beside(vm: VmState, found: Snapshot, image: Image) -> Iterator[str]:
    """Whether somebody wrote to the file with an image's data, of which that does not tell."""
    for path, _format in files_of([image] if _writer(vm, image) is None else []):
        seen = _seen(vm, found, path) if path != image.filename else None
        if seen is not None and seen.written:
            yield f"{path}, which holds the data of {image.filename}, {_when(seen)}"


def _writer(vm: VmState, image: Image) -> DiskState | None:
    """The disk of which it is the active image."""
    return next((disk for disk in vm.writable if depth_of(disk, image) == 0), None)


def _when(seen: Seen) -> str:
    if not (seen.then and seen.now):
        return "was written to since"
    if seen.latest:
        return (
            f"was last written to at {_clock(seen.now)}, and that point is of {_clock(seen.then)}"
        )
    return f"was last written to at {_clock(seen.now)}, and not at {_clock(seen.then)} as then"


def _clock(time: int) -> str:
    moment = datetime.fromtimestamp(time // SECOND, timezone.utc)
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time % SECOND // 1_000_000:03d} UTC"


def _gone(vm: VmState, found: Snapshot, target: str) -> Iterator[str]:
    """Of a chain that cannot be read the images that do not exist."""
    for path in _recorded(found, target):
        if path in vm.missing:
            yield f"{part_of(found, target, path)}, is gone"


def _recorded(found: Snapshot, target: str) -> tuple[str, ...]:
    """The chain of a disk as the stamps have it, () where there are none."""
    names = [stamp.image for stamp in found.stamps]
    point = found.image_before(target)
    if point not in names:
        return ()
    others = {found.image_before(entry.target) for entry in found.taken} - {point}
    below = names[names.index(point) + 1 :]
    return (point, *takewhile(lambda name: name not in others, below))


def _seen(vm: VmState, found: Snapshot, path: str) -> Seen | None:
    return next((s for s in vm.seen if s.snapshot == found.name and s.image == path), None)

# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What was observed of one image at one moment, and the facts that a plan for it is held against.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .image import Identity, Image, InternalSnapshot
from .problem import Problem
from .qcow2_content import PRESENT
from .state import DirectoryFact


@dataclass(frozen=True)
class ImageState:
    """An image with everything that a decision about it needs.

    ``path`` is as the task names it, ``real`` without symbolic links. ``kind`` is what stands at
    ``path``: file, device, symbolic link (to one of these), or '' for nothing. ``chain`` is the
    image and what it stands on, as far as that was asked for and can be read; ``trouble`` says
    why it ends too early, ``lost`` whether that is because the next image is missing. ``wanted``
    is the chain of the image that it is to stand on. ``marks`` tell contents apart (see
    qcow2_content). ``journal`` is what a dead run left, ``drafts`` are files of its.
    """

    path: str
    real: str
    kind: str = ""
    chain: tuple[Image, ...] = ()
    trouble: Problem | None = None
    lost: bool = False
    wanted: tuple[Image, ...] = ()
    marks: Mapping[str, bytes] = field(default_factory=dict)
    journal: Mapping[str, Any] | None = None
    drafts: tuple[str, ...] = ()

    @property
    def image(self) -> Image | None:
        return self.chain[0] if self.chain else None

    @property
    def snapshots(self) -> tuple[InternalSnapshot, ...]:
        return self.chain[0].snapshots if self.chain else ()

    @property
    def files(self) -> tuple[str, ...]:
        """The chain as file names, the image itself first."""
        return tuple(image.filename for image in self.chain)

    def holds(self, tag: str) -> bool:
        """Whether the image provably has the content of the snapshot with this id."""
        return tag in self.marks and self.marks[tag] == self.marks.get(PRESENT)


@dataclass(frozen=True)
class Standing:
    """Somebody who needs images as they are: another image, a VM, or a VM's snapshot.

    ``images`` must not change; ``disk`` is what a VM itself writes to, for an image file it is
    that file, and for an internal snapshot the image that holds it. ``saved`` says that a VM's
    memory was saved and goes on with that disk, ``tags`` are the internal snapshots on it that
    libvirt has a record of.
    """

    user: str
    images: tuple[Identity, ...]
    disk: Identity | None = None
    vm: bool = False
    saved: bool = False
    tags: frozenset[str] = frozenset()


@dataclass(frozen=True)
class ImageFacts:
    """What was looked up for one plan: only what its steps need, all by path.

    ``users`` are the processes that keep an image from being written, ``writers`` those that
    may write to it, as text and only where there are any. ``claims`` are journals of dead runs
    that have begun to write into an image on behalf of another; ``unknown`` says of those that
    name an image and that this version does not understand why. ``stocked`` is the repository that
    an image lies in that is to be changed. ``blocked`` says why a file cannot be written,
    ``missing`` names programs that are not installed.
    """

    identities: Mapping[str, Identity] = field(default_factory=dict)
    users: Mapping[str, str] = field(default_factory=dict)
    writers: Mapping[str, str] = field(default_factory=dict)
    standing: tuple[Standing, ...] = ()
    claims: Mapping[str, str] = field(default_factory=dict)
    unknown: Mapping[str, str] = field(default_factory=dict)
    stocked: Mapping[str, str] = field(default_factory=dict)
    blocked: Mapping[str, str] = field(default_factory=dict)
    directories: Mapping[str, DirectoryFact] = field(default_factory=dict)
    missing: str = ""
    notes: tuple[str, ...] = ()

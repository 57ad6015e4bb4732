# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Transient VMs, which libvirt forgets when their memory is saved: the save has all there is.

This util is PRIVATE to the collection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from types import MethodType
from typing import TYPE_CHECKING, Any, Callable

from .._model.fault import as_problem
from .._model.problem import NotFound, Problem
from .._model.save import COMPLETE
from .connection import NO_DOMAIN, call, code_of
from .libvirt_dep import libvirt
from .observe import Host, look_up
from .save_file import read_save

if TYPE_CHECKING:
    from .libvirt_dep import Connection

# virDomainState: shut off.
_OFF = 5


def look_up_saved(
    path_of: Callable[[str], str],
) -> Callable[[Host, Sequence[str]], dict[str, Any]]:
    """As look_up, but a name that is no VM is one if the file for it holds the memory of that VM.

    ``path_of`` tells that file by the name.
    """

    def find(host: Host, names: Sequence[str]) -> dict[str, Any]:
        found = look_up(host, names)
        for name, dom in found.items():
            try:
                found[name] = _found(host, name, dom, path_of)
            except Exception as error:
                found[name] = as_problem(error, f"VM {name}")
        return found

    return find


def _found(host: Host, name: str, dom: Any, path_of: Callable[[str], str]) -> Any:
    if isinstance(dom, NotFound):
        path = path_of(name)
        save = read_save(host, "", path) if path else None
        definition = save.definition if save and save.kind == COMPLETE else None
        if definition and name in (definition.name, definition.uuid):
            return SavedDomain(host.conn, definition.uuid, definition.name, path)
        return dom
    if isinstance(dom, Problem) or not path_of(dom.name()):
        return dom
    with contextlib.suppress(NotFound):
        if call(f"reading VM {name}", dom.isPersistent):
            return dom
    return SavedDomain(host.conn, dom.UUIDString(), dom.name(), path_of(dom.name()))


class SavedDomain:
    """A domain as libvirt has it while it has it, and as its save tells when it is gone."""

    def __init__(self, conn: Connection, uuid: str, name: str, path: str) -> None:
        self._conn, self._uuid, self._name, self._path = conn, uuid, name, path

    def name(self) -> str:
        return self._name

    def UUIDString(self) -> str:
        return self._uuid

    def connect(self) -> Connection:
        return self._conn

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # what the binding itself looks for, such as _o
            return getattr(self._conn.lookupByUUIDString(self._uuid), attribute)

        def ask(_self: SavedDomain, *args: Any) -> Any:
            # It may go at any time: the daemon may still be at a save that a dead run had begun.
            try:
                return getattr(self._conn.lookupByUUIDString(self._uuid), attribute)(*args)
            except libvirt.libvirtError as error:
                found = _Gone(self._conn, self._path)
                if code_of(error) != NO_DOMAIN or not hasattr(found, attribute):
                    raise
            return getattr(found, attribute)(*args)

        return MethodType(ask, self)


class _Gone:
    """What libvirt would say of a VM that is off and of which only the save is left."""

    def __init__(self, conn: Connection, path: str) -> None:
        self._conn, self._path = conn, path

    def __getattr__(self, attribute: str) -> Any:
        nothing: dict[str, Any] = {
            "state": [_OFF, 0],
            "isActive": 0,
            "isPersistent": 0,
            "hasManagedSaveImage": 0,
            "listAllSnapshots": [],
            "memoryStats": {},
            "jobStats": {},
        }
        if attribute not in nothing:
            raise AttributeError(attribute)
        return lambda *_flags: nothing[attribute]

    def XMLDesc(self, _flags: int) -> str:
        return str(self._conn.saveImageGetXMLDesc(self._path, 0))

    def snapshotCurrent(self, _flags: int) -> None:
        raise NotFound("libvirt has forgotten its snapshots")

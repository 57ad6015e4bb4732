# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Records and manifests with nonsense in them are understood as such, whatever it is."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import (
    dropped,
    hold,
    save_file,
    stamp_record,
    storage_record,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model import backup
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.domain import parse_domain
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.manifest import parse_manifest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import Problem
from recorded import recorded

LIVE = parse_domain(recorded("domain/running.xml"))
MANY = 10**400
NONSENSE = [
    None, "", "\0", "\ud800", -1, MANY, -MANY, 1e308, -1e308, float("inf"), True, [], {}, [[]], [1],
    "x", "<domainsnapshot/>", "../../x", "9999-12-31T23:59:59Z",
]  # fmt: skip
COPY = {"target": "vda", "backend": "reflink", "image": "/d", "made": "/d.s", "file": "/d.s",
        "volume": "", "thin": False, "size": 1, "below": [["/b", "1"]]}  # fmt: skip
IMAGE = {"target": "vda", "path": "/d", "inode": 1, "size": 1, "written": 1}
GOOD: dict[str, dict[str, Any]] = {
    "save": {"path": "/s", "file": [1, 2, 3], "images": [IMAGE]},
    "snapshots": {
        "vm": "db01",
        "run": "boot 1",
        "snapshots": [{"name": "s", "current": True, "xml": recorded("tree/a.xml")}],
    },
    "stamps": {
        "sound": ["s /d"],
        "others": [{"name": "h", "created": 1, "stamps": "/d:1:1:1::::"}],
    },
    "storage": {
        "snapshots": [{"name": "s", "consistency": "offline", "created": 1, "copies": [COPY]}],
        "at": {"vda": ["s", "stamp"]},
    },
    "freeze": {"token": "t", "deadline": 60, "until": "later", "asked": ["/"], "mountpoints": ["/"],
               "flush_ms": 1, "ends": time.time() + 30},
}  # fmt: skip
READERS: dict[str, Callable[[str], object]] = {
    "save": lambda state: save_file._recorded(type("Host", (), {"state_dir": state}), LIVE.uuid),  # type: ignore[arg-type]
    "snapshots": lambda state: dropped.read_dropped(state, LIVE, ()),
    "stamps": lambda state: stamp_record.read_stamps(state, LIVE.uuid),
    "storage": lambda state: storage_record.read_record(state, LIVE.uuid),
    "freeze": lambda state: hold.read_freeze(state, LIVE.uuid),
}


def spoilt(content: Any) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Each way to put nonsense into one place of plain data, and what comes of it."""
    for place in places(content):
        for value in NONSENSE:
            other = copy.deepcopy(content)
            part = other
            for key in place[:-1]:
                part = part[key]
            part[place[-1]] = value
            yield (*place, repr(value)[:20]), other


def places(content: Any) -> Iterator[tuple[Any, ...]]:
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield (key,)
        if isinstance(value, (dict, list)):
            yield from ((key, *rest) for rest in places(value))


@pytest.mark.parametrize("kind", GOOD)
def test_in_a_record(kind: str, tmp_path: Path) -> None:
    path = tmp_path / kind / f"{LIVE.uuid}.json"
    path.parent.mkdir()
    good = {"format": 1, "version": "9.9.9", **GOOD[kind]}
    path.write_text(json.dumps(good))
    assert READERS[kind](str(tmp_path))
    for what, content in spoilt(good):
        path.write_text(json.dumps(content))
        try:
            READERS[kind](str(tmp_path))
        except Problem as problem:
            assert str(path) in problem.found, what
        except Exception as error:
            pytest.fail(f"{what}: {error!r}")


def test_in_a_manifest() -> None:
    point = backup.RestorePoint(
        id="20261124T030000Z", vm="db01", uuid=LIVE.uuid, sequence=2, time="2026-11-24T03:00:00Z",
        type="incremental", reason="", consistency="offline", started="", finished="", seconds=1,
        files=(backup.StoredFile("vda.qcow2", backup.IMAGE, 1, "0" * 64, staged="vda.merged"),),
        disks=(backup.StoredDisk("vda", "vda.qcow2", "incremental", "raw", 1 << 20, "/vda"),),
        parent=backup.Parent("20261123T030000Z", "0" * 64), left_out=(("vdb", "why"),),
    )  # fmt: skip
    assert parse_manifest(backup.manifest_text(point), "/m") == backup.sealed(point)
    good = json.loads(backup.manifest_text(point))
    del good["seal"]
    for what, content in spoilt(good):
        try:
            text = json.dumps({**content, "seal": backup.seal_of(content)})
            found = parse_manifest(text, "/m")
        except (Problem, UnicodeEncodeError):
            continue
        sizes = [disk.virtual_size for disk in found.disks] + [file.size for file in found.files]
        assert max(sizes) < 1 << 63, what
        assert all(isinstance(file.staged, str) for file in found.files), what
        assert "\0" not in repr(found).replace("\\x00", "\0"), what

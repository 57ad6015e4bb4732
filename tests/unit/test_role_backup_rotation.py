# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the role backup_rotation makes of its variables: which VMs, what is read, what is told."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template
from tools.common import ROOT

ROLE = ROOT / "roles/backup_rotation"


def value(name: str, **variables: Any) -> Any:
    """A variable of the role, where others are set."""
    loader = DataLoader()
    given = {
        **loader.load_from_file(str(ROLE / "defaults/main.yml"), trusted_as_template=True),
        **loader.load_from_file(str(ROLE / "vars/main.yml"), trusted_as_template=True),
        **{f"backup_rotation_{key}": entry for key, entry in variables.items()},
    }
    template = given[f"backup_rotation_{name}"]
    return Templar(loader, variables=given).template(template)


def vm(number: int, title: str = "", copy_of: str | None = None) -> dict[str, Any]:
    return {"uuid": f"uuid-{number}", "title": title, "copy_of": copy_of}


HOST = {
    "vms": {
        "db01": vm(1, "Orders [backup]"),
        "db02": vm(2, "backups of old"),
        "app.1": vm(3, "backup"),
        "appx1": vm(4, "nobackup"),
        "db01-drill": vm(5, "Orders [backup]", copy_of="uuid-1"),
    }
}


@pytest.mark.parametrize(
    ("chosen", "names"),
    [
        ({"vm": "db01, nosuch"}, ["db01", "nosuch"]),
        ({"vm": ["uuid-3", "app.1"]}, ["app.1"]),
        ({"vm": "all"}, ["db01", "db02", "app.1", "appx1"]),
        ({"vm": ["all", "db01-drill"]}, ["db01-drill", "db01", "db02", "app.1", "appx1"]),
        ({"pattern": "db*"}, ["db01", "db02"]),
        ({"pattern": ["app.?"]}, ["app.1"]),
        ({"pattern": ["b*", "0?"]}, []),
        ({"pattern": r"~db\d+"}, ["db01", "db02"]),
        ({"pattern": "~db|app"}, []),
        ({"tag": "backup"}, ["db01", "app.1"]),
        ({"tag": "[backup]"}, ["db01"]),
        ({"tag": "backup", "vm": "db02"}, ["db02", "db01", "app.1"]),
        ({"vm": "all", "exclude": "db*,appx1"}, ["app.1"]),
        ({"vm": "all", "exclude": "db0"}, ["db01", "db02", "app.1", "appx1"]),
        ({"vm": "all", "exclude": [r"~.*\d"]}, []),
    ],
)
def test_which_vms_are_chosen(chosen: dict[str, Any], names: list[str]) -> None:
    assert value("vms", host=HOST, **chosen) == names


def point(id: str, parent: str | None = None, at: str | None = None) -> dict[str, Any]:
    return {"id": id, "parent": parent, "verified": {"at": at} if at else None, "good": True}


def test_the_newest_and_those_that_nobody_has_read_for_the_longest_time() -> None:
    points = [
        point("a", at="2026-01-03"),
        point("b", "a", at="2026-01-02"),
        point("c", at="2026-01-01"),
        point("d", "c"),
        point("e", at="2026-01-04"),
        {**point("bad"), "good": False},
        point("f", "e"),
    ]
    stock = {"vms": {"uuid-1": {"restore_points": points, "newest": "f"}}}
    given = {"host": HOST, "vm": "db01", "stock": stock}
    assert value("to_verify", **given, verify_older=0) == {"f": {"db01": "uuid-1"}}
    assert value("to_verify", **given) == {"f,d": {"db01": "uuid-1"}}
    # e is read with f, which stands on it
    assert value("to_verify", **given, verify_older=9) == {"f,d,c,b,a": {"db01": "uuid-1"}}


def test_vms_with_the_same_points_are_read_together() -> None:
    one = {"restore_points": [point("a")], "newest": "a"}
    none = {"restore_points": [point("a")], "newest": None}
    stock = {"vms": {"uuid-1": one, "uuid-2": one, "uuid-3": none, "uuid-4": {"failed": True}}}
    read = value("to_verify", host=HOST, vm="all", stock=stock)
    assert read == {"a": {"db01": "uuid-1", "db02": "uuid-2"}}


def test_what_went_wrong_is_told_by_name() -> None:
    failed = {"failed": True, "msg": "why"}
    given: dict[str, Any] = {"host": HOST, "vm": "db01,db02"}
    assert value("troubles", **given) == []
    assert value("troubles", **given, result={"vms": {"db01": failed, "db02": {}}}) == [
        {"vm": "db01", "text": "why"}
    ]
    assert value("troubles", **given, result={"failed": True, "msg": "no libvirt"}) == [
        {"vm": "the backup", "text": "no libvirt"}
    ]
    item = {"key": "a", "value": {"db01": "uuid-1", "db02": "uuid-2"}}
    read = {"results": [{"item": item, "failed": True, "vms": {"uuid-2": failed, "uuid-1": {}}}]}
    assert value("troubles", **given, verified=read) == [{"vm": "db02", "text": "why"}]
    read = {"results": [{"item": item, "failed": True, "msg": "all"}]}
    assert [found["vm"] for found in value("troubles", **given, verified=read)] == ["db01", "db02"]
    pruned = {"failed": True, "vms": {"uuid-1": failed}}
    assert value("troubles", **given, pruned=pruned) == [{"vm": "db01", "text": "why"}]
    assert value("troubles", **given, broken="a hook") == [{"vm": "the run", "text": "a hook"}]


def test_no_password_is_in_what_others_can_see() -> None:
    """Only the name of its file, quoted for the shell words that borg splits it into."""
    given = {"copy_target": "sftp:host:/r", "copy_password_file": "/etc/a b", "repository": "/b"}
    words = value("archive", **given)
    assert words["restic"][-2:] == ["--", "/b"] and words["borg"][-1] == "/b"
    assert "/etc/a b" not in str(words)
    assert value("archive_environment", **given) == {
        "restic": {"RESTIC_PASSWORD_FILE": "/etc/a b"},
        "borg": {"BORG_PASSCOMMAND": "cat -- '/etc/a b'"},
    }


def merged(fresh: str, former: str, *, vms: tuple[str, ...] = (), success: str = "backup") -> str:
    """What a file of metrics holds after a run about the repository ``/r"1``."""
    given = {
        "fresh": fresh,
        "former": former,
        "success": f"vmkeep_{success}_success",
        "repository": '/r"1',
        "vms": vms,
    }
    text = (ROLE / "templates/merged.prom.j2").read_text()
    loader = DataLoader()
    return str(Templar(loader, variables=given).template(trust_as_template(text)))


def told(kind: str, **values: int) -> str:
    """Lines about the success and the age of VMs in that repository."""
    lines = []
    for name in ("success", "age"):
        lines += [f"# HELP vmkeep_{kind}_{name} of VMs", f"# TYPE vmkeep_{kind}_{name} gauge"]
        for vm, value in values.items():
            shown = value if name == "success" else "NaN"
            lines.append(f'vmkeep_{kind}_{name}{{vm="{vm}",repository="/r\\"1"}} {shown}')
    return "\n".join(lines) + "\n"


def test_metrics_of_others_stay_and_no_failure_is_forgotten() -> None:
    """By whatever run, in whatever order; a VM that is gone goes, unless it has failed."""
    first = told("backup", one=1, two=0, three=1, gone=1, failed=0)
    assert merged(first, "") == first and merged(first, first) == first
    there = ("one", "two", "three")
    second = merged(told("backup", one=0), first, vms=there)
    assert second == told("backup", one=0, two=0, three=1, failed=0)
    assert merged(told("backup", one=1), second, vms=there) == told(
        "backup", one=1, two=0, three=1, failed=0
    )
    drill = told("drill", one=0, gone=1)
    both = merged(drill, second, vms=("one", "gone"), success="drill")
    assert both == drill + second
    assert merged(told("backup", two=1), both, vms=there) == (
        told("backup", two=1, one=0, three=1, failed=0) + drill
    )


def test_what_is_no_metric_is_not_kept() -> None:
    other = 'vmkeep_backup_success{vm="gone",repository="/other"} 1\nnode_own 12\n'
    torn = 'vmkeep_backup_age{vm="two",repos\n\n# a remark\n'
    assert merged("", other + torn) == other

# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The state directory is private whatever the umask, and used only where nobody else can write."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host import durable, image_facts
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.durable import (
    read_json,
    write_json,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.image_observe import (
    ImageHost,
    image_key,
    read_image_journal,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.journal import (
    Journal,
    new_content,
    read_journal,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.lock import guard_lock, locked
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.record import (
    read_record,
    write_record,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._host.state_dir import (
    check_state_directory,
    state_directory,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.problem import (
    Conflict,
    Denied,
    Problem,
    Unsupported,
    Unwritten,
)
from ansible_collections.vmkeep.libvirt.plugins.module_utils._model.version import VERSION
from ansible_collections.vmkeep.libvirt.plugins.module_utils._plan.image_recover import bases_of

UUID = "4dea22b3-1d52-d8f3-2516-782e98ab3fa0"


@pytest.fixture
def umask() -> Iterator[Callable[[int], int]]:
    """Set the umask for the rest of the test."""
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("value", [0, 0o022, 0o077, 0o277, 0o777])
def test_private_whatever_the_umask(
    value: int, umask: Callable[[int], int], tmp_path: Path
) -> None:
    state = tmp_path / "new" / "state"
    umask(value)
    with locked(str(state), UUID, "db01", "a run", 0), guard_lock(str(state), UUID, "db01"):
        run = Journal(str(state), UUID, new_content("a run", "running", (), ()))
        run.write()
        run.mark("a note")
        write_record(str(state), "save", UUID, {})
    umask(0o022)
    modes = {path: mode(path) for path in (state.parent, *state.parent.rglob("*"))}
    assert len(modes) == 10
    for path, found in modes.items():
        assert found == (0o700 if path.is_dir() else 0o600), path


def spoilt_mode(bits: int, *parts: str) -> Callable[[Path], None]:
    return lambda top: os.chmod(top.joinpath(*parts), bits)


def link_for_a_part(top: Path) -> None:
    (top / "state" / "lock").rename(top / "elsewhere")
    (top / "state" / "lock").symlink_to(top / "elsewhere")


def file_for_a_part(top: Path) -> None:
    (top / "state" / "lock").rmdir()
    (top / "state" / "lock").touch()


def file_for_all(top: Path) -> None:
    (top / "state" / "lock").rmdir()
    (top / "state").rmdir()
    (top / "state").touch()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (spoilt_mode(0o777, "state"), "mode 0777"),
        (spoilt_mode(0o770, "state"), "mode 0770"),
        (spoilt_mode(0o1777, "state"), "mode 1777"),
        (spoilt_mode(0o702, "state"), "mode 0702"),
        (spoilt_mode(0o777, "state", "lock"), "mode 0777"),
        (spoilt_mode(0o720, "state", "lock"), "mode 0720"),
        (spoilt_mode(0o777), "mode 0777"),
        (link_for_a_part, "is no directory"),
        (file_for_a_part, "is no directory"),
        (file_for_all, "is no directory"),
    ],
)
@pytest.mark.parametrize("check", [False, True], ids=["use", "check"])
def test_refused_where_others_can_write(
    spoil: Callable[[Path], None], said: str, check: bool, tmp_path: Path
) -> None:
    top = tmp_path / "top"
    top.mkdir()
    state_directory(str(top / "state"), "lock")
    spoil(top)
    before = sorted(top.rglob("*"))
    with pytest.raises(Unsupported) as caught:
        if check:
            check_state_directory(str(top / "state"))
        else:
            state_directory(str(top / "state"), "lock")
    assert said in caught.value.found and str(top) in caught.value.found and caught.value.todo
    assert sorted(top.rglob("*")) == before


def test_the_advice_for_a_mode_works(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state_directory(str(state), "lock")
    state.chmod(0o777)
    with pytest.raises(Unsupported) as caught:
        state_directory(str(state), "lock")
    command = caught.value.todo.partition("then: ")[2].split()
    assert command == ["chmod", "0700", str(state)]
    os.chmod(command[2], int(command[1], 8))
    assert state_directory(str(state), "lock") == str(state / "lock")


def test_what_is_kept_for_images_lies_one_level_deeper(tmp_path: Path) -> None:
    images = tmp_path / "state" / "images"
    state_directory(str(images), "journal")
    (tmp_path / "state").chmod(0o775)
    with pytest.raises(Unsupported, match="mode 0775"):
        state_directory(str(images), "journal")


def test_directories_above_that_all_share_are_fine(tmp_path: Path) -> None:
    shared = tmp_path / "tmp"
    shared.mkdir()
    shared.chmod(0o1777)
    assert state_directory(str(shared / "state"), "lock") == str(shared / "state" / "lock")


def test_somebody_elses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = tmp_path / "state"
    state_directory(str(state), "lock")
    monkeypatch.setattr(os, "geteuid", lambda: 4711)
    for use in (lambda: state_directory(str(state), "lock"), lambda: check_state_directory(state)):
        with pytest.raises(Unsupported) as caught:
            use()
        assert "belongs to" in caught.value.found and "4711" in caught.value.found
        assert "mode 0" in caught.value.found


def test_a_symbolic_link_of_somebody_else(tmp_path: Path) -> None:
    state_directory(str(tmp_path / "state"), "lock")
    (tmp_path / "link").symlink_to(tmp_path / "state")
    assert state_directory(str(tmp_path / "link"), "lock")
    if os.geteuid() == 0:
        os.lchown(tmp_path / "link", 4711, 4711)
        with pytest.raises(Unsupported, match="symbolic link of 4711"):
            state_directory(str(tmp_path / "link"), "lock")


@pytest.mark.parametrize("leads", ["nowhere", "link"])
def test_a_symbolic_link_that_leads_nowhere(leads: str, tmp_path: Path) -> None:
    """What it leads to may not be mounted yet: nothing is made there, and nothing is promised."""
    (tmp_path / "link").symlink_to(tmp_path / leads)
    state = str(tmp_path / "link")
    for use in (check_state_directory, lambda state: state_directory(state, "lock")):
        with pytest.raises(Unsupported, match="link that leads nowhere"):
            use(state)
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_records_below_what_is_no_directory(tmp_path: Path) -> None:
    (tmp_path / "state").touch()
    with pytest.raises(Unsupported, match=f"{tmp_path}/state is no directory"):
        read_json(str(tmp_path / "state" / "journal" / "x.json"), "the record")
    (tmp_path / "x.json").mkdir()
    with pytest.raises(Conflict, match="no regular file"):
        read_json(str(tmp_path / "x.json"), "the record")


def test_looking_makes_nothing(tmp_path: Path) -> None:
    check_state_directory(str(tmp_path / "not" / "there"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("planted", ["symlink", "directory"])
def test_a_lock_that_cannot_be_opened_is_an_error_that_says_so(
    planted: str, tmp_path: Path
) -> None:
    state = tmp_path / "state"
    for name, lock in (("lock", locked), ("guard", guard_lock)):
        path = Path(state_directory(str(state), "lock")) / f"{UUID}.{name}"
        if planted == "symlink":
            path.symlink_to(tmp_path / "victim")
        else:
            path.mkdir()
        rest = ("a run", 0) if lock is locked else ()
        with pytest.raises(Unsupported) as caught, lock(str(state), UUID, "db01", *rest):
            pass
        assert str(path) in caught.value.found and "db01" in caught.value.found
    assert not (tmp_path / "victim").exists()


def test_what_is_planted_is_never_followed(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "record.json"
    victim.write_text("precious")
    for name in (path, Path(f"{path}.new")):
        name.symlink_to(victim)
    with pytest.raises(Conflict, match="no regular file"):
        read_json(str(path), "the record")
    write_json(str(path), {"a": 1})
    assert victim.read_text() == "precious"
    assert not path.is_symlink() and read_json(str(path), "the record") == {"a": 1}
    assert not list(tmp_path.glob("*.new"))


def test_what_a_dead_run_left_of_a_draft_is_in_nobodys_way(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    Path(f"{path}.new").write_text('{"a": ')
    write_json(str(path), {"a": 1})
    assert read_json(str(path), "the record") == {"a": 1}


def test_short_writes_lose_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call of the system may write a part of what it gets."""
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, data: write(file, bytes(data)[:7]))
    content = {"text": "x" * 1000}
    write_json(str(tmp_path / "record.json"), content)
    assert read_json(str(tmp_path / "record.json"), "the record") == content


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace", "fchmod"])
def test_whatever_fails_the_old_record_stays(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "record.json"
    write_json(str(path), {"a": 1})

    def fail(*_arguments: object, **_options: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(durable.os, call, fail)
        with pytest.raises(Unwritten) as caught:
            write_json(str(path), {"a": 2})
    assert str(tmp_path) in caught.value.found and "8 bytes" in caught.value.found
    assert read_json(str(path), "the record") == {"a": 1}
    assert [each.name for each in tmp_path.iterdir()] == ["record.json"]


def test_permission_denied_is_never_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = str(tmp_path)
    Journal(state, UUID, new_content("a run", "running", (), ())).write()
    write_record(state, "save", UUID, {})
    opened = os.open

    def refuse(path: str, *rest: int) -> int:
        if str(path).endswith(".json"):
            raise PermissionError(13, "Permission denied")
        return opened(path, *rest)

    monkeypatch.setattr(durable.os, "open", refuse)
    readers = (lambda: read_journal(state, UUID), lambda: read_record(state, "save", UUID))
    for user, todo in ((1000, "become: true"), (0, "AppArmor")):
        monkeypatch.setattr(durable.os, "geteuid", lambda user=user: user)
        for read in readers:
            with pytest.raises(Denied) as caught:
                read()
            assert UUID in caught.value.found and todo in caught.value.todo
            assert "remove" not in str(caught.value) and "interrupted" not in caught.value.found


GOOD = new_content("vm_snapshot 1", "running", (), ())
STEP = {"step": {"step": "remove_file", "file": "/f", "why": ""}, "done": False}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({**GOOD, "format": 2}, "format 2"),
        ({**GOOD, "format": "1"}, "format '1'"),
        ({key: value for key, value in GOOD.items() if key != "format"}, "format None"),
        ({**GOOD, "version": "9.9.9", "speed": 3}, "version 9.9.9"),
        ({**GOOD, "marks": {}}, "marks"),
        ({**GOOD, "marks": [1]}, "marks"),
        ({**GOOD, "group": "all"}, "group"),
        ({**GOOD, "status": None}, "status"),
        ({**GOOD, "steps": {}}, ""),
        ({**GOOD, "steps": None}, ""),
        ({**GOOD, "steps": ["x"]}, ""),
        ({**GOOD, "steps": [{**STEP, "step": {"step": "shred"}}]}, "'shred' is not known"),
        ({**GOOD, "steps": [{**STEP, "done": "no"}]}, "done"),
        ({**GOOD, "steps": [{**STEP, "since": 1}]}, "since"),
        ({key: value for key, value in GOOD.items() if key != "steps"}, "no steps"),
        ({"format": 1, "steps": []}, "no group, marks, run, status"),
        ({**GOOD, "group": ["a\0b"]}, "no name of anything"),
        ({**GOOD, "marks": ["\ud800"]}, "no name of anything"),
        ({**GOOD, "a\0b": 1}, "no name of anything"),
        ({**GOOD, "steps": [{**STEP, "step": {**STEP["step"], "file": "/f\0"}}]}, "no name"),
        ([], "no JSON object"),
        ("", "no JSON object"),
    ],
)
def test_a_journal_of_another_version_is_a_conflict_that_names_the_versions(
    content: object, said: str, tmp_path: Path
) -> None:
    path = tmp_path / "journal" / f"{UUID}.json"
    path.parent.mkdir()
    write_json(str(path), content)  # type: ignore[arg-type]
    with pytest.raises(Conflict) as caught:
        read_journal(str(tmp_path), UUID)
    assert str(path) in caught.value.found and said in caught.value.found
    assert f"version {VERSION}" in caught.value.found and "version" in caught.value.todo


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"run": "r", "marks": []},
        {"run": "r", "marks": [], "path": 1},
        {"run": "r", "marks": [], "path": "/x\0"},
        {"run": "r", "marks": ["begun 0"], "path": "/x", "base": "/base\0"},
        {"run": "r", "marks": ["begun 0"], "path": "/x", "base": "/\ud800"},
    ],
)
def test_the_journal_of_one_image_costs_no_other_anything(
    content: dict[str, object], tmp_path: Path
) -> None:
    """Others look into it for what it claims; it may claim what is no path at all."""
    step = {"step": "commit", "base": content.pop("base", "/b"), "base_format": "raw", "bytes": 1}
    steps = [{"step": step, "done": False}]
    path = tmp_path / "journal" / f"{image_key('/x')}.json"
    path.parent.mkdir()
    write_json(str(path), {"format": 1, "version": "9.9.9", "steps": steps, **content})
    host = ImageHost(str(tmp_path), None, (), 1, 1, "a run")
    assert image_facts._claims(host, "/other", bases_of) == {}
    with pytest.raises(Conflict, match=r"version 9\.9\.9"):
        read_image_journal(host, image_key("/x"))


def test_a_name_that_is_no_unicode_is_one(tmp_path: Path) -> None:
    odd = {**GOOD, "group": [os.fsdecode(b"/odd-\xff")]}
    path = tmp_path / "journal" / f"{UUID}.json"
    path.parent.mkdir()
    write_json(str(path), odd)
    assert read_journal(str(tmp_path), UUID) == odd


@pytest.mark.parametrize("text", ["", "{", "\0", "NaN", '{"format": NaN}', "[" * 100_000, "\udcff"])
def test_what_is_no_json_is_a_conflict(text: str, tmp_path: Path) -> None:
    path = tmp_path / "journal" / f"{UUID}.json"
    path.parent.mkdir()
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(Conflict, match="version"):
        read_journal(str(tmp_path), UUID)


def test_the_version_is_that_of_the_collection() -> None:
    galaxy = Path(__file__).resolve().parents[2] / "galaxy.yml"
    assert f"version: {VERSION}\n" in galaxy.read_text()


def test_an_open_journal_that_loses_its_directory_says_so(tmp_path: Path) -> None:
    run = Journal(str(tmp_path / "state"), UUID, new_content("a run", "running", (), ()))
    run.write()
    for path in (tmp_path / "state" / "journal").iterdir():
        path.unlink()
    (tmp_path / "state" / "journal").rmdir()
    with pytest.raises(Problem) as caught:
        run.mark("begun 0")
    assert isinstance(caught.value, Unwritten) and run.content["marks"] == []

# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""SIGKILL in every change of an image: between the steps of a run, and at each write of qemu-img.

The points are not listed here. A run tells the points that it passes (see kill_harness.py); then
it is killed at each state that the world was in. Within qemu-img, strace kills it, and with it the
run, at its first write, its second, and so on until it gets through.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from image_story import MIB, Images, content, drafts, qemu_img, sound, tags, write
from images import corpus
from kill_fixtures import Chooser
from kill_trials import HARNESS, Point, moments
from lab.modules import start_module

STRACE = shutil.which("strace")
needs_strace = pytest.mark.skipif(
    not STRACE, reason="SKIPPED LOUDLY: killing qemu-img within its writes needs strace"
)
# The calls by which qemu-img changes a file or orders its changes.
CALLS = ("pwrite64", "pwritev", "fdatasync", "ftruncate", "fallocate")


@dataclass(frozen=True)
class Scene:
    """A task, and how the images lie that it starts from; ``disk`` is the image of the task.

    ``command`` is the qemu-img command that does most of it.
    """

    name: str
    module: str
    params: dict[str, Any]
    build: Callable[[Path, str], None]
    command: str = ""
    options: str = ""

    def make(self, folder: Path) -> Path:
        self.build(folder, self.options)
        return folder / "disk"

    def task(self, folder: Path) -> dict[str, Any]:
        """The options, paths filled in."""
        return {
            key: str(folder / value) if key == "base" else value
            for key, value in self.params.items()
        }


def with_tags(folder: Path, options: str) -> None:
    """An image with two snapshots of one name and one of another, each of another content."""
    disk = folder / "disk"
    listed = ["-o", options] if options else []
    qemu_img("create", "-q", "-f", "qcow2", *listed, disk, "4M")
    for number, name in enumerate(("daily", "daily", "last")):
        write(disk, f"-P {number + 1} {number}M 1M")
        corpus.with_snapshot(name)(disk)
    corpus.qemu_io(disk, "write -P 9 2560k 768k", "write -z 1M 64k", "discard 0 64k")


def with_bases(folder: Path, options: str) -> None:
    """An overlay on one base, and another base that differs."""
    for name, pattern in (("base", 1), ("other", 5)):
        qemu_img("create", "-q", "-f", "qcow2", folder / name, "4M")
        write(folder / name, "-P 7 0 1M", f"-P {pattern} 2M 2M")
    listed = ["-o", options] if options else []
    base = ["-b", folder / "base", "-F", "qcow2"]
    qemu_img("create", "-q", "-f", "qcow2", *base, *listed, folder / "disk", "6M")
    write(folder / "disk", "-P 3 1M 1536k", "-P 4 5M 512k", "-z 3M 64k")


def with_a_base(folder: Path, options: str) -> None:
    with_bases(folder, options)
    (folder / "disk").unlink()


def tagging(scene: str, /, **params: str) -> Scene:
    return Scene(scene, "qcow2_snapshot", params, with_tags, "snapshot")


SCENES = [
    tagging("create", name="new"),
    tagging("delete", name="daily", state="absent"),
    tagging("apply", id="1", state="applied"),
    tagging("keep-and-apply", name="last", state="applied", keep_current="kept"),
    Scene("overlay", "qcow2_overlay", {"base": "base"}, with_a_base, "create"),
    Scene("rebase", "qcow2_overlay", {"base": "other", "rebase": True}, with_bases, "rebase"),
    Scene("commit", "qcow2_overlay", {"state": "committed"}, with_bases, "commit"),
    Scene("remove", "qcow2_overlay", {"state": "absent"}, with_bases),
]
BY_NAME = {scene.name: scene for scene in SCENES}
KINDS = ("compat=0.10", "lazy_refcounts=on", "extended_l2=on,cluster_size=64k", "cluster_size=4k")


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Callable[[Scene], Path]]:
    """A folder with the images of a scene as they were at first; made once, then copied."""
    store = tmp_path / "store"
    folder = tmp_path / "images"

    def give(scene: Scene) -> Path:
        if not store.exists():
            folder.mkdir()
            scene.make(folder)
            folder.rename(store)
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(store, folder)
        return folder

    yield give


def portrait(folder: Path) -> dict[str, Any]:
    """All images of a scene: their contents, and those of their snapshots, by name."""
    found: dict[str, Any] = {}
    for path in sorted(folder.iterdir()):
        held = [(name, content(path, tag)) for tag, name in tags(path).items()]
        info = json.loads(qemu_img("info", "-U", "--output=json", path))
        found[path.name] = (content(path), held, info.get("backing-filename"))
    return found


def finished(images: Images, scene: Scene, folder: Path, wanted: dict[str, Any]) -> list[str]:
    """The same task again gets to where a run without a kill does, and then rests."""
    second = images.run(scene.module, folder / "disk", **scene.task(folder))
    third = images.run(scene.module, folder / "disk", **scene.task(folder))
    assert not third["changed"], third["plan"]
    assert images.journals() == [] and drafts([folder / "disk"]) == []
    assert portrait(folder) == wanted
    for path in folder.iterdir():
        # A cluster that was counted behind the end of the file is not seen until the file grows.
        sound(path, wasted=2)
    return list(second["notes"])


def whole(scene: Scene, folder: Path, before: dict[str, Any], wanted: dict[str, Any]) -> None:
    """What a killed run leaves, before anybody repairs it, for each image.

    It has the content from before or the wanted one, and so have its snapshots, also once all of
    it has been written over. Only the base of a commit alone is neither.
    """
    for path in folder.iterdir():
        if path.name.startswith(".vmkeep") or (scene.name == "commit" and path.name == "base"):
            continue
        allowed = [part[path.name] for part in (before, wanted) if path.name in part]
        assert content(path) in [each[0] for each in allowed], f"{path.name} is torn"
        known = {held for each in allowed for held in each[1]}
        copy = Path("/dev/shm") / f"vmkeep-{os.getpid()}.copy"
        try:
            shutil.copyfile(path, copy)
            now = tags(copy)
            assert {(name, content(copy, tag)) for tag, name in now.items()} <= known
            write(copy, "-P 250 0 4M")
            assert {(name, content(copy, tag)) for tag, name in now.items()} <= known
        finally:
            copy.unlink(missing_ok=True)


# --- between the steps ---


class Harness:
    """Runs a scene in kill_harness.py."""

    def __init__(self, images: Images, log: Path) -> None:
        self.images = images
        self.log = log

    def run(self, scene: Scene, folder: Path, **settings: Any) -> int:
        self.log.unlink(missing_ok=True)
        told = {"log": str(self.log), **settings}
        params = self.images.params(folder / "disk", **scene.task(folder))
        env = {"VMKEEP_HARNESS": json.dumps(told), "XDG_CONFIG_HOME": "/nonexistent"}
        return start_module(scene.module, params, env=env, runner=HARNESS).wait()

    def points(self) -> list[Point]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [Point(line["point"], line["seconds"], line["effect"]) for line in lines]


def chosen(*names: str) -> pytest.MarkDecorator:
    """Scenes by name; with a dash in front all but these."""
    left_out = {name[1:] for name in names if name.startswith("-")}
    found = [scene for scene in SCENES if scene.name in names]
    if left_out:
        found = [scene for scene in SCENES if scene.name not in left_out]
    return pytest.mark.parametrize("scene", found, ids=lambda scene: scene.name)


# Different enough to pass through every kind of step; the others come with all kills.
STEPS = ("keep-and-apply", "overlay", "rebase", "commit")
WRITES = ("create", "apply", "rebase", "commit")


@pytest.mark.kills
@chosen(*STEPS)
def test_killed_in_each_state_of_the_world(
    images: Images, fresh: Callable[[Scene], Path], tmp_path: Path, scene: Scene, some: Chooser
) -> None:
    killed_in_each_state(images, fresh, tmp_path, scene, some)


@pytest.mark.kills_all
@chosen(*(f"-{name}" for name in STEPS))
def test_other_scenes_killed_in_each_state(
    images: Images, fresh: Callable[[Scene], Path], tmp_path: Path, scene: Scene
) -> None:
    killed_in_each_state(images, fresh, tmp_path, scene)


def killed_in_each_state(
    images: Images,
    fresh: Callable[[Scene], Path],
    tmp_path: Path,
    scene: Scene,
    some: Chooser = list,
) -> None:
    harness = Harness(images, tmp_path / "points")
    folder = fresh(scene)
    before = portrait(folder)
    assert harness.run(scene, folder) == 0
    wanted, settings = portrait(folder), some(moments(harness.points()))
    middle = 0
    for setting in settings:
        folder = fresh(scene)
        died = harness.run(scene, folder, **setting) == -signal.SIGKILL
        assert died or setting["kill"].startswith("during"), setting
        whole(scene, folder, before, wanted)
        left = bool([path for path in images.journals() if path.suffix == ".json"])
        middle += left
        notes = finished(images, scene, folder, wanted)
        assert not left or "interrupted run" in notes[0], (setting, notes)
        print(f"  {setting['kill']}: {'; '.join(notes) or '-'}")
    assert middle, "no kill left anything to bring in order"


# --- within qemu-img ---


class DyingQemuImg:
    """A qemu-img that dies, with the run that started it, in a call that changes a file."""

    def __init__(self, folder: Path) -> None:
        self._script = folder / "bin" / "qemu-img"
        self._script.parent.mkdir()
        self.env = {"PATH": f"{self._script.parent}:{os.environ['PATH']}"}

    def dies(self, command: str, call: str, count: int, nth: int = 1) -> None:
        """Die in the ``count``-th such call of a thread, of the ``nth`` run of the command."""
        real = shutil.which("qemu-img")
        runs = self._script.with_name("runs")
        runs.unlink(missing_ok=True)
        fault = f"-e trace={call} -e inject={call}:signal=KILL:when={count}"
        self._script.write_text(
            "#!/bin/sh\n"
            f'if [ "$1" = {command} ] && echo >> {runs} && [ $(wc -l < {runs}) = {nth} ]; then\n'
            f'  {STRACE} -f -qq -o /dev/null {fault} {real} "$@"\n'
            "  status=$?\n"
            "  [ $status -lt 128 ] || kill -9 $PPID\n"
            "  exit $status\n"
            f'fi\nexec {real} "$@"\n'
        )
        self._script.chmod(0o755)


def killed_at_each_write(
    images: Images, fresh: Callable[[Scene], Path], tmp_path: Path, scene: Scene, nth: int = 1
) -> None:
    dying = DyingQemuImg(tmp_path)
    folder = fresh(scene)
    before = portrait(folder)
    images.run(scene.module, folder / "disk", **scene.task(folder))
    wanted, kills = portrait(folder), 0
    for call in CALLS:
        for count in range(1, 1000):
            folder = fresh(scene)
            dying.dies(scene.command, call, count, nth)
            params = scene.task(folder)
            result = images.attempt(scene.module, folder / "disk", env=dying.env, **params)
            if result is not None:
                assert not result["failed"], result["msg"]
                break
            kills += 1
            assert images.journals(), "a run was killed within qemu-img and left no journal"
            whole(scene, folder, before, wanted)
            notes = finished(images, scene, folder, wanted)
            assert "interrupted run" in notes[0]
    print(f"{scene.name}: {kills} kills")
    assert kills >= 3


@needs_strace
@chosen(*WRITES)
def test_killed_at_each_write_of_qemu_img(
    images: Images, fresh: Callable[[Scene], Path], tmp_path: Path, scene: Scene
) -> None:
    killed_at_each_write(images, fresh, tmp_path, scene)


@needs_strace
@pytest.mark.kills_all
@chosen("-remove", *(f"-{name}" for name in WRITES))
def test_other_scenes_killed_at_each_write(
    images: Images, fresh: Callable[[Scene], Path], tmp_path: Path, scene: Scene
) -> None:
    killed_at_each_write(images, fresh, tmp_path, scene)


@needs_strace
@pytest.mark.kills_all
@pytest.mark.parametrize("options", KINDS)
@chosen("-overlay", "-remove")
def test_other_images_killed_at_each_write(
    images: Images, fresh: Callable[[Scene], Path], tmp_path: Path, scene: Scene, options: str
) -> None:
    killed_at_each_write(images, fresh, tmp_path, Scene(**{**vars(scene), "options": options}))


@needs_strace
@pytest.mark.kills_all
@chosen("delete", "keep-and-apply")
def test_killed_in_the_second_of_two(
    images: Images, fresh: Callable[[Scene], Path], tmp_path: Path, scene: Scene
) -> None:
    killed_at_each_write(images, fresh, tmp_path, scene, nth=2)


@needs_strace
@chosen("create", "apply")
def test_what_brings_in_order_is_killed_too(
    images: Images, fresh: Callable[[Scene], Path], tmp_path: Path, scene: Scene
) -> None:
    dying = DyingQemuImg(tmp_path)
    folder = fresh(scene)
    before = portrait(folder)
    images.run(scene.module, folder / "disk", **scene.task(folder))
    wanted, kills = portrait(folder), 0
    for count in range(1, 100):
        folder = fresh(scene)
        params = scene.task(folder)
        dying.dies(scene.command, "fdatasync", 1)
        assert images.attempt(scene.module, folder / "disk", env=dying.env, **params) is None
        dying.dies("check", "pwrite64", count)
        result = images.attempt(scene.module, folder / "disk", env=dying.env, **params)
        if result is not None:
            break
        kills += 1
        whole(scene, folder, before, wanted)
        finished(images, scene, folder, wanted)
    assert kills, "the repair has written nothing"


# --- what another task makes of it ---


@pytest.fixture
def half_committed(images: Images, fresh: Callable[[Scene], Path], tmp_path: Path) -> Path:
    """A folder in which a commit was killed in the middle."""
    if not STRACE:
        pytest.skip("SKIPPED LOUDLY: killing qemu-img within its writes needs strace")
    scene = BY_NAME["commit"]
    folder = fresh(scene)
    dying = DyingQemuImg(tmp_path)
    dying.dies("commit", "fdatasync", 1)
    assert images.attempt(scene.module, folder / "disk", env=dying.env, state="committed") is None
    return folder


def test_a_commit_that_was_begun_is_finished_whatever_is_asked(
    images: Images, half_committed: Path
) -> None:
    """Else the base would be left with half of it."""
    disk, base = half_committed / "disk", half_committed / "base"
    wanted = content(disk)
    foreseen = images.run("qcow2_overlay", disk, state="absent", check=True)
    result = images.run("qcow2_overlay", disk, state="absent")
    assert result["plan"] == foreseen["plan"] and result["diff"] == foreseen["diff"]
    assert "finished what an interrupted run had begun" in result["notes"][0]
    assert content(base) == wanted and not disk.exists()


def test_nobody_stands_on_half_a_commit(images: Images, half_committed: Path) -> None:
    disk, base = half_committed / "disk", half_committed / "base"
    wanted = content(disk)
    for path, module, options in (
        (half_committed / "new", "qcow2_overlay", {"base": base}),
        (base, "qcow2_snapshot", {"name": "s1"}),
    ):
        for check in (True, False):
            result = images.attempt(module, path, check=check, **options)
            assert "half way through a merge" in result["msg"] and str(disk) in result["msg"]
    result = images.attempt("qcow2_snapshot", disk, name="s1", state="absent")
    assert "does not exist" in result["msg"] and "interrupted run" in result["notes"][0]
    assert content(base) == wanted and not disk.exists()
    images.change("qcow2_overlay", half_committed / "new", base=base)


def test_an_overlay_that_is_gone_meanwhile(images: Images, half_committed: Path) -> None:
    """What was only in it is lost; nobody but a person can say what the base is worth now."""
    (half_committed / "disk").unlink()
    result = images.attempt("qcow2_overlay", half_committed / "disk", state="committed")
    [journal] = [path for path in images.journals() if path.suffix == ".json"]
    assert "is gone, with what only it held" in result["msg"] and str(journal) in result["msg"]


def test_going_back_that_had_not_begun_is_forgotten(
    images: Images, fresh: Callable[[Scene], Path], tmp_path: Path
) -> None:
    """What was written since is still there, so a task that wants it gets it."""
    scene = BY_NAME["apply"]
    folder = fresh(scene)
    harness = Harness(images, tmp_path / "points")
    before = content(folder / "disk")
    assert harness.run(scene, folder, kill="before step apply_snapshot daily") == -signal.SIGKILL
    assert images.journals()
    images.run("qcow2_snapshot", folder / "disk", name="rescued")
    assert content(folder / "disk") == before and images.journals() == []


@needs_strace
def test_going_back_that_had_begun_is_finished(
    images: Images, fresh: Callable[[Scene], Path], tmp_path: Path
) -> None:
    scene = BY_NAME["apply"]
    dying = DyingQemuImg(tmp_path)
    for _time in range(20):
        folder = fresh(scene)
        wanted = content(folder / "disk", "1")
        dying.dies("snapshot", "pwrite64", 2)
        params = scene.task(folder)
        # How its threads share the writes out decides whether one of them gets that far.
        if images.attempt(scene.module, folder / "disk", env=dying.env, **params) is None:
            break
    else:
        pytest.fail("no thread of qemu-img has written twice in 20 runs")
    images.run("qcow2_snapshot", folder / "disk", name="after")
    assert content(folder / "disk") == wanted
    assert list(tags(folder / "disk").values()) == ["daily", "daily", "last", "after"]


@needs_strace
def test_bitmaps_that_a_kill_has_spoilt_are_told_of(images: Images, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    dying = DyingQemuImg(tmp_path)
    for _time in range(20):
        disk.unlink(missing_ok=True)
        with_tags(tmp_path, "")
        corpus.with_bitmap("nightly")(disk)
        dying.dies("snapshot", "pwrite64", 4)
        killed = images.attempt("qcow2_snapshot", disk, env=dying.env, name="new") is None
        # How its threads share the writes out decides how far it has come.
        if killed and is_spoilt(disk):
            break
    else:
        pytest.fail("qemu-img was never killed while the bitmap was in use")
    notes = images.run("qcow2_snapshot", disk, name="new")["notes"]
    assert any("'nightly'" in note and "full one" in note for note in notes)
    assert os.path.getsize(disk) < 64 * MIB


def is_spoilt(disk: Path) -> bool:
    """Whether qemu-img says that its bitmap was not closed."""
    found = qemu_img("info", "--output=json", disk)
    bitmaps = json.loads(found)["format-specific"]["data"].get("bitmaps", [])
    return any("in-use" in bitmap["flags"] for bitmap in bitmaps)


def test_qemu_img_dies_with_its_run(
    images: Images, fresh: Callable[[Scene], Path], tmp_path: Path
) -> None:
    """Else it would go on to write while the next run repairs what it takes for interrupted."""
    scene = BY_NAME["commit"]
    folder = fresh(scene)
    write(folder / "disk", "-P 6 0 5M")
    wanted = content(folder / "disk")
    harness = Harness(images, tmp_path / "points")
    slow = Scene(**{**vars(scene), "params": {"state": "committed", "bandwidth": 1}})
    setting = {"kill": "during qemu_img commit disk", "delay": 1.5}
    assert harness.run(slow, folder, **setting) == -signal.SIGKILL
    images.run("qcow2_overlay", folder / "disk", state="committed")
    assert content(folder / "base") == wanted

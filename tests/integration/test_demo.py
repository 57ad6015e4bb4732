# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The demo passes, says so truly, and leaves nothing behind; alone: ``-m demo``."""

from __future__ import annotations

import io
import os
import re
import shlex
import signal
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
from demo import __main__ as program
from demo.screen import Screen
from demo.story import PlaybookFailed, Story
from lab import VM, Lab
from lab.cache import REPOSITORY
from lab.playbooks import Controller

pytestmark = pytest.mark.demo

LIMIT = 180
STATE = Path("~/.local/state/vmkeep").expanduser()


class Demo:
    """A run of bin/demo in a process group of its own, as a shell would start it."""

    def __init__(self, output: Path, *options: str) -> None:
        self.output = output
        self.unpacked = unpacked()
        with output.open("wb") as file:
            self.process = subprocess.Popen(
                ["bin/demo", *options],
                cwd=REPOSITORY,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def text(self) -> str:
        return self.output.read_text()

    def reaches(self, words: str) -> None:
        """Return when it has printed this."""
        limit = time.monotonic() + LIMIT
        while words not in self.text():
            assert self.process.poll() is None, self.text()
            assert time.monotonic() < limit, self.text()
            time.sleep(0.05)

    def interrupt(self, number: int) -> None:
        """What the terminal does for Ctrl-C, to everything in the foreground."""
        os.killpg(self.process.pid, number)

    def ends_with(self, status: int) -> None:
        assert self.process.wait(LIMIT) == status, self.text()

    def directory(self) -> Path:
        """Its lab."""
        found = re.search(r"/tmp/vmk-\w+", self.text())
        assert found, self.text()
        return Path(found.group())


def assert_nothing_left(demo: Demo) -> None:
    """No file, no socket, and no process that has to do with its lab."""
    lab = demo.directory()
    assert not lab.exists()
    assert related(lab) == {}
    assert unpacked() <= demo.unpacked


def unpacked() -> set[Path]:
    """Where modules that are running, or were killed, have their code."""
    return set(Path(tempfile.gettempdir()).glob("ansible_vmkeep*"))


def related(lab: Path) -> dict[int, str]:
    """Processes that name the lab on their command line or in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            words = read(entry / "cmdline")
            if str(lab).encode() in words + read(entry / "environ"):
                found[int(entry.name)] = words.replace(b"\0", b" ").decode()
    return found


def read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def screen_of(story: Story) -> str:
    output = story.screen.output
    assert isinstance(output, io.StringIO)
    return output.getvalue()


@pytest.fixture
def story(lab_session: Lab, vm: VM, tmp_path: Path) -> Story:
    """The demo's story at the point where its VM has booted."""
    story = Story(lab_session, Screen(1, io.StringIO()), tmp_path / "log")
    story.vm, story.controller = vm, Controller(lab_session)
    return story


def test_it_passes_within_the_time_and_leaves_nothing(tmp_path: Path) -> None:
    state = sorted(STATE.rglob("*"))
    began = time.monotonic()
    demo = Demo(tmp_path / "output")
    demo.ends_with(0)
    assert time.monotonic() - began < LIMIT
    text = demo.text()
    assert "All 13 checks passed." in text
    assert "FAILED" not in text and "\033" not in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert_nothing_left(demo)
    assert sorted(STATE.rglob("*")) == state


def test_a_lab_that_is_kept_can_be_played_with_as_it_says(tmp_path: Path) -> None:
    demo = Demo(tmp_path / "output", "--keep")
    demo.ends_with(0)
    lab = demo.directory()
    section = demo.text().partition("The lab is left up")[2]
    commands = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    assert len(commands) == 8, section
    try:
        assert related(lab)
        script = "\n".join(["set -ex", *commands])
        done = subprocess.run(
            ["sh", "-c", script],
            cwd=REPOSITORY,
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        assert "running" in done.stdout and "snapshot mine" in done.stdout
        assert_nothing_left(demo)
    finally:
        down = shlex.split(commands[-1].partition("-m lab ")[2], comments=True)
        python = [REPOSITORY / ".venv/bin/python", "-m", "lab", *down]
        subprocess.run(python, cwd=REPOSITORY / "tests", check=True)


@pytest.mark.parametrize(
    ("words", "number"),
    [("4/9 ", signal.SIGINT), ("guest frozen", signal.SIGTERM)],
    ids=["in a playbook, Ctrl-C", "later, SIGTERM"],
)
def test_an_interrupt_leaves_nothing(tmp_path: Path, words: str, number: int) -> None:
    demo = Demo(tmp_path / "output")
    demo.reaches(words)
    if number == signal.SIGINT:
        time.sleep(1.2)  # the module is about to run by now
    demo.interrupt(number)
    demo.interrupt(number)
    demo.ends_with(130)
    assert "Interrupted" in demo.text() and "Traceback" not in demo.text()
    assert_nothing_left(demo)


def test_lost_content_is_noticed(story: Story, vm: VM) -> None:
    story.digests["/mnt/vda/file"] = "0" * 64
    vm.write("/mnt/vda/file", b"something else")
    vm.start_writer()
    vm.stop_writer()
    vm.run("sed -i '$ d' /mnt/vdb/records")
    story._verify()
    assert len(story.screen.failures) == 2
    assert "FAILED  the content of all 1 files" in screen_of(story)
    assert "vdb: record" in screen_of(story)
    assert program._verdict(story.screen) == 1
    assert "2 of 2 checks FAILED" in screen_of(story)


def test_a_playbook_that_fails_is_explained_by_the_end_of_its_log(story: Story) -> None:
    with pytest.raises(PlaybookFailed) as failure:
        story._play("commit", {"vmkeep_base": "/nonsense"})
    program._explain(story.screen, story.log, failure.value)
    assert "image /nonsense is not in the chain of disk vda" in screen_of(story)
    assert program._verdict(story.screen) == 1


def test_help_and_bad_options_do_nothing() -> None:
    for option, status in (("--help", 0), ("--nonsense", 2)):
        done = subprocess.run(
            [REPOSITORY / "bin/demo", option], capture_output=True, text=True, check=False
        )
        assert done.returncode == status
        assert "--keep" in done.stdout or "--nonsense" in done.stderr

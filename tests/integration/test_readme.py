# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""What the README tells people to type works as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from lab import VM, Lab
from lab.cache import REPOSITORY
from lab.playbooks import PROGRAM, Controller

GALAXY = PROGRAM.with_name("ansible-galaxy")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (REPOSITORY / "README.md").read_text(), re.DOTALL)


def block(language: str, words: str) -> str:
    """The one example in this language that has these words."""
    found = [text for kind, text in BLOCKS if kind == language and words in text]
    assert len(found) == 1, found
    return str(found[0])


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of collections into which this one was installed as the README says."""
    folder = tmp_path_factory.mktemp("install")
    build, install = block("sh", "collection build").splitlines()
    options = {build: ["--output-path", str(folder), str(REPOSITORY)], install: ["-p", str(folder)]}
    for line in (build, install):
        program, *words = line.split()
        assert program == "ansible-galaxy"
        argv = [str(GALAXY), *words, *options[line]]
        environment = {**os.environ, "ANSIBLE_HOME": str(folder / "home")}
        subprocess.run(argv, cwd=folder, check=True, capture_output=True, env=environment)
    return folder


@pytest.fixture
def controller(lab_session: Lab, make_vm: Callable[..., VM], tmp_path: Path) -> Controller:
    """A controller with the README's inventory, its host replaced by the lab's."""
    make_vm("db01", disks=2)
    make_vm("app01")
    controller = Controller(lab_session)
    inventory = yaml.safe_load(block("yaml", "ansible_become"))
    (host,) = inventory["hypervisors"]["hosts"].values()
    ours = json.loads((controller.folder / "inventory.json").read_text())["hypervisors"]["hosts"]
    inventory["hypervisors"]["hosts"] = {"lab": {**ours["lab"], **host}}
    inventory["hypervisors"]["vars"] = {}
    (tmp_path / "inventory.yml").write_text(yaml.safe_dump(inventory))
    return controller


def play(controller: Controller, folder: Path, installed: Path, words: list[str]) -> str:
    """What a run of ansible-playbook says that uses the collection as it was installed."""
    environment = {**controller.environment(), "ANSIBLE_COLLECTIONS_PATH": str(installed)}
    environment["VMKEEP_RECORD"] = os.devnull
    done = subprocess.run(
        [PROGRAM, *words], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_quick_start(controller: Controller, installed: Path, tmp_path: Path) -> None:
    commands = block("sh", "libvirt.snapshot").splitlines()
    assert len(commands) == 5
    for command in commands:
        program, *words = command.split()
        assert program == "ansible-playbook"
        said = play(controller, tmp_path, installed, words)
        assert "app01" in said and "db01" in said


def test_the_quick_start_of_backups(
    controller: Controller, lab_session: Lab, installed: Path, tmp_path: Path
) -> None:
    (tmp_path / "backup").mkdir()
    commands = block("sh", "libvirt.backup").replace("/srv/backup", f"{tmp_path}/backup")
    assert len(commands.splitlines()) == 4
    for command in commands.splitlines():
        program, *words = command.split()
        assert program == "ansible-playbook"
        assert "db01" in play(controller, tmp_path, installed, words)
    assert len(list(tmp_path.glob("backup/*/*/manifest.json"))) == 2
    made = {dom.name() for dom in lab_session.connection.listAllDomains()}
    assert made == {"db01", "app01", "db01-copy"}
    lab_session.connection.lookupByName("db01-copy").undefine()


def test_the_first_playbook(controller: Controller, lab_session: Lab, tmp_path: Path) -> None:
    playbook = yaml.safe_load(block("yaml", "consistent_group"))
    defaults = playbook[0]["module_defaults"]["group/vmkeep.libvirt.libvirt"]
    defaults.update(uri=lab_session.uri, state_dir=str(tmp_path / "state"))
    (tmp_path / "first.yml").write_text(yaml.safe_dump(playbook))
    environment = {**controller.environment(), "VMKEEP_RECORD": os.devnull}
    argv = [PROGRAM, "-i", "inventory.yml", "first.yml"]
    done = subprocess.run(
        argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "before-upgrade *" in done.stdout
    assert [vm.domain.snapshotListNames() for vm in lab_session.vms.values()] == [[], []]

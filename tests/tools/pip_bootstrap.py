# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Puts pip into an empty virtual environment without downloading a bootstrap script.

``ansible-test`` looks for such a script in its cache before it fetches one, and calls it with
the options of ``pip install``, the pip to install, and two switches that pip does not know.
"""

from __future__ import annotations

import subprocess
import sys

PYTHON_MODULE = (sys.executable, "-m")
ONLY_OF_THE_ORIGINAL = ("--no-setuptools", "--no-wheel")


def main() -> None:
    options = [option for option in sys.argv[1:] if option not in ONLY_OF_THE_ORIGINAL]
    subprocess.run([*PYTHON_MODULE, "ensurepip"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*PYTHON_MODULE, "pip", "install", "--quiet", "--upgrade", *options], check=True)


if __name__ == "__main__":
    main()

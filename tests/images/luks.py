# Copyright (c) 2026, vmkeep.libvirt contributors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""LUKS headers that qemu-img 7.2 has written, recorded because it takes seconds to write one.

They protect nothing: the images were made for this, and only their first 592 bytes are here.
"""

from __future__ import annotations

import base64
import zlib

# By the options of qemu-img create that were not left at their default.
_RECORDED = {
    "default": (
        "eNrzCfUO3rWPgTExtZgBH6goKdYtyEnMzDMzwSpfnJFoZGqGzwT+E0DCYb7psV8PVtlk8XKVSDvdZA/1efZtb9"
        "++O+7trm9Oiv8QXWA37/jr2LOLOD+mqC2c8+ScqMMDXqA+5b2paUamSQZpFrqGJgYpuiZGaYm6lpZJabrmaSZG"
        "BmlmyeamqWlga9YUfmZg6Ev85xtrbSTIuur0n28fJqv5rTAOKFn+3afr2Nxl7K9tf7z5D1TJAXTTAgaGe2sZiA"
        "JMDKSpZ/5BmnrWD6SpZ39BmnrOB6Sp575BmnreCyD1ANK9W4k="
    ),
    "aes-128 cbc essiv:sha256 sha1": (
        "eNrzCfUO3rWPgTExtZgBH0hOStZNLS7OLLMqzkg0MjVDlweKGuI1gIGFA0gIHKyqu7tS4M+7dbnJ9wR1Kidtuf"
        "82w3OqscdrvjtlpbbFhU+/q39a+jW1s5ZLaElYPffiPMWpYQwM6uymaeZpRqlpSboGiYmGuiaJiSa6iQbGaboW"
        "poZpqSlGJolpJhD71xR+ZmA0UNfftaxYKIMxSmM6/4k7bcobO/+nzhdXV4+unR/fbK2wqQ+oEuge/gUMDPfWMh"
        "AHOkhTz0ii+Ywkms9EovlMJJrPTKL5zGDzAaAQUpM="
    ),
    "serpent-256": (
        "eNrzCfUO3rWPgbE4taggNa+EAReoKCnWLchJzMwzM8EqX5yRaGRqxoAH8J8AEg6Tszq7a/hX2W+fPYt/0btdzo"
        "7sZumhOfHpLjq3T2t835ckNufBZZ1pa9Y25h9yLOMQ3Dv5e5YoA4OKm2GSRZJxWoqFrrGhqZmuSSqQZWlpkqhr"
        "ZpGUZGiUZpZqaWwItmZN4WcGhkYvRvkn5bsPBdh+Oifl+l5s/qk9AmKh9yz+fV7NKaO/1VA7EqiSA+imBQwM99"
        "YyEAWYGEhTz/yDNPWsH0hTz/6CNPWcD0hTz32DNPW8F0DqASMCVnM="
    ),
}
HEADERS = {name: zlib.decompress(base64.b64decode(text)) for name, text in _RECORDED.items()}

"""Keep the bytecode of what is imported from zip files, by the content of its source.

Ansible sends modules as zip files, and Python compiles what is in there anew each time. That takes
ten seconds a task on a processor that is emulated.
"""

import contextlib
import importlib.util
import marshal
import os
import zipimport

FOLDER = "/var/cache/bytecode"
compile_source = zipimport._compile_source


def kept(pathname, source):
    path = f"{FOLDER}/{importlib.util.source_hash(source).hex()}"
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        return marshal.loads(file.read())
    code = compile_source(pathname, source)
    draft = f"{path}.{os.getpid()}"
    with open(draft, "wb") as file:
        file.write(marshal.dumps(code))
    os.replace(draft, path)
    return code


os.makedirs(FOLDER, exist_ok=True)
zipimport._compile_source = kept

"""Recognising files that can run code when loaded. Nothing here loads them.

A suffix is what a careless loader goes by, the content is what an unpickler goes by: both are looked at.
Sources: PEP 307 and PEP 574 (pickle protocols 2 to 5 start with 0x80 and the protocol number), the zip layout
of ``torch.save``, NEP 1 (the ``.npy`` header).
"""

from __future__ import annotations

import re
import zipfile
from typing import BinaryIO, Final

PICKLE_SUFFIXES: Final = frozenset(
    {".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle", ".joblib", ".dill", ".cloudpickle", ".pdparams"}
)
HEAD_BYTES: Final = 4096
_OLD_PICKLE: Final = re.compile(
    rb"\(*c(?:os|posix|nt|pty|sys|runpy|socket|subprocess|builtins|__builtin__|copy_reg|copyreg|collections"
    rb"|torch(?:\.[\w.]*)?|numpy(?:\.[\w.]*)?)\r?\n\w+\r?\n"
)
_NPY_OBJECTS: Final = re.compile(rb"""['"]descr['"]\s*:\s*['"][|<>=]?O""")


def pickle_reason(path: str, handle: BinaryIO) -> str | None:
    """Why a file counts as a pickle, or None if it does not.

    Args:
        path: its name.
        handle: open for binary reading at its start, seekable.
    """
    suffix = _suffix(path)
    if suffix in PICKLE_SUFFIXES:
        return f"a {suffix} file can run code when it is loaded"
    head = handle.read(HEAD_BYTES)
    # A safetensors header of, say, 0x0280 bytes starts like a pickle: its length ends in zero bytes, then '{'.
    container = suffix == ".safetensors" and head[4:9] == b"\0\0\0\0{"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and not container:
        return f"its content is a pickle (protocol {head[1]})"
    if _OLD_PICKLE.match(head):
        return "its content is a pickle (protocol 0 or 1)"
    if head.startswith(b"\x93NUMPY") and _NPY_OBJECTS.search(head):
        return "a numpy array of python objects is a pickle"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")) and _zip_holds_pickle(head, handle):
        return "its content is a zip archive with a pickle (torch.save)"
    return None


def has_pickle_suffix(path: str) -> bool:
    """Whether the name alone makes a file count as a pickle."""
    return _suffix(path) in PICKLE_SUFFIXES


def _suffix(path: str) -> str:
    name = path.rsplit("/", 1)[-1].lower()
    return "." + name.rsplit(".", 1)[-1] if "." in name else ""


def _zip_holds_pickle(head: bytes, handle: BinaryIO) -> bool:
    if b".pkl" in head:
        return True
    try:
        handle.seek(0)
        with zipfile.ZipFile(handle) as archive:
            return any(member.lower().endswith((".pkl", ".pickle")) for member in archive.namelist())
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        return False  # not a zip that anything could load

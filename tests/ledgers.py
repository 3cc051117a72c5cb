"""Ledgers for tests: a fixed key, numbered entries, and processes that die at a chosen operation on the disk."""

from __future__ import annotations

import hashlib
import os
import traceback
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ucaudit.core.errors import UcauditError
from ucaudit.evidence.keys import FileSigner, PublicKey
from ucaudit.evidence.ledger import Ledger

ORIGIN = "example.com/evidence"
OPERATIONS = ("fsync", "replace", "write", "unlink", "rmdir", "mkdir", "ftruncate", "open")
DIED = 77
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
"""A directory in memory where there is one: thousands of fsyncs would take minutes on a disk."""


def make_signer(seed: bytes = b"store tests") -> FileSigner:
    """A key that is the same in every run."""
    key = Ed25519PrivateKey.from_private_bytes(hashlib.sha256(seed).digest())
    return FileSigner(key, PublicKey.from_raw_ed25519(key.public_key().public_bytes_raw()))


SIGNER = make_signer()


def leaves(start: int, stop: int) -> list[bytes]:
    """``entry START`` … ``entry STOP-1``."""
    return [b"entry %d" % number for number in range(start, stop)]


def grow(ledger: Ledger, *sizes: int) -> None:
    """Append leaves up to each size, with a checkpoint at each."""
    for size in sizes:
        ledger.append(leaves(ledger.size, size), SIGNER)


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process and return its status. It dies by ``os._exit``: nothing is cleaned up."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            work()
            code = 0
        except UcauditError:
            code = 1
        except BaseException:  # noqa: BLE001 - to be seen, not to be kept
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def dying_at(number: int, *, after: bool) -> None:
    """Make this process die before or after its ``number``-th operation on the disk."""
    count = 0

    def wrap(whole: Callable[..., Any]) -> Callable[..., Any]:
        def dying(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == number and not after:
                os._exit(DIED)
            try:
                return whole(*args, **kwargs)
            finally:
                if count == number and after:
                    os._exit(DIED)

        return dying

    for name in OPERATIONS:
        setattr(os, name, wrap(getattr(os, name)))

"""Standard streams that do not decide a command's exit code.

A reader that has seen enough (``| head -1``) and a stream that was closed before the start change nothing about
a verdict: what nobody reads is dropped. Output that cannot be written although somebody wants it, as on a full
disk, is an error like that of any other file.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import IO, Any, Final

from ucaudit.core.errors import OutputError

_FLAGS: Final = (os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)


def settle_streams() -> None:
    """Give this process an input and two outputs in any case; captured ones (a test's) stay as they are."""
    for number, flags in enumerate(_FLAGS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)  # gets the lowest free number, and so no file of a run can get it
            os.set_inheritable(number, True)
    if sys.stdin is None:
        sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - the process's own
    if sys.stdout is sys.__stdout__:
        sys.stdout = _text(1, sys.stdout, "standard output")
    if sys.stderr is sys.__stderr__:
        sys.stderr = _text(2, sys.stderr, None)


def _text(number: int, before: IO[str] | None, name: str | None) -> io.TextIOWrapper:
    errors = getattr(before, "errors", None)
    return io.TextIOWrapper(
        io.BufferedWriter(_Outlet(number, name)),
        encoding=getattr(before, "encoding", None) or "utf-8",
        errors="backslashreplace" if errors in (None, "strict") else errors,
        line_buffering=name is None or os.isatty(number),
    )


class _Outlet(io.FileIO):
    """A descriptor that is written until nobody reads it any more."""

    def __init__(self, number: int, name: str | None) -> None:
        super().__init__(number, "w", closefd=False)
        self._called = name
        self._gone = False

    def write(self, data: Any, /) -> int:  # noqa: ANN401 - any buffer
        """Raises OutputError, once, unless this is where errors themselves go."""
        if not self._gone:
            try:
                while (count := super().write(data)) is None:  # a stream that does not wait is waited for
                    select.select([], [self.fileno()], [])
                return count
            except OSError as error:
                self._gone = True
                if self._called is not None and not isinstance(error, BrokenPipeError):
                    reason = f"cannot be written: {error.strerror}"
                    raise OutputError(
                        reason, subject=self._called, hint="make room, or send it elsewhere"
                    ) from error
        return len(memoryview(data).cast("B"))

"""How long work reports its progress, without knowing about terminals."""

from __future__ import annotations

from typing import Final, Protocol


class Progress(Protocol):
    """Receives the progress of one stage at a time: start, advance …, finish."""

    def start(self, total: int, unit: str, label: str) -> None:
        """Begin a stage of ``total`` units (``"tensors"``, ``"windows"``, ``"bytes"``)."""

    def advance(self, amount: int = 1) -> None:
        """``amount`` more units are done."""

    def note(self, text: str) -> None:
        """Something worth a line of its own."""

    def finish(self) -> None:
        """The stage is over."""


class _Silent:
    def start(self, total: int, unit: str, label: str) -> None:
        pass

    def advance(self, amount: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def finish(self) -> None:
        pass


SILENT: Final[Progress] = _Silent()
"""Reports nothing."""

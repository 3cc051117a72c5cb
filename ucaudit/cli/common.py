"""What every command shares: output, progress, and the options that several commands take.

A command looks like this::

    @click.command()
    @click.argument("pack", type=PATH)
    @compute_options
    @output_options
    def reconstruct(pack: Path, device: str, threads: int | None, out: Output) -> int:
        from ucaudit.packs.state import ...          # heavy imports inside the function
        out.status("reconstructing")                  # stderr, silent with --quiet
        out.result({"stateDigest": digest}, digest)   # stdout: the object with --json, else the text
        return EXIT_PASS                              # the exit code; errors are raised, never caught here

A missing file, or one that may not be read, is the library's error, with its own exit code.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS, DeviceUnavailableError, InputError, UcauditError, missing_extra
from ucaudit.core.files import read_limited
from ucaudit.core.progress import SILENT, Progress

F = TypeVar("F", bound=Callable[..., Any])


class Output:
    """Where a command's words go: results to stdout, everything else to stderr."""

    def __init__(self, *, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.quiet = quiet

    def result(self, document: dict[str, Any], text: str, *, code: int | None = EXIT_PASS) -> None:
        """Print the outcome, once: the object with ``--json``, else the text.

        Args:
            document: for programs; it gets ``exitCode``, unless it has it already.
            text: for people.
            code: the command's exit code; None for a document that is not about an outcome (a schema).
        """
        if self.as_json:
            if code is not None:
                document = {"exitCode": code} | document
            click.echo(json_line(document))
        else:
            click.echo(text)

    def status(self, text: str) -> None:
        """One line about what is going on; nothing with ``--quiet``."""
        if not self.quiet:
            click.echo(text, err=True)

    def warn(self, text: str) -> None:
        """A line that ``--quiet`` does not silence."""
        click.echo(f"ucaudit: warning: {text}", err=True)

    def finding(self, error: UcauditError, *, note: str = "") -> None:
        """A negative outcome that was already part of the result: its error and hint lines, never silenced."""
        click.echo(f"ucaudit: error: {printable(str(error))}{note}", err=True)
        if error.hint:
            click.echo(f"ucaudit: hint: {printable(error.hint)}", err=True)

    def style(self, text: str, **style: Any) -> str:  # noqa: ANN401 - click's own keywords
        """Colour on a terminal only, and not under NO_COLOR or CI."""
        plain = not sys.stdout.isatty() or os.environ.get("NO_COLOR") or "CI" in os.environ
        return text if plain else click.style(text, **style)

    @property
    def progress(self) -> Progress:
        """A progress reporter for the library."""
        return SILENT if self.quiet else TerminalProgress()


class TerminalProgress:
    """A bar with an ETA on a terminal; elsewhere a line at the start, every tenth of the way, and at the end."""

    def __init__(self) -> None:
        self._tty = sys.stderr.isatty() and "CI" not in os.environ and os.environ.get("TERM") != "dumb"
        self._total = 0
        self._done = 0
        self._unit = ""
        self._label = ""
        self._began = 0.0
        self._shown = 0.0
        self._tenth = 0

    def start(self, total: int, unit: str, label: str) -> None:
        """Begin a stage."""
        self._total, self._unit, self._label = total, unit, label
        self._done, self._tenth = 0, 0
        self._began = self._shown = time.monotonic()
        if not self._tty:
            click.echo(f"{label}: {self._count(total)}", err=True)

    def advance(self, amount: int = 1) -> None:
        """``amount`` more units are done."""
        self._done += amount
        now = time.monotonic()
        if self._tty:
            if now - self._shown > 0.1 or self._done >= self._total:
                self._shown = now
                click.echo(f"\r\x1b[2K{self._line(now)}"[:200], err=True, nl=False)
        elif self._total and self._done * 10 // self._total > self._tenth and now - self._shown > 5:
            self._tenth = self._done * 10 // self._total
            self._shown = now
            click.echo(f"  {self._line(now)}", err=True)

    def note(self, text: str) -> None:
        """A line of its own."""
        click.echo(f"\r\x1b[2K{text}" if self._tty else f"  {text}", err=True)

    def finish(self) -> None:
        """End the stage with the time it took."""
        took = time.monotonic() - self._began
        line = f"{self._label}: {self._count(self._done)} in {took:.1f} s"
        click.echo(f"\r\x1b[2K{line}" if self._tty else f"  done in {took:.1f} s", err=True)

    def _count(self, amount: int) -> str:
        return f"{amount / 1e6:,.1f} MB" if self._unit == "bytes" else f"{amount:,} {self._unit}"

    def _line(self, now: float) -> str:
        share = self._done / self._total if self._total else 1.0
        eta = (now - self._began) / share * (1 - share) if share > 0 else 0.0
        bar = "#" * int(share * 20)
        of = f"{self._count(self._done)} of {self._count(self._total)}"
        return f"{self._label} [{bar:<20}] {share:4.0%}  {of}  {eta:.0f} s left"


def output_options(function: F) -> F:
    """Add ``--json`` and ``--quiet``; the command receives ``out: Output``."""

    @click.option("--json", "as_json", is_flag=True, help="Print one JSON object on stdout.")
    @click.option("-q", "--quiet", is_flag=True, help="No progress, no status lines.")
    @functools.wraps(function)
    def wrapper(*args: Any, as_json: bool, quiet: bool, **kwargs: Any) -> Any:  # noqa: ANN401
        return function(*args, out=Output(as_json=as_json, quiet=quiet), **kwargs)

    return wrapper  # type: ignore[return-value]


def compute_options(function: F) -> F:
    """Add ``--device`` and ``--threads``; the command receives ``device: str, threads: int | None``."""
    function = click.option(
        "--threads", type=click.IntRange(1, 1024), help="CPU threads (default: torch's choice)."
    )(function)
    return click.option(
        "--device",
        type=click.Choice(["auto", "cpu", "cuda", "mps"]),
        default="auto",
        show_default=True,
        help="Where to compute.",
    )(function)


def arithmetic_option(function: F) -> F:
    """Add ``--arithmetic``; the command receives ``arithmetic: str | None``."""
    return click.option(
        "--arithmetic", metavar="PROFILE", help="Decode by this arithmetic profile, not by the codec's default."
    )(function)


def overlap_options(function: F) -> F:
    """Add ``--calibration`` and ``--allow-overlap``; the command receives ``calibration`` and ``allow_overlap``."""
    function = click.option(
        "--allow-overlap", is_flag=True, help="Allow text of the pack's calibration; it is recorded."
    )(function)
    return click.option(
        "--calibration",
        type=PATH,
        help="The pack's calibration text: search the windows for passages of it.",
    )(function)


def key_options(function: F) -> F:
    """Add ``--key`` and ``--password-file``; the command receives ``key: str, password_file: Path | None``."""
    function = click.option(
        "--password-file",
        type=PATH,
        help="File with the key's password; else UCAUDIT_KEY_PASSWORD, else a prompt.",
    )(function)
    return click.option("--key", required=True, help="Private key: a PEM or OpenSSH file, or env:NAME.")(function)


def optional_key_options(function: F) -> F:
    """As :func:`key_options`, for commands that can do without a key: ``key: str | None``."""
    function = click.option(
        "--password-file",
        type=PATH,
        help="File with the key's password; else UCAUDIT_KEY_PASSWORD, else a prompt.",
    )(function)
    return click.option("--key", help="Private key: a PEM or OpenSSH file, or env:NAME.")(function)


def key_password(spec: str, password_file: Path | None) -> bytes | None:
    """The password for a key, if it needs one: from the file, the environment, or a prompt."""
    from ucaudit.evidence.keys import is_encrypted

    if password_file is not None:
        return read_limited(password_file, 4096).rstrip(b"\r\n")
    if not is_encrypted(spec):
        return None
    if (value := os.environ.get("UCAUDIT_KEY_PASSWORD")) is not None:
        return value.encode("utf-8")
    if not sys.stdin.isatty():
        raise InputError(
            "the key is encrypted and there is no terminal to ask", subject=spec, hint="--password-file"
        )
    return str(click.prompt(f"Password for {spec}", hide_input=True, err=True)).encode("utf-8")


def new_file(target: Path) -> Path:
    """An output file that overwrites nothing and breaks no bundle. Raises RefusedError."""
    from ucaudit.core.errors import RefusedError
    from ucaudit.evidence.bundle import refuse_inside_bundle

    refuse_inside_bundle(target)
    if target.exists() or target.is_symlink():
        raise RefusedError(
            "exists already and is never overwritten", subject=str(target), hint="choose another --out"
        )
    return target


def prepare_compute(device: str, threads: int | None) -> str:
    """Import torch, apply ``--threads``, and resolve ``--device``.

    Returns:
        ``"cpu"`` or ``"cuda"``.

    Raises:
        MissingExtraError: torch is not installed.
        DeviceUnavailableError: the device is absent, or refused (MPS has no fp64 and flushes denormals).
    """
    # Waiting OpenMP threads spin by default: on a machine that does other work too, that made the same
    # measurement several times slower. The runtime reads this once, when torch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    try:
        import torch
    except ImportError as error:
        raise missing_extra("measure", "torch") from error
    if threads is not None:
        torch.set_num_threads(threads)
    if device == "mps":
        raise DeviceUnavailableError(
            "mps is refused: it has no fp64 and does not keep IEEE arithmetic", subject=device, hint="--device cpu"
        )
    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cuda" and not torch.cuda.is_available():
        raise DeviceUnavailableError("no usable CUDA device", subject=device, hint="--device cpu")
    return device


def json_line(document: dict[str, Any]) -> str:
    """A JSON object in one line. Escaped is what is no Unicode, as a file's name may be; or all but ASCII, where
    standard output is not UTF-8."""
    plain = "utf" not in (sys.stdout.encoding or "utf-8").lower()
    text = json.dumps(document, ensure_ascii=plain, allow_nan=False)
    return text.encode("utf-8", "backslashreplace").decode("utf-8")  # writes a surrogate as JSON does: \\udcff


def printable(text: str) -> str:
    """No control characters from hostile input on the terminal, and none that turn the writing direction.

    On a GitHub runner, which takes lines that begin with ``::`` or hold ``##[`` for commands, none of those either.
    """
    clean = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    if os.environ.get("GITHUB_ACTIONS") == "true":
        clean = clean.replace("::", ": :").replace("##[", "## [")
    return clean


def table(
    rows: Sequence[tuple[str, ...]], *, header: tuple[str, ...] | None = None, wrap: int | None = None
) -> str:
    """Columns padded to their widest cell, two spaces apart, no trailing blanks.

    With ``wrap``, the last column continues below itself so that no line is wider.
    """
    lines = [header, *rows] if header else list(rows)
    if wrap is not None:
        before = sum(max(len(line[column]) for line in lines) + 2 for column in range(len(lines[0]) - 1))
        lines = [part for line in lines for part in _continued(line, max(wrap - before, 20))]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _continued(line: tuple[str, ...], width: int) -> list[tuple[str, ...]]:
    """A row, and below it what of its last cell is too wide."""
    import textwrap

    first, *more = textwrap.wrap(line[-1], width, break_on_hyphens=False) or [""]
    blank = ("",) * (len(line) - 1)
    return [(*line[:-1], first), *((*blank, part) for part in more)]

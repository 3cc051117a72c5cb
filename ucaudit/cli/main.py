"""The ``ucaudit`` command: a lazy group, so that ``--help`` and ``verify`` start fast, and the one place that
turns errors into messages and exit codes."""

from __future__ import annotations

import gc
import importlib
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Final, NoReturn

import click

# No installed pydantic plug-in may take part in validating evidence; looking for one costs time, too.
os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")

from ucaudit import __version__
from ucaudit.cli.streams import settle_streams
from ucaudit.core.errors import EXIT_BUG, EXIT_INTERRUPTED, EXIT_USAGE, UcauditError

COMMANDS: Final[dict[str, tuple[str, str]]] = {
    "keygen": ("ucaudit.cli.cmd_keygen:keygen", "Make a new Ed25519 signing key."),
    "trust": ("ucaudit.cli.cmd_trust:trust", "Edit and list the keys you trust."),
    "policy": ("ucaudit.cli.cmd_policy:policy", "Write a commented policy, or explain one."),
    "pack": ("ucaudit.cli.cmd_pack:pack", "Compress a bf16 checkpoint to an open 5-bit pack."),
    "pull": ("ucaudit.cli.cmd_pull:pull", "Fetch a pack or model from the Hugging Face hub, pinned."),
    "inspect": ("ucaudit.cli.cmd_inspect:inspect", "Say what a pack is and what it claims."),
    "diff": ("ucaudit.cli.cmd_diff:diff", "Say which tensors of two packs differ, and by how much."),
    "reconstruct": ("ucaudit.cli.cmd_reconstruct:reconstruct", "Turn a pack back into tensors and hash them."),
    "plan": ("ucaudit.cli.cmd_plan:plan", "Pre-register a measurement in the ledger."),
    "measure": ("ucaudit.cli.cmd_measure:measure", "Measure a pack's perplexity against its reference."),
    "merge": ("ucaudit.cli.cmd_merge:merge", "Join the shares of a measurement made on several machines."),
    "bound": ("ucaudit.cli.cmd_bound:bound", "Recompute every statistic from the saved per-token files."),
    "attest": ("ucaudit.cli.cmd_attest:attest", "Reconstruct, measure, judge, sign, and enter in the ledger."),
    "floor": ("ucaudit.cli.cmd_floor:floor", "Try to do better than a pack, and publish what came out."),
    "countersign": ("ucaudit.cli.cmd_countersign:countersign", "Add a signed endorsement to a bundle."),
    "timestamp": ("ucaudit.cli.cmd_timestamp:timestamp", "Ask for a time stamp over evidence, or attach it."),
    "archive": ("ucaudit.cli.cmd_archive:archive", "Write a bundle as one .zip."),
    "verify": ("ucaudit.cli.cmd_verify:verify", "Check evidence offline, trusting nobody's code."),
    "report": ("ucaudit.cli.cmd_report:report", "Render the evidence report as PDF or HTML, or for programs."),
    "gate": ("ucaudit.cli.cmd_gate:gate", "Refuse an unsigned, drifted or out-of-bound pack in CI."),
    "matrix": ("ucaudit.cli.cmd_matrix:matrix", "Make a public benchmark page from signed evidence."),
    "import-receipt": (
        "ucaudit.cli.cmd_import_receipt:import_receipt",
        "Recompute a vendor's audit receipt from its pack.",
    ),
    "ledger": ("ucaudit.cli.cmd_ledger:ledger", "The append-only evidence ledger."),
    "schema": ("ucaudit.cli.cmd_schema:schema", "Print the JSON Schemas of signed records and files."),
    "doctor": ("ucaudit.cli.cmd_doctor:doctor", "Say what this machine can do and what is missing."),
}
"""Command name → where it lives, and its one-line help (kept here so that listing commands imports none)."""
# What click (8.2 and later) raises, with the help for its message, where a command was given nothing at all.
_NO_WORDS: Final[Any] = getattr(click.exceptions, "NoArgsIsHelpError", ())


class LazyGroup(click.Group):
    """A group that imports a command's module only when that command runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of a working day."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return one command, or None if there is no such name."""
        if cmd_name not in COMMANDS:
            return None
        module_name, attribute = COMMANDS[cmd_name][0].split(":")
        command = getattr(importlib.import_module(module_name), attribute)
        if not isinstance(command, click.Command):
            raise TypeError(f"{module_name}:{attribute} is not a click command")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, with a suggestion for a mistyped name."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(name, COMMANDS, n=1)
            suggestion = f"; did you mean {close[0]}" if close else ""
            raise click.UsageError(f"no such command {name!r}{suggestion}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The command list, without importing the commands."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="ucaudit")
def cli() -> None:
    """Independent audit of compressed language models.

    Reconstruct a pack to the same bits everywhere, hash it, re-measure its
    perplexity, sign the outcome whether good or bad, and render it as evidence.
    Nothing but pull touches the network.
    """


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and exit. Findings, failures and bugs have different codes (see core.errors)."""
    # Start-up makes many objects and little garbage: looking for cycles less often saves a twentieth of `verify`.
    gc.set_threshold(100_000, 20, 100)
    words = list(sys.argv[1:] if arguments is None else arguments)
    as_json = "--json" in words
    settle_streams()
    try:
        result = cli.main(words, prog_name="ucaudit", standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except UcauditError as error:
        _complain(error.code, str(error), error.hint, as_json, error.exit_code)
        code = error.exit_code
    except _NO_WORDS as error:
        click.echo(error.format_message(), err=True)
        code = EXIT_USAGE
    except click.UsageError as error:
        hint = f"see {error.ctx.command_path if error.ctx else 'ucaudit'} --help"
        _complain("usage", _plain(error.format_message()), hint, as_json, EXIT_USAGE)
        code = EXIT_USAGE
    except click.ClickException as error:
        _complain("usage", _plain(error.format_message()), "see ucaudit --help", as_json, EXIT_USAGE)
        code = EXIT_USAGE
    except (KeyboardInterrupt, click.Abort):
        _complain("interrupted", "interrupted", "the same command resumes where it can", as_json, EXIT_INTERRUPTED)
        code = EXIT_INTERRUPTED
    except Exception as error:
        if os.environ.get("UCAUDIT_DEBUG"):
            raise
        hint = "this is a bug in ucaudit; run again with UCAUDIT_DEBUG=1 for the traceback and report it"
        _complain("bug", f"{type(error).__name__}: {error}", hint, as_json, EXIT_BUG)
        code = EXIT_BUG
    sys.exit(code)


def _plain(message: str) -> str:
    """Click's sentence in our form: lower-case start, no full stop."""
    text = message.strip().rstrip(".")
    return text[:1].lower() + text[1:]


def _complain(code: str, message: str, hint: str | None, as_json: bool, exit_code: int) -> None:
    from ucaudit.cli.common import json_line, printable

    click.echo(f"ucaudit: error: {printable(message)}", err=True)
    if hint:
        click.echo(f"ucaudit: hint: {printable(hint)}", err=True)
    if as_json:
        problem = {"error": {"code": code, "message": message, "hint": hint}, "exitCode": exit_code}
        with suppress(UcauditError):  # that standard output cannot be written: the code stays this error's
            click.echo(json_line(problem))

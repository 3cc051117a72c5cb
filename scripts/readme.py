"""Bring the command output that README.md quotes up to date, or with --check fail if it is not.

A quoted block is a line ``<!-- output: ucaudit … -->`` followed by a fenced block; the block's text is what the
command prints at 80 columns. Only ``ucaudit`` commands are run.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

BLOCK = re.compile(r"(<!-- output: (ucaudit [^\n]*?) -->\n```[a-z]*\n)(.*?)(^```$)", re.DOTALL | re.MULTILINE)


def printed(command: str) -> str:
    """What ``command`` prints on stdout, as on a plain 80-column terminal."""
    environment = {**os.environ, "COLUMNS": "80", "NO_COLOR": "1"}
    words = [sys.executable, "-m", *shlex.split(command)]
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"README.md quotes `{command}`, which exits {done.returncode}: {done.stderr.strip()}")
    return "\n".join(line.rstrip() for line in done.stdout.splitlines()) + "\n"


def main() -> int:
    """Returns 0 if every quoted output is (now) current."""
    path = Path(__file__).resolve().parent.parent / "README.md"
    text = path.read_text(encoding="utf-8")
    commands = [match[2] for match in BLOCK.finditer(text)]
    if "ucaudit --help" not in commands:
        print("README.md does not quote `ucaudit --help` (see scripts/readme.py)", file=sys.stderr)
        return 1
    wanted = BLOCK.sub(lambda match: match[1] + printed(match[2]) + match[4], text)
    if wanted == text:
        return 0
    if "--check" in sys.argv:
        print("README.md quotes output that is not current; run scripts/readme.py", file=sys.stderr)
        return 1
    path.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Files that travel with a checkpoint unchanged: configuration, tokenizer, licence. Light."""

from __future__ import annotations

import re
from typing import Final

from ucaudit.packs.opened import OpenedPack

CARRIED_NAMES: Final = frozenset(
    {
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer.model",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "added_tokens.json",
        "chat_template.jinja",
        "chat_template.json",
        "merges.txt",
        "spiece.model",
        "vocab.json",
        "vocab.txt",
    }
)
_LICENCE_NAME: Final = re.compile(r"(?:LICEN[CS]E|NOTICE|COPYING)(?:[._-][\w.-]*)?|README\.md", re.IGNORECASE)
_FRONT_MATTER: Final = re.compile(r"\A---\r?\n(.*?)\r?\n---", re.DOTALL)
_LICENCE_LINE: Final = re.compile(r"^license:[ \t]*['\"]?([\w.+-]{1,80})['\"]?[ \t]*$", re.MULTILINE)


def is_carried(path: str) -> bool:
    """Whether a file of this relative path belongs to the checkpoint besides its tensors."""
    return path in CARRIED_NAMES or _LICENCE_NAME.fullmatch(path) is not None


def carried_paths(pack: OpenedPack) -> tuple[str, ...]:
    """The carried files at a pack's top level, sorted."""
    return tuple(file.path for file in pack.files if is_carried(file.path))


def stated_license(pack: OpenedPack) -> str | None:
    """The licence that the model card's front matter states, else the name of a licence file, else None."""
    if pack.has("README.md") and pack.size("README.md") <= 4 << 20:
        text = pack.read("README.md").decode("utf-8", "replace")
        front = _FRONT_MATTER.match(text)
        line = _LICENCE_LINE.search(front.group(1)) if front else None
        if line is not None:
            return line.group(1)
    for file in pack.files:
        if file.path.upper().startswith(("LICENSE", "LICENCE", "COPYING")):
            return f"see {file.path}"
    return None

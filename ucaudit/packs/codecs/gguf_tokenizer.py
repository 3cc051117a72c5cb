"""The tokenizer inside a GGUF file as Hugging Face files, by transformers' own conversion."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import BinaryIO

from ucaudit.core.errors import MalformedPackError, missing_extra


def build_tokenizer(handle: BinaryIO, *, template: str | None, subject: str) -> dict[str, bytes]:
    """Convert the tokenizer.

    Args:
        handle: the open GGUF file, whose header has been checked; it is read through this very descriptor.
        template: the chat template, which is carried along.
        subject: the file name for error messages.

    Returns:
        File name → bytes, as ``save_pretrained`` writes them.

    Raises:
        MissingExtraError: transformers is not installed.
        MalformedPackError: the metadata holds no tokenizer that transformers can convert.
    """
    try:
        import transformers
    except ImportError as error:
        raise missing_extra("measure", error.name or "transformers") from error

    with tempfile.TemporaryDirectory(prefix="ucaudit-tokenizer-") as folder:
        work = Path(folder)
        (work / "in").mkdir()
        (work / "in" / "model.gguf").symlink_to(f"/proc/self/fd/{handle.fileno()}")
        verbosity = transformers.logging.get_verbosity()
        transformers.logging.set_verbosity_error()
        transformers.logging.disable_progress_bar()
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                work / "in", gguf_file="model.gguf", local_files_only=True, trust_remote_code=False
            )
            if template:
                tokenizer.chat_template = template
            tokenizer.save_pretrained(work / "out")
        except (KeyError, ValueError, TypeError, AttributeError, IndexError, NotImplementedError, OSError) as error:
            raise MalformedPackError(
                f"the tokenizer cannot be converted: {type(error).__name__}: {str(error)[:200]}", subject=subject
            ) from error
        finally:
            transformers.logging.enable_progress_bar()
            transformers.logging.set_verbosity(verbosity)
        files = {path.name: path.read_bytes() for path in sorted((work / "out").iterdir())}
    return {name: _without_place(name, data) for name, data in files.items()}


def _without_place(name: str, data: bytes) -> bytes:
    """Drop what tells where the conversion ran, so that the same file gives the same bytes everywhere."""
    if name != "tokenizer_config.json":
        return data
    config = json.loads(data)
    for key in ("name_or_path", "gguf_file", "is_local", "local_files_only", "trust_remote_code"):
        config.pop(key, None)
    return (json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()

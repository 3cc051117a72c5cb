"""One file a format, one registry.

The registry maps a format that :mod:`ucaudit.packs.detect` recognised to the codec that reads it, as a
``module:attribute`` text that is imported when it is needed. Installed plug-ins add to it through the
entry-point group ``ucaudit.codecs``. What stands in a pack never names code: a pack says which of the known
formats it has, and nothing else.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Final

from ucaudit.core.errors import CodecUnavailableError
from ucaudit.packs.codecs.base import BitsPerWeight, Provenance, TensorSource, TensorSpec
from ucaudit.packs.detect import detect_format
from ucaudit.packs.opened import OpenedPack, open_pack

__all__ = [
    "BitsPerWeight",
    "Provenance",
    "TensorSource",
    "TensorSpec",
    "available",
    "codec_factory",
    "open_source",
]

ENTRY_POINT_GROUP: Final = "ucaudit.codecs"
_BUILT_IN: Final[dict[str, str]] = {
    "awq": "ucaudit.packs.codecs.awq:open_awq",
    "bitsandbytes": "ucaudit.packs.codecs.bitsandbytes:open_bitsandbytes",
    "compressed-tensors": "ucaudit.packs.codecs.compressed_tensors:open_compressed_tensors",
    "fp8": "ucaudit.packs.codecs.floats:open_fp8",
    "gguf": "ucaudit.packs.codecs.gguf:open_gguf",
    "gptq": "ucaudit.packs.codecs.gptq:open_gptq",
    "mxfp4": "ucaudit.packs.codecs.floats:open_mxfp4",
    "nvfp4": "ucaudit.packs.codecs.floats:open_nvfp4",
    "safetensors": "ucaudit.packs.codecs.identity:open_identity",
    "ucq": "ucaudit.packs.codecs.ucq:open_ucq",
}
Factory = Callable[[OpenedPack], TensorSource]


def available() -> tuple[str, ...]:
    """The formats that can be reconstructed here: built in, then plug-ins, sorted."""
    return tuple(sorted({*_BUILT_IN, *(point.name for point in entry_points(group=ENTRY_POINT_GROUP))}))


def codec_factory(name: str) -> Factory:
    """The function that opens a pack of the format ``name``.

    A built-in codec cannot be replaced by a plug-in of the same name.

    Raises:
        CodecUnavailableError: no such codec, or an installed plug-in that cannot be imported.
    """
    if name in _BUILT_IN:
        module, attribute = _BUILT_IN[name].split(":")
        factory: Factory = getattr(importlib.import_module(module), attribute)
        return factory
    for point in entry_points(group=ENTRY_POINT_GROUP, name=name):
        try:
            plugin: Factory = point.load()
        except (ImportError, AttributeError) as error:
            raise CodecUnavailableError(
                f"the installed codec plug-in cannot be loaded: {error}", subject=name
            ) from error
        return plugin
    close = difflib.get_close_matches(name, available(), n=1)
    raise CodecUnavailableError(
        "codec not available",
        subject=name[:80],
        hint=f"did you mean {close[0]}?" if close else f"installed codecs: {', '.join(available())}",
    )


def open_source(pack: Path | OpenedPack, *, profile: str | None = None) -> TensorSource:
    """Open a pack with the codec its content calls for.

    Args:
        pack: a directory or a ``.gguf`` file, or one already opened (which the source then owns).
        profile: one of the codec's arithmetic profiles; its default one if None.

    Raises:
        NotFoundError, UnsafePathError, UnsafeFileError: as :func:`ucaudit.packs.opened.open_pack`.
        InputError: no known format, or several at once; no such arithmetic profile.
        MalformedPackError: the files contradict their format.
        CodecUnavailableError: a known format that nothing installed reconstructs.
    """
    opened = pack if isinstance(pack, OpenedPack) else open_pack(pack)
    try:
        detected = detect_format(opened)
        if detected.unavailable is not None and detected.name not in available():
            raise CodecUnavailableError(
                detected.unavailable,
                subject=opened.name,
                hint=f"a plug-in may provide it: a package with an entry point {detected.name!r} in the group "
                f"{ENTRY_POINT_GROUP} (docs/formats.md); installed here: {', '.join(available())}",
            )
        source = codec_factory(detected.name)(opened)
        if profile is not None:
            source.use_profile(profile)
        return source
    except BaseException:
        opened.close()
        raise

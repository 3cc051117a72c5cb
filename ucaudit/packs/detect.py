"""Which format a pack has, from its content alone. Light: no torch.

The answer is a name of this module's own list. Nothing in a pack can name code to run.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any, Final

from ucaudit.core.errors import InputError, MalformedPackError
from ucaudit.packs.opened import OpenedPack
from ucaudit.packs.stored_kinds import METHODS, stored_kinds, stored_tensors

GGUF_MAGIC: Final = b"GGUF"
MANIFEST_NAME: Final = "manifest.json"
VENDOR: Final = "ultracompress"
CONFIG_NAME: Final = "config.json"
SINGLE_NAME: Final = "model.safetensors"
INDEX_NAME: Final = "model.safetensors.index.json"
GPTQ_CONFIG_NAME: Final = "quantize_config.json"
_SPLIT_GGUF: Final = re.compile(r"(.+)-\d{5}-of-(\d{5})\.gguf")
KNOWN_METHODS: Final = frozenset(
    {
        "aqlm", "auto-round", "awq", "bitnet", "bitsandbytes", "compressed-tensors", "eetq", "exl2", "exl3",
        "fbgemm_fp8", "fp8", "gptq", "higgs", "hqq", "modelopt", "mxfp4", "quanto", "quark", "spqr", "torchao",
        "vptq",
    }
)  # fmt: skip
"""Names a plug-in may register for a quantised checkpoint. A config's own words never reach the registry."""
_METHOD: Final = re.compile(r"[a-z0-9][a-z0-9._-]{0,39}")
_VENDOR_KEYS: Final = frozenset({"uc_pack_version", "n_layers", "base_model_hf_id", "aux_file"})


@dataclass(frozen=True, slots=True)
class Detected:
    """A recognised format.

    Attributes:
        name: the codec's name in the registry.
        evidence: what it was recognised by.
        unavailable: for a format without a built-in codec, the sentence that says so.
    """

    name: str
    evidence: str
    unavailable: str | None = None


def detect_format(pack: OpenedPack) -> Detected:
    """Recognise a pack's format.

    Raises:
        InputError: no known format, or several at once.
        MalformedPackError: a manifest or config that is not strict JSON, a ``.gguf`` file without its magic.
    """
    checkpoint = _checkpoint(pack)
    found = [item for item in (_manifest(pack), _gguf(pack), checkpoint) if item is not None]
    if len(found) > 1:
        listed = " and ".join(f"{item.name} ({item.evidence})" for item in found)
        raise InputError(f"ambiguous: {listed}", subject=pack.name, hint="keep one format in the directory")
    if not found:
        hint = "a pack has a manifest.json, a safetensors checkpoint with config.json, or one .gguf file"
        raise InputError("no known pack format", subject=pack.name, hint=hint)
    return found[0] if checkpoint is None else _look_inside(pack)


def _manifest(pack: OpenedPack) -> Detected | None:
    """``ucq`` or a vendor's pack, both of which have a ``manifest.json``."""
    layers = any(file.path.startswith("layer_") and file.path.endswith(".uc") for file in pack.files)
    vendor = Detected(
        VENDOR,
        "layer_*.uc files" if layers else "the vendor's keys in manifest.json",
        "ultracompress: codec not available, its payload format is not public",
    )
    if not pack.has(MANIFEST_NAME):
        return vendor if layers else None
    if layers:
        return vendor  # its manifest may be anything: interop judges it
    manifest = pack.read_json(MANIFEST_NAME)
    if not isinstance(manifest, dict):
        raise MalformedPackError("expected a json object", subject=f"{pack.name}/{MANIFEST_NAME}")
    if "format" in manifest:
        if manifest["format"] != "ucq":
            raise InputError(
                f"unknown pack format {str(manifest['format'])[:40]!r}", subject=f"{pack.name}/{MANIFEST_NAME}"
            )
        return Detected("ucq", f"{MANIFEST_NAME} with the format ucq")
    return vendor if _VENDOR_KEYS & manifest.keys() else None


def gguf_files(pack: OpenedPack) -> tuple[str, ...]:
    """The files of the one GGUF model in a pack, in order; empty if there is none.

    Raises:
        InputError: several models, or a model of several files of which some are missing.
    """
    names = sorted(file.path for file in pack.files if file.path.endswith(".gguf"))
    splits = [_SPLIT_GGUF.fullmatch(name) for name in names]
    if not any(splits):
        if len(names) > 1:
            raise InputError(
                f"{len(names)} gguf files",
                subject=pack.name,
                hint=f"name one of them, such as {pack.name}/{names[0]}",
            )
        return tuple(names)
    first = next(match for match in splits if match)
    wanted = [f"{first[1]}-{index:05d}-of-{first[2]}.gguf" for index in range(1, min(int(first[2]), 100_000) + 1)]
    if names != wanted:
        strange = sorted({*names} ^ {*wanted})
        raise InputError(
            f"a model split over {int(first[2])} gguf files, of which {len({*names} & {*wanted})} are here; "
            f"the first that is missing or does not belong is {strange[0][:80]!r}",
            subject=pack.name,
            hint="give the directory that holds all of its files and no other gguf file",
        )
    return tuple(names)


def _gguf(pack: OpenedPack) -> Detected | None:
    names = gguf_files(pack)
    for name in names:
        with pack.open(name) as handle:
            magic = handle.read(4)
        if magic != GGUF_MAGIC:
            raise MalformedPackError(
                f"starts with {magic!r}, not with {GGUF_MAGIC!r}", subject=f"{pack.name}/{name}"
            )
    return Detected("gguf", names[0]) if names else None


def _checkpoint(pack: OpenedPack) -> Detected | None:
    """A safetensors checkpoint of whatever kind."""
    names = [file.path for file in pack.files if file.path.endswith(".safetensors") and "/" not in file.path]
    plain = [name for name in names if name == "model.safetensors" or name.startswith("model-")]
    if not names or (not plain and pack.has(MANIFEST_NAME)):
        return None
    if not pack.has(CONFIG_NAME):
        if pack.has(MANIFEST_NAME):
            return None
        raise InputError(
            f"{names[0]} but no {CONFIG_NAME}",
            subject=pack.name,
            hint="a checkpoint needs its config.json beside it",
        )
    return Detected("safetensors", names[0])


def _look_inside(pack: OpenedPack) -> Detected:
    """A plain checkpoint, or the codec of its compressed weights: stored tensors and settings must agree."""
    config = pack.read_json(CONFIG_NAME)
    if not isinstance(config, dict):
        raise MalformedPackError("expected a json object", subject=f"{pack.name}/{CONFIG_NAME}")
    names = _tensor_files(pack)
    method = quantisation_method(config)
    if method is None and pack.has(GPTQ_CONFIG_NAME):
        method = "gptq"
    if method is not None and not any(method in methods for methods in METHODS.values()):
        return Detected(
            method if method in KNOWN_METHODS else "unknown-quantisation",
            f"quantization_config in {CONFIG_NAME}",
            f"a checkpoint quantised with {method}: codec not available",
        )
    kinds = stored_kinds(stored_tensors(pack, names), method, subject=pack.name)
    if len(kinds) > 1:
        listed = " and ".join(f"{kind} ({name[:120]})" for kind, name in sorted(kinds.items()))
        raise InputError(
            f"ambiguous: weights of {listed}",
            subject=pack.name,
            hint="a checkpoint is read if all of its compressed weights are of one format",
        )
    if not kinds:
        if method is None:
            return Detected("safetensors", names[0] if names else CONFIG_NAME)
        raise InputError(
            f"{CONFIG_NAME} says {method}, but no stored tensor is compressed that way",
            subject=pack.name,
            hint="a checkpoint that is quantised while it is loaded is no pack: take that out of its config",
        )
    [(kind, name)] = kinds.items()
    if method is not None and method not in METHODS[kind]:
        raise InputError(
            f"{CONFIG_NAME} says {method}, the stored tensors are {kind} ({name[:120]})",
            subject=pack.name,
            hint="the settings belong to another checkpoint: compare the files with where they came from",
        )
    return Detected(kind, name)


def _tensor_files(pack: OpenedPack) -> list[str]:
    """The files that a checkpoint's tensors are in, as far as they are here; the codec judges what is missing."""
    names = [file.path for file in pack.files if file.path.endswith(".safetensors") and "/" not in file.path]
    if pack.has(SINGLE_NAME):
        return [SINGLE_NAME]
    if pack.has(INDEX_NAME):
        index = pack.read_json(INDEX_NAME)
        listed = index.get("weight_map") if isinstance(index, dict) else None
        if isinstance(listed, dict):
            wanted = {str(name) for name in listed.values()}
            return [name for name in sorted(wanted) if name.endswith(".safetensors") and pack.has(name)]
    return names


def quantisation_section(config: dict[str, Any]) -> Any:  # noqa: ANN401 - a JSON value
    """The part of a checkpoint's config that says how it was quantised; None where it says nothing."""
    return config.get("quantization_config", config.get("compression_config"))


def quantisation_method(config: dict[str, Any]) -> str | None:
    """The ``quant_method`` of a checkpoint's config, or None for a checkpoint that is not quantised.

    A method this project does not know is returned as it stands if it looks like a name, else as ``unknown``.
    """
    section = quantisation_section(config)
    if section is None:
        return None
    method = section.get("quant_method") if isinstance(section, dict) else None
    return method if isinstance(method, str) and _METHOD.fullmatch(method) else "unknown"

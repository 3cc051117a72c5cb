"""ucaudit: an independent audit of compressed language models.

Reconstruct a pack to the same bits everywhere, hash the state, re-measure perplexity with honest
statistics, sign the outcome whether good or bad, and render it as evidence. Start with
:mod:`ucaudit.evidence.verify` to check somebody's evidence and :mod:`ucaudit.lab.attest` to make your own.
:func:`ucaudit.guard` checks a pack and hands on exactly the bytes that it checked.
"""

__version__ = "0.1.0"
__all__ = ["__version__", "guard"]


def __getattr__(name):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202 - typed in __init__.pyi
    """Import what is offered here when it is first used: every room stands on this module, and must stay light."""
    if name != "guard":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return importlib.import_module("ucaudit.packs.guard").guard

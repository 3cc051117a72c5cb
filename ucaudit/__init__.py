"""ucaudit: an independent audit of compressed language models.

Reconstruct a pack to the same bits everywhere, hash the state, re-measure perplexity with honest
statistics, sign the outcome whether good or bad, and render it as evidence. Start with
:mod:`ucaudit.evidence.verify` to check somebody's evidence and :mod:`ucaudit.lab.attest` to make your own.
"""

__version__ = "0.1.0"

"""A record as a Hugging Face ``model-index``: the part of a model card's front matter that holds results.

The layout is the Hub's (https://github.com/huggingface/hub-docs/blob/main/modelcard.md). ``verified`` and
``verifyToken`` belong to the Hub's own evaluation service and are never written. YAML is written here, not by a
library: the base install has none, and a double-quoted scalar is all that is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

from ucaudit.core.records import Attestation, Claim
from ucaudit.evidence.examine import Examined
from ucaudit.interop.common import (
    NOT_ASSESSED,
    Figure,
    determination_words,
    key_words,
    measured_figures,
    observed_value,
    one_line,
)

_PLAIN_KEY: Final = re.compile(r"[a-z][a-z0-9_-]*")
_UNPRINTABLE: Final = re.compile(
    "[^\t\n\r\x20-\x7e\xa0-\ud7ff\ue000-\ufefe\uff00-\ufffd\U00010000-\U0010ffff]|[\u2028\u2029]"
)
_HEAD: Final = """\
# Written by ucaudit from a signed record; the record governs. Its SHA-256, the fingerprint:
# {fingerprint}
# Determination: {determination} ({key}).
# Self-reported in the Hub's sense. Paste it between the --- lines of README.md.
"""


def model_index_yaml(found: Examined) -> bytes:
    """The ``model-index`` of one record.

    Args:
        found: a bundle that was examined.

    Returns:
        UTF-8 YAML, the same bytes for the same argument. A metric with a claim about it has the claim's limit and
        verdict among its ``args``, whichever the verdict is.
    """
    record = found.record
    measured = record.measurement
    corpus = measured.corpus
    entry = {
        "name": record.pack.name,
        "results": [
            {
                "task": {"type": "text-generation", "name": "Next-token prediction against the uncompressed model"},
                "dataset": {
                    # The loader for plain files: the text is named by its digest, and is no data set of the Hub.
                    "type": "text",
                    "name": corpus.name,
                    "args": {
                        "sha256": corpus.sha256,
                        "rows": corpus.rows,
                        "windows": measured.n,
                        "seq_len": measured.seq_len,
                        "scored_tokens": measured.scored_tokens,
                        "seed": measured.seed,
                        "tokenizer_sha256": measured.tokenizer_digest,
                        "reference": record.reference.name,
                        "reference_state_sha256": record.reference.state_digest,
                    },
                },
                "metrics": [*_metrics(record)],
                "source": {
                    "name": f"ucaudit record {found.envelope_digest}: {determination_words(record)}",
                    "url": f"urn:ucaudit:envelope:sha256:{found.envelope_digest}",
                },
            }
        ],
    }
    head = _HEAD.format(
        fingerprint=found.envelope_digest,
        determination=determination_words(record),
        key=_comment(key_words(found)),
    )
    return (head + "\n".join(_lines({"model-index": [entry]})) + "\n").encode("utf-8")


def _metrics(record: Attestation) -> Iterable[dict[str, Any]]:
    """Every figure, and every claim that is about none of them: a failed one must not be missing."""
    figures = measured_figures(record)
    for figure in figures:
        yield _metric(figure, record)
    known = {figure.metric for figure in figures}
    for claim in record.claims:
        if claim.metric not in known:
            value = observed_value(claim, record)
            yield {
                "type": claim.id,
                "name": claim.text,
                "value": NOT_ASSESSED if value is None else value,
                "args": {"metric": claim.metric, "claims": [_claim(claim)]},
            }


def _metric(figure: Figure, record: Attestation) -> dict[str, Any]:
    claims = [claim for claim in record.claims if figure.metric is not None and claim.metric == figure.metric]
    interval = figure.interval
    estimated = (
        {
            "lower": interval.lower,
            "upper": interval.upper,
            "confidence": interval.confidence,
            "method": interval.method,
        }
        if interval is not None
        else {}
    )
    return {
        "type": figure.slug,
        "name": figure.name,
        "value": figure.value,
        "args": {"unit": figure.unit, **estimated, "claims": [_claim(claim) for claim in claims] or None},
    }


def _claim(claim: Claim) -> dict[str, Any]:
    return {
        "id": claim.id,
        "limit": f"{claim.comparator} {claim.threshold!r}",
        "verdict": claim.verdict,
        "level": claim.level,
    }


def _lines(value: object, indent: str = "") -> list[str]:
    """A mapping or a list in block style. Members that are None are left out."""
    found: list[str] = []
    if isinstance(value, Mapping):
        for name, item in value.items():
            assert _PLAIN_KEY.fullmatch(name), name
            if item is None:
                continue
            if isinstance(item, Mapping | list):
                found += [f"{indent}{name}:", *_lines(item, indent + "  " * isinstance(item, Mapping))]
            else:
                found.append(f"{indent}{name}: {scalar(item)}")
    elif isinstance(value, Sequence):
        for item in value:
            first, *rest = _lines(item, indent + "  ")
            found += [f"{indent}- {first.removeprefix(indent + '  ')}", *rest]
    return found


def scalar(value: object) -> str:
    """One YAML scalar: a double-quoted string, or a number that YAML 1.1 and 1.2 both read as one."""
    if isinstance(value, str):
        return _UNPRINTABLE.sub(_escaped, json.dumps(value, ensure_ascii=False))
    if isinstance(value, int):
        return str(value)
    assert isinstance(value, float), value
    text = repr(value)
    mantissa, exponent, power = text.partition("e")
    # YAML 1.1 reads 1e-05 as a string.
    return text if not exponent or "." in mantissa else f"{mantissa}.0e{power}"


def _escaped(match: re.Match[str]) -> str:
    code = ord(match.group())
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def _comment(text: str) -> str:
    """Text that stays on one line of comment."""
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", one_line(text))

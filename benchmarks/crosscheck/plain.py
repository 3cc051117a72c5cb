"""Plain transformers: ``model(input_ids)`` and one soft-max over whole logits."""

from __future__ import annotations

import torch

from .comparison import Comparison, token_by_token
from .subject import Subject


def compare(subject: Subject) -> list[Comparison]:
    """Every token's values, of both models, against whole and layer-by-layer measurement."""
    targets = [subject.windows.input_ids(position)[0, 1:] for position in range(subject.windows.n)]
    chosen, divergences = {}, []
    for which in ("reference", "pack"):
        logits = subject.logits(getattr(subject, which))
        chosen[which] = torch.cat(
            [
                torch.log_softmax(rows[:-1], -1).gather(-1, ids[:, None])[:, 0]
                for rows, ids in zip(logits, targets, strict=True)
            ]
        )
    for first, second in zip(subject.logits(subject.reference), subject.logits(subject.pack), strict=True):
        p, q = (torch.log_softmax(rows[:-1].double(), -1) for rows in (first, second))
        divergences.append((p.exp() * (p - q)).sum(-1).float())
    theirs = torch.cat([chosen["reference"], chosen["pack"]])
    found = []
    for way, measurement in (("whole", subject.whole), ("layer by layer", subject.layers)):
        values = measurement.values
        ours = torch.tensor([*values.reference, *values.pack])
        name = f"{subject.name}, {way}"
        found += [
            token_by_token(name, "log-probabilities", ours, theirs, to_the_bit=True),
            token_by_token(name, "KL", torch.tensor(values.kl), torch.cat(divergences), to_the_bit=False),
        ]
    return found

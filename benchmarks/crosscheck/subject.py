"""A model and a coarser copy of it, measured by ucaudit, whole and layer by layer."""

from __future__ import annotations

import shutil
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from rounding import write_rounded
from transformers import AutoModelForCausalLM

from ucaudit.core.tokenvalues import TokenValues
from ucaudit.lab.corpus import Windows
from ucaudit.lab.measure import Measurement, measure
from ucaudit.lab.measure_plan import plan_measurement
from ucaudit.packs.codecs import open_source

SEQ_LEN = 256


@dataclass(frozen=True)
class Subject:
    """What is compared.

    Attributes:
        name: for the table.
        reference, pack: checkpoints that transformers loads; the second is the first, plainly rounded.
        text: every whole window of it is measured, in order.
        whole, layers: the two ways of measuring.
    """

    name: str
    reference: Path
    pack: Path
    text: Path
    whole: Measurement
    layers: Measurement

    @property
    def windows(self) -> Windows:
        """What was scored."""
        return self.whole.windows

    def logits(self, which: Path) -> Iterator[torch.Tensor]:
        """Of every window, [length, vocabulary] fp32, by ``from_pretrained`` and ``model(input_ids)`` alone."""
        model = AutoModelForCausalLM.from_pretrained(which, dtype=torch.float32).eval()
        with torch.inference_mode():
            for position in range(self.windows.n):
                yield model(input_ids=self.windows.input_ids(position)).logits[0]


def measure_subject(name: str, model: Path, text: Path, work: Path, *, bits: int, characters: int) -> Subject:
    """Round ``model``, and measure both on the first ``characters`` of ``text``, all windows of them."""
    pack = write_rounded(model, work / f"{name}-{bits}-bits", bits=bits)
    for file in model.glob("chat_template*"):  # part of the tokenizer, which both must have alike
        shutil.copyfile(file, pack / file.name)
    part = work / f"{name}.txt"
    part.write_text(text.read_text(encoding="utf-8")[:characters], encoding="utf-8")
    with open_source(pack) as ours, open_source(model) as reference:
        first = plan_measurement(ours, reference, part, n=2, seq_len=SEQ_LEN, seed=42)
        found = [
            measure(
                *(ours, reference, part),
                n=first.windows.available,
                seq_len=SEQ_LEN,
                seed=42,
                state_dir=work / f"{name}-{way}",
                memory_bytes=budget,
            )
            for way, budget in (("whole", None), ("layers", first.memory.whole - 1))
        ]
    assert [one.settings.execution for one in found] == ["whole", "layers"]
    assert found[0].windows.indexes == tuple(range(first.windows.available))
    return Subject(name, model, pack, part, *found)


def later_part(values: TokenValues, skipped: int) -> TokenValues:
    """The values without the first ``skipped`` tokens of each window, as llama.cpp scores them."""

    def cut(column: array) -> array:
        return array(column.typecode, [value for row in values.rows(column) for value in row[skipped:]])

    return TokenValues(
        windows=values.windows,
        tokens=values.tokens - skipped,
        reference=cut(values.reference),
        pack=cut(values.pack),
        kl=cut(values.kl),
        top1=cut(values.top1),
        documents=values.documents,
    )

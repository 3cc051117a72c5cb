"""Runs in lm-evaluation-harness's own environment, which has no ucaudit: a request on stdin, figures on stdout.

The request names a model, a JSON Lines file with the text in one row, the window length, and windows of token ids
whose first token is context. The text goes through the harness as any task does: its tokenizer, its rolling
windows, its metrics. The windows go through its scoring of a context and a continuation.
"""

from __future__ import annotations

import json
import math
import os
import sys
from importlib.metadata import version

os.environ.update(HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", TOKENIZERS_PARALLELISM="false")


def main() -> None:
    """Answer one request."""
    request = json.load(sys.stdin)
    output, sys.stdout = sys.stdout, sys.stderr  # its progress goes elsewhere

    import lm_eval
    from lm_eval.models.huggingface import HFLM

    task = {
        "task": "one_text",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": request["text"]}},
        "test_split": "test",
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "byte_perplexity"}],
    }
    model = HFLM(
        pretrained=request["model"],
        dtype="float32",
        device="cpu",
        batch_size=1,
        max_length=request["seq_len"],
    )
    results = lm_eval.simple_evaluate(model=model, tasks=[task], log_samples=False, bootstrap_iters=0)
    figures = results["results"]["one_text"]
    scored = model._loglikelihood_tokens(
        [(None, window[:1], window[1:]) for window in request["windows"]], disable_tqdm=True
    )
    tokens = sum(len(window) - 1 for window in request["windows"])
    answer = {
        "word_perplexity": figures["word_perplexity,none"],
        "byte_perplexity": figures["byte_perplexity,none"],
        "windows_perplexity": math.exp(-sum(score for score, _ in scored) / tokens),
        "prefix": model.prefix_token_id,
        "versions": {name: version(name) for name in ("lm_eval", "torch", "transformers", "datasets")},
    }
    json.dump(answer, output)


if __name__ == "__main__":
    main()

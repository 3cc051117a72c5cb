"""transformers' own loading of a GGUF file, in bfloat16: prints ``{tensor name: sha-256 of its bytes}``.

In an environment of its own because transformers wants accelerate for it.
"""

import hashlib
import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM

path = Path(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
digests = {
    name: hashlib.sha256(value.contiguous().view(torch.int16).numpy().tobytes()).hexdigest()
    for name, value in model.state_dict().items()
}
print(json.dumps(digests))

"""Writes the vectors of two public collections in this project's own form, from local clones of both.

python tests/vectors/convert.py wycheproof CLONE    # https://github.com/C2SP/wycheproof, Apache-2.0
python tests/vectors/convert.py json CLONE          # https://github.com/nst/JSONTestSuite, MIT
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SIGNATURES = {
    "ed25519": "testvectors_v1/ed25519_test.json",
    "ecdsa-p256": "testvectors_v1/ecdsa_secp256r1_sha256_test.json",
}
LONG = 2000
"""Bytes from which on a document must be a repetition, and is stored as one."""


def git(clone: Path, *words: str) -> bytes:
    return subprocess.run(["git", "-C", str(clone), *words], check=True, capture_output=True).stdout


def write(path: Path, head: dict[str, object], cases: list[object]) -> None:
    """One case a line, so that a difference can be read."""
    lines = ",\n".join("  " + json.dumps(case, ensure_ascii=True) for case in cases)
    text = json.dumps(head, indent=1)[:-2] + f',\n "cases": [\n{lines}\n ]\n}}\n'
    json.loads(text)
    path.write_text(text, encoding="ascii")


def wycheproof(clone: Path) -> None:
    commit = git(clone, "rev-parse", "HEAD").decode().strip()
    for name, source in SIGNATURES.items():
        data = git(clone, "show", f"HEAD:{source}")
        cases: list[object] = [
            [test["tcId"], group["publicKeyDer"], test["msg"], test["sig"], test["result"], test["flags"]]
            for group in json.loads(data)["testGroups"]
            for test in group["tests"]
        ]
        head: dict[str, object] = {
            "from": f"C2SP/wycheproof {source}",
            "commit": commit,
            "sha256": hashlib.sha256(data).hexdigest(),
            "licence": "Apache-2.0",
            "columns": ["tcId", "public key, DER SPKI", "message", "signature", "result", "flags"],
        }
        write(HERE / "signatures" / f"wycheproof-{name}.json", head, cases)


def documents(clone: Path) -> None:
    cases: list[object] = []
    for path in git(clone, "ls-tree", "-r", "-z", "--name-only", "HEAD", "test_parsing").decode().split("\0")[:-1]:
        data = git(clone, "show", f"HEAD:{path}")
        name = Path(path).stem
        if len(data) < LONG:
            cases.append([name, base64.b64encode(data).decode(), 1, ""])
            continue
        end = b"\n" if data.endswith(b"\n") else b""
        body = data.removesuffix(end) if end else data
        unit = next(body[:size] for size in range(1, 9) if body[:size] * (len(body) // size) == body)
        cases.append([name, base64.b64encode(unit).decode(), len(body) // len(unit), end.decode()])
    head: dict[str, object] = {
        "from": "nst/JSONTestSuite test_parsing",
        "commit": git(clone, "rev-parse", "HEAD").decode().strip(),
        "licence": "MIT",
        "columns": ["file name without .json", "base64", "times", "end"],
    }
    write(HERE / "json" / "jsontestsuite.json", head, cases)


if __name__ == "__main__":
    {"wycheproof": wycheproof, "json": documents}[sys.argv[1]](Path(sys.argv[2]))

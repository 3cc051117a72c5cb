"""A second verifier, from docs/record-format.md alone: second_verifier.py BUNDLE trust.toml SCHEMAS [PACK]; exit 0 or 1."""
import array, base64, datetime, hashlib, itertools, json, math, os, pathlib, random, re, struct, sys, tomllib
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
RECORD, CHAIN, CLOSING, PLAN = "attestation.dsse.json", "attestations.intoto.jsonl", "bundle.dsse.json", "plan.dsse.json"
VALUES = {name: {"logprob": "f"} for name in ("nll-reference.safetensors", "nll-pack.safetensors")} | {
    "pair.safetensors": {"kl": "f", "top1": "B"}}; ED25519 = bytes.fromhex("302a300506032b6570032100")  # the DER before a key's 32 bytes
def need(holds, reason):
    if not holds: raise ValueError(reason)
def sha(data): return hashlib.sha256(data).hexdigest()
def when(text): return datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
def inside(at, item, start="valid-from", end="valid-until"): return not (start in item and at < when(item[start]) or end in item and at > when(item[end]))
def b64(text):
    plain = text if re.search(r"[+/]", text) else text.replace("-", "+").replace("_", "/")
    return need(base64.b64encode(data := base64.b64decode(plain, validate=True)).decode() == plain, "base64 in another spelling") or data
def strict(data):  # One JSON document with one meaning
    def pairs(items): return need(len(dict(items)) == len(items), "duplicate key") or dict(items)
    def number(kind): return lambda text: need(len(text) <= 40 and math.isfinite(float(text)), text[:9]) or kind(text)
    brackets = re.findall(r"[\[\]{}]", re.sub(r'"(?:[^"\\]|\\.)*"', "", text := data.decode(), flags=re.S))
    need(max(itertools.accumulate(1 if one in "[{" else -1 for one in brackets), default=0) <= 32, "nested too deeply")
    value = json.loads(text, object_pairs_hook=pairs, parse_float=number(float), parse_int=number(int), parse_constant=lambda x: need(0, x))
    json.dumps(value, ensure_ascii=False).encode()  # fails for a lone surrogate
    return value
def members(value, schema, defs, at="$"):  # that much of JSON Schema: nothing missing, nothing unknown
    schema = defs[schema["$ref"].rsplit("/", 1)[1]] if "$ref" in schema else schema
    if type(value) is dict and (known := schema.get("properties")):
        need(set(schema.get("required", [])) <= set(value) <= set(known), f"{at}: members missing or unknown")
    for key, item in value.items() if type(value) is dict else enumerate(value) if type(value) is list else ():
        members(item, schema.get("items", schema.get("properties", {}).get(key, {})), defs, f"{at}.{key}")
def verifies(key, signature, data):
    try: key.verify(signature, data, *[ec.ECDSA(hashes.SHA256())] * hasattr(key, "curve"))
    except InvalidSignature: return False
    return True
class Verifier:
    def __init__(self, bundle, trust, schemas):
        self.path, self.schemas = pathlib.Path(bundle), pathlib.Path(schemas)
        self.trust, entries = tomllib.loads(pathlib.Path(trust).read_text()), list(os.scandir(bundle))
        need(len(entries) <= 200 and all(entry.is_file(follow_symlinks=False) for entry in entries), "not plain files")
        self.names, self.keys = {entry.name for entry in entries}, {sha(b64(key["public-key"])): key for key in self.trust["key"]}
        self.loaded = {i: serialization.load_der_public_key(b64(key["public-key"])) for i, key in self.keys.items()}
    def read(self, name, limit=64 << 20):
        return need(name in self.names and (at := self.path / name).stat().st_size <= limit, f"{name} is missing or too large") or at.read_bytes()
    def open(self, raw, kind):  # signature → exact types → strict JSON → members → keys
        outer = strict(raw)
        payload, found, name = b64(outer.pop("payload")), outer.pop("signatures"), outer.pop("payloadType").encode()
        need(not outer and 1 <= len(found) <= 16 and all({"sig"} <= set(x) <= {"sig", "keyid"} for x in found), "not an envelope")
        pae, signers = b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload), []
        for item in found:
            hint, sig = item.get("keyid", ""), b64(item["sig"])
            signers += (made := [i for i, key in self.loaded.items() if verifies(key, sig, pae)])
            need(made or hint not in self.keys, f"{kind}: a signature names a trusted key and is not its")
            need(kind != "bundle" or not made or hint in ("", *made), "the closing statement's key hint was changed")
        need(signers and name == b"application/vnd.in-toto+json", f"{kind}: no trusted key signed it, or another payload type")
        statement, schema = strict(payload), json.loads((self.schemas / f"{kind}.schema.json").read_text())
        need((statement["_type"], statement["predicateType"]) == ("https://in-toto.io/Statement/v1", f"urn:ucaudit:predicate:{kind}:v1"), "type")
        members(statement, schema, schema["$defs"])
        need(len({item["name"] for item in statement["subject"]}) == len(statement["subject"]), "a subject twice")
        claimed, role = when(statement["predicate"]["created"]), statement["predicate"].get("role")
        for key in map(self.keys.get, signers):
            need(kind in key.get("predicate-types", [kind]) and role in (None, *key.get("roles", [])), "wrong role or type")
            need("revoked-at" not in key and inside(claimed, key), "revoked, or not valid then")
        return statement, len(found)
    def place(self, prefix, raw, kind, pack, **facts):  # origin and index in a trusted ledger; None without a proof
        ledgers = [(item, *item["vkey"].split("+", 2)) for item in self.trust.get("ledger", []) if "revoked-at" not in item]
        if not {f"{prefix}ledger-proof", f"{prefix}ledger-entry.json"} <= self.names or not ledgers: return None
        said = strict(entry := self.read(f"{prefix}ledger-entry.json", 1 << 16))
        need(entry == json.dumps(said, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(), "spelling")
        at, _ = when(said.pop("recordedAt")), said.pop("keyId", None)
        facts |= {"kind": kind, "predicateType": f"urn:ucaudit:predicate:{kind}:v1", "packDigest": pack, "envelopeSha256": sha(raw)}
        need(said == {key: value for key, value in facts.items() if value}, "the ledger entry says something else than its record")
        head, _, note = self.read(f"{prefix}ledger-proof", 1 << 20).decode().partition("\n\n"); text, _, tail = note.rpartition("\n\n")
        (first, *lines), (origin, size, root) = head.split("\n"), text.split("\n")[:3]
        need(first == "c2sp.org/tlog-proof@v1" and tail.endswith("\n"), "not a proof")
        if lines[0].startswith("extra "): need(b64(lines.pop(0)[6:]) == entry, "the proof holds another entry")
        need(re.fullmatch("index (0|[1-9][0-9]*)", lines[0]) and re.fullmatch("[1-9][0-9]*", size), "index or size")
        signed = [line.removeprefix("\u2014 ").split(" ") for line in tail[:-1].split("\n")]  # name, base64(key id, signature)
        need(any(inside(at, item) and name == who == origin and b64(sig)[:4].hex() == key_id and verifies(
            serialization.load_der_public_key(ED25519 + b64(key)[1:]), b64(sig)[4:], f"{text}\n".encode())
            for item, name, key_id, key in ledgers for who, sig in signed), "no trusted ledger signed the checkpoint")
        node, last, value = int(lines[0][6:]), int(size) - 1, hashlib.sha256(b"\x00" + entry).digest()
        need(node <= last, "index beyond the tree")
        for sibling in map(b64, lines[1:]):  # RFC 9162, 2.1.3.2
            need(last and len(sibling) == 32, "the path is too long")
            left = node & 1 or node == last; value = hashlib.sha256(b"\x01" + (sibling + value if left else value + sibling)).digest()
            while left and node and not node & 1: node, last = node >> 1, last >> 1
            node >>= 1; last >>= 1
        need(last == 0 and value == b64(root), "the path does not lead to the root")
        return origin, int(lines[0][6:])
    def verify(self, pack=None):
        statement, _ = self.open(raw := self.read(RECORD, 16 << 20), "attestation")
        record, digest, plan = (said := statement["predicate"]), sha(raw), said["plan"]
        chain = self.read(CHAIN).splitlines(keepends=True) if CHAIN in self.names else [raw]; need(chain[0] == raw and len(set(chain)) == len(chain) <= 101, "the chain starts with another record, or repeats")
        if "attestation.sigstore.json" in self.names:
            form, bare = strict(self.read("attestation.sigstore.json")), json.loads(raw); need(b64(form["verificationMaterial"].pop("publicKey")["hint"]).hex() in self.keys, "sigstore key hint")
            frame = {"mediaType": "application/vnd.dev.sigstore.bundle.v0.3+json", "verificationMaterial": {"tlogEntries": []}}
            need(form == frame | {"dsseEnvelope": bare | {"signatures": [bare["signatures"][0] | {"keyid": ""}]}}, "sigstore form")
        cited = {item["name"]: item["sha256"] for item in record["measurement"]["valueFiles"]}; need(set(cited) == set(VALUES) and len(record["measurement"]["valueFiles"]) == 3, "value files that are cited")
        cited |= {"pack.SHA256SUMS": record["pack"]["packDigest"], "STATE": record["reconstruction"]["stateDigest"],
                  "reference.SHA256SUMS": record["reference"]["filesDigest"]} | ({PLAN: plan["envelopeDigest"]} if plan else {})
        for name, expected in cited.items(): need(sha(self.read(name, 1 << 29)) == expected, f"{name} is another file")
        files = dict(line.split("  ", 1)[::-1] for line in self.read("pack.SHA256SUMS").decode().splitlines())
        named = {item["name"]: item["digest"]["sha256"] for item in statement["subject"]}
        for name, at in named.items(): need(at == (files if name[:5] == "pack/" else cited)[name.removeprefix("pack/")], f"subject {name}")
        need({"pack.SHA256SUMS", "STATE"} <= set(named), "subjects")
        need(not pack or files == {str(path.relative_to(pack)): sha(path.read_bytes()) for path in pathlib.Path(pack).rglob("*")
                                   if path.is_file()}, "the pack has other files")
        pack and described(record, pathlib.Path(pack)); figures(record, {name: tensors(self.read(name, 1 << 29), VALUES[name]) for name in VALUES})
        placed = self.place("", raw, "attestation", record["pack"]["packDigest"], determination=record["determination"],
                            planSha256=plan and plan["envelopeDigest"])
        if plan: self.planned(record, placed, plan["deviations"])
        for line in chain[1:]:
            said, marks = self.open(line, "endorsement")
            need(marks == 1 and said["subject"] == [{"name": RECORD, "digest": {"sha256": digest}}]
                 and said["predicate"]["attestationDigest"] == digest, "endorses another record")
        closing = self.open(self.read(CLOSING, 16 << 20), "bundle")[0]; listed, said = {item["name"]: item["digest"]["sha256"] for item in closing["subject"]}, closing["predicate"]
        need(listed == {name: sha(self.read(name, 1 << 29)) for name in self.names - {CLOSING, "bundle.tsr"}}
             and (len(listed), digest) == (said["files"], said["attestationDigest"]), "files were changed, added or removed")
        return record["determination"]
    def planned(self, record, placed, declared):
        plan, measured = self.open(raw := self.read(PLAN, 16 << 20), "plan")[0]["predicate"], record["measurement"]; before = self.place("plan-", raw, "plan", plan["pack"]["packDigest"], outsideSeed=plan.get("outsideSeed"))
        need(not before or not placed or (before[0] == placed[0] and before[1] < placed[1]), "planned after the fact")
        seed, part = plan["seed"], (record["plan"].get("seed") or {}).get("value")
        if plan.get("outsideSeed"): seed = int(sha(f"ucaudit-seed-v1\n{sha(raw)}\n{part}\n".encode())[:13], 16)
        promised, done = ({"pack": pack, "seed": part, "n": of["n"], "seq_len": of["seqLen"], "corpus": corpus}
                          | {f"claim {c['id']}": (c["metric"], c["comparator"], c["threshold"]) for c in claims}
                          for pack, part, of, corpus, claims in (
            (plan["pack"]["packDigest"], seed, plan, plan["corpusSha256"], plan["claims"]),
            (record["pack"]["packDigest"], measured["seed"], measured, measured["corpus"]["sha256"], record["claims"])))
        for name in promised.keys() | done:
            need(promised.get(name) == done.get(name) or any(x.startswith(f"{name}: ") for x in declared), f"not as planned: {name}")
def described(record, pack):  # What the record says of a ucq pack: codec, bits a weight, published state
    told, bits, says = strict((pack / "manifest.json").read_bytes()), record["pack"]["bitsPerWeight"], record["reconstruction"]
    need((told["codec"], told["arithmeticProfile"]) == (record["pack"]["codec"], record["pack"]["arithmeticProfile"]) and all(
        abs(bits[name] - told["bitsPerWeight"][name]) <= 1e-3 for name in bits) and (sha((pack / "STATE").read_bytes())
        == says["stateDigest"]) == (says["matchesPublished"] == "yes") and says["matchesPublished"] != "none-published", "not what the pack says")
def tensors(data, wanted):  # A safetensors file without a gap, an overlap or a tensor too many
    header, body = strict(data[8 : (end := 8 + struct.unpack("<Q", data[:8])[0])].rstrip(b" ")), data[end:]
    wanted = wanted | {"window": "q"} | {name: "q" for name in header if name == "document"}
    ends = sorted(item["data_offsets"] for item in header.values())
    need(set(header) == set(wanted) and [a for a, _ in ends] + [len(body)] == [0] + [b for _, b in ends], "gap, overlap or surplus")
    need(all(header[name]["dtype"] == {"f": "F32", "B": "U8", "q": "I64"}[kind] for name, kind in wanted.items()), "dtype")
    read = {name: array.array(kind, body[slice(*header[name]["data_offsets"])]) for name, kind in wanted.items()}
    need(all(len(read[name]) == math.prod(item["shape"]) > 0 and item["shape"][0] == header["window"]["shape"][0]
             and len(item["shape"]) == 1 + (name not in ("window", "document")) for name, item in header.items()), "shapes")
    return read
def student(p, df):  # The quantile of Student's t: Newton's method on a density that Simpson's rule integrates
    scale, x = math.exp(math.lgamma((df + 1) / 2) - math.lgamma(df / 2)) / math.sqrt(df * math.pi), 2.0
    def density(u): return scale * (1 + u * u / df) ** (-(df + 1) / 2)
    def weighted(x): return math.fsum((1 if i in (0, 2000) else 4 if i % 2 else 2) * density(x * i / 2000) for i in range(2001))
    for _ in range(9): x -= (0.5 + weighted(x) * x / 6000 - p) / density(x)
    return x
def intervals(d, sizes, confidence, seed):  # Units of some windows each: Student's t and bootstrap-t, (mean, lower, upper) of each
    of, n, m, alpha, u = iter(d), len(sizes), math.fsum(d) / len(d), (1 - confidence) / 2, iter(random.Random(seed).random, None)
    y, stats = [math.fsum(itertools.islice(of, size)) for size in sizes], []
    if max(ends := [a / x for a, x in zip(y, sizes)]) - min(ends) <= 1e-15 * max(map(abs, ends)): return ((m, m, m),) * 2
    rows = [(z, x, z * z, z * x, x * x) for a, x in zip(y, sizes) for z in [a - m * x]]  # z: how far a unit is from the mean
    error = math.sqrt(n / (n - 1) * (square := math.fsum(row[2] for row in rows))) / len(d)
    for _ in range(10_000):
        z, x, zz, zx, xx = map(math.fsum, zip(*[rows[int(v * n)] for v in itertools.islice(u, n)]))
        flat = (left := zz - 2 * z / x * zx + (z / x) ** 2 * xx) <= 1e-12 * square  # a resample without spread of its own
        stats.append((math.copysign(math.inf, z) if z else 0.0) if flat else z / math.sqrt(n / (n - 1) * left))
    stats, k, half = sorted(stats), math.floor(alpha * 10_001), student(1 - alpha, n - 1) * error
    return (m, m - half, m + half), (m, max(m - stats[10_000 - k] * error, -700.0), min(m - stats[k - 1] * error, 700.0))
def figures(record, files):  # Ratio, KL, intervals, verdicts and determination again, from the per-token files
    results, measured, (reference, pack, pair) = record["results"], record["measurement"], files.values()
    n, corpus, windows = measured["n"], measured["corpus"], list(pair["window"])
    held, *others = ([*file.get("document", ())] for file in (reference, pack, pair))  # each window's document, if known
    sizes = [len([*group]) for _, group in itertools.groupby(held)] if (many := len(set(held)) > 1) else [1] * n
    need(others == [held] * 2 == [sorted(map(abs, held))] * 2 and results.get("documents") == (len(sizes) if many else None), "documents")
    def rank(i): return hashlib.sha256(f"{measured['seed']}\n{corpus['sha256']}\n{i}".encode()).digest()
    need(corpus["windowsAvailable"] <= 1 << 24 and [*reference["window"]] == [*pack["window"]] == windows == sorted(sorted(range(corpus["windowsAvailable"]), key=rank)[:n]), "draw")
    a, b, kl, t = reference["logprob"], pack["logprob"], pair["kl"], len(pair["kl"]) // n
    need((t, measured["scoredTokens"]) == (measured["seqLen"] - (measured["bos"] == "none"), n * t) and (corpus.get("documents") is None)
         == ("document" not in pair) and (corpus.get("rows") or corpus["tokens"] <= corpus["bytes"] + 1), "windows, scored tokens or documents")
    need(corpus["windowsAvailable"] == corpus["tokens"] // measured["seqLen"] and measured["tolerance"] >= (1e-5 if measured["dtype"] == "fp32" else 3 * 0.065 / math.sqrt(n * t)), "tolerance")
    need(len(a) == len(b) == n * t and all(map(math.isfinite, [*a, *b, *kl])) and max(*a, *b) <= 1e-5 and min(kl) >= -1e-5
         and max(pair["top1"]) <= 1, "values that no measurement gives")
    means = ([math.fsum(x[i : i + t]) / t for i in range(0, n * t, t)] for x in ([p - q for p, q in zip(a, b)], kl))
    ratio, divergence = (intervals(x, sizes, results["ratio"]["confidence"], results["bootstrapSeed"]) for x in means)
    pairs = [(results["pplReference"], math.exp(-math.fsum(a) / n / t)), (results["pplPack"], math.exp(-math.fsum(b) / n / t)),
             (results["top1"]["estimate"], sum(pair["top1"]) / n / t)]
    for name, values in zip(("ratio", "ratioBootstrap", "kl", "klBootstrap"), ratio + divergence):
        pairs += zip((results[name][end] for end in ("estimate", "lower", "upper")), map(math.exp if name[0] == "r" else float, values))
    need(all(math.isclose(said, again, rel_tol=1e-9, abs_tol=1e-12) for said, again in pairs), "figures that do not follow")
    verdicts = {claim["id"]: claim["verdict"] for claim in record["claims"]}  # of other metrics: the signer's word
    for claim in (claim for claim in record["claims"] if claim["metric"] in ("pplRatio", "meanKl")):
        found, margin, said = (ratio, math.log(claim["threshold"]), "ratio") if claim["metric"][0] == "p" else (divergence, claim["threshold"], "kl")
        verdict = "fail" if min(x[1] for x in found) - measured["tolerance"] > margin else "inconclusive"
        if max(x[2] for x in found) + measured["tolerance"] <= margin and len(sizes) >= 30: verdict = "pass"
        need(claim["verdict"] == verdict and claim["observed"] == results[said]["estimate"], f"claim {claim['id']}")
    excused = {item["claim"] for item in record["exceptions"] if when(item["expires"]) >= when(record["created"])}
    left = {verdicts[name] for name in verdicts if name not in excused} - {"pass"}
    word = "pass" if set(verdicts.values()) == {"pass"} else "pass-with-exceptions"
    need(record["determination"] == ("fail" if "fail" in left else "inconclusive" if left else word), "determination")
if __name__ == "__main__":
    try: print("accepted:", Verifier(*sys.argv[1:4]).verify(*sys.argv[4:5]))
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, OSError, RecursionError) as reason:
        sys.exit(f"refused: {type(reason).__name__}: {reason}"[:200])

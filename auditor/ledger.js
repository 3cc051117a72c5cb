// Inclusion proofs: C2SP tlog-proof, signed-note and tlog-checkpoint; hashing as in RFC 6962.

const MAX_PROOF = 384 * 1024;
const MAX_ENTRY = 65_536;

// name+hex(key id)+base64(0x01 ‖ Ed25519 key)
async function parseVkey(text) {
  const [name, id, ...rest] = text.trim().split("+");
  const body = rest.join("+"); // base64 may itself hold a plus
  if (!name || /[\s\p{Cc}]/u.test(name) || !/^[0-9a-f]{8}$/.test(id ?? "")) {
    throw new Malformed("not a ledger key; it looks like name+1a2b3c4d+AbCd…=");
  }
  const blob = decodeBase64(body, "ledger key");
  if (blob.length !== 33 || blob[0] !== 1) throw new Malformed("not the key of a ledger (type 1, 32 bytes)");
  const expected = hex((await sha256(concat(utf8(`${name}\n`), blob))).slice(0, 4));
  if (expected !== id) throw new Malformed(`the ledger key says id ${id}, its name and key give ${expected}`);
  return { name, id, key: await PublicKey.fromRawEd25519(blob.slice(1)) };
}

function decimal(text, subject) {
  if (!/^(0|[1-9][0-9]{0,18})$/.test(text) || BigInt(text) >= 2n ** 63n) throw new Malformed(`${subject}: not a number`);
  return BigInt(text);
}

function treeHash(text, subject) {
  const bytes = decodeBase64(text, subject);
  if (bytes.length !== 32) throw new Malformed(`${subject}: a hash of ${bytes.length} bytes`);
  return bytes;
}

function parseProof(bytes, subject) {
  if (bytes.length > MAX_PROOF) throw new Malformed(`${subject}: larger than ${MAX_PROOF} bytes`);
  const text = decodeUtf8(bytes, subject);
  const cut = text.indexOf("\n\n");
  if (cut < 0) throw new Malformed(`${subject}: a proof without a checkpoint`);
  const lines = text.slice(0, cut).split("\n");
  if (lines.shift() !== "c2sp.org/tlog-proof@v1") throw new Malformed(`${subject}: not a tlog-proof`);
  const extra = lines[0]?.startsWith("extra ") ? decodeBase64(lines.shift().slice(6), subject) : null;
  if (!lines[0]?.startsWith("index ")) throw new Malformed(`${subject}: no index`);
  const index = decimal(lines.shift().slice(6), subject);
  if (lines.length > 63) throw new Malformed(`${subject}: more than 63 hashes`);
  return { extra, index, hashes: lines.map((line) => treeHash(line, subject)), note: text.slice(cut + 2) };
}

function parseNote(note, subject) {
  if (/[\u0000-\u0009\u000b-\u001f]/.test(note)) throw new Malformed(`${subject}: a control character`);
  const cut = note.lastIndexOf("\n\n");
  if (cut < 0 || !note.endsWith("\n")) throw new Malformed(`${subject}: the checkpoint has no signature lines`);
  const signatures = note.slice(cut + 2, -1).split("\n").map((line) => {
    const found = /^\u2014 ([^\s+]+) ([A-Za-z0-9+/=]+)$/.exec(line);
    const blob = found && decodeBase64(found[2], subject);
    if (!blob || blob.length <= 4) throw new Malformed(`${subject}: a malformed signature line`);
    return { name: found[1], id: hex(blob.slice(0, 4)), bytes: blob.slice(4) };
  });
  if (signatures.length > 64) throw new Malformed(`${subject}: more than 64 signatures`);
  const text = note.slice(0, cut + 1);
  const [origin, size, root, ...extensions] = text.slice(0, -1).split("\n");
  if (!origin || !size || !root || extensions.includes("")) throw new Malformed(`${subject}: not a checkpoint`);
  return { text, signatures, origin, size: decimal(size, subject), root: treeHash(root, subject) };
}

// RFC 9162, 2.1.3.2. Returns a reason why the path does not lead from leaf to root, or null.
async function inclusionProblem(index, size, leaf, path, root) {
  if (index >= size) return `entry ${index} lies outside a tree of ${size} entries`;
  let [node, last, value] = [index, size - 1n, leaf];
  const join = (left, right) => sha256(concat(Uint8Array.of(1), left, right));
  for (const sibling of path) {
    if (last === 0n) return "the path is too long for this tree";
    if (node & 1n || node === last) {
      value = await join(sibling, value);
      while (node && !(node & 1n)) [node, last] = [node >> 1n, last >> 1n];
    } else value = await join(value, sibling);
    [node, last] = [node >> 1n, last >> 1n];
  }
  if (last !== 0n) return "the path is too short for this tree";
  return sameBytes(value, root) ? null : "the path does not lead to the signed root";
}

// Checks a proof of `entry` against the auditor's ledger key. Returns { problem } or { origin, index, size }.
async function checkProof(bytes, entry, ledger, subject) {
  const proof = parseProof(bytes, subject);
  const note = parseNote(proof.note, subject);
  const mine = note.signatures.filter((item) => item.name === ledger.name && item.id === ledger.id);
  if (!mine.length) return { problem: `no signature by ${ledger.name}+${ledger.id}` };
  for (const item of mine) {
    if (!(await ledger.key.verify(item.bytes, utf8(note.text)))) return { problem: "the checkpoint's signature does not hold" };
  }
  if (note.origin !== ledger.name) return { problem: "the checkpoint is of another ledger" };
  if (proof.extra && !sameBytes(proof.extra, entry)) return { problem: "the proof carries another entry" };
  const leaf = await sha256(concat(Uint8Array.of(0), entry));
  const problem = await inclusionProblem(proof.index, note.size, leaf, proof.hashes, note.root);
  return problem ? { problem } : { origin: note.origin, index: proof.index, size: note.size };
}

// The entry in a bundle, which must say what its envelope says, in canonical spelling. Returns a reason or null.
function entryProblem(bytes, expected, subject) {
  if (bytes.length > MAX_ENTRY) throw new Malformed(`${subject}: larger than ${MAX_ENTRY} bytes`);
  const entry = parseJson(bytes, subject);
  if (!isObject(entry)) throw new Malformed(`${subject}: not an object`);
  const names = Object.keys(entry).sort();
  const canonical = `{${names.map((name) => `${JSON.stringify(name)}:${JSON.stringify(entry[name])}`).join(",")}}`;
  if (!sameBytes(utf8(canonical), bytes)) throw new Malformed(`${subject}: not in its canonical spelling`);
  if (typeof entry.recordedAt !== "string") throw new Malformed(`${subject}: no time`);
  parseTime(entry.recordedAt, subject);
  const { recordedAt, keyId, ...said } = entry;
  const { keyId: hint, ...wanted } = expected;
  for (const name of new Set([...Object.keys(said), ...Object.keys(wanted)])) {
    if (said[name] !== wanted[name]) return `the entry's ${name} is not what the record gives`;
  }
  if (keyId !== undefined && keyId !== hint) return "the entry names another key than the record";
  return null;
}

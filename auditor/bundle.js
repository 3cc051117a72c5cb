// A bundle's files as the auditor gave them: a fixed set of names, every file read once and kept in memory.

const RECORD = "attestation.dsse.json";
const SIGSTORE = "attestation.sigstore.json";
const CHAIN = "attestations.intoto.jsonl";
const PLAN = "plan.dsse.json";
const CLOSING = "bundle.dsse.json";
const CLOSING_STAMP = "bundle.tsr";
const VALUE_FILES = ["nll-pack.safetensors", "nll-reference.safetensors", "pair.safetensors"];
const FIXED_NAMES = new Set([
  RECORD, SIGSTORE, CHAIN, PLAN, CLOSING, CLOSING_STAMP, ...VALUE_FILES, "pack.SHA256SUMS", "STATE",
  "reference.SHA256SUMS", "ledger-proof", "ledger-entry.json", "plan-ledger-proof", "plan-ledger-entry.json",
  "seed.dsse.json", "seed-ledger-proof", "seed-ledger-entry.json", "README.txt",
]);
const MAX_FILES = 200;
const MiB = 2 ** 20;
const MAX_ALL = 1024 * MiB;
const LARGE = new Set(["pack.SHA256SUMS", "STATE", "reference.SHA256SUMS", ...VALUE_FILES]);

// Control characters, backslashes, line separators and directional overrides: a name that reads in two ways.
const ODD_NAME = /[\p{Cc}\\\u2028\u2029\u202a-\u202e\u2066-\u2069]/u;

function checkName(name) {
  if (!name || ODD_NAME.test(name)) throw new Malformed("a file name with characters that read in two ways");
  if (!FIXED_NAMES.has(name) && !name.startsWith("report-") && !/^timestamp(-[1-9][0-9]?)?\.tsr$/.test(name)) {
    throw new Malformed(`a bundle has no file of this name: ${name.slice(0, 80)}`);
  }
  if (name.includes("/")) throw new Malformed("a bundle holds plain files only, no directories");
}

function checkSize(name, size) {
  const most = (LARGE.has(name) ? 512 : name === CHAIN || name.startsWith("report-") ? 64 : 16) * MiB;
  if (size > most) throw new Malformed(`${name}: larger than the ${most / MiB} MiB that this page reads; use ucaudit verify`);
}

// [{ name, file }] → Map of name to bytes. One .zip stands for the files inside.
async function readFiles(items) {
  if (items.length === 1 && items[0].name.toLowerCase().endsWith(".zip")) {
    const { file } = items[0];
    if (file.size > MAX_ALL) throw new Malformed("the archive is larger than this page reads; use ucaudit verify");
    return readArchive(new Uint8Array(await file.arrayBuffer()));
  }
  if (items.length > MAX_FILES) throw new Malformed(`more than ${MAX_FILES} files`);
  if (items.reduce((total, { file }) => total + file.size, 0) > MAX_ALL) {
    throw new Malformed("the files are larger together than this page reads; use ucaudit verify");
  }
  const files = new Map();
  for (const { name, file } of items) {
    checkName(name);
    checkSize(name, file.size);
    if (files.has(name)) throw new Malformed(`${name} was given twice`);
    let bytes;
    try {
      bytes = new Uint8Array(await file.arrayBuffer());
    } catch {
      throw new Malformed(`${name} cannot be read, or changed while it was read`);
    }
    files.set(name, bytes);
  }
  return files;
}

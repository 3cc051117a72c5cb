// The page: takes files and keys, shows rows. Whatever comes from a file is set as text, never as markup.

const byId = (id) => document.getElementById(id);
const LABELS = { pass: "holds", fail: "FAILS", "not-checked": "not checked", remark: "note" };
const HEADLINES = {
  verified: ["Verified: this is what was signed", "Every check of this page holds. Whether the pack passed is what the record says, next; what this page does not check is listed at the end."],
  incomplete: ["Incomplete: not verified", "Nothing failed, but not everything could be checked. The rows marked “not checked” say why."],
  failed: ["NOT verified", "At least one check failed. What the record says is not shown, because it cannot be relied on."],
};
let items = [];
let run = 0;

// Characters that nobody sees, or that turn the order of others around, as their code points.
const visible = (text) =>
  text.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (one) => `<U+${one.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}>`);

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text !== null) made.textContent = visible(text);
  made.append(...children);
  return made;
}

function forget() {
  run += 1;
  byId("result").hidden = true;
  byId("report").replaceChildren();
  delete byId("result").dataset.outcome;
}

function take(found, label) {
  forget();
  items = found;
  byId("chosen").textContent = visible(`${label}: ${found.length} file${found.length === 1 ? "" : "s"}`);
}

function refuse(problem) {
  forget();
  items = [];
  byId("chosen").textContent = visible(`Not taken: ${problem.message}`);
}

// From a folder chooser the names are folder/file. A directory inside shows as a longer path.
function fromFolder(list) {
  const found = Array.from(list, (file) => ({ name: file.webkitRelativePath.split("/").slice(1).join("/"), file }));
  take(found, found.length ? list[0].webkitRelativePath.split("/")[0] : "empty folder");
}

const fromFiles = (list) => take(Array.from(list, (file) => ({ name: file.name, file })), "files");

// Dropped files or a dropped folder. The newer interface for folders (file system handles) is not used: it leaves
// out files whose names it finds odd, and this page must see every file.
async function fromDrop(transfer) {
  const files = Array.from(transfer.files);
  const entries = Array.from(transfer.items, (item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((entry) => entry.isDirectory)) return fromFiles(files);
  if (entries.length !== 1) throw new Malformed("drop one folder, or its files");
  let found;
  try {
    const inside = await listFolder(entries[0]);
    const toFile = (entry) => new Promise((done, failed) => entry.file(done, failed));
    // A directory gets a name that no file of a bundle has, so that it is refused and not overlooked.
    found = inside.map(async (entry) => (entry.isDirectory ? { name: `${entry.name}/`, file: new File([], "") } : { name: entry.name, file: await toFile(entry) }));
    found = await Promise.all(found);
  } catch {
    throw new Malformed("this browser does not list a folder dropped here: use the Folder button, or drop the files in it");
  }
  take(found, entries[0].name);
}

async function listFolder(folder) {
  const reader = folder.createReader();
  const inside = [];
  for (;;) {
    const some = await new Promise((done, failed) => reader.readEntries(done, failed));
    inside.push(...some);
    if (!some.length || inside.length > MAX_FILES) return inside;
  }
}

async function readTrust() {
  const told = async (id, parse) => {
    try {
      return await parse(byId(id).value);
    } catch (problem) {
      const label = byId(id).labels[0].textContent;
      throw problem instanceof Malformed ? new Malformed(`${label}: ${problem.message}`) : problem;
    }
  };
  const signers = await told("signer", parseKeys);
  const endorsers = await told("endorsers", parseKeys);
  const ledger = await told("ledger", (text) => (text.trim() ? parseVkey(text) : null));
  if (!signers.length) throw new Malformed("give the signer's public key");
  return { signers, endorsers, ledger, endorsersClose: byId("endorsers-close").checked };
}

async function check() {
  forget();
  const mine = run;
  let trust = null;
  const result = new Result();
  let shown = result;
  try {
    trust = await readTrust();
    if (!items.length) throw new Malformed("give a bundle");
    shown = await verifyBundle(await readFiles(items), trust);
  } catch (problem) {
    const known = problem instanceof Malformed;
    result.add("input", "what you gave", "what this page reads", known ? problem.message : `this page failed: ${problem}`);
  }
  if (mine === run) show(shown, trust);
}

function show(result, trust) {
  const { outcome } = result;
  const [title, explanation] = HEADLINES[outcome];
  const report = byId("report");
  const headline = element("h2", title);
  headline.tabIndex = -1;
  headline.className = "headline";
  report.append(headline, element("p", explanation));
  if (outcome !== "failed") report.append(...recordParts(result));
  report.append(element("h3", "Checks"), checkTable(result.rows));
  if (trust) report.append(element("h3", "Trusted here, because you gave it"), trustList(trust));
  if (result.facts.length) report.append(element("h3", "Digests"), definitions(result.facts));
  report.append(element("p", `Checked ${new Date().toISOString()} by this computer's clock, with page ${VERSION}.`));
  byId("result").dataset.outcome = outcome;
  byId("result").hidden = false;
  headline.focus();
}

function recordParts({ record, endorsements }) {
  if (!record) return [];
  const said = element("p", "Determination: ", element("strong", record.determination.toUpperCase()));
  said.className = "determination";
  said.dataset.determination = record.determination;
  const claims = table(
    ["Verdict", "Claim", "Threshold", "Observed", "Interval", "Level"],
    record.claims.map((claim) => {
      const span = claim.interval;
      return [
        element("td", claim.verdict.toUpperCase()),
        element("td", claim.text),
        element("td", `${claim.comparator} ${claim.threshold}`),
        element("td", String(claim.observed)),
        element("td", span ? `[${span.lower}, ${span.upper}] at ${100 * span.confidence}%` : "none"),
        element("td", claim.level),
      ];
    }),
  );
  const { pack, reference, measurement } = record;
  const about = definitions([
    ["Pack", `${pack.name} (${pack.codec}); SHA-256 of pack.SHA256SUMS ${pack.packDigest}`],
    ["Reference", `${reference.name}; state ${reference.stateDigest}`],
    ["Text", `${measurement.corpus.name}; SHA-256 ${measurement.corpus.sha256}; ${measurement.n} windows`],
    ["Made", `${record.created}, in the signer's own words`],
  ]);
  const parts = [said, element("h3", "What the record says"), about, claims];
  for (const item of record.exceptions) {
    parts.push(element("p", `Exception for ${item.claim}, until ${item.expires}: ${item.rationale} (${item.owner})`));
  }
  if (record.limitations.length) {
    const list = record.limitations.map((item) => element("li", item.text));
    parts.push(element("h4", "Limitations that the signer states"), element("ul", null, ...list));
  }
  if (endorsements.length) {
    const list = endorsements.map((item) =>
      element("li", `“${item.printedName}”, ${item.role}: ${item.meaning}, ${item.created}, by key ${item.key}`),
    );
    parts.push(element("h4", "Endorsements, in the endorsers' words"), element("ul", null, ...list));
  }
  return parts;
}

function checkTable(rows) {
  return table(
    ["Result", "Checked", "Against", "Found"],
    rows.map((row) => {
      const texts = [LABELS[row.status], row.what, row.against, row.result];
      return Object.assign(texts.map((text) => element("td", text)), row);
    }),
  );
}

function table(heads, rows) {
  const head = element("tr", null, ...heads.map((text) => Object.assign(element("th", text), { scope: "col" })));
  const body = rows.map((cells) => {
    const line = element("tr", null, ...cells);
    if (cells.status) Object.assign(line.dataset, { status: cells.status, slug: cells.slug });
    return line;
  });
  return element("table", null, element("thead", null, head), element("tbody", null, ...body));
}

const definitions = (pairs) => element("dl", null, ...pairs.flatMap(([name, text]) => [element("dt", name), element("dd", text)]));

function trustList(trust) {
  const pairs = trust.signers.map((key) => [`Signer, ${key.kind}`, key.id]);
  const use = trust.endorsersClose ? "Endorser, may close" : "Endorser";
  pairs.push(...trust.endorsers.map((key) => [`${use}, ${key.kind}`, key.id]));
  if (trust.ledger) pairs.push(["Ledger", `${trust.ledger.name}+${trust.ledger.id}, key ${trust.ledger.key.id}`]);
  return definitions(pairs);
}

async function start() {
  const missing = await missingCryptography();
  if (missing) {
    byId("unsupported").textContent = missing;
    byId("unsupported").hidden = false;
    document.body.dataset.ready = "unsupported";
    return;
  }
  byId("folder").addEventListener("change", (event) => fromFolder(event.target.files));
  byId("files").addEventListener("change", (event) => fromFiles(event.target.files));
  for (const id of ["signer", "endorsers", "ledger", "endorsers-close"]) byId(id).addEventListener("input", forget);
  for (const chooser of document.querySelectorAll("input[data-into]")) {
    chooser.addEventListener("change", async () => {
      forget();
      byId(chooser.dataset.into).value = (await Promise.all(Array.from(chooser.files, (file) => file.text()))).join("\n");
    });
  }
  const zone = byId("drop");
  for (const kind of ["dragover", "drop"]) document.addEventListener(kind, (event) => event.preventDefault());
  zone.addEventListener("dragover", () => zone.classList.add("over"));
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    zone.classList.remove("over");
    fromDrop(event.dataTransfer).catch((problem) => refuse(problem));
  });
  byId("check").addEventListener("click", check);
  byId("print").addEventListener("click", () => window.print());
  byId("form").hidden = false;
  document.body.dataset.ready = "yes";
}

start();

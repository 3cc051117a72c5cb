// The checks, in the order of ucaudit's own verifier. Each becomes a row: what, against what, with which result.

class Result {
  rows = [];
  record = null; // the attestation's predicate, once a trusted signature over it held
  endorsements = [];
  facts = [];

  add(slug, what, against, problem, fine) {
    this.rows.push({ slug, what, against, status: problem ? "fail" : "pass", result: problem || fine });
    return !problem;
  }

  remark(slug, what, against, result, status = "remark") {
    this.rows.push({ slug, what, against, status, result });
  }

  get outcome() {
    if (this.rows.some((row) => row.status === "fail")) return "failed";
    const needed = ["attestation-signature", "bundle-signature", "closing", "artefact", "subjects", "ledger"];
    const held = (slug) => this.rows.some((row) => row.slug === slug && row.status === "pass");
    const open = this.rows.some((row) => row.status === "not-checked");
    return this.record && needed.every(held) && !open ? "verified" : "incomplete";
  }
}

const short = (digest) => `${digest.slice(0, 16)}…`;

// trust: { signers, endorsers: [PublicKey], endorsersClose: boolean, ledger }. Never throws for anything in the files.
async function verifyBundle(files, trust) {
  const result = new Result();
  try {
    await checkAll(files, trust, result);
  } catch (problem) {
    const known = problem instanceof Malformed;
    result.add("malformed", "the bundle's files", "their formats", known ? problem.message : `this page failed: ${problem}`);
  }
  return result;
}

async function checkAll(files, trust, result) {
  if (!files.has(RECORD)) throw new Malformed(`no ${RECORD}: give the whole folder of a bundle`);
  const attestation = await Envelope.parse(files.get(RECORD), RECORD);
  const signers = await findSigners(attestation, trust, "attestation", result);
  if (!signers) return;
  const statement = attestation.statement("attestation");
  const record = (result.record = statement.predicate);
  record.exceptions.forEach((item) => parseTime(item.expires, RECORD));
  result.facts.push(["Record, SHA-256 of its envelope", attestation.digest]);
  result.facts.push(["Signed by key", signers.map((key) => key.id).join(", ")]);
  const placed = await checkLedger(files, attestation, "attestation", entryOf(attestation, record), trust, result);
  await checkForms(files, attestation, result);
  await checkArtefacts(files, statement, result);
  checkDetermination(record, result);
  await checkPlan(files, record, placed, trust, result);
  await checkEndorsements(files, attestation, signers, trust, result);
  await checkClosing(files, attestation, trust, result);
}

// Which of the auditor's keys signed, whatever the hints say. Null, with a failed row, if none did or one may not.
async function findSigners(envelope, trust, kind, result) {
  const what = `${kind === "bundle" ? "closing statement" : kind}: signature`;
  const endorsing = kind === "endorsement";
  const allowed = (key) =>
    trust.signers.some((own) => own.id === key.id) ||
    ((endorsing || (kind === "bundle" && trust.endorsersClose)) && trust.endorsers.some((own) => own.id === key.id));
  const known = new Map([...trust.signers, ...trust.endorsers].map((key) => [key.id, key]));
  const found = new Map();
  const strangers = [];
  const misnamed = [];
  for (const { hint, bytes } of envelope.signatures) {
    let made = false;
    for (const key of known.values()) {
      if (!(await key.verify(bytes, envelope.message))) continue;
      made = true;
      found.set(key.id, key);
      if (hint !== "" && hint !== key.id) misnamed.push(hint);
    }
    if (!made) strangers.push(hint);
  }
  const slug = `${kind}-signature`;
  const against = `${envelope.subject}, with the keys you gave`;
  const keys = [...found.values()];
  if (!keys.length) {
    result.add(slug, what, against, "none of your keys made a signature that holds over these bytes");
    return null;
  }
  const stranger = keys.find((key) => !allowed(key));
  const names = keys.map((key) => short(key.id)).join(" and ");
  const wrongUse = stranger && `made by key ${short(stranger.id)}, which you did not give for this kind of statement`;
  if (!result.add(slug, what, against, wrongUse, `made by key ${names}`)) return null;
  for (const hint of strangers) {
    if (known.has(hint)) result.add(slug, what, against, "a further signature names your key and is not its");
    else result.remark(slug, what, against, "a further signature is by none of your keys; it counts for nothing");
  }
  for (const hint of misnamed) {
    const text = `the key hint names another key (${hint.slice(0, 16)}…)`;
    // Nothing else binds the closing statement's hint, so there somebody changed it.
    if (kind === "bundle") result.add("closing", "closing statement: key hint", against, text);
    else result.remark(slug, `${kind}: key hint`, against, text);
  }
  return keys;
}

function entryOf(envelope, predicate) {
  const attested = "determination" in predicate;
  const entry = {
    kind: attested ? "attestation" : "plan",
    envelopeSha256: envelope.digest,
    predicateType: `urn:ucaudit:predicate:${attested ? "attestation" : "plan"}:v1`,
    packDigest: predicate.pack.packDigest,
  };
  const hint = envelope.signatures[0].hint;
  if (/^[0-9a-f]{64}$/.test(hint)) entry.keyId = hint;
  if (attested) entry.determination = predicate.determination;
  if (attested && predicate.plan) entry.planSha256 = predicate.plan.envelopeDigest;
  if (!attested && predicate.outsideSeed) entry.outsideSeed = true;
  return entry;
}

async function checkLedger(files, envelope, kind, expected, trust, result) {
  const prefix = kind === "plan" ? "plan-" : "";
  const [slug, what] = [`${prefix}ledger`, `${kind}: entry in the ledger`];
  const [proof, entry] = [`${prefix}ledger-proof`, `${prefix}ledger-entry.json`];
  if (!files.has(proof) || !files.has(entry)) {
    result.remark(slug, what, "an inclusion proof", "the bundle has none", "not-checked");
    return null;
  }
  if (!trust.ledger) {
    result.remark(slug, what, proof, "you gave no ledger key", "not-checked");
    return null;
  }
  const against = `${proof}, with the ledger key you gave`;
  const different = entryProblem(files.get(entry), expected, entry);
  const proven = different ? { problem: different } : await checkProof(files.get(proof), files.get(entry), trust.ledger, proof);
  const fine = `entry ${proven.index} of ${proven.size} in ${proven.origin}`;
  return result.add(slug, what, against, proven.problem, fine) ? proven : null;
}

// The Sigstore form holds the same payload and signature, the chain's first line the same bytes.
async function checkForms(files, attestation, result) {
  if (files.has(SIGSTORE)) {
    const other = await Envelope.parse(files.get(SIGSTORE), SIGSTORE);
    const same =
      sameBytes(other.message, attestation.message) &&
      attestation.signatures.some((item) => sameBytes(item.bytes, other.signatures[0].bytes));
    result.add("same-record", SIGSTORE, RECORD, same ? null : "another record", "same payload, same signature");
  }
  if (files.has(CHAIN)) {
    const same = sameBytes(chainLines(files)[0] ?? new Uint8Array(), attestation.raw);
    result.add("same-record", CHAIN, RECORD, same ? null : "its first line is another record", "its first line is the record");
  }
}

function chainLines(files) {
  const bytes = files.get(CHAIN);
  const lines = [];
  for (let start = 0, at = 0; at < bytes.length; at += 1) {
    const last = at + 1 === bytes.length;
    if (last || bytes[at] === 0x0a || (bytes[at] === 0x0d && bytes[at + 1] !== 0x0a)) {
      lines.push(bytes.slice(start, at + 1));
      start = at + 1;
    }
  }
  if (lines.length > 101) throw new Malformed(`${CHAIN}: more than 100 endorsements`);
  return lines;
}

async function checkArtefacts(files, statement, result) {
  const record = statement.predicate;
  const values = record.measurement.valueFiles.map((item) => item.name).sort();
  const bound = values.length === VALUE_FILES.length && values.every((name, index) => name === VALUE_FILES[index]);
  const unbound = `expected each of ${VALUE_FILES.join(", ")} once`;
  result.add("artefact", "per-token files that the record cites", "the three that there are", bound ? null : unbound, "all three, once");
  const cited = [
    ["pack.SHA256SUMS", record.pack.packDigest],
    ["STATE", record.reconstruction.stateDigest],
    ["reference.SHA256SUMS", record.reference.filesDigest],
    ...record.measurement.valueFiles.map((item) => [item.name, item.sha256]),
  ];
  if (record.plan) cited.push([PLAN, record.plan.envelopeDigest]);
  if (record.plan?.seed) cited.push(["seed.dsse.json", record.plan.seed.envelopeDigest]);
  for (const [name, expected] of cited) {
    const found = FIXED_NAMES.has(name) && files.has(name) ? await sha256Hex(files.get(name)) : null;
    const problem = found === null ? "the record cites it, the bundle lacks it" : found !== expected && `found SHA-256 ${short(found)}`;
    result.add("artefact", name, `SHA-256 ${short(expected)} in the signed record`, problem, "the same");
  }
  if (result.rows.some((row) => row.slug === "artefact" && row.status === "fail")) return;
  const subjects = new Map(statement.subject.map((item) => [item.name, item.digest.sha256]));
  const manifest = parseManifest(files.get("pack.SHA256SUMS"));
  const wrong = [["pack.SHA256SUMS", record.pack.packDigest], ["STATE", record.reconstruction.stateDigest]]
    .filter(([name, digest]) => subjects.get(name) !== digest).map(([name]) => name);
  for (const [name, digest] of subjects) {
    if (name.startsWith("pack/") && manifest.get(name.slice(5)) !== digest) wrong.push(name);
  }
  const problem = wrong.length && `${wrong[0].slice(0, 80)} disagrees`;
  result.add("subjects", "the statement's subjects", "the record and pack.SHA256SUMS", problem, `${subjects.size} agree`);
}

function parseManifest(bytes) {
  const text = decodeUtf8(bytes, "pack.SHA256SUMS");
  const entries = new Map();
  for (const line of text.split("\n").slice(0, -1)) {
    const found = /^([0-9a-f]{64}) {2}(.+)$/su.exec(line);
    if (!found || ODD_NAME.test(found[2]) || entries.has(found[2])) throw new Malformed("pack.SHA256SUMS: a malformed line");
    entries.set(found[2], found[1]);
  }
  if (!text.endsWith("\n") && text !== "") throw new Malformed("pack.SHA256SUMS: its last line has no end");
  return entries;
}

function checkDetermination(record, result) {
  const at = parseTime(record.created, RECORD);
  const excused = new Set(record.exceptions.filter((item) => parseTime(item.expires, RECORD) >= at).map((item) => item.claim));
  const open = record.claims.filter((claim) => claim.verdict !== "pass");
  const left = open.filter((claim) => !excused.has(claim.id));
  let follows = open.length ? "pass-with-exceptions" : "pass";
  if (left.length) follows = left.some((claim) => claim.verdict === "fail") ? "fail" : "inconclusive";
  const problem = follows !== record.determination && `says ${record.determination}, the verdicts give ${follows}`;
  result.add("determination", "the determination", "the verdicts of the record's claims", problem, "follows from them");
}

async function checkPlan(files, record, placed, trust, result) {
  if (!record.plan) {
    result.remark("plan", "pre-registration", "a plan", "the measurement was not planned in a ledger beforehand");
    return;
  }
  if (!files.has(PLAN)) return; // said by the artefact check
  const envelope = await Envelope.parse(files.get(PLAN), PLAN);
  if (!(await findSigners(envelope, trust, "plan", result))) return;
  const plan = envelope.statement("plan").predicate;
  const before = await checkLedger(files, envelope, "plan", entryOf(envelope, plan), trust, result);
  let seed = plan.seed;
  if (plan.outsideSeed) {
    const part = record.plan.seed;
    seed = part ? await outsideSeed(envelope.digest, part.value) : "an outside party's, which was not contributed";
    result.remark("seed", "the outside party's part in the seed", "who gave it", "not checked here", "not-checked");
  } else if (record.plan.seed) {
    result.add("seed", "the seed", "the plan", "the plan fixed its own seed, the record names another's");
  }
  const hidden = deviations(plan, record, seed).filter((text) => !record.plan.deviations.some((said) => covers(said, text)));
  const declared = record.plan.deviations.length;
  const fine = declared ? `${declared} deviations, all declared in the record` : "as planned";
  result.add("plan", "what was measured", "the plan", hidden.length && `not declared: ${hidden[0]}`, fine);
  if (before && placed) {
    const other = before.origin !== placed.origin && "entered in two ledgers";
    const late = before.index >= placed.index && "planned after the fact";
    result.add("plan-order", "the plan's ledger entry", "the record's", other || late, `${before.index} before ${placed.index}`);
  }
}

async function outsideSeed(planDigest, value) {
  return parseInt((await sha256Hex(utf8(`ucaudit-seed-v1\n${planDigest}\n${value}\n`))).slice(0, 13), 16);
}

function deviations(plan, record, seed) {
  const done = record.measurement;
  const pairs = [
    ["pack", plan.pack.packDigest, record.pack.packDigest],
    ["arithmetic profile", plan.pack.arithmeticProfile, record.pack.arithmeticProfile],
    ["reference", plan.referenceFilesDigest, record.reference.filesDigest],
    ["corpus", plan.corpusSha256, done.corpus.sha256],
    ["n", plan.n, done.n],
    ["seq_len", plan.seqLen, done.seqLen],
    ["seed", seed, done.seed],
    ["dtype", plan.dtype, done.dtype],
    ["policy", plan.policySha256, record.policy.sha256],
  ];
  const found = pairs.filter(([, a, b]) => a !== b).map(([name, a, b]) => `${name}: planned ${a}, done ${b}`);
  const terms = (claims) => new Map(claims.map((claim) => [claim.id, [claim.metric, claim.comparator, claim.threshold].join(" ")]));
  const [planned, judged] = [terms(plan.claims), terms(record.claims)];
  for (const [id, term] of planned) if (judged.get(id) !== term) found.push(`claim ${id}: planned, not judged as planned`);
  for (const id of judged.keys()) if (!planned.has(id)) found.push(`claim ${id}: not planned`);
  if (!plan.claims.length || plan.claims.some((claim) => claim.confidence !== record.results.ratio.confidence)) {
    found.push("confidence: another than planned");
  }
  if (plan.perturbations.length) {
    found.push(`perturbations: ${plan.perturbations.length} planned, this result is about the pack alone`);
  }
  return found;
}

// A declared deviation is the same sentence; that about confidence holds decimals, which languages print differently.
const covers = (said, text) => said === text || (text.startsWith("confidence: ") && said.startsWith("confidence: "));

async function checkEndorsements(files, attestation, signers, trust, result) {
  const seen = new Set();
  const lines = files.has(CHAIN) ? chainLines(files).slice(1) : [];
  for (const [index, line] of lines.entries()) {
    const subject = `${CHAIN}, line ${index + 2}`;
    const envelope = await Envelope.parse(line, subject);
    const text = decodeUtf8(line, subject).trim();
    if (seen.has(text)) {
      result.add("endorsement", subject, "the lines before", "the same endorsement is listed twice");
      continue;
    }
    seen.add(text);
    const keys = await findSigners(envelope, trust, "endorsement", result);
    if (!keys) continue;
    const said = envelope.statement("endorsement");
    const [only] = said.subject;
    const problem =
      (envelope.signatures.length !== 1 && "several signatures under one name") ||
      (said.predicate.attestationDigest !== attestation.digest && "endorses another record") ||
      ((said.subject.length !== 1 || only.name !== RECORD || only.digest.sha256 !== attestation.digest) &&
        "its subject and its content disagree");
    const { printedName, role, meaning, created } = said.predicate;
    result.add("endorsement", subject, `SHA-256 of ${RECORD}`, problem, `“${printedName}”, ${role}: ${meaning}, ${created}`);
    result.endorsements.push({ printedName, role, meaning, created, key: keys[0].id });
    if (keys.some((key) => signers.some((own) => own.id === key.id))) {
      result.remark("endorsement", subject, "the record's signer", "the record's own key made it: no second person");
    }
  }
}

async function checkClosing(files, attestation, trust, result) {
  if (!files.has(CLOSING)) {
    result.add("closing", "every file", CLOSING, "the bundle was never closed, or its closing statement was removed");
    return;
  }
  const envelope = await Envelope.parse(files.get(CLOSING), CLOSING);
  if (!(await findSigners(envelope, trust, "bundle", result))) return;
  const statement = envelope.statement("bundle");
  const listed = new Map(statement.subject.map((item) => [item.name, item.digest.sha256]));
  const present = [...files.keys()].filter((name) => name !== CLOSING && name !== CLOSING_STAMP);
  const wrong = present.filter((name) => !listed.has(name)).map((name) => `${name}: not part of the closed bundle`);
  for (const [name, digest] of listed) {
    if (!present.includes(name)) wrong.push(`${name.slice(0, 80)}: missing`);
    else if ((await sha256Hex(files.get(name))) !== digest) wrong.push(`${name}: changed`);
  }
  if (statement.predicate.files !== listed.size) wrong.push("it miscounts its files");
  if (statement.predicate.attestationDigest !== attestation.digest) wrong.push("it closes another record");
  result.add("closing", "every file of the bundle", "the closing statement", wrong.join("; "), `${listed.size} files, none missing, none added, none changed`);
  for (const name of files.keys()) {
    if (name.endsWith(".tsr")) result.remark("time-stamp", name, "a time-stamp authority", "not read by this page");
  }
  result.facts.push(["Closing statement, SHA-256 of its envelope", envelope.digest]);
}

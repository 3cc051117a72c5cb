// DSSE envelopes over in-toto statements. Nothing in a payload is parsed before a signature holds.

const PAYLOAD_TYPE = "application/vnd.in-toto+json";
const SIGSTORE_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json";
const STATEMENT_TYPE = "https://in-toto.io/Statement/v1";
const MAX_ENVELOPE = 16 * 2 ** 20;
const MAX_SIGNATURES = 16;
const MAX_SUBJECTS = 10_100;

class Envelope {
  static async parse(raw, subject) {
    if (raw.length > MAX_ENVELOPE) throw new Malformed(`${subject}: larger than ${MAX_ENVELOPE} bytes`);
    let document = parseJson(raw, subject);
    if (isObject(document) && "mediaType" in document) document = insideSigstoreBundle(document, subject);
    if (!hasExactly(document, "payloadType", "payload", "signatures")) {
      throw new Malformed(`${subject}: not a DSSE envelope (payloadType, payload, signatures)`);
    }
    const { payloadType, payload, signatures } = document;
    if (typeof payloadType !== "string" || typeof payload !== "string" || !Array.isArray(signatures)) {
      throw new Malformed(`${subject}: a DSSE member has the wrong type`);
    }
    if (signatures.length < 1 || signatures.length > MAX_SIGNATURES) {
      throw new Malformed(`${subject}: ${signatures.length} signatures; 1 to ${MAX_SIGNATURES} allowed`);
    }
    const envelope = new Envelope();
    envelope.subject = subject;
    envelope.raw = raw;
    envelope.digest = await sha256Hex(raw);
    envelope.payloadType = payloadType;
    envelope.payload = decodeBase64(payload, subject, { urlSafe: true });
    envelope.signatures = signatures.map((item) => {
      const known = hasExactly(item, "sig") || hasExactly(item, "sig", "keyid");
      if (!known || typeof item.sig !== "string" || typeof (item.keyid ?? "") !== "string" || item.keyid === null) {
        throw new Malformed(`${subject}: a malformed DSSE signature`);
      }
      return { hint: item.keyid ?? "", bytes: decodeBase64(item.sig, subject, { urlSafe: true }) };
    });
    const type = utf8(payloadType);
    const head = utf8(`DSSEv1 ${type.length} ${payloadType} ${envelope.payload.length} `);
    envelope.message = concat(head, envelope.payload);
    return envelope;
  }

  // The statement inside. Call only after a signature held.
  statement(kind) {
    const where = this.subject;
    if (this.payloadType !== PAYLOAD_TYPE) throw new Malformed(`${where}: another payload type than ${PAYLOAD_TYPE}`);
    const document = parseJson(this.payload, where);
    if (!isObject(document)) throw new Malformed(`${where}: the statement is not an object`);
    if (document._type !== STATEMENT_TYPE) throw new Malformed(`${where}: another statement type than ${STATEMENT_TYPE}`);
    if (document.predicateType !== `urn:ucaudit:predicate:${kind}:v1`) {
      throw new Malformed(`${where}: not a statement of type ${kind}, version 1`);
    }
    const statement = fit(document, SCHEMAS[kind], SCHEMAS[kind].$defs, where);
    const names = new Set(statement.subject.map((item) => item.name));
    if (names.size !== statement.subject.length) throw new Malformed(`${where}: two subjects have one name`);
    if (names.size > MAX_SUBJECTS) throw new Malformed(`${where}: more than ${MAX_SUBJECTS} subjects`);
    parseTime(statement.predicate.created, where);
    return statement;
  }
}

// The one form of Sigstore bundle that ucaudit writes: a public-key hint, one signature, no log entries.
function insideSigstoreBundle(document, subject) {
  const refuse = (reason) => {
    throw new Malformed(`${subject}: ${reason}`);
  };
  if (document.mediaType !== SIGSTORE_TYPE) refuse(`another media type than ${SIGSTORE_TYPE}`);
  if (!hasExactly(document, "mediaType", "verificationMaterial", "dsseEnvelope")) refuse("missing or unknown members");
  const { verificationMaterial: material, dsseEnvelope: envelope } = document;
  if (!hasExactly(material, "publicKey") && !hasExactly(material, "publicKey", "tlogEntries")) {
    refuse("a Sigstore bundle with other material than a public key");
  }
  const entries = material.tlogEntries ?? [];
  if (!Array.isArray(entries) || entries.length) refuse("a Sigstore bundle with log entries");
  if (!hasExactly(material.publicKey, "hint") || typeof material.publicKey.hint !== "string") refuse("no key hint");
  decodeBase64(material.publicKey.hint, subject, { urlSafe: true });
  if (!Array.isArray(envelope?.signatures) || envelope.signatures.length !== 1) refuse("not one signature");
  return envelope;
}

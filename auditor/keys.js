// Public keys: Ed25519 and ECDSA P-256, as SPKI in PEM or in bare base64.

const ED25519_PREFIX = "302a300506032b6570032100";
const P256_PREFIX = "3059301306072a8648ce3d020106082a8648ce3d03010703420004";
const ED25519_ORDER = 2n ** 252n + 27742317777372353535851937790883648493n;

class PublicKey {
  constructor(id, kind, handle) {
    this.id = id; // SHA-256 of the DER form, hex
    this.kind = kind;
    this.handle = handle;
  }

  static async fromDer(der) {
    const text = hex(der);
    const ed25519 = der.length === 44 && text.startsWith(ED25519_PREFIX);
    const p256 = der.length === 91 && text.startsWith(P256_PREFIX);
    if (!ed25519 && !p256) throw new Malformed("this is not an Ed25519 or P-256 public key");
    const algorithm = ed25519 ? { name: "Ed25519" } : { name: "ECDSA", namedCurve: "P-256" };
    let handle;
    try {
      handle = await crypto.subtle.importKey("spki", der, algorithm, false, ["verify"]);
    } catch {
      throw new Malformed("the browser does not accept this public key");
    }
    return new PublicKey(await sha256Hex(der), ed25519 ? "Ed25519" : "ECDSA P-256", handle);
  }

  static fromRawEd25519(raw) {
    return PublicKey.fromDer(concat(Uint8Array.from(ED25519_PREFIX.match(/../g), (pair) => parseInt(pair, 16)), raw));
  }

  async verify(signature, message) {
    if (this.kind === "Ed25519") {
      if (signature.length !== 64) return false;
      const scalar = BigInt(`0x${hex(signature.slice(32).reverse())}`);
      if (scalar >= ED25519_ORDER) return false; // RFC 8032, 5.1.7: s + L is another signature of the same bytes
      return crypto.subtle.verify("Ed25519", this.handle, signature, message);
    }
    const raw = rawEcdsa(signature);
    return raw !== null && crypto.subtle.verify({ name: "ECDSA", hash: "SHA-256" }, this.handle, raw, message);
  }
}

// An ECDSA signature in strict DER as the 64 bytes r ‖ s that WebCrypto wants, or null.
function rawEcdsa(der) {
  if (der[0] !== 0x30 || der[1] !== der.length - 2 || der.length > 72) return null;
  const numbers = [];
  let at = 2;
  for (let count = 0; count < 2; count += 1) {
    const length = der[at + 1];
    const body = der.subarray(at + 2, at + 2 + length);
    if (der[at] !== 0x02 || length < 1 || body.length !== length || body[0] & 0x80) return null;
    if (length > 1 && body[0] === 0 && !(body[1] & 0x80)) return null;
    const digits = body[0] === 0 ? body.subarray(1) : body;
    if (digits.length > 32) return null;
    numbers.push(new Uint8Array(32 - digits.length), digits);
    at += 2 + length;
  }
  return at === der.length ? concat(...numbers) : null;
}

// Every key in a text: PEM blocks, or one base64 a line as a trust file has it.
async function parseKeys(text) {
  if (/PRIVATE KEY/.test(text)) {
    throw new Malformed("this is a private key. Remove it: an auditor needs the public key (.pub) only");
  }
  const block = /-----BEGIN PUBLIC KEY-----([A-Za-z0-9+/=\s]+)-----END PUBLIC KEY-----/g;
  const bodies = Array.from(text.matchAll(block), (found) => found[1].replace(/\s+/g, ""));
  const rest = text.replace(block, "").trim();
  if (rest) bodies.push(...rest.split(/\s+/));
  const keys = [];
  for (const body of bodies) {
    const key = await PublicKey.fromDer(decodeBase64(body, "key"));
    if (!keys.some((other) => other.id === key.id)) keys.push(key);
  }
  return keys;
}

// What the browser can do, shown on a vector of RFC 8032 (7.1, test 2) and on a spoiled copy. Returns a reason, or null.
async function missingCryptography() {
  if (!globalThis.isSecureContext || !globalThis.crypto?.subtle) {
    return "This browser offers no cryptography to this page. Save the page and open it from your own disk, or over https.";
  }
  const bytes = (text) => Uint8Array.from(text.match(/../g), (pair) => parseInt(pair, 16));
  const raw = bytes("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c");
  const signature = bytes(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da" +
      "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00",
  );
  try {
    const key = await PublicKey.fromRawEd25519(raw);
    if ((await key.verify(signature, bytes("72"))) && !(await key.verify(signature, bytes("73")))) return null;
  } catch {
    // said below
  }
  return (
    "This browser cannot check Ed25519 signatures, so this page cannot check anything. Chrome and Edge can from " +
    "version 137, Firefox from 129, Safari from 17. Or use ucaudit verify, or openssl."
  );
}

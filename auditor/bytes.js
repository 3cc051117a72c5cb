// Bytes, text, base64 and digests.

class Malformed extends Error {}

const utf8 = (text) => new TextEncoder().encode(text);

function decodeUtf8(bytes, subject) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    throw new Malformed(`${subject}: not UTF-8`);
  }
}

const hex = (bytes) => Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
const sameBytes = (a, b) => a.length === b.length && a.every((byte, index) => byte === b[index]);

function concat(...parts) {
  const whole = new Uint8Array(parts.reduce((total, part) => total + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}

async function sha256(bytes) {
  return new Uint8Array(await crypto.subtle.digest("SHA-256", bytes));
}

async function sha256Hex(bytes) {
  return hex(await sha256(bytes));
}

// Padded base64 in its one canonical spelling: a 64-byte signature has sixteen spellings that lax decoders accept.
function decodeBase64(text, subject, { urlSafe = false } = {}) {
  let plain = text;
  if (urlSafe && /[-_]/.test(text)) {
    if (/[+/]/.test(text)) throw new Malformed(`${subject}: base64 of two alphabets`);
    plain = text.replaceAll("-", "+").replaceAll("_", "/");
  }
  let binary;
  try {
    binary = atob(plain);
  } catch {
    throw new Malformed(`${subject}: not base64`);
  }
  if (btoa(binary) !== plain) throw new Malformed(`${subject}: base64 in a spelling that is not canonical`);
  return Uint8Array.from(binary, (character) => character.charCodeAt(0));
}

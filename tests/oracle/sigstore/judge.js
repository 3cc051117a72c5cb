// Reads [{ bundle, pem, hint?, options? }] as JSON on stdin; writes for each "accepted" or the reason why not.
// A bundle that only names a key has no time stamp, no log entry and no certificate, so all thresholds are zero, and
// the key comes from the caller. `hint` is the name under which the caller knows the key; absent, it takes any name.

const { bundleFromJSON } = require("@sigstore/bundle");
const { Verifier, toSignedEntity, toTrustMaterial } = require("@sigstore/verify");
const crypto = require("node:crypto");
const fs = require("node:fs");

const NO_AUTHORITIES = { certificateAuthorities: [], timestampAuthorities: [], tlogs: [], ctlogs: [] };
const NO_THRESHOLDS = { ctlogThreshold: 0, tlogThreshold: 0, timestampThreshold: 0 };

function judge({ bundle, pem, hint, options }) {
  const publicKey = crypto.createPublicKey(pem);
  const rawBytes = publicKey.export({ format: "der", type: "spki" });
  const keys = hint ? { [hint]: { rawBytes } } : () => ({ publicKey, validFor: () => true });
  try {
    const entity = toSignedEntity(bundleFromJSON(JSON.parse(bundle)));
    new Verifier(toTrustMaterial(NO_AUTHORITIES, keys), options ?? NO_THRESHOLDS).verify(entity);
    return "accepted";
  } catch (error) {
    return `${error.code ?? error.name}: ${error.message}`;
  }
}

process.stdout.write(JSON.stringify(JSON.parse(fs.readFileSync(0, "utf-8")).map(judge)));

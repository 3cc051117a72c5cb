"""README.txt of a bundle: what its files are, and how to check them with openssl and jq alone."""

from __future__ import annotations

from typing import Final

_FRONT: Final = """\
An evidence bundle made by ucaudit. Nothing in this directory is a program, and nothing in it should be
trusted to verify itself. Get the signer's public key (key.pub) from its owner over another channel.

"""

_SIGNATURE: Final = """\
With openssl and jq alone (bash):
    T=$(jq -j .payloadType attestation.dsse.json)
    jq -j .payload attestation.dsse.json | base64 -d > /tmp/payload
    jq -j '.signatures[0].sig' attestation.dsse.json | base64 -d > /tmp/signature
    { printf 'DSSEv1 %d %s %d ' ${#T} "$T" $(wc -c < /tmp/payload); cat /tmp/payload; } > /tmp/pae
    openssl pkeyutl -verify -pubin -inkey key.pub -rawin -in /tmp/pae -sigfile /tmp/signature
    jq . /tmp/payload

"""

_PACK: Final = """\
With ucaudit:
    ucaudit verify . --trust trust.toml --pack PACK

"""

_PACK_FILES: Final = """\
The pack's files (run inside the pack's directory):
    sha256sum -c BUNDLE/pack.SHA256SUMS
    sha256sum BUNDLE/pack.SHA256SUMS        # equals predicate.pack.packDigest in the payload

The reconstructed tensors: each line of STATE is the SHA-256 of a tensor's raw little-endian bytes, its dtype,
its shape and its name; the SHA-256 of STATE itself equals predicate.reconstruction.stateDigest.

attestation.dsse.json        the signed record (in-toto statement in a DSSE envelope)
attestation.sigstore.json    the same envelope as a Sigstore bundle
attestations.intoto.jsonl    the record and every countersignature, one envelope a line
pack.SHA256SUMS, STATE       the digests of the pack's files and of the reconstructed tensors
reference.SHA256SUMS         the digests of the reference model's files
nll-*.safetensors, pair.*    per-token log-probabilities, KL divergence and top-1 agreement; no text
plan.dsse.json               the plan that was committed to the ledger before the measurement
seed.dsse.json               the outside party's part in the seed, if the plan left it to one
ledger-proof, ledger-entry   the inclusion proof in the evidence ledger, and the entry it proves
timestamp*.tsr, bundle.tsr   RFC 3161 time stamps over the record, its endorsements, and the list of files
report-*.pdf                 renderings for people; the signed record governs
bundle.dsse.json             the signed list of all the files above
"""

_FLOOR: Final = """\
With ucaudit:
    ucaudit verify . --trust trust.toml
    ucaudit bound .

"""

_FLOOR_FILES: Final = """\
A floor protocol: a baseline and declared changes of the encoder, each encoded with several seeds and measured on
the same windows. docs/floors.md of ucaudit explains every figure. The packs are not here: encoding again with the
settings and seed in the record gives their digests on the same kind of processor and version of torch.

attestation.dsse.json        the signed record (in-toto statement in a DSSE envelope)
attestation.sigstore.json    the same envelope as a Sigstore bundle
attestations.intoto.jsonl    the record and every countersignature, one envelope a line
protocol.toml                what was declared
plan.dsse.json               the plan that was committed to the ledger before anything was encoded
reference.SHA256SUMS, STATE  the digests of the reference model's files, and of its tensors
nll-reference.safetensors    log-probabilities of the reference, per token; no text
run-NAME-SEED.safetensors    of one encoding: log-probabilities, KL divergence, top-1 agreement; per token
fresh-*.safetensors          the same on fresh windows, if an attempt won and had to be confirmed
ledger-proof, ledger-entry   the inclusion proof in the evidence ledger, and the entry it proves
timestamp*.tsr, bundle.tsr   RFC 3161 time stamps over the record, its endorsements, and the list of files
report-*                     renderings for people; the signed record governs
bundle.dsse.json             the signed list of all the files above
"""


def readme(*, floor: bool) -> str:
    """The text, for a floor's bundle or for a pack's."""
    parts = (_FRONT, _FLOOR, _SIGNATURE, _FLOOR_FILES) if floor else (_FRONT, _PACK, _SIGNATURE, _PACK_FILES)
    return "".join(parts)

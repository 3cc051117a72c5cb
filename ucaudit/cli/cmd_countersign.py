"""``ucaudit countersign``: a signed endorsement of somebody's record."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ucaudit.cli.common import Output, key_options, key_password, output_options, printable
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS

if TYPE_CHECKING:
    from ucaudit.evidence.endorsements import Meaning


@click.command()
@click.argument("bundle", type=PATH)
@key_options
@click.option("--name", "printed_name", required=True, help="Your name, as it shall be printed.")
@click.option("--role", required=True, help="Role in which you sign, as the trust file spells it: validator, …")
@click.option(
    "--meaning",
    type=click.Choice(["review", "approval", "authorship", "responsibility"]),
    required=True,
    help="What your signature stands for.",
)
@click.option("--trust", "trust_file", type=PATH, help="First verify against this trust file.")
@output_options
def countersign(
    bundle: Path,
    key: str,
    password_file: Path | None,
    printed_name: str,
    role: str,
    meaning: Meaning,
    trust_file: Path | None,
    out: Output,
) -> int:
    """Endorse the record of BUNDLE, and close the bundle again.

    Your statement covers the digest of the signed record: its bytes and its
    signature. The bundle's files are compared with the record and its figures
    derived again first; with --trust its signatures are checked as well.
    Prints the endorsement's digest.
    """
    from ucaudit.evidence.amend import countersign as endorse
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.trust import load_trust

    trust = load_trust(trust_file) if trust_file is not None else None
    signer = load_signer(key, password=key_password(key, password_file))
    made = endorse(bundle, signer, printed_name=printed_name, role=role, meaning=meaning, trust=trust)
    if trust is None:
        out.warn("nobody's signature was checked: --trust TRUST.toml does that before you sign")
    if made.objection is not None:
        out.warn(printable(f"a reader with {trust_file} will not accept this bundle: {made.objection}"))
        out.warn(printable(_remedy(made.objection, str(trust_file), key, role)))
    if made.own_record:
        out.warn("this key made the record as well: a policy with distinct_signers will not count it")
    if made.determination != "pass":
        out.warn(f"the record that you signed says {made.determination.upper()}")
    reports = sorted(path.name for path in bundle.glob("report-*"))
    if reports:
        out.status(f"rendered before this endorsement, and silent about it: {', '.join(reports)}")
    document = {
        "endorsementDigest": made.envelope.digest,
        "bundle": str(bundle),
        "determination": made.determination,
        "printedName": " ".join(printed_name.split()),
        "role": role,
        "meaning": meaning,
        "keyId": signer.public_key.key_id,
        "signaturesChecked": trust is not None,
        "objection": made.objection,
    }
    out.result(document, made.envelope.digest)
    return EXIT_PASS


def _remedy(objection: str, trust_file: str, key: str, role: str) -> str:
    """What makes a trust file accept the endorsement."""
    import shlex

    from ucaudit.evidence.amend import UNLISTED

    if objection != UNLISTED:
        return f"correct the key's entry in {trust_file}, if it is yours to decide; ucaudit trust list shows it"
    public = key.removesuffix(".pem") + ".pub" if key.endswith(".pem") else "KEY.pub"
    words = ("ucaudit", "trust", "add", "--file", trust_file, "--key", public, "--principal", "WHO", "--role", role)
    return f"whoever trusts the key runs: {shlex.join(words)}"

"""``ucaudit timestamp``: RFC 3161 time stamps, without touching the network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from ucaudit.cli.common import Output, key_password, optional_key_options, output_options
from ucaudit.cli.paths import PATH
from ucaudit.core.errors import EXIT_PASS, NotFoundError

if TYPE_CHECKING:
    from ucaudit.evidence.bundle import OpenBundle
    from ucaudit.evidence.signing import Envelope


@click.command()
@click.argument("bundle", type=PATH)
@click.option("--request", type=PATH, help="Write a query for the authority here (.tsq).")
@click.option("--attach", type=PATH, help="Verify the authority's answer (.tsr) and add it.")
@click.option(
    "--of",
    "about",
    default="record",
    show_default=True,
    help="For --request: record, plan, bundle (the list of all files), or an endorsement's digest.",
)
@click.option("--trust", "trust_file", type=PATH, help="For --attach: names the authority.")
@optional_key_options
@output_options
def timestamp(
    bundle: Path,
    request: Path | None,
    attach: Path | None,
    about: str,
    trust_file: Path | None,
    key: str | None,
    password_file: Path | None,
    out: Output,
) -> int:
    """Ask for a time stamp over the evidence in BUNDLE, or attach one.

    Nothing is sent: carry the query to the authority yourself, for instance
    with `curl -H 'Content-Type: application/timestamp-query' --data-binary
    @OUT.tsq URL`. --attach checks the answer against the authority that the
    trust file pins, and closes the bundle again under --key. A stamp over
    the bundle's list of files needs no key.
    """
    if (request is None) == (attach is None):
        raise click.UsageError("give either --request or --attach")
    if request is not None:
        return _request(bundle, request, about, out)
    assert attach is not None
    if trust_file is None:
        raise click.UsageError("--attach needs --trust: only a pinned authority's answer is attached")
    from ucaudit.core.files import read_limited
    from ucaudit.evidence.amend import attach_stamp
    from ucaudit.evidence.keys import load_signer
    from ucaudit.evidence.timestamp import MAX_TOKEN_BYTES, require_available
    from ucaudit.evidence.trust import load_trust

    require_available()
    trust = load_trust(trust_file)
    response = read_limited(attach, MAX_TOKEN_BYTES)
    signer = load_signer(key, password=key_password(key, password_file)) if key is not None else None
    done = attach_stamp(bundle, response, trust, signer, subject=str(attach))
    document = {
        "bundle": str(bundle),
        "file": done.name,
        "over": done.over,
        "digest": done.time.digest,
        "seenBy": done.time.moment.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "source": done.time.source,
    }
    out.result(document, f"{bundle / done.name}: {done.over} {done.time}")
    return EXIT_PASS


def _request(bundle: Path, target: Path, about: str, out: Output) -> int:
    from ucaudit.core.files import write_bytes
    from ucaudit.evidence.bundle import open_bundle
    from ucaudit.evidence.timestamp import make_request

    envelope = _chosen(open_bundle(bundle), about)
    write_bytes(target, make_request(envelope.raw))
    out.status(f"a query over {envelope.subject}, sha-256 {envelope.digest}")
    document = {"path": str(target), "over": envelope.subject, "digest": envelope.digest}
    out.result(document, str(target))
    return EXIT_PASS


def _chosen(bundle: OpenBundle, about: str) -> Envelope:
    from ucaudit.evidence.bundle import PLAN

    if about == "record":
        return bundle.attestation
    if about in ("plan", "bundle"):
        found = bundle.envelope(PLAN) if about == "plan" else bundle.closing
        if found is None:
            raise NotFoundError(f"holds no {about} statement", subject=str(bundle.path))
        return found
    matches = [item for item in bundle.chain()[1:] if len(about) >= 8 and item.digest.startswith(about.lower())]
    if len(matches) != 1:
        raise click.BadParameter(
            f"{about!r} is neither record, plan, bundle nor the digest of an endorsement in the bundle",
            param_hint="--of",
        )
    return matches[0]

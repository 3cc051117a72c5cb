"""A record as OSCAL assessment results (NIST OSCAL 1.2, JSON): observations, risks, and a finding a control.

OSCAL's findings have two states. Here *satisfied* means that the record's determination is PASS, and nothing about
the control itself: each finding's target is an objective of ours, defined in the same document, that says so. A row
that the evidence does not cover is *not-satisfied* for the reason *other*. Layout: the assessment-results model at
https://pages.nist.gov/OSCAL-Reference/models/v1.2.1/assessment-results/json-outline/.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from ucaudit import __version__
from ucaudit.core.records import Claim
from ucaudit.evidence.bundle import ATTESTATION, PACK_MANIFEST, PLAN, REFERENCE_MANIFEST, STATE, cited
from ucaudit.evidence.examine import Examined
from ucaudit.interop.common import (
    ENVELOPE_MEDIA_TYPE,
    GOVERNS,
    determination_words,
    document_identifier,
    excused,
    identifier,
    json_bytes,
    key_words,
    one_line,
    relative_reference,
    require_distinct_claims,
    sample_words,
    without_empty,
)
from ucaudit.interop.mapping import Control, ControlMapping
from ucaudit.interop.oscal_parts import (
    NAMESPACE,
    Json,
    claim_props,
    component,
    control_tokens,
    escaped,
    figure_props,
    identity_props,
    properties,
    property_,
    sentence,
    signature_props,
    signature_words,
)

OSCAL_VERSION: Final = "1.2.1"
_CLAIMS: Final = frozenset({"determination", "results", "charts", "exceptions", "change"})
_IDENTITY: Final = frozenset({"identification", "digests", "verification", "record"})
_OBJECTIVE: Final = (
    "The record's claims held in this measurement (determination PASS). The state of this objective is not the "
    "state of the control."
)
_STATES: Final[dict[str, tuple[str, str]]] = {
    "pass": ("satisfied", "pass"),
    "pass-with-exceptions": ("not-satisfied", "other"),
    "fail": ("not-satisfied", "fail"),
    "inconclusive": ("not-satisfied", "other"),
}


def oscal_json(found: Examined, profile: ControlMapping) -> bytes:
    """Assessment results for one record under one profile.

    Args:
        found: a bundle that was examined.
        profile: the control mapping; its words go into the document as they are.

    Returns:
        UTF-8 JSON, the same bytes for the same arguments. The only time in it is the record's.

    Raises:
        MalformedRecordError: two claims of the record have one id.
    """
    require_distinct_claims(found.record)
    return json_bytes(_Document(found, profile).build())


class _Document:
    """One document under construction: who refers to whom is by UUID."""

    def __init__(self, found: Examined, profile: ControlMapping) -> None:
        self.found = found
        self.record = found.record
        self.profile = profile
        self.tokens = control_tokens(profile.controls)
        self.excused = excused(found.record)

    def build(self) -> Json:
        """The whole document."""
        content: Json = {
            "metadata": self.metadata(),
            "import-ap": self.plan(),
            "local-definitions": {"objectives-and-methods": [*self.objectives()]},
            "results": [self.result()],
            "back-matter": {"resources": [*self.resources()]},
        }
        content = escaped(content)
        uuid = document_identifier(self.found.envelope_digest, "oscal", content)
        return {"assessment-results": {"uuid": uuid, **content}}

    def uuid(self, *parts: str) -> str:
        """The identifier of something in this document."""
        return identifier(self.found.envelope_digest, "oscal", *parts)

    def metadata(self) -> Json:
        """Title, time, versions, the institution if the record names one."""
        institution = self.record.context.institution
        party = {
            "uuid": self.uuid("institution"),
            "type": "organization",
            "name": one_line(institution or ""),
            "remarks": "As the record names it; not checked.",
        }
        return without_empty(
            {
                "title": one_line(f"{self.profile.title}: {self.record.pack.name}"),
                "last-modified": self.record.created,
                "version": one_line(f"{self.profile.slug} {self.profile.version}"),
                "oscal-version": OSCAL_VERSION,
                "document-ids": [
                    {"scheme": "urn:ucaudit:envelope:sha256", "identifier": self.found.envelope_digest}
                ],
                "props": properties(
                    ("fingerprint", self.found.envelope_digest),
                    ("framework", self.profile.framework),
                    ("written-by", f"ucaudit {__version__}"),
                    ("signer-key", "checked" if self.found.principal is not None else "not checked"),
                ),
                "parties": [party] if institution and institution.strip() else [],
                "remarks": GOVERNS,
            }
        )

    def plan(self) -> Json:
        """OSCAL wants a plan; the nearest thing is the plan in the ledger, or else the policy."""
        if self.record.plan is None:
            words = (
                "Not an OSCAL assessment plan: the policy that fixed the limits. The measurement was not "
                "pre-registered."
            )
            return {"href": f"#{self.uuid('resource', 'policy')}", "remarks": words}
        deviations = "; ".join(self.record.plan.deviations) or "none declared"
        words = f"Not an OSCAL assessment plan: the signed pre-registration. Deviations from it: {deviations}."
        return {"href": f"#{self.uuid('resource', PLAN)}", "remarks": words}

    def objectives(self) -> Iterable[Json]:
        """What a finding's state is about: the record's claims, never the control."""
        for token, row in zip(self.tokens, self.profile.controls, strict=True):
            covered = row.strength != "not covered"
            prose = _OBJECTIVE if covered else f"{_OBJECTIVE} The evidence does not speak to this control."
            yield {
                "control-id": token,
                "description": one_line(row.about),
                "props": self.row_props(row),
                "parts": [{"id": f"{token}_evidence", "name": "assessment-objective", "prose": prose}],
            }

    def row_props(self, row: Control) -> list[Json]:
        """The identifiers as printed, and the strength."""
        labels = [
            property_("label", label, remarks=one_line(column))
            for column, label in zip(self.profile.mapping_columns, row.ids, strict=True)
        ]
        return [*labels, property_("evidence-strength", row.strength)]

    def result(self) -> Json:
        """The one set of results."""
        record = self.record
        title = f"{determination_words(record)}: {record.pack.name} against {record.reference.name}"
        return without_empty(
            {
                "uuid": self.uuid("result", self.profile.slug),
                "title": one_line(f"{title} ({key_words(self.found)})"),
                "description": f"{len(record.claims)} claims about a compressed model, measured on "
                f"{one_line(sample_words(record))}. Start and end are the time at which the record was made.",
                "start": record.created,
                "end": record.created,
                "props": properties(
                    ("determination", record.determination),
                    ("fingerprint", self.found.envelope_digest),
                    ("signer-key-id", self.found.key_id or "not named"),
                    ("signer", self.found.principal or "not checked"),
                ),
                "local-definitions": self.components(),
                "reviewed-controls": self.reviewed(),
                "attestations": [{"parts": [*self.statements()]}],
                "observations": [*self.observations()],
                "risks": [self.risk(claim) for claim in record.claims if claim.verdict != "pass"],
                "findings": [*self.findings()],
            }
        )

    def components(self) -> Json:
        """The pack, its reference, and the tool that measured."""
        record = self.record
        tool = component(
            self.uuid("component", "tool"), "software", f"{record.tool.name} {record.tool.version}",
            "The program that measured and signed.", (),
        )  # fmt: skip
        platform = {
            "uuid": self.uuid("platform"),
            "title": one_line(f"{record.environment.system}, {record.environment.machine}"),
            "uses-components": [{"component-uuid": self.uuid("component", "tool")}],
        }
        pack = component(
            self.uuid("component", "pack"), "machine-learning-model", record.pack.name,
            "The compressed model that was examined.",
            (
                ("pack-digest-sha256", record.pack.pack_digest),
                ("state-digest-sha256", record.reconstruction.state_digest),
                ("codec", f"{record.pack.codec} {record.pack.codec_version}"),
                ("arithmetic-profile", record.pack.arithmetic_profile),
            ),
        )  # fmt: skip
        reference = component(
            self.uuid("component", "reference"), "machine-learning-model", record.reference.name,
            "The uncompressed model that it is compared with.",
            (
                ("files-digest-sha256", record.reference.files_digest),
                ("state-digest-sha256", record.reference.state_digest),
                ("source", record.reference.source or "not stated"),
                ("revision", record.reference.revision or "not stated"),
            ),
        )  # fmt: skip
        assets = {"components": [tool], "assessment-platforms": [platform]}
        return {"components": [pack, reference], "assessment-assets": assets}

    def reviewed(self) -> Json:
        """The controls that the evidence speaks to; those that it does not are excluded by name."""
        rows = list(zip(self.tokens, self.profile.controls, strict=True))
        chosen = [{"control-id": token} for token, row in rows if row.strength != "not covered"]
        left = [{"control-id": token} for token, row in rows if row.strength == "not covered"]
        # OSCAL has no empty list: of a profile without a covered row, all but all of its rows were reviewed.
        selection: Json = {"include-controls": chosen} if chosen else {"include-all": {}}
        selection["exclude-controls"] = left
        return {
            "description": f"Evidence that may support controls of: {self.profile.framework}. A control was not "
            "itself assessed; the institution's own documents and operation decide.",
            "control-selections": [selection],
        }

    def statements(self) -> Iterable[Json]:
        """Scope and limitations."""
        for text in self.profile.scope:
            yield {"name": "scope", "ns": NAMESPACE, "prose": text}
        for item in self.record.limitations:
            yield {"name": "limitation", "ns": NAMESPACE, "title": item.id, "prose": item.text}

    def observations(self) -> Iterable[Json]:
        """One a claim, then all figures, the digests, and the signature."""
        values = [item.name for item in self.record.measurement.value_files]
        for claim in self.record.claims:
            files = values if claim.level == "re-derivable" else [PACK_MANIFEST, STATE]
            yield self.observation(
                f"claim/{claim.id}", f"Claim {claim.id}: {claim.verdict}", f"{claim.text} {sentence(claim.reason)}",
                "TEST", [*claim_props(claim, self.record)], files,
            )  # fmt: skip
        yield self.observation(
            "figures", "Measured figures", f"All figures, measured on {sample_words(self.record)}.",
            "TEST", [*figure_props(self.record)], values,
        )  # fmt: skip
        yield self.observation(
            "identification", "Identification by digest",
            "Every file of the pack and every tensor that it reconstructs to has a SHA-256; these are the digests "
            "of the two lists, of the reference and of the text.",
            "EXAMINE", identity_props(self.record), [PACK_MANIFEST, STATE, REFERENCE_MANIFEST],
        )  # fmt: skip
        yield self.observation(
            "signature", "Signature, endorsements and ledger", signature_words(self.found),
            "EXAMINE", [*signature_props(self.found)], [],
        )  # fmt: skip

    def observation(
        self, name: str, title: str, description: str, method: str, props: list[Json], files: Sequence[str]
    ) -> Json:
        """One observation, with the files of the bundle that it rests on."""
        evidence = [
            {"href": f"#{self.uuid('resource', file)}", "description": f"{file} of the evidence bundle"}
            for file in (ATTESTATION, *files)
        ]
        return {
            "uuid": self.uuid("observation", name),
            "title": one_line(title),
            "description": description,
            "props": props,
            "methods": [method],
            "origins": [{"actors": [{"type": "tool", "actor-uuid": self.uuid("component", "tool")}]}],
            "subjects": [{"subject-uuid": self.uuid("component", "pack"), "type": "component"}],
            "relevant-evidence": evidence,
            "collected": self.record.created,
        }

    def risk(self, claim: Claim) -> Json:
        """A claim that failed, or that the measurement could not decide."""
        kind = "claim-failed" if claim.verdict == "fail" else "claim-inconclusive"
        outcome = "did not hold" if claim.verdict == "fail" else "could not be decided"
        exceptions = [item for item in self.record.exceptions if item.claim == claim.id]
        used = (item for item in exceptions if item.expires == self.excused.get(claim.id))
        exception = next(used, exceptions[0] if exceptions else None)
        props = properties(("verdict", claim.verdict), ("severity", self.profile.severity.get(kind, "not set")))
        if exception is not None:
            state = "in force" if claim.id in self.excused else "expired"
            props += [
                property_("exception", f"{state} when signed", remarks=exception.rationale),
                *properties(("exception-owner", exception.owner), ("exception-expires", exception.expires)),
            ]
        return without_empty(
            {
                "uuid": self.uuid("risk", claim.id),
                "title": f"Claim {claim.id} {outcome}",
                "description": sentence(claim.reason),
                "statement": f"The record claims: {claim.text} In this measurement that {outcome}.",
                "props": props,
                # Open even under an exception: that somebody answers for it is not an approval.
                "status": "open",
                "deadline": self.excused.get(claim.id),
                "related-observations": [{"observation-uuid": self.uuid("observation", f"claim/{claim.id}")}],
            }
        )

    def findings(self) -> Iterable[Json]:
        """One a row of the mapping, covered or not."""
        risks = [
            {"risk-uuid": self.uuid("risk", claim.id)} for claim in self.record.claims if claim.verdict != "pass"
        ]
        for token, row in zip(self.tokens, self.profile.controls, strict=True):
            covered = row.strength != "not covered"
            state, reason = _STATES[self.record.determination] if covered else ("not-satisfied", "other")
            label = "; ".join(row.ids)
            words = (
                f"Determination {determination_words(self.record)}." if covered else "Not assessed: not covered."
            )
            remains = f" Remains with the institution: {row.remains}" if row.remains else ""
            status = {"state": state, "reason": reason, "remarks": f"{words} {_OBJECTIVE}"}
            target = {
                "type": "objective-id",
                "target-id": f"{token}_evidence",
                "title": one_line(f"Evidence that may support {label}" if covered else f"{label}: not covered"),
                "status": status,
            }
            seen = [{"observation-uuid": uuid} for uuid in self.related(row)] if covered else []
            yield without_empty(
                {
                    "uuid": self.uuid("finding", self.profile.slug, token),
                    "title": one_line(f"{label}: {row.about}"),
                    "description": f"Evidence ({row.strength}): {row.evidence}{remains}",
                    "props": self.row_props(row),
                    "target": target,
                    "related-observations": seen,
                    "related-risks": risks if covered else [],
                }
            )

    def related(self, row: Control) -> list[str]:
        """The observations behind a row, by the sections of the report that it points to."""
        names = ["figures"] if _CLAIMS.intersection(row.sections) else []
        names += ["identification"] if _IDENTITY.intersection(row.sections) else []
        names += ["signature"] if "signoff" in row.sections else []
        claims = [f"claim/{claim.id}" for claim in self.record.claims]
        return [self.uuid("observation", name) for name in (*claims, *names)]

    def resources(self) -> Iterable[Json]:
        """The files of the bundle that are cited, by digest; and the policy, which the bundle does not hold."""
        files = {ATTESTATION: self.found.envelope_digest} | cited(self.record)
        for name, digest in files.items():
            link: Json = {
                "href": relative_reference(name),
                "hashes": [{"algorithm": "SHA-256", "value": digest}],
            }
            if name in (ATTESTATION, PLAN):
                link["media-type"] = ENVELOPE_MEDIA_TYPE
            words = "The signed record" if name == ATTESTATION else "A file that the record binds by digest"
            yield {
                "uuid": self.uuid("resource", name),
                "title": one_line(name),
                "description": f"{words}; in the evidence bundle.",
                "rlinks": [link],
            }
        yield {
            "uuid": self.uuid("resource", "policy"),
            "title": one_line(self.record.policy.name),
            "description": "The policy that fixed claims and limits. The bundle does not hold it.",
            "props": properties(("sha256", self.record.policy.sha256)),
        }

"""Trust files and policies: what they mean, and typos that would switch a check off."""

import re
from datetime import UTC, datetime

import pytest
from people import vkey_of

from ucaudit.core.errors import InputError, MalformedPolicyError, RefusedError
from ucaudit.evidence.explained import explain
from ucaudit.evidence.keys import generate
from ucaudit.evidence.policy import CLAIM_IDS, load_policy, profiles, template
from ucaudit.evidence.trust import add_key, add_ledger, load_trust
from ucaudit.evidence.weak_policy import warnings

AT = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.fixture
def key(tmp_path):
    return generate(tmp_path / "keys", "k", password=None)[2]


def test_round_trip_with_awkward_names(tmp_path, key):
    path = tmp_path / "trust.toml"
    add_key(path, key, 'Zoë "the key" \\ O\'Hara\t', roles=["developer"], valid_until="2027-01-01T00:00:00Z")
    add_ledger(path, "example.com/log", vkey_of("example.com/log"))
    add_ledger(path, "example.com/log", vkey_of("example.com/log"))
    trust = load_trust(path)
    assert trust.keys[0].principal == 'Zoë "the key" \\ O\'Hara\t'
    assert trust.keys[0].key.key_id == key.key_id
    assert len(trust.ledgers) == 1
    with pytest.raises(RefusedError, match="listed already"):
        add_key(path, key, "again", roles=[])
    with pytest.raises(RefusedError, match="another key"):
        add_ledger(path, "example.com/log", vkey_of("example.com/log", fill=8))


def test_comments_survive(tmp_path, key):
    path = tmp_path / "trust.toml"
    path.write_text("# do not lose me\n")
    add_key(path, key, "x", roles=[])
    assert "# do not lose me" in path.read_text()


def test_objections(tmp_path, key):
    def entry(**more):
        path = tmp_path / "t.toml"
        lines = [
            f'principal = "p"\npublic-key = "{key.base64}"',
            *(f"{k.replace('_', '-')} = {v}" for k, v in more.items()),
        ]
        path.write_text("[[key]]\n" + "\n".join(lines))
        return load_trust(path).keys[0]

    assert entry().objection("attestation", AT) is None
    assert "expired" in entry(valid_until='"2026-05-01T00:00:00Z"').objection("attestation", AT)
    assert "not valid before" in entry(valid_from='"2026-07-01T00:00:00Z"').objection("attestation", AT)
    assert "not trusted for" in entry(predicate_types='["plan"]').objection("attestation", AT)
    revoked = entry(revoked_at='"2026-12-01T00:00:00Z"', revoked_reason='"stolen"')
    # A claimed time before the revocation does not help: whoever stole the key can back-date.
    assert "no trusted time" in revoked.objection("attestation", AT)
    assert "first seen" in revoked.objection("attestation", AT, datetime(2026, 12, 1, tzinfo=UTC))
    assert revoked.objection("attestation", AT, datetime(2026, 11, 30, tzinfo=UTC)) is None
    # Expiry is judged at the trusted time where there is one, else at the claimed time.
    until = entry(valid_until='"2026-07-01T00:00:00Z"')
    assert until.objection("attestation", AT) is None
    assert "expired" in until.objection("attestation", AT, datetime(2026, 7, 2, tzinfo=UTC))
    early = entry(valid_from='"2026-06-15T00:00:00Z"')
    assert "not valid before" in early.objection("attestation", AT, datetime(2026, 6, 20, tzinfo=UTC))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("x = [", "not toml"),
        ("keys = 1", "unknown setting keys"),
        ("key = 1", r"write \[\[key\]\] tables"),
        ('[[key]]\nprincipal = "x"', "public-key"),
        ('[[key]]\nprincipal = "x"\npublic-key = "%%"', "base64"),
        ('[[key]]\nprincipal = "x"\npublic-key = "AAAA"', "SPKI"),
        ('[[key]]\nprinciple = "x"', "unknown setting"),
        ('[[ledger]]\norigin = "x"', "origin and vkey"),
    ],
)
def test_malformed_trust_files(tmp_path, text, reason):
    path = tmp_path / "trust.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=reason):
        load_trust(path)


@pytest.mark.parametrize("profile", profiles())
def test_templates_are_policies(tmp_path, profile):
    path = tmp_path / "policy.toml"
    path.write_text(template(profile))
    policy = load_policy(path).policy
    assert policy.claims.ppl_ratio_max == 1.0125
    assert any("1.0125" in sentence for sentence in explain(policy))
    assert any("state_digest" in warning for warning in warnings(policy))


def write(tmp_path, text):
    path = tmp_path / "policy.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ("[claim]\nppl_ratio_max = 1.1", "unknown setting claim", "did you mean claims"),
        ("[claims]\nppl_ratio_mx = 1.1", "ppl_ratio_mx", "did you mean ppl_ratio_max"),
        ("[claims]\nppl_ratio_max = 1.1\n[gate]\nrequire_leger = true", "require_leger", "require_ledger"),
        ("[claims]\nppl_ratio_max = -1", "claims.ppl_ratio_max", None),
        ("[claims]\nppl_ratio_max = nan", "claims.ppl_ratio_max", None),
        ("[claims]\nppl_ratio_max = 1.1\nconfidence = 1.0", "confidence", None),
        ("[claims]\nppl_ratio_max = 1.1\n[measurement]\nn = 0", "measurement.n", None),
        ('[claims]\nppl_ratio_max = 1.1\n[reference]\nstate_digest = "abc"', "state_digest", None),
        ("[measurement]\nn = 30", "claims", None),
        ("claims = 3", "table", None),
        ('[claims]\nppl_ratio_max = 1.1\n[measurement]\nrows = "1-2"', "measurement.rows", None),
        ("[claims]\nppl_ratio_max = 1.1\n[measurement]\nrows = 7", "measurement.rows", None),
        ('[claims]\nppl_ratio_max = "1.1"', "claims.ppl_ratio_max", None),
        ('[claims]\nppl_ratio_max = 1.1\n[gate]\nrequire_ledger = "false"', "gate.require_ledger", None),
        ("[claims]\nppl_ratio_max = 1.1\n[measurement]\nn = true", "measurement.n", None),
        ("[claims]\nppl_ratio_max = 1.1\n[measurement]\nn = 50.0", "measurement.n", None),
        ("[claims]\nppl_ratio_max = 1.1\n[gate]\nmax_age_days = 99999999999", "gate.max_age_days", None),
    ],
)
def test_malformed_policies(tmp_path, text, reason, hint):
    with pytest.raises(MalformedPolicyError, match=reason) as caught:
        load_policy(write(tmp_path, text))
    if hint:
        assert hint in caught.value.hint


def test_exceptions_need_a_real_date(tmp_path):
    text = (
        "[claims]\nppl_ratio_max = 1.1\n"
        '[[gate.exceptions]]\nclaim = "ppl-ratio"\nowner = "o"\nrationale = "r"\nexpires = {}'
    )
    for moment in ('"2027-01-01T00:00:00Z"', "2027-01-01T00:00:00Z", "2027-01-01 02:00:00+02:00"):
        (exception,) = load_policy(write(tmp_path, text.format(moment))).policy.gate.exceptions
        assert exception.expires == "2027-01-01T00:00:00Z"
    place = r"gate\.exceptions\[0\]\.expires: not a utc time like 2027-01-01T00:00:00Z"
    for moment in ('"soon"', "2027-01-01", "2027-01-01T00:00:00"):  # where would that midnight be?
        with pytest.raises(MalformedPolicyError, match=place):
            load_policy(write(tmp_path, text.format(moment)))
    second = text.format('"2027-01-01T00:00:00Z"') + text[text.index("[[gate") :].format('"2027-02-31T00:00:00Z"')
    with pytest.raises(MalformedPolicyError, match=r"gate\.exceptions\[1\]\.expires: not a day and time"):
        load_policy(write(tmp_path, second.replace("[[gate", "\n[[gate")))


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ('[reference]\nstate_digest = "ABC"', "reference.state_digest: not a sha-256 of 64 lower-case hex digits"),
        ("[[gate.thresholds]]\nkeys = 1", "gate.thresholds[0].role: field required"),
        ('[[gate.thresholds]]\nrole = "A B"\nkeys = 1', "gate.thresholds[0].role: not a name of small letters"),
        ('[measurement]\nrows = "1-2"', r"measurement.rows: string should match pattern '^(?:[0-9]{0,15}:"),
        ('[measurement]\ndtype = "FP64"', "measurement.dtype: input should be 'fp32' or 'bf16'"),
    ],
)
def test_the_place_and_the_form_that_is_wanted(tmp_path, setting, message):
    with pytest.raises(MalformedPolicyError, match=re.escape(message)):
        load_policy(write(tmp_path, f"[claims]\nppl_ratio_max = 1.1\n{setting}"))


def test_weak_settings_are_warned_of(tmp_path):
    weak = (
        "[claims]\nppl_ratio_max = 1.0005\n[measurement]\nn = 10\n"
        "[gate]\nallow_inconclusive = true\nrequire_ledger = false"
    )
    found = " ".join(warnings(load_policy(write(tmp_path, weak)).policy))
    for word in (
        "below 30",
        "half-width",
        "allow_inconclusive",
        "require_ledger",
        "corpus_sha256",
        "point estimate",
    ):
        assert word in found


EXCEPTION = '[[gate.exceptions]]\nclaim = "{}"\nowner = "o"\nrationale = "r"\nexpires = "{}"\n'


@pytest.mark.parametrize(
    ("claims", "rest", "words"),
    [
        ("confidence = 0.5", "", "25% would pass by chance"),
        ("ppl_ratio_max = 100.0", "", "9900% worse than its reference's"),
        ("bits_per_weight_max = 16.0", "", "a bf16 checkpoint would meet it"),
        ("", "[measurement]\nseq_len = 2\n", "seq_len = 2"),
        ("", "[gate]\nmax_age_days = 36500\n", "evidence of 99.9 years counts"),
        ("", '[gate]\nexclude = ["manifest.json"]\n', "exclude manifest.json: what lies there is in no digest"),
        (
            "",
            EXCEPTION.format("pl-ratio", "2026-12-01T00:00:00Z"),
            "no such claim, so it excuses nothing; did you mean ppl-",
        ),
        (
            "",
            EXCEPTION.format("mean-kl", "2026-12-01T00:00:00Z"),
            "exception for mean-kl: this policy makes no such",
        ),
        ("", EXCEPTION.format("ppl-ratio", "9999-01-01T00:00:00Z"), "that is no exception"),
        ("", EXCEPTION.format("ppl-ratio", "2026-05-01T00:00:00Z"), "it expired at 2026-05-01"),
    ],
)
def test_each_weak_setting_adds_its_warning(tmp_path, claims, rest, words):
    def found(claims, rest):
        ratio = "" if "ppl_ratio_max" in claims else "ppl_ratio_max = 1.0125\n"
        return warnings(load_policy(write(tmp_path, f"[claims]\n{ratio}{claims}\n{rest}")).policy, at=AT)

    (added,) = set(found(claims, rest)) - set(found("", ""))
    assert words in added


@pytest.mark.parametrize(
    ("margin", "words"),
    [
        ("1.0066", "is the vendor's own point estimate"),
        ("1.0050", "is below the vendor's own 1.0066"),
        ("1.0070", "closer to the vendor's 1.0066 than a typical half-width"),
        ("1.0125", None),
    ],
)
def test_the_margin_beside_what_the_vendor_publishes(tmp_path, margin, words):
    text = f"[claims]\nppl_ratio_max = {margin}\nvendor_ppl_ratio = 1.0066\n"
    found = [item for item in warnings(load_policy(write(tmp_path, text)).policy) if "vendor" in item]
    assert len(found) == (words is not None)
    assert words is None or words in found[0]


def test_codecs_and_profiles_that_cannot_be_meant(tmp_path):
    text = '[claims]\nppl_ratio_max = 1.1\n[gate]\nallowed_codecs = ["ucg"]\nallowed_profiles = ["ucq-f32-bf16"]\n'
    policy = load_policy(write(tmp_path, text)).policy
    found = " ".join(warnings(policy, codecs=("ucq", "gguf")))
    assert (
        "no codec here reconstructs; did you mean ucq" in found and "a profile's name ends in its version" in found
    )
    assert "no codec here" not in " ".join(warnings(policy))
    open_to_all = load_policy(write(tmp_path, "[claims]\nppl_ratio_max = 1.1\n")).policy
    assert "a pack may be of any format" in " ".join(warnings(open_to_all))


def test_every_setting_of_a_policy_is_in_its_sentences(tmp_path):
    text = """
    [reference]
    state_digest = "{}"
    source = "where"
    [measurement]
    corpus = "text.jsonl"
    corpus_sha256 = "{}"
    text_column = "body"
    rows = "-100:"
    n = 77
    seq_len = 333
    seed = 4242
    [claims]
    ppl_ratio_max = 1.0321
    confidence = 0.97
    mean_kl_max = 0.0123
    top1_agreement_min = 0.912
    bits_per_weight_max = 5.75
    [gate]
    max_age_days = 91
    required_roles = ["validator"]
    min_signers = 3
    distinct_signers = true
    require_trusted_time = true
    allowed_codecs = ["gguf"]
    allowed_profiles = ["p/7"]
    require_plan = true
    allow_inconclusive = true
    exclude = [".git/"]
    """.format("ab" * 32, "cd" * 32)
    said = " ".join(explain(load_policy(write(tmp_path, text)).policy))
    for words in (
        "abababababababab… (where)",
        "called text.jsonl with SHA-256 cdcdcdcdcdcdcdcd",
        "column body",
        "rows must be -100:",
        "77 windows of 333 tokens",
        "seed 4242",
        "1.0321 times",
        "97.0% confidence",
        "0.0123 nats",
        "91.20%",
        "5.75 bits",
        "91 days",
        "3 distinct key(s)",
        "the role validator",
        "a trusted time",
        "a ledger proof",
        "a pre-registered plan",
        "Nobody counts twice",
        "codecs: gguf",
        "profiles: p/7",
        "leaves open is admitted",
        "leave out of the pack: .git/",
    ):
        assert words in said


def test_what_is_not_weak_is_not_warned_of(tmp_path):
    strong = (
        "[claims]\nppl_ratio_max = 1.05\nmean_kl_max = 0.1\n[gate]\nexclude = ['.git/']\nmax_age_days = 365\n"
        + EXCEPTION.format("mean-kl", "2027-06-01T00:00:00Z")
    )
    found = " ".join(warnings(load_policy(write(tmp_path, strong)).policy, at=AT))
    assert "exclude" not in found and "exception" not in found and "max_age_days" not in found


def test_every_claim_has_its_id(tmp_path):
    every = "[claims]\nppl_ratio_max = 1.1\nmean_kl_max = 0.1\ntop1_agreement_min = 0.9\nbits_per_weight_max = 6.0"
    policy = load_policy(write(tmp_path, every)).policy
    assert tuple(claim.id for claim in policy.planned_claims(publishes_state=True, has_manifest=True)) == CLAIM_IDS

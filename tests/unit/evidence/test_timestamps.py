"""Trusted times: RFC 3161 tokens of a local openssl authority, and what they change about expiry and revocation."""

import shutil
import sys
from datetime import UTC, datetime, timedelta

import pytest
from bundles import make_bundle, make_setting
from people import Authority, append_line, endorsement, failures, judged, person

from ucaudit.core.errors import (
    DigestMismatchError,
    InputError,
    MalformedKeyError,
    MalformedRecordError,
    MissingExtraError,
    RefusedError,
    SignatureInvalidError,
    UntrustedKeyError,
)
from ucaudit.core.files import write_bytes
from ucaudit.evidence import bundle as names
from ucaudit.evidence.amend import attach_stamp, countersign
from ucaudit.evidence.bundle import close_bundle, open_bundle
from ucaudit.evidence.times import TrustedTime, TrustedTimes
from ucaudit.evidence.timestamp import (
    make_request,
    parse_token,
    read_authority,
    verify_token,
)
from ucaudit.evidence.trust import add_key, load_trust, revoke

NOW = datetime.now(UTC)


def moment(**shift):
    return f"{NOW + timedelta(**shift):%Y-%m-%dT%H:%M:%SZ}"


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tsa") / "one")


@pytest.fixture(scope="module")
def impostor(tmp_path_factory):
    """Another authority under the same names."""
    return Authority(tmp_path_factory.mktemp("tsa") / "two")


@pytest.fixture(scope="module")
def setting(tmp_path_factory, authority):
    return make_setting(tmp_path_factory.mktemp("setting"))


@pytest.fixture(scope="module")
def honest(setting):
    return make_bundle(setting, setting.root / "honest")


@pytest.fixture
def copy(honest, tmp_path):
    return shutil.copytree(honest, tmp_path / "bundle")


@pytest.fixture
def trust(setting, authority, tmp_path):
    path = tmp_path / "trust.toml"
    shutil.copy(setting.trust, path)
    authority.trusted_in(path)
    return path


def attach(copy, authority, trust, signer, raw=None):
    response = authority.stamp(raw or open_bundle(copy).attestation.raw)
    return attach_stamp(copy, response, load_trust(trust), signer, subject="answer.tsr")


def test_earliest_time_counts():
    early, late = (TrustedTime("d", datetime(2026, month, 1, tzinfo=UTC), "x") for month in (1, 2))
    for times in (TrustedTimes([early, late]), TrustedTimes([late, early])):
        assert times.seen("d") is early
    assert times.seen("other") is None


def test_our_query_is_openssls_query(authority, tmp_path):
    token = parse_token(authority.answer(make_request(b"data")), subject="t")
    assert token.digest == "3a6eb0790f39ac87c94f3856b2dd2c5d110e6811602261a9a923d3bb23adc8b7"
    assert abs(token.moment - datetime.now(UTC)) < timedelta(seconds=30)
    assert make_request(b"data") != make_request(b"data")


def test_accuracy_is_added(authority, monkeypatch):
    token = parse_token(authority.stamp(b"x"), subject="t")
    assert token.moment.microsecond == 500_000, "the authority states an accuracy of 1.5 s on whole seconds"


def test_a_stamp_is_attached_and_verified(copy, authority, trust, setting):
    stamped = attach(copy, authority, trust, setting.signer)
    assert (stamped.name, stamped.over) == (names.STAMP, names.ATTESTATION)
    result = judged(copy, trust)
    assert result.authentic, result.failures
    seen = result.times.seen(open_bundle(copy).attestation.digest)
    assert seen.source == "time-stamp authority the authority"
    assert any(check.slug == "claimed-time" and check.status == "pass" for check in result.checks)
    (stamp,) = [check for check in result.checks if check.slug == "timestamp"]
    assert stamp.status == "pass"


def test_stamps_over_plan_endorsement_and_list_of_files(copy, authority, trust, setting):
    validator = person(setting, "v1", trust=trust)
    made = countersign(copy, validator, printed_name="V", role="validator", meaning="review").envelope
    plan = open_bundle(copy).envelope(names.PLAN)
    for number, envelope in enumerate((plan, made)):
        stamped = attach(copy, authority, trust, validator, envelope.raw)
        assert stamped.name == ("timestamp.tsr", "timestamp-2.tsr")[number]
    closing = open_bundle(copy).closing
    stamped = attach(copy, authority, trust, None, closing.raw)
    assert (stamped.name, stamped.over) == (names.CLOSING_STAMP, names.CLOSING)
    result = judged(copy, trust)
    assert result.authentic, result.failures
    for envelope in (plan, made, closing):
        assert result.times.seen(envelope.digest) is not None
    assert result.endorsements[0].seen is not None
    # A new closing statement takes the stamp of the old one away.
    countersign(copy, validator, printed_name="V", role="validator", meaning="approval")
    assert not open_bundle(copy).has(names.CLOSING_STAMP)
    assert judged(copy, trust).authentic


def test_without_the_extra_it_says_not_checked(copy, authority, trust, setting, monkeypatch):
    attach(copy, authority, trust, setting.signer)
    monkeypatch.setitem(sys.modules, "rfc3161_client", None)
    result = judged(copy, trust)
    (stamp,) = [check for check in result.checks if check.slug == "timestamp"]
    assert (stamp.status, stamp.detail) == ("not-checked", "not checked: install ucaudit[timestamp]")
    assert result.times.seen(result.envelope_digest) is None
    with pytest.raises(MissingExtraError) as caught:
        parse_token(b"", subject="t")
    assert "ucaudit[timestamp]" in caught.value.hint


def test_without_an_authority_it_says_not_checked(copy, authority, trust, setting):
    attach(copy, authority, trust, setting.signer)
    result = judged(copy, setting.trust)
    (stamp,) = [check for check in result.checks if check.slug == "timestamp"]
    assert stamp.status == "not-checked"
    assert "names no time-stamp authority" in stamp.detail


# --- time rules ---------------------------------------------------------------------------------------
def revoked(trust, at, table="key", index=0):
    revoke(trust, table, index, at=at, reason="stolen")
    return trust


def reclosed(copy, setting, trust):
    """Closed by somebody whose key is still good: what a revoked key closed does not count either."""
    closer = person(setting, f"closer-{copy.parent.name}", roles=["archivist"], trust=trust)
    close_bundle(copy, closer)
    return closer


def test_a_revoked_key_without_a_trusted_time_never_counts(copy, setting, trust):
    reclosed(copy, setting, trust)
    revoked(trust, moment(days=1))
    found = failures(copy, trust)
    assert "no trusted time" in found["attestation-key"]
    assert "revoked" in found["plan-key"]


def test_seen_before_the_revocation_it_counts(copy, authority, setting, trust):
    bundle = open_bundle(copy)
    attach(copy, authority, trust, setting.signer)
    attach(copy, authority, trust, setting.signer, bundle.envelope(names.PLAN).raw)
    reclosed(copy, setting, trust)
    revoked(trust, moment(days=1))
    result = judged(copy, trust)
    assert result.authentic, result.failures


def test_the_list_of_files_can_be_seen_before_the_revocation_too(copy, authority, setting, trust):
    bundle = open_bundle(copy)
    attach(copy, authority, trust, setting.signer)
    attach(copy, authority, trust, setting.signer, bundle.envelope(names.PLAN).raw)
    later = shutil.copy(trust, trust.with_name("later.toml"))
    revoked(later, moment(days=1))
    assert set(failures(copy, later)) == {"bundle-key"}
    attach(copy, authority, trust, None, open_bundle(copy).closing.raw)
    assert judged(copy, later).authentic


def test_a_countersignature_takes_over_from_a_revoked_closer(copy, authority, setting, trust):
    for raw in (open_bundle(copy).attestation.raw, open_bundle(copy).envelope(names.PLAN).raw):
        attach(copy, authority, trust, setting.signer, raw)
    validator = person(setting, "successor", trust=trust)
    revoked(trust, moment(days=1))
    assert set(failures(copy, trust)) == {"bundle-key"}
    words = {"printed_name": "V", "role": "validator", "meaning": "responsibility"}
    with pytest.raises(UntrustedKeyError, match="no trusted time"):
        countersign(copy, validator, **words, trust=load_trust(trust))
    countersign(copy, validator, **words)
    assert judged(copy, trust).authentic


def test_a_back_dated_record_of_a_revoked_key(setting, authority, trust, tmp_path):
    """The key was stolen in spring; in autumn the thief signs a record that claims winter, and has it stamped."""
    path = make_bundle(setting, tmp_path / "forged", planned=False, created="2026-01-10T00:00:00Z")
    attach(path, authority, trust, setting.signer)
    reclosed(path, setting, trust)
    revoked(trust, "2026-04-01T00:00:00Z")
    found = failures(path, trust)
    assert "first seen at" in found["attestation-key"]
    assert set(found) == {"attestation-key"}


def test_expiry_is_judged_at_the_trusted_time(setting, authority, trust, tmp_path):
    path = make_bundle(setting, tmp_path / "old", planned=False, created="2026-01-10T00:00:00Z")
    text = trust.read_text()
    line = 'roles = ["developer"]\n'
    trust.write_text(text.replace(line, f'{line}valid-until = "2026-02-01T00:00:00Z"\n'))
    reclosed(path, setting, trust)
    # By its own word it was signed in time; that is only remarked.
    result = judged(path, trust)
    assert result.authentic, result.failures
    assert any(check.slug == "claimed-time" and check.status == "warn" for check in result.checks)
    attach(path, authority, trust, setting.signer)
    reclosed_by = person(setting, "closer-again", roles=["archivist"], trust=trust)
    close_bundle(path, reclosed_by)
    assert "expired at 2026-02-01" in failures(path, trust)["attestation-key"]


def test_an_expired_key_by_its_own_word(copy, setting, trust):
    text = trust.read_text()
    line = 'roles = ["developer"]\n'
    trust.write_text(text.replace(line, f'{line}valid-until = "2026-02-01T00:00:00Z"\n'))
    assert {"attestation-key", "plan-key", "bundle-key"} == set(failures(copy, trust))


def test_a_record_from_the_future_of_its_own_stamp(setting, authority, trust, tmp_path):
    path = make_bundle(setting, tmp_path / "ahead", planned=False, created=moment(days=3))
    attach(path, authority, trust, setting.signer)
    assert set(failures(path, trust)) == {"claimed-time"}


def test_an_endorsement_of_a_key_that_was_revoked_later(copy, authority, setting, trust):
    validator = person(setting, "v2", trust=trust)
    made = countersign(copy, validator, printed_name="V", role="validator", meaning="review").envelope
    index = len(load_trust(trust).keys) - 1
    later = shutil.copy(trust, trust.with_name("later.toml"))
    revoked(later, moment(days=1), index=index)
    close_bundle(copy, setting.signer)
    assert set(failures(copy, later)) == {"endorsement-key"}
    attach(copy, authority, trust, setting.signer, made.raw)
    assert judged(copy, later).authentic
    # A thief's endorsement of the same record has no such stamp, and that of the honest one does not help it.
    digest = open_bundle(copy).attestation.digest
    append_line(copy, endorsement(digest, validator, printed_name="Thief").raw, setting.signer)
    assert set(failures(copy, later)) == {"endorsement-key"}


# --- what is refused ----------------------------------------------------------------------------------
def test_a_revoked_authority_vouches_for_nothing(copy, authority, setting, trust):
    attach(copy, authority, trust, setting.signer)
    revoked(trust, moment(days=1), table="authority")
    result = judged(copy, trust)
    (stamp,) = [check for check in result.checks if check.slug == "timestamp"]
    assert stamp.status == "not-checked"
    assert result.times.seen(result.envelope_digest) is None


def test_an_authority_outside_its_window(copy, authority, setting, tmp_path):
    path = tmp_path / "trust.toml"
    shutil.copy(setting.trust, path)
    authority.trusted_in(path, valid_until="2026-01-01T00:00:00Z")
    with pytest.raises(SignatureInvalidError, match="expired at 2026-01-01"):
        attach(copy, authority, path, setting.signer)


def test_an_impostor_under_the_same_names(copy, impostor, setting, trust):
    with pytest.raises(SignatureInvalidError, match="no valid token of authority"):
        attach(copy, impostor, trust, setting.signer)
    write_bytes(copy / names.STAMP, impostor.stamp(open_bundle(copy).attestation.raw))
    close_bundle(copy, setting.signer)
    assert set(failures(copy, trust)) == {"timestamp"}


def test_several_authorities_and_none_of_them(copy, authority, impostor, setting, trust, tmp_path):
    from ucaudit.evidence.trust import add_authority

    add_authority(trust, read_authority(impostor.chain, name="the other"))
    assert judged(copy, trust).authentic
    for one in (authority, impostor):
        attach(copy, one, trust, setting.signer)
    assert judged(copy, trust).authentic
    third = Authority(tmp_path / "three")
    with pytest.raises(UntrustedKeyError, match="none of the 2 authorities"):
        attach(copy, third, trust, setting.signer)


def test_a_stamp_over_something_else(copy, authority, setting, trust):
    with pytest.raises(DigestMismatchError, match="no envelope of this bundle"):
        attach(copy, authority, trust, setting.signer, b"something else")
    write_bytes(copy / names.STAMP, authority.stamp(b"something else"))
    close_bundle(copy, setting.signer)
    found = failures(copy, trust)
    assert set(found) == {"timestamp"}
    assert "no envelope of this bundle" in found["timestamp"]


def test_the_stamp_of_an_older_list_of_files(copy, authority, setting, trust):
    old = authority.stamp(open_bundle(copy).closing.raw)
    countersign(copy, setting.signer, printed_name="D", role="developer", meaning="responsibility")
    write_bytes(copy / names.CLOSING_STAMP, old)
    assert set(failures(copy, trust)) == {"timestamp"}


def test_a_stamp_that_nobody_listed(copy, authority, setting, trust):
    write_bytes(copy / names.STAMP, authority.stamp(open_bundle(copy).attestation.raw))
    found = failures(copy, trust)
    assert set(found) == {"closing"}
    assert "timestamp.tsr: not part" in found["closing"]


def test_twice_or_without_a_key(copy, authority, setting, trust):
    response = authority.stamp(open_bundle(copy).attestation.raw)
    with pytest.raises(RefusedError, match="new closing statement"):
        attach_stamp(copy, response, load_trust(trust), None, subject="a")
    attach_stamp(copy, response, load_trust(trust), setting.signer, subject="a")
    with pytest.raises(RefusedError, match="already"):
        attach_stamp(copy, response, load_trust(trust), setting.signer, subject="a")


def test_responses_that_are_none(authority):
    good = authority.stamp(b"x")
    token = authority.answer(authority.query(b"x"), "-token_out")
    refused = authority.answer(authority.query(b"x", "-sha256", "-tspolicy", "1.2.9.9"))
    other_hash = authority.answer(authority.query(b"x", "-sha512"))
    for data, words in (
        (b"", "not a time-stamp response"),
        (b"hello", "not a time-stamp response"),
        (good[:-1], "not a time-stamp response"),
        (token, "not a time-stamp response"),
        (refused, "did not grant"),
        (other_hash, "expected sha-256"),
        (bytes(1 << 17), "larger than"),
    ):
        with pytest.raises(MalformedRecordError, match=words):
            parse_token(data, subject="t")


def test_no_flipped_bit_changes_what_a_token_says(authority):
    """Outside the signed parts a bit may differ; digest and time never do."""
    pinned = [read_authority(authority.chain, name="a")]
    good = authority.stamp(b"x")
    meant = parse_token(good, subject="t")
    for position in range(0, len(good) * 8, 5):
        data = bytearray(good)
        data[position // 8] ^= 1 << position % 8
        try:
            token = parse_token(bytes(data), subject="t")
            verify_token(token, pinned)
        except (InputError, SignatureInvalidError):
            continue
        assert (token.digest, token.moment) == (meant.digest, meant.moment)


def test_certificates_that_no_authority_has(authority, tmp_path):
    with pytest.raises(MalformedKeyError, match="not one for time stamping"):
        read_authority(authority.root / "root.pem")
    with pytest.raises(RefusedError, match="which is not in the file"):
        read_authority(authority.root / "tsa.pem")
    (tmp_path / "empty.pem").write_text("hello")
    with pytest.raises(MalformedKeyError, match="no certificate"):
        read_authority(tmp_path / "empty.pem")
    (tmp_path / "broken.pem").write_text("-----BEGIN CERTIFICATE-----\nMAAA\n-----END CERTIFICATE-----\n")
    with pytest.raises(MalformedKeyError, match="not a certificate"):
        read_authority(tmp_path / "broken.pem")
    assert read_authority(authority.chain).name == "CN=Test Authority"


def test_a_key_is_never_an_authority(copy, setting, trust):
    """A time comes from the authorities of the trust file, not from any key that is in it."""
    add_key(trust, person(setting, "v3").public_key, "v3", roles=["timestamp"])
    assert judged(copy, trust).times.seen(open_bundle(copy).attestation.digest) is None

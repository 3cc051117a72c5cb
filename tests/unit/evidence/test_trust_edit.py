"""Editing a trust file: what was there stays, what is written means what was meant."""

import base64
import shutil
import tomllib

import pytest
from bundles import make_setting
from people import Authority, vkey_of

from ucaudit.core.errors import InputError, MalformedPolicyError, RefusedError
from ucaudit.evidence.keys import generate
from ucaudit.evidence.trust import (
    add_authority,
    add_key,
    add_vkey,
    find_entry,
    load_trust,
    revoke,
    same_person,
    trusted_authorities,
    trusted_ledgers,
    trusted_witnesses,
)
from ucaudit.evidence.trust.edit import toml_value

AT = "2026-06-01T00:00:00Z"


@pytest.fixture
def keys(tmp_path):
    return [generate(tmp_path / "keys", f"k{number}", password=None)[2] for number in range(3)]


@pytest.fixture
def path(tmp_path, keys):
    path = tmp_path / "trust.toml"
    for number, key in enumerate(keys):
        add_key(path, key, f"person{number}@tests.invalid", roles=["developer"])
    return path


def test_revoke_the_second_of_three(path, keys):
    text = path.read_text().replace("[[key]]", "[[ key ]] # mine", 1)
    path.write_text(text + "\n# the end\n")
    before = tomllib.loads(path.read_text())
    trust = load_trust(path)
    index = find_entry(trust, "key", keys[1].key_id[:8], subject="t")
    revoke(path, "key", index, at=AT, reason='stolen "laptop"')
    after = tomllib.loads(path.read_text())
    assert after["key"][1].pop("revoked-reason") == 'stolen "laptop"'
    assert after["key"][1].pop("revoked-at") == AT
    assert after == before
    assert "# the end" in path.read_text()
    assert "[[ key ]] # mine" in path.read_text()
    with pytest.raises(RefusedError, match="is revoked at 2026-06-01"):
        revoke(path, "key", index, at="2026-07-01T00:00:00Z", reason="again")
    revoke(path, "key", 0, at=AT, reason="left")
    assert [entry.validity.revoked_at is not None for entry in load_trust(path).keys] == [True, True, False]


def test_a_string_that_looks_like_a_table_is_not_one(tmp_path, keys):
    path = tmp_path / "trust.toml"
    path.write_text(
        f'[[key]]\nprincipal = """\n[[key]]\n"""\npublic-key = "{keys[0].base64}"\n'
        f'[[key]]\nprincipal = "b"\npublic-key = "{keys[1].base64}"\n'
    )
    revoke(path, "key", 1, at=AT, reason="r")
    trust = load_trust(path)
    assert trust.keys[0].validity.revoked_at is None
    assert trust.keys[1].validity.revoked_at is not None


def test_windows_line_ends_and_no_last_line_end(tmp_path, keys):
    path = tmp_path / "trust.toml"
    path.write_bytes(f'[[key]]\r\nprincipal = "a"\r\npublic-key = "{keys[0].base64}"'.encode())
    revoke(path, "key", 0, at=AT, reason="r")
    add_key(path, keys[1], "b", roles=[])
    assert len(load_trust(path).keys) == 2


def test_inline_tables_are_not_edited(tmp_path, keys):
    path = tmp_path / "trust.toml"
    text = f'key = [{{principal = "a", public-key = "{keys[0].base64}"}}]\n'
    path.write_text(text)
    with pytest.raises(MalformedPolicyError, match="cannot be edited safely") as caught:
        revoke(path, "key", 0, at=AT, reason="r")
    assert "revoked-at" in caught.value.hint
    with pytest.raises(MalformedPolicyError):
        add_key(path, keys[1], "b", roles=[])
    assert path.read_text() == text


def test_a_malformed_time_is_not_written(path):
    before = path.read_text()
    for at in ("yesterday", "2026-02-30T00:00:00Z", "2026-06-01"):
        with pytest.raises(MalformedPolicyError, match="revoked-at"):
            revoke(path, "key", 0, at=at, reason="r")
    assert path.read_text() == before


def test_witnesses_and_ledgers_by_verifier_key(path):
    witness, ledger = vkey_of("witness.invalid/w", kind=4), vkey_of("ledger.invalid/l")
    assert add_vkey(path, witness) == ("witness", "witness.invalid/w")
    assert add_vkey(path, witness) == ("witness", "witness.invalid/w")
    assert add_vkey(path, ledger) == ("ledger", "ledger.invalid/l")
    trust = load_trust(path)
    assert [(entry.name, entry.vkey) for entry in trusted_witnesses(trust)] == [("witness.invalid/w", witness)]
    assert [entry.vkey for entry in trusted_ledgers(trust)] == [ledger]
    with pytest.raises(RefusedError, match="another key"):
        add_vkey(path, vkey_of("witness.invalid/w", kind=4, fill=9))
    for table in ("witness", "ledger"):
        revoke(path, table, 0, at=AT, reason="gone")
    trust = load_trust(path)
    assert trusted_witnesses(trust) == ()
    assert trusted_ledgers(trust) == ()
    assert len(trust.witnesses) == 1


@pytest.mark.parametrize(
    ("vkey", "words"),
    [
        ("nothing", "not a verifier key"),
        (vkey_of("w", kind=2), "type 0x02"),
        (vkey_of("w", kind=4).replace("+", "+0", 1), "says id"),
        ("w+00000000+" + base64.b64encode(b"\x04" + bytes(32)).decode(), "says id"),
        ("w+00000000+" + base64.b64encode(b"\x04" + bytes(31)).decode(), "not a verifier key"),
    ],
)
def test_what_is_no_verifier_key(path, vkey, words):
    with pytest.raises(MalformedPolicyError, match=words):
        add_vkey(path, vkey)


def test_entries_are_found_by_name_or_by_the_start_of_an_id(path, keys):
    trust = load_trust(path)
    assert find_entry(trust, "key", keys[2].key_id, subject="t") == 2
    assert find_entry(trust, "key", keys[2].key_id[:8].upper(), subject="t") == 2
    assert find_entry(trust, "key", "person1@tests.invalid", subject="t") == 1
    with pytest.raises(RefusedError, match="no key called"):
        find_entry(trust, "key", keys[0].key_id[:7], subject="t")
    with pytest.raises(RefusedError, match="no witness called"):
        find_entry(trust, "witness", "person1@tests.invalid", subject="t")


def test_one_name_for_two_keys(tmp_path, keys):
    path = tmp_path / "two.toml"
    for key in keys[:2]:
        add_key(path, key, "same", roles=[])
    with pytest.raises(RefusedError, match="2 entries") as caught:
        find_entry(load_trust(path), "key", "same", subject="t")
    assert "key id" in caught.value.hint


@pytest.mark.parametrize(
    ("text", "reason", "hint"),
    [
        ('[[keys]]\nprincipal = "x"', "unknown setting keys", "did you mean key"),
        ('[[witnes]]\nname = "x"', "unknown setting witnes", "did you mean witness"),
        ('[[key]]\nprincipal = "x"\npublic_key = "y"', "public_key", "did you mean public-key"),
        ("[[key]]\nvalid-untill = 1", "valid-untill", "did you mean valid-until"),
        ('[[key]]\nrevoked_at = "2026-01-01T00:00:00Z"', "revoked_at", "did you mean revoked-at"),
        ('[[key]]\nPRIN\nrevoked-reason = "stolen"', "revoked-reason without revoked-at", None),
        ("[[key]]\nPRIN\nrevoked-at = 2026-01-01T00:00:00Z", "revoked-at is not a time", "in quotes"),
        ('[[key]]\nPRIN\nvalid-from = "2026-02-01T00:00:00Z"\nvalid-until = "2026-01-01T00:00:00Z"', "later", None),
        ('[[key]]\nPRIN\nroles = ["Developer"]', "'Developer' is not a role", "small letters"),
        ('[[key]]\nPRIN\nroles = "developer"', "roles is a list", None),
        ('[[key]]\nPRIN\npredicate-types = ["atestation"]', "atestation", "did you mean attestation"),
        ("[[key]]\nPRIN\n[[key]]\nPRIN", "listed twice", None),
        ('[[witness]]\nname = "x"', "a witness needs vkey", None),
        (f'[[witness]]\nname = "x"\nvkey = "{vkey_of("y", kind=4)}"', "of 'y', not of 'x'", None),
        (f'[[witness]]\nname = "x"\nvkey = "{vkey_of("x")}"', "type 0x01, expected 0x04", "0x04 a witness"),
        (f'[[ledger]]\norigin = "x"\nvkey = "{vkey_of("x", kind=4)}"', "type 0x04, expected 0x01", None),
        (f'[[ledger]]\norigin = "x"\nvkey = "{vkey_of("y")}"', "of 'y', not of 'x'", None),
        ('[[authority]]\nname = "x"', "an? authority needs certificate", None),
        ('[[authority]]\nname = "x"\ncertificate = "%"', "not base64", None),
        ('[[authority]]\nname = "x"\ncertificate = "AAAA"', "not a certificate", None),
        ('[[authority]]\nname = "x"\ncertificate = "MAAA"\nissuer = "y"', "issuer", "did you mean issuers"),
        ("a = " + "[" * 5000, "not toml|nested", None),
    ],
)
def test_malformed_files_name_the_place(tmp_path, keys, text, reason, hint):
    path = tmp_path / "trust.toml"
    path.write_text(text.replace("PRIN", f'principal = "x"\npublic-key = "{keys[0].base64}"'))
    with pytest.raises(InputError, match=reason) as caught:
        load_trust(path)
    assert str(path) in str(caught.value)
    if hint:
        assert hint in caught.value.hint


def test_an_authority_is_stored_with_its_issuers(path, tmp_path):
    from ucaudit.evidence.timestamp import read_authority

    authority = Authority(tmp_path / "tsa")
    entry = read_authority(authority.chain)
    add_authority(path, entry)
    (found,) = trusted_authorities(load_trust(path))
    assert (found.name, found.certificate, found.issuers) == (entry.name, entry.certificate, entry.issuers)
    assert len(found.issuers) == 1
    with pytest.raises(RefusedError, match="listed already"):
        add_authority(path, entry)


def test_awkward_characters_survive():
    for value in ('a "b" \\ c', "tab\tand\x00nul", "\U0001f511 \u202e", "line\nbreak", ["a", 'b"']):
        assert tomllib.loads(f"x = {toml_value(value)}")["x"] == value


def test_spelling_variants_are_one_person():
    assert same_person("Vera  Lid <V@x>", " vera lid <v@X> ")
    assert same_person("\uff36era", "Vera")
    assert not same_person("vera", "vero")


def test_a_full_disk_leaves_the_old_file(path, monkeypatch):
    from ucaudit.core import files
    from ucaudit.core.errors import OutputError

    before = path.read_text()

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OutputError, match="no space left"):
        revoke(path, "key", 0, at=AT, reason="r")
    assert path.read_text() == before
    assert [entry.name for entry in path.parent.iterdir() if entry.is_file()] == ["trust.toml"]


def test_the_fixture_file_is_still_read(tmp_path):
    setting = make_setting(tmp_path / "s")
    copied = tmp_path / "copy.toml"
    shutil.copy(setting.trust, copied)
    assert load_trust(copied) == load_trust(setting.trust)

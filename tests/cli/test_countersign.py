"""Keys, countersignatures and time stamps as a team uses them, and what each wrong input says."""

import shlex
import shutil
from pathlib import Path

import pytest
from people import Authority, append_line, endorsement, vkey_of

from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.keys import load_signer

from .conftest import ucaudit
from .test_main_job import complaint

FIXTURES = Path(__file__).parents[2] / "fixtures"


@pytest.fixture
def desk(tmp_path):
    """The fixture bundle, its trust file, and a validator's key in ``keys``."""
    shutil.copytree(FIXTURES / "bundle", tmp_path / "bundle")
    shutil.copy(FIXTURES / "trust.toml", tmp_path / "trust.toml")
    shutil.copy(FIXTURES / "policy.toml", tmp_path / "policy.toml")
    assert ucaudit("keygen", "--out", "keys", "--name", "vera", "--no-password", cwd=tmp_path).code == 0
    return tmp_path


WHO = ("--name", "Vera Lid", "--role", "validator", "--meaning", "approval")
TRUSTED = ("--trust", "trust.toml")


def trust_vera(desk, *more):
    words = ("--key", "keys/vera.pub", "--principal", "vera@example.com", "--role", "validator", *more)
    ran = ucaudit("trust", "add", *words, cwd=desk)
    assert ran.code == 0, ran.err


def countersign(desk, *more, key="keys/vera.pem", **environment):
    return ucaudit("countersign", "bundle", "--key", key, *WHO, *more, cwd=desk, **environment)


def verify(desk, *more):
    return ucaudit("verify", "bundle", *TRUSTED, *more, cwd=desk)


def test_the_journey_of_a_validator(desk):
    trust_vera(desk)
    ran = countersign(desk, *TRUSTED, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["signaturesChecked"] is True
    assert "rendered before this endorsement" in ran.err
    digest = ran.json["endorsementDigest"]
    ran = verify(desk)
    assert ran.code == 0, ran.err
    assert "endorsed       Vera Lid (vera@example.com) as validator: approval" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 80
    ran = verify(desk, "--json")
    assert ran.json["endorsements"][0]["digest"] == digest
    assert ran.json["endorsements"][0]["seenBy"] is None
    levels = {check["slug"]: check["level"] for check in ran.json["checks"]}
    assert levels["figures"] == "re-derivable"
    assert levels["endorsement"] == "recorded"
    text = (desk / "policy.toml").read_text() + 'required_roles = ["validator"]\ndistinct_signers = true\n'
    (desk / "policy.toml").write_text(text)
    assert verify(desk, "--policy", "policy.toml").code == 0
    gate = ("--evidence", "bundle", "--policy", "policy.toml", *TRUSTED)
    assert ucaudit("gate", FIXTURES / "pack", *gate, cwd=desk).code == 0
    ran = ucaudit("trust", "revoke", "--key", "vera@example.com", "--reason", "laptop stolen", cwd=desk)
    assert ran.code == 0, ran.err
    complaint(verify(desk, "--policy", "policy.toml"), 1, "laptop stolen", "no trusted time")
    ran = ucaudit("gate", FIXTURES / "pack", *gate, cwd=desk)
    complaint(ran, 1, "laptop stolen")
    assert "REFUSED" in ran.out


def test_the_plain_output_is_the_digest(desk):
    ran = countersign(desk, "--quiet")
    assert ran.code == 0
    assert len(ran.out.strip()) == 64
    assert "nobody's signature was checked" in ran.err


def test_a_key_from_the_environment_and_a_password(desk):
    text = (desk / "keys" / "vera.pem").read_text()
    assert countersign(desk, key="env:VERA", VERA=text.replace("\n", "\\n")).code == 0
    complaint(countersign(desk, key="env:NOBODY"), 3, "not set")
    (desk / "word").write_text("secret words\n")
    assert ucaudit("keygen", "--out", "keys", "--name", "locked", "--password-file", "word", cwd=desk).code == 0
    complaint(countersign(desk, key="keys/locked.pem"), 3, "encrypted", "--password-file")
    ran = countersign(desk, "--password-file", "word", key="keys/locked.pem")
    assert ran.code == 0, ran.err
    ran = countersign(desk, key="keys/locked.pem", UCAUDIT_KEY_PASSWORD="wrong")
    complaint(ran, 3, "wrong password")


def test_wrong_words(desk):
    complaint(ucaudit("countersign", "bundle", "--key", "keys/vera.pem", cwd=desk), 2, "--name")
    bad = ("--name", "V", "--role", "validator", "--meaning", "aproval")
    complaint(ucaudit("countersign", "bundle", "--key", "keys/vera.pem", *bad, cwd=desk), 2, "approval")
    bad = ("--name", "V", "--role", "Chief Validator", "--meaning", "approval")
    complaint(ucaudit("countersign", "bundle", "--key", "keys/vera.pem", *bad, cwd=desk), 3, "small letters")
    complaint(ucaudit("countersign", "nowhere", "--key", "keys/vera.pem", *WHO, cwd=desk), 3, "no such")
    complaint(ucaudit("countersign", "bundle", "--key", "keys/vera.pub", *WHO, cwd=desk), 3, "public key")
    assert countersign(desk).code == 0
    complaint(countersign(desk), 3, "endorsed the record already")


def test_a_tampered_bundle_is_not_endorsed(desk):
    report = desk / "bundle" / "report-soc2.pdf"
    report.write_bytes(report.read_bytes() + b" ")
    complaint(countersign(desk), 1, "report-soc2.pdf")
    (desk / "bundle" / "attestation.dsse.json").write_text("{}")
    complaint(countersign(desk), 3, "not a dsse envelope")


def test_single_envelopes_and_reports(desk):
    for name in ("attestation.sigstore.json", "plan.dsse.json", "attestation.dsse.json"):
        alone = desk / f"alone-{name}"  # beside others it would stand for their bundle
        alone.mkdir()
        shutil.copy(desk / "bundle" / name, alone / name)
        ran = ucaudit("verify", alone / name, *TRUSTED, cwd=desk)
        assert ran.code == 0, ran.err
        assert "give the bundle's directory" in ran.out.replace("\n      ", " ")
    plan = desk / "alone-plan.dsse.json" / "plan.dsse.json"
    ran = ucaudit("verify", alone / "attestation.dsse.json", *TRUSTED, cwd=desk)
    assert "as recorded: nothing was derived again" in ran.out
    complaint(ucaudit("verify", plan, *TRUSTED, "--policy", "policy.toml", cwd=desk), 2, "bundle")
    ran = ucaudit("verify", "bundle/attestation.dsse.json", *TRUSTED, cwd=desk)
    assert "figures" in ran.out, "inside a bundle the envelope stands for the bundle"
    plan.write_text(plan.read_text().replace('"payload":"e', '"payload":"f', 1))
    assert ucaudit("verify", plan, *TRUSTED, cwd=desk).code in (1, 3)
    (alone / "report.html").write_text("<p>")
    complaint(ucaudit("verify", alone / "report.html", *TRUSTED, cwd=desk), 3, "--bundle")
    (alone / "report.pdf").write_bytes(b"%PDF-1.7\n")
    complaint(ucaudit("verify", alone / "report.pdf", *TRUSTED, cwd=desk), 3, "no signed record", "--bundle")


def test_time_stamps_without_a_network(desk, tmp_path):
    trust_vera(desk)
    authority = Authority(tmp_path / "tsa")
    ran = ucaudit("trust", "add", "--authority", authority.chain, "--name", "tests TSA", cwd=desk)
    assert ran.code == 0, ran.err
    ran = ucaudit("timestamp", "bundle", "--request", "q.tsq", "--json", cwd=desk)
    assert ran.code == 0, ran.err
    assert ran.json["over"] == "attestation.dsse.json"
    (desk / "r.tsr").write_bytes(authority.answer((desk / "q.tsq").read_bytes()))
    attach = ("timestamp", "bundle", "--attach", "r.tsr")
    complaint(ucaudit(*attach, cwd=desk), 2, "--trust")
    complaint(ucaudit(*attach, *TRUSTED, cwd=desk), 3, "--key")
    ran = ucaudit(*attach, *TRUSTED, "--key", "keys/vera.pem", cwd=desk)
    assert ran.code == 0, ran.err
    assert "timestamp.tsr: attestation.dsse.json seen by 20" in ran.out
    ran = verify(desk)
    assert ran.code == 0, ran.err
    assert "time-stamp authority tests TSA" in ran.out.replace("\n      ", " ")
    assert ucaudit("timestamp", "bundle", "--request", "q2.tsq", "--of", "bundle", cwd=desk).code == 0
    (desk / "r2.tsr").write_bytes(authority.answer((desk / "q2.tsq").read_bytes()))
    ran = ucaudit("timestamp", "bundle", "--attach", "r2.tsr", *TRUSTED, cwd=desk)
    assert ran.code == 0, ran.err
    assert verify(desk).code == 0
    complaint(ucaudit("timestamp", "bundle", "--request", "x", "--of", "0" * 64, cwd=desk), 2, "--of")
    complaint(ucaudit("timestamp", "bundle", cwd=desk), 2, "--request or --attach")
    (desk / "r3.tsr").write_text("no stamp")
    complaint(ucaudit("timestamp", "bundle", "--attach", "r3.tsr", *TRUSTED, cwd=desk), 3, "not a time-stamp")
    other = Authority(tmp_path / "other").stamp((desk / "bundle" / "attestation.dsse.json").read_bytes())
    (desk / "r4.tsr").write_bytes(other)
    complaint(
        ucaudit("timestamp", "bundle", "--attach", "r4.tsr", *TRUSTED, "--key", "keys/vera.pem", cwd=desk),
        1,
        "tests TSA",
    )


def test_escape_sequences_do_not_reach_the_terminal(desk):
    """A trusted key may still sign a name that would repaint the auditor's screen."""
    trust_vera(desk)
    signer = load_signer(str(desk / "keys" / "vera.pem"))
    digest = open_bundle(desk / "bundle").attestation.digest
    append_line(desk / "bundle", endorsement(digest, signer, printed_name="V\x1b[2J\u202e").raw, signer)
    ran = verify(desk)
    assert ran.code == 0, ran.err
    assert "\x1b" not in ran.out
    assert "\u202e" not in ran.out
    assert "V\ufffd[2J\ufffd" in ran.out


def test_one_wrong_option_adds_nothing(desk):
    words = ("--key", "keys/vera.pub", "--principal", "v", "--vkey", "nonsense")
    complaint(ucaudit("trust", "add", "--file", "fresh.toml", *words, cwd=desk), 3, "not a verifier key")
    assert not (desk / "fresh.toml").exists()


def test_trust_commands(desk):
    trust_vera(desk, "--valid-until", "2099-01-01T00:00:00Z")
    witness = vkey_of("witness.example/w", kind=4)
    ran = ucaudit("trust", "add", "--vkey", witness, cwd=desk)
    assert "witness witness.example/w" in ran.out
    ran = ucaudit("trust", "list", cwd=desk)
    assert "until 2099-01-01T00:00:00Z" in ran.out
    assert max(map(len, ran.out.splitlines())) <= 100
    document = ucaudit("trust", "list", "--json", cwd=desk).json
    assert document["witnesses"][0]["vkey"] == witness
    vera = next(item for item in document["keys"] if item["principal"] == "vera@example.com")
    complaint(ucaudit("trust", "revoke", "--key", "nobody", "--reason", "r", cwd=desk), 3, "no key called")
    complaint(ucaudit("trust", "revoke", "--reason", "r", cwd=desk), 2, "exactly one")
    complaint(ucaudit("trust", "revoke", "--key", "x", cwd=desk), 2, "--reason")
    words = ("--key", vera["keyId"][:12], "--at", "2026-05-01T00:00:00Z", "--reason", "left")
    assert ucaudit("trust", "revoke", *words, cwd=desk).code == 0
    complaint(ucaudit("trust", "revoke", *words, cwd=desk), 3, "is revoked at 2026-05-01")
    assert "revoked 2026-05-01T00:00:00Z" in ucaudit("trust", "list", cwd=desk).out
    complaint(ucaudit("trust", "add", "--key", "keys/vera.pub", cwd=desk), 2, "--principal")
    complaint(ucaudit("trust", "add", "--role", "x", "--vkey", witness, cwd=desk), 2, "belong to a --key")
    complaint(ucaudit("trust", "add", cwd=desk), 2, "nothing to add")
    complaint(ucaudit("trust", "list", "--file", "absent.toml", cwd=desk), 3, "no such trust file")


def test_import_and_export(desk):
    trust_vera(desk)
    ran = ucaudit("trust", "export", "--out", "allowed", "--namespace", "git", cwd=desk)
    assert ran.code == 0, ran.err
    text = (desk / "allowed").read_text()
    assert "vera@example.com namespaces=" in text
    (desk / "allowed").write_text(text + "*@example.com ssh-ed25519 AAAA\n")
    ran = ucaudit("trust", "import", "--from", "allowed", "--role", "validator", "--file", "new.toml", cwd=desk)
    assert ran.code == 0, ran.err
    assert "2 added, 0 there already, 1 skipped" in ran.out
    assert "line 4 skipped: names several principals" in ran.err
    ran = ucaudit("trust", "import", "--from", "allowed", "--file", "new.toml", "--json", cwd=desk)
    assert len(ran.json["known"]) == 2
    (desk / "allowed").write_text("vera\n")
    complaint(ucaudit("trust", "import", "--from", "allowed", "--file", "new.toml", cwd=desk), 3, "line 1")
    complaint(ucaudit("trust", "export", "--namespace", 'a"b', cwd=desk), 2, "not a namespace")


def test_the_validators_journey_of_the_readme(desk):
    """Word for word, on the fixture bundle and the policy that the first journey writes."""
    (desk / "keys" / "vera.pem").unlink()
    (desk / "keys" / "vera.pub").unlink()
    (desk / "policy.toml").unlink()
    readme = (FIXTURES.parent / "README.md").read_text(encoding="utf-8")
    (init,) = [line for line in readme.splitlines() if line.startswith("ucaudit policy init")]
    block = readme[readme.index("**Validator**") :].split("```bash\n")[1].split("```")[0]
    for line in (init, *block.splitlines()):
        ran = ucaudit(*shlex.split(line)[1:], cwd=desk, UCAUDIT_KEY_PASSWORD="secret words")
        assert ran.code == 0, ran.err
    assert "will not accept" not in ran.err
    text = (desk / "policy.toml").read_text()
    for old, new in (("n = 50 ", "n = 30 "), ("seq_len = 1024", "seq_len = 64"), ("days = 365", "days = 36500")):
        assert old in text
        text = text.replace(old, new)
    (desk / "policy.toml").write_text(text)
    ran = verify(desk, "--policy", "policy.toml")
    assert ran.code == 0, ran.err


def test_a_key_that_the_trust_file_will_not_accept_is_told(desk):
    ran = countersign(desk, *TRUSTED, "--json", "--quiet")
    assert ran.code == 0 and ran.json["objection"] == "the key is not in it"
    assert "warning: a reader with trust.toml will not accept this bundle: the key is not in it" in ran.err
    words = "ucaudit trust add --file trust.toml --key keys/vera.pub --principal WHO --role validator"
    assert f"warning: whoever trusts the key runs: {words}" in ran.err
    complaint(verify(desk), 1, "no trusted key made this signature")
    assert ucaudit(*words.split()[1:], cwd=desk).code == 0
    assert verify(desk).code == 0, "what the warning says is what is missing"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--role", "approver"), "not trusted in the role validator (its roles: approver)"),
        (("--role", "validator", "--predicate", "bundle"), "not trusted for a record of type endorsement"),
        (("--role", "validator", "--predicate", "endorsement"), "not trusted for a record of type bundle"),
        (("--role", "validator", "--valid-until", "2026-01-01T00:00:00Z"), "expired at 2026-01-01T00:00:00Z"),
        (("--role", "validator"), None),
    ],
)
def test_a_key_that_is_listed_and_does_not_count_is_told(desk, options, words):
    add = ("trust", "add", "--key", "keys/vera.pub", "--principal", "vera@example.com")
    assert ucaudit(*add, *options, cwd=desk).code == 0
    ran = countersign(desk, *TRUSTED, "--json")
    assert ran.code == 0 and verify(desk).code == (0 if words is None else 1)
    if words is None:
        assert ran.json["objection"] is None and "will not accept" not in ran.err
        return
    assert words in ran.json["objection"] and f"will not accept this bundle: {ran.json['objection']}" in ran.err
    assert "correct the key's entry in trust.toml" in ran.err


def test_hints_of_what_cannot_be_endorsed(desk):
    assert countersign(desk).code == 0
    assert "another role or meaning is another endorsement" in countersign(desk).err
    nameless = ("--key", "keys/vera.pem", "--name", "", "--role", "validator", "--meaning", "review")
    ran = ucaudit("countersign", "bundle", *nameless, cwd=desk)
    complaint(ran, 3, "the printed name is empty")
    assert "a role has" not in ran.err
    ran = ucaudit("keygen", "--out", "trust.toml", "--no-password", cwd=desk)
    complaint(ran, 4, "is a file, not a directory")
    assert "choose another directory" in ran.err


def test_principals_are_printed_without_what_does_not_print(desk):
    text = (desk / "trust.toml").read_text()
    for bad in (r"evil\u001b[2J\nmallory", r"turned\u202eround"):
        (desk / "trust.toml").write_text(text.replace("signer@tests.invalid", bad))
        ran = ucaudit("trust", "list", cwd=desk)
        assert ran.code == 0 and len(ran.out.splitlines()) == 3
        ran_too = ucaudit("trust", "export", cwd=desk)
        assert ran_too.code == 0 and "left out" in ran_too.err
        for written in (ran.out, ran.err, ran_too.out, ran_too.err):
            assert all(line.isprintable() for line in written.splitlines()), written
    for bad in ("evil\x1b[2J", "two\nlines", "turned\u202eround"):
        add = ("trust", "add", "--key", "keys/vera.pub", "--principal", bad, "--file", "new.toml")
        complaint(ucaudit(*add, cwd=desk), 2, "--principal", "do not print")
    assert not (desk / "new.toml").exists()

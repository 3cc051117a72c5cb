"""`ucaudit gate` over many packs: which ones, which policy, one exit code; the cache and the signed verdicts."""

import json
import os
import shutil
import xml.etree.ElementTree as ET

import pytest
from bundles import PACK_FILES, make_bundle, make_setting, make_values
from tinypack import TENSORS

from ucaudit.evidence.amend import countersign
from ucaudit.evidence.keys import PublicKey, generate, load_signer
from ucaudit.evidence.ledger import Ledger
from ucaudit.evidence.signing import Envelope
from ucaudit.evidence.trust import add_key, add_ledger
from ucaudit.evidence.trust.edit import revoke
from ucaudit.packs import batch


def of_another_pack(record):
    """About other files."""
    return record.model_copy(update={"pack": record.pack.model_copy(update={"pack_digest": "0" * 64})})


@pytest.fixture(scope="module")
def bundles(setting):
    """One bundle of each outcome, about the setting's pack."""
    return {
        "good": make_bundle(setting, setting.root / "good"),
        "failed": make_bundle(setting, setting.root / "failed", values=make_values(drift=0.1)),
        "other": make_bundle(setting, setting.root / "other", change_record=of_another_pack),
        "open": make_bundle(setting, setting.root / "open", values=make_values(drift=0.0122, spread=0.004)),
    }


@pytest.fixture
def shop(setting, bundles, tmp_path, policy, run):
    """Lays packs with their evidence beside them; ``gate(*words)`` judges in it."""

    class Shop:
        models = tmp_path / "models"

        def lay(self, name, evidence="good", change=None):
            shutil.copytree(setting.pack, self.models / name)
            if evidence:
                shutil.copytree(bundles[evidence], self.models / f"{name}.evidence")
            if change:
                change(self.models / name)
            return self.models / name

        def gate(self, *words, rules=None):
            return run("gate", *words, "--policy", rules or policy(), "--trust", setting.trust, "--jobs", 1)

    Shop.models.mkdir()
    return Shop()


def drift(pack):
    (pack / TENSORS).write_bytes(PACK_FILES[TENSORS] + b"\0")


def spoil(pack):
    (pack / "model.bin").write_bytes(b"\x80\x04x")


def verdicts(ran):
    return {item["path"].rsplit("/", 1)[-1]: item["verdict"] for item in ran.json["packs"]}


# --- one exit code -----------------------------------------------------------------------------------------
def test_every_pack_is_judged_and_the_gravest_decides(shop):
    shop.lay("a-good")
    assert shop.gate("--each", shop.models).code == 0
    shop.lay("b-open", "open")
    assert shop.gate("--each", shop.models).code == 5
    shop.lay("c-pickle", change=spoil)
    assert shop.gate("--each", shop.models).code == 3
    shop.lay("d-drifted", change=drift)
    shop.lay("e-failed", "failed")
    shop.lay("f-unsigned", None)
    ran = shop.gate("--each", shop.models, "--json")
    assert ran.code == 1
    assert verdicts(ran) == {
        "a-good": "admitted",
        "b-open": "inconclusive",
        "c-pickle": "error",
        "d-drifted": "refused",
        "e-failed": "refused",
        "f-unsigned": "refused",
    }
    document = ran.json
    assert [document[name] for name in ("admitted", "inconclusive", "error", "refused")] == [1, 1, 1, 3]
    unsigned = document["packs"][-1]["checks"]
    assert [(item["slug"], item["status"], item["reason"]) for item in unsigned] == [
        ("evidence", "fail", "unsigned")
    ]
    assert {path.rsplit("/", 1)[-1] for path in document["skipped"]} == {
        f"{name}.evidence" for name in ("a-good", "b-open", "c-pickle", "d-drifted", "e-failed")
    }


@pytest.mark.parametrize(
    ("codes", "total"),
    [([], 0), ([0, 0], 0), ([0, 5], 5), ([5, 4], 4), ([4, 3], 3), ([3, 1, 5], 1), ([0, 70], 70)],
)
def test_the_total(codes, total):
    assert batch.total_exit_code(codes) == total


def test_the_table(shop):
    shop.lay("good")
    shop.lay("a-pack-with-a-name-that-is-longer-than-any-column", change=drift)
    ran = shop.gate("--each", shop.models, "--quiet")
    lines = ran.out.splitlines()
    assert max(len(line) for line in lines if not line.startswith(str(shop.models))) <= 80  # a path is not broken
    assert "gate           1 of 2 ADMITTED" in lines
    assert "good                          ADMITTED  policy.toml  none" in lines
    assert any(line.startswith("a-pack-with-a-name-that-is-…  REFUSED ") for line in lines)
    assert "FAIL  pack-files:" in ran.out
    assert ran.err.startswith("ucaudit: error: ") and "and 0 more" not in ran.err


@pytest.mark.slow
def test_several_at_a_time_come_to_the_same(shop, setting, policy, run):
    """In processes of their own: every key, record, check and error comes back."""
    for name, change in {"a": None, "b": drift, "c": spoil}.items():
        shop.lay(name, change=change)
    words = ("--each", shop.models, "--json", "--quiet")
    one = shop.gate(*words).json
    two = run("gate", *words, "--policy", policy(), "--trust", setting.trust, "--jobs", 2).json
    for document in (one, two):
        for item in document["packs"]:
            del item["seconds"]
    assert one == two


def test_a_pack_that_changes_while_it_is_read(shop, monkeypatch):
    from ucaudit.packs import opened

    shop.lay("good")
    other = shop.lay("other")
    real = opened.sha256_stream

    def hashing(handle, **how):
        found = real(handle, **how)
        with (other / TENSORS).open("ab") as writer:
            writer.write(b"x")
        return found

    monkeypatch.setattr(opened, "sha256_stream", hashing)
    ran = shop.gate("--each", shop.models, "--json")
    assert ran.code == 3 and verdicts(ran) == {"good": "admitted", "other": "error"}
    assert "replaced or changed while it was being read" in ran.json["packs"][1]["error"]["message"]


# --- which packs -------------------------------------------------------------------------------------------
def test_a_list_and_names(shop, tmp_path):
    one, two = shop.lay("one"), shop.lay("two", change=drift)
    listing = tmp_path / "packs.txt"
    listing.write_text(f"# the models\n\n  {one}  \n{two}\n{one}\n")
    assert verdicts(shop.gate("--list", listing, "--json")) == {"one": "admitted", "two": "refused"}
    assert verdicts(shop.gate(two, one, "--json")) == {"one": "admitted", "two": "refused"}
    listing.write_text("# nothing\n")
    ran = shop.gate("--list", listing)
    assert ran.code == 3 and "lists no packs" in ran.err
    listing.write_bytes(b"\xff\n")
    assert shop.gate("--list", listing).code == 3
    ran = shop.gate("--list", tmp_path / "no.txt")
    assert ran.code == 3 and "no such file" in ran.err


def test_a_list_on_stdin(shop, monkeypatch):
    import io

    one = shop.lay("one")
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{one}\n"))
    assert verdicts(shop.gate("--list", "-", "--json")) == {"one": "admitted"}


def test_what_a_directory_of_packs_is(shop, tmp_path):
    ran = shop.gate("--each", shop.models)
    assert ran.code == 3 and "no packs in it" in ran.err
    ran = shop.gate("--each", tmp_path / "nowhere")
    assert ran.code == 3 and "no such directory" in ran.err
    shop.lay("pack")
    (shop.models / "README.md").write_text("words")
    (shop.models / ".hidden").mkdir()
    ran = shop.gate("--each", shop.models, "--json")
    assert verdicts(ran) == {"pack": "admitted"}
    assert [place.rsplit("/", 1)[-1] for place in ran.json["skipped"]] == [".hidden", "README.md", "pack.evidence"]
    assert "warning: hidden, and not judged: .hidden" in ran.err


@pytest.mark.parametrize("name", ["E.GGUF", "loose.safetensors", "old.bin", "gone"])
def test_weights_that_are_no_pack_are_not_passed_over(shop, name):
    shop.lay("pack")
    if name == "gone":
        (shop.models / name).symlink_to("nowhere")
    else:
        (shop.models / name).write_bytes(b"x")
    ran = shop.gate("--each", shop.models, "--json")
    assert verdicts(ran) == {"pack": "admitted", name: "error"} and ran.code == 3


def test_evidence_in_a_name_hides_no_pack(shop):
    """Only evidence beside a pack of that name is passed over: a pack that calls itself evidence is judged."""
    shop.lay("good")
    shop.lay("model.evidence", None)
    assert verdicts(shop.gate("--each", shop.models, "--json")) == {"good": "admitted", "model.evidence": "refused"}


def test_no_pack_at_all_and_options_that_do_not_fit(shop, tmp_path):
    assert shop.gate().code == 2
    pack = shop.lay("pack")
    assert shop.gate(pack, "--good", pack).code == 2
    assert shop.gate(pack, "--svr", tmp_path / "v.json").code == 2
    assert shop.gate(pack, "--svr-id", "urn:x").code == 2
    key = generate(tmp_path / "keys", "gate", password=None)[0]
    ran = shop.gate(pack, "--svr", tmp_path / "v.json", "--svr-key", key, "--cache", tmp_path / "c")
    assert ran.code == 2 and "leaves files unread" in ran.err


# --- which evidence ----------------------------------------------------------------------------------------
def test_a_place_for_the_name_and_a_renamed_pack(shop, bundles, tmp_path):
    pack = shop.lay("renamed", None)
    shutil.copytree(bundles["good"], tmp_path / "all" / "renamed")
    ran = shop.gate(pack, "--evidence", tmp_path / "all" / "{pack}", "--json")
    assert ran.code == 0
    (subject,) = ran.check("pack-subject")
    assert subject["status"] == "pass" and "attested as pack, matched by digest" in subject["detail"]


def test_fifty_bundles_of_which_one_matches(shop, bundles, stranger, tmp_path):
    evidence = tmp_path / "evidence"
    for number in range(24):
        shutil.copytree(bundles["other"], evidence / f"other-{number:02}")
    for number in range(25):
        shutil.copytree(stranger, evidence / f"strange-{number:02}")
    shutil.copytree(bundles["good"], evidence / "a-good")
    ran = shop.gate(shop.lay("pack", None), "--evidence", evidence, "--json")
    assert (ran.code, ran.json["bundle"]) == (0, str(evidence / "a-good"))
    assert len(ran.check("evidence")) == 25  # the strangers' are listed


@pytest.fixture(scope="module")
def stranger(tmp_path_factory):
    other = make_setting(tmp_path_factory.mktemp("stranger"))
    return make_bundle(other, other.root / "bundle")


def test_evidence_of_another_pack_is_a_replay(shop, setting, tmp_path):
    def other(pack):
        drift(pack)
        (pack / "manifest.json").write_bytes(b"{}")
        (pack / "STATE").write_bytes(b"x")

    ran = shop.gate(shop.lay("other", change=other), "--json")
    (subject,) = ran.check("pack-subject")
    assert (ran.code, subject["status"], subject["reason"]) == (1, "fail", "replayed-evidence")
    (files,) = ran.check("pack-files")
    assert files["reason"] == "file-drift" and len(files["items"]) == 3


def test_one_changed_file_is_no_replay(shop):
    ran = shop.gate(shop.lay("pack", change=drift), "--json")
    assert [item["slug"] for item in ran.json["checks"] if item["status"] == "fail"] == ["pack-files"]


# --- which policy ------------------------------------------------------------------------------------------
def write(path, **rules):
    path.write_text(
        "[measurement]\nn = 30\nseq_len = 8\n[claims]\n"
        + "\n".join(f"{name} = {value}" for name, value in {"ppl_ratio_max": 1.0125, **rules}.items())
    )
    return path


def test_a_policy_for_some(shop, setting, run, tmp_path):
    shop.lay("chat-a"), shop.lay("base-a")
    strict, lax = write(tmp_path / "strict.toml", mean_kl_max=0.0001), write(tmp_path / "lax.toml")
    words = ("gate", "--each", shop.models, "--trust", setting.trust, "--jobs", 1, "--json")
    ran = run(*words, "--policy", lax, "--policy", f"chat-*={strict}")
    assert verdicts(ran) == {"base-a": "admitted", "chat-a": "refused"}
    ran = run(*words, "--policy", f"{shop.models}/chat-*={strict}", "--policy", f"base-?={lax}")
    assert verdicts(ran) == {"base-a": "admitted", "chat-a": "refused"}
    ran = run(*words, "--policy", f"chat-*={strict}")
    assert ran.code == 3 and "no policy is for this pack" in ran.err
    ran = run(*words, "--policy", lax, "--policy", f"chta-*={strict}")
    assert ran.code == 3 and "no pack fits the pattern chta-*" in ran.err
    ran = run(*words, "--policy", lax, "--policy", strict)
    assert ran.code == 2 and "given twice" in ran.err


def test_two_policies_that_disagree(shop, setting, run, tmp_path):
    shop.lay("chat-a")
    one, two = write(tmp_path / "one.toml"), write(tmp_path / "two.toml", ppl_ratio_max=1.02)
    words = ("gate", "--each", shop.models, "--trust", setting.trust, "--jobs", 1, "--json")
    ran = run(*words, "--policy", f"chat-*={one}", "--policy", f"*-a={two}")
    assert ran.code == 3
    assert "claims.ppl_ratio_max is 1.0125 in the one, 1.02 in the other" in ran.err
    two.write_bytes(one.read_bytes())
    assert run(*words, "--policy", f"chat-*={one}", "--policy", f"*-a={two}").code == 0


def test_a_policy_with_a_typing_error(shop, tmp_path):
    rules = write(tmp_path / "policy.toml", ppl_ratio_mx=1)
    junit = tmp_path / "gate.xml"
    ran = shop.gate(shop.lay("pack"), "--junit", junit, rules=rules)
    assert ran.code == 3 and "did you mean" in ran.err
    assert ET.fromstring(junit.read_bytes()).get("errors") == "1"


# --- files that are written --------------------------------------------------------------------------------
def test_a_suite_for_each_pack(shop, tmp_path):
    shop.lay("a"), shop.lay("b", change=drift), shop.lay("c", change=spoil)
    assert shop.gate("--each", shop.models, "--junit", tmp_path / "gate.xml").code == 1
    root = ET.fromstring((tmp_path / "gate.xml").read_bytes())
    assert root.tag == "testsuites"
    assert (root.get("failures"), root.get("errors")) == ("1", "1")
    assert [suite.get("name").rsplit("/", 1)[-1] for suite in root] == ["a", "b", "c"]
    (failure,) = root.iter("failure")
    assert failure.get("type") == "file-drift" and f"{TENSORS}: expected" in failure.text


@pytest.mark.parametrize("option", ["--junit", "--cache", "--svr"])
@pytest.mark.parametrize("place", ["key", "password", "evidence", "beside", "list", "good"])
def test_no_output_replaces_an_input(shop, tmp_path, option, place):
    pack = shop.lay("pack")
    files = {name: tmp_path / name for name in ("password", "evidence", "list", "good")}
    files["beside"] = shop.models / "pack.evidence.zip"
    for path in files.values():
        path.write_text(f"{pack}\n")
    files["key"] = generate(tmp_path / "keys", "gate", password=None)[0]
    words = {
        "evidence": [pack, "--evidence", files["evidence"]],
        "list": ["--list", files["list"]],
        "good": [pack, "--full", "--good", files["good"]],
    }.get(place, [pack])
    if option == "--svr" or place in ("key", "password"):
        words += ["--svr-key", files["key"], "--password-file", files["password"]]
        words += [] if option == "--svr" else ["--svr", tmp_path / "verdict"]
    before = files[place].read_bytes()
    ran = shop.gate(*words, option, files[place])
    if "--svr" in words and option == "--cache":
        assert ran.code == 2  # these two never go together
    else:
        assert ran.code == 3 and "which is an input" in ran.err
    assert files[place].read_bytes() == before


@pytest.mark.parametrize("option", ["--junit", "--cache", "--svr"])
def test_no_output_replaces_what_is_no_file(shop, tmp_path, option):
    os.mkfifo(tmp_path / "pipe")
    words = ("--svr-key", generate(tmp_path / "keys", "gate", password=None)[0]) if option == "--svr" else ()
    ran = shop.gate(shop.lay("pack"), option, tmp_path / "pipe", *words)
    assert ran.code == (0 if option == "--cache" else 4)  # a cache never decides whether the gate runs
    assert "not a regular file" in ran.err and (tmp_path / "pipe").is_fifo()


def test_the_working_directory_is_a_pack(shop, tmp_path, monkeypatch):
    monkeypatch.chdir(shop.lay("pack"))
    assert shop.gate(".", "--junit", tmp_path / "gate.xml").code == 0


def test_two_outputs_are_two_files(shop, tmp_path):
    key = generate(tmp_path / "keys", "gate", password=None)[0]
    same = tmp_path / "same"
    ran = shop.gate(shop.lay("pack"), "--junit", same, "--svr", same, "--svr-key", key)
    assert ran.code == 3 and "--junit and --svr name one file" in ran.err and not same.exists()


@pytest.mark.parametrize("option", ["--junit", "--cache", "--svr"])
def test_nothing_is_written_into_a_pack_of_a_directory(shop, tmp_path, option):
    pack = shop.lay("pack")
    key = generate(tmp_path / "keys", "gate", password=None)[0]
    words = ("--svr-key", key) if option == "--svr" else ()
    ran = shop.gate("--each", shop.models, option, pack / "file", *words)
    assert ran.code == 3 and "which is an input" in ran.err
    assert shop.gate("--each", shop.models).code == 0


def test_a_cache_changes_no_verdict(shop, tmp_path, monkeypatch):
    import time

    now = time.time_ns
    monkeypatch.setattr("ucaudit.packs.memo.time.time_ns", lambda: now() + 10**11)
    shop.lay("a"), shop.lay("b", change=drift)
    words = ("--each", shop.models, "--cache", tmp_path / "cache", "--json")
    cold, warm = shop.gate(*words), shop.gate(*words)
    assert verdicts(cold) == verdicts(warm) == {"a": "admitted", "b": "refused"}
    (remark,) = [item for item in warm.json["packs"][0]["checks"] if item["slug"] == "cache"]
    assert remark["status"] == "warn" and "4 digest(s) were taken from cache" in remark["detail"]
    drift(shop.models / "a")
    assert verdicts(shop.gate(*words)) == {"a": "refused", "b": "refused"}
    (tmp_path / "cache").write_text("x")
    ran = shop.gate(*words)
    assert verdicts(ran) == {"a": "refused", "b": "refused"}
    assert "ucaudit: warning: the cache was not read" in ran.err


# --- signed verdicts ---------------------------------------------------------------------------------------
def statement(path, key):
    envelope = Envelope.parse(path.read_bytes(), subject=path.name)
    assert envelope.signers([key]) == (key,)
    return json.loads(envelope.payload)


def test_a_verdict_says_what_held(shop, tmp_path):
    private, public, _ = generate(tmp_path / "keys", "gate", password=None)
    out = tmp_path / "verdict.json"
    pack = shop.lay("pack")
    words = ("--svr", out, "--svr-key", private, "--svr-id", "https://example.com/gate/v1")
    assert shop.gate(pack, *words).code == 0
    said = statement(out, PublicKey.load(public))
    assert said["predicateType"] == "https://in-toto.io/attestation/svr/v0.2"
    assert said["predicate"]["verifier"]["id"] == "https://example.com/gate/v1"
    assert [item["name"] for item in said["predicate"]["verifier"]["policies"]] == ["policy.toml", "trust file"]
    assert said["predicate"]["properties"] == [
        "UCAUDIT_CLAIM_FILES_MATCH_MANIFEST",
        "UCAUDIT_CLAIM_PPL_RATIO",
        "UCAUDIT_CLAIM_STATE_MATCHES_PUBLISHED",
        "UCAUDIT_EVIDENCE_AUTHENTIC",
        "UCAUDIT_FILES_MATCH",
        "UCAUDIT_GATE_ADMITTED",
        "UCAUDIT_LEDGER_PROVEN",
        "UCAUDIT_PLAN_PRE_REGISTERED",
    ]
    subjects = {item["name"]: item["digest"]["sha256"] for item in said["subject"]}
    assert subjects.keys() == {"pack.SHA256SUMS", *(f"pack/{name}" for name in PACK_FILES)}
    drift(pack)
    assert shop.gate(pack, *words).code == 1
    refused = statement(out, PublicKey.load(public))
    assert refused["predicate"]["properties"] == []  # one file drifted: nothing is vouched for
    assert {item["name"]: item["digest"]["sha256"] for item in refused["subject"]} != subjects
    spoil(pack)
    assert shop.gate(pack, *words).code == 3
    assert not out.exists()  # no verdict, and none of an earlier run


def test_a_verdict_for_each_pack(shop, tmp_path):
    private, public, _ = generate(tmp_path / "keys", "gate", password=None)
    shop.lay("a"), shop.lay("b", "failed"), shop.lay("c", None)
    assert shop.gate("--each", shop.models, "--svr", tmp_path / "out", "--svr-key", private).code == 1
    found = {
        path.name: statement(path, PublicKey.load(public))["predicate"]["properties"]
        for path in (tmp_path / "out").iterdir()
    }
    assert found.keys() == {f"{name}.svr.dsse.json" for name in "abc"}
    assert "UCAUDIT_GATE_ADMITTED" in found["a.svr.dsse.json"]
    assert "UCAUDIT_GATE_ADMITTED" not in found["b.svr.dsse.json"]
    assert (
        "UCAUDIT_FILES_MATCH" in found["b.svr.dsse.json"]
        and "UCAUDIT_CLAIM_PPL_RATIO" not in found["b.svr.dsse.json"]
    )
    assert found["c.svr.dsse.json"] == []


def test_a_verdict_cannot_take_the_place_of_a_directory(shop, tmp_path):
    private = generate(tmp_path / "keys", "gate", password=None)[0]
    ran = shop.gate(shop.lay("pack"), "--svr", tmp_path, "--svr-key", private)
    assert ran.code == 4 and "is a directory" in ran.err


def test_nobody_vouches_for_their_own_evidence(shop, setting, tmp_path):
    out = tmp_path / "verdict.json"
    ran = shop.gate(shop.lay("pack"), "--svr", out, "--svr-key", setting.root / "keys" / "signer.pem")
    assert ran.code == 3 and "whose evidence the gate judges" in ran.err
    assert not out.exists()


def test_two_packs_of_one_name_have_no_two_verdicts(shop, tmp_path):
    private = generate(tmp_path / "keys", "gate", password=None)[0]
    one = shop.lay("one/pack")
    two = shop.lay("two/pack")
    ran = shop.gate(one, two, "--svr", tmp_path / "out", "--svr-key", private)
    assert ran.code == 3 and "two packs of this name" in ran.err


# --- why, in one word --------------------------------------------------------------------------------------
KEYS = {
    "untrusted-key": {},
    "key-role": {},
    "key-expired": {"valid_until": "2026-01-01T00:00:00Z"},
    "key-not-yet-valid": {"valid_from": "2096-01-01T00:00:00Z"},
    "key-type": {"predicate_types": ("plan", "bundle")},
    "key-revoked": {},
}


@pytest.mark.parametrize("reason", KEYS)
def test_each_way_a_key_may_not_count_has_its_reason(setting, bundles, run, policy, tmp_path, reason):
    trust, evidence = tmp_path / "trust.toml", bundles["good"]
    key = setting.signer.public_key
    if reason == "untrusted-key":
        key = generate(tmp_path / "other", "k", password=None)[2]
    if reason == "key-role":
        evidence = shutil.copytree(evidence, tmp_path / "endorsed")
        private, _, second = generate(tmp_path / "second", "k", password=None)
        countersign(evidence, load_signer(str(private)), printed_name="Vera", role="validator", meaning="approval")
        add_key(trust, second, "vera@tests.invalid", roles=("reader",))
    add_key(trust, key, "signer@tests.invalid", roles=("developer",), **KEYS[reason])
    ledger = Ledger.open(setting.ledger)
    add_ledger(trust, ledger.origin, ledger.vkey)
    if reason == "key-revoked":
        revoke(trust, "key", 0, at="2026-01-01T00:00:00Z", reason="stolen")
    words = ("--evidence", evidence, "--policy", policy(), "--trust", trust)
    ran = run("gate", setting.pack, *words, "--json")
    assert ran.code == 1
    assert reason in {item["reason"] for item in ran.json["checks"] if item["status"] == "fail"}


def test_a_full_check_says_how_far(shop, setting, run, policy):
    pack = shop.lay("pack", change=lambda pack: rewrite(pack, b"\x01"))
    words = ("--full", "--device", "cpu", "--threads", 1, "--good", setting.pack, "--json")
    ran = shop.gate(pack, *words)
    (state,) = ran.check("pack-state")
    assert (ran.code, state["reason"], len(state["items"])) == (1, "state-drift", 1)
    assert "model.w: expected" in state["items"][0] and "elements differ, by" in state["items"][0]


def rewrite(pack, byte):
    """One byte of the codes."""
    data = bytearray(PACK_FILES[TENSORS])
    data[-200:-199] = byte if data[-200:-199] != byte else b"\x02"
    (pack / TENSORS).write_bytes(data)


# --- policy check ------------------------------------------------------------------------------------------
def test_policies_are_checked_one_or_several(run, tmp_path):
    one, two = write(tmp_path / "one.toml"), write(tmp_path / "two.toml", vendor_ppl_ratio=1.0125)
    single = run("policy", "check", one, "--json")
    assert single.code == 0 and single.json["warnings"] and single.json["policy"] == str(one)
    both = run("policy", "check", one, two)
    assert both.code == 0 and f"{two}:" in both.out and "the vendor's own point estimate" in both.out
    assert run("policy", "check", one, two, "--strict").code == 1
    assert run("policy", "check").code == 2

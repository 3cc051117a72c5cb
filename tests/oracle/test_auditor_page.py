"""docs/verify.html in headless Chromium: of one mind with ucaudit on every hostile bundle that it can judge."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socket
import threading
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bundles import make_bundle, make_setting, make_values
from chromium import Chromium
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hostile_bundles import HOSTILE, lay, load_cases
from people import append_line, endorsement, person

from ucaudit.core.records import Attestation
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.keys import PublicKey
from ucaudit.evidence.seed import contribution_statement
from ucaudit.evidence.signing import Envelope, sign

pytestmark = pytest.mark.oracle

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "verify.html"
READY = "document.body && document.body.dataset.ready"
CASES = load_cases()
FIGURES = "it derives no figure again from the per-token files, and reads none of their forms"
PACK = "it is not given the pack"
TIME = "the auditor vouches for the keys: no validity, no revocation"
POLICY = "it has no policy, and no clock to judge an age by"
LINK = "a browser leaves links out of a chosen folder, and nothing else is missing"
EMPTY = "a browser lists files, and this directory has none"
UNSEEN = {
    "link-dangling": LINK,
    "directory-inside": EMPTY,
    "git-inside": EMPTY,
    "another-packs": PACK,
    "another-packs-file-added": PACK,
    "too-old": POLICY,
    "from-the-future": POLICY,
    "revoked": TIME,
    "expired": TIME,
    "not-yet-valid": TIME,
    "ledger-expired": TIME,
    "codec-renamed": PACK,
    "bits-flattered": PACK,
    "published-state-denied": PACK,
    "documents-left-out": FIGURES,
    "windows-beyond-counting": FIGURES,
    "windows-lengthened": FIGURES,
    "scored-tokens-inflated": FIGURES,
    "text-too-short": FIGURES,
    "text-too-dense": FIGURES,
    "tolerance-shrunk": FIGURES,
    "values-edited-and-cited": FIGURES,
    "value-nan": FIGURES,
    "probability-above-one": FIGURES,
    "negative-kl": FIGURES,
    "agreement-two": FIGURES,
    "other-windows": FIGURES,
    "windows-out-of-order": FIGURES,
    "huge-header": FIGURES,
    "hidden-tensor": FIGURES,
    "trailing-bytes": FIGURES,
    "huge-shape": FIGURES,
    "ratio-flattered": FIGURES,
    "interval-narrowed": FIGURES,
    "bootstrap-narrowed": FIGURES,
    "kl-flattered": FIGURES,
    "perplexity-flattered": FIGURES,
    "n-inflated": FIGURES,
    "claim-promoted": FIGURES,
    "claim-reworded": FIGURES,
}
"""The cases that ucaudit refuses and the page accepts, each with why. The page lists all of these limits."""


@dataclass(frozen=True)
class Said:
    """What the page shows."""

    outcome: str
    rows: list[tuple[str, str, str]]
    """Slug, status and text of each check."""
    text: str


@dataclass
class AuditorPage:
    """The page in a browser, used as an auditor does."""

    browser: Chromium

    def reload(self) -> None:
        self.browser.open(PAGE.as_uri(), READY)

    def trust(self, *, signers: str = "", endorsers: str = "", ledger: str = "", may_close: bool = False) -> None:
        for field, value in (("signer", signers), ("endorsers", endorsers), ("ledger", ledger)):
            self.browser.evaluate(f"document.getElementById('{field}').value = {json.dumps(value)}; 0")
        self.browser.evaluate(f"document.getElementById('endorsers-close').checked = {json.dumps(may_close)}; 0")

    def trust_file(self, path: Path) -> bool:
        """Each key in the field that its record types allow. False if none is left that may sign a record."""
        trust = tomllib.loads(path.read_text(encoding="utf-8"))
        keys: dict[str, list[str]] = {"signers": [], "endorsers": []}
        for key in trust["key"]:
            types = key.get("predicate-types", ["attestation"])
            keys["signers" if "attestation" in types else "endorsers"].append(key["public-key"])
        ledger = next((item["vkey"] for item in trust.get("ledger", ())), "")
        self.trust(signers="\n".join(keys["signers"]), endorsers="\n".join(keys["endorsers"]), ledger=ledger)
        return bool(keys["signers"])

    def give(self, bundle: Path, how: str = "folder") -> None:
        self.browser.evaluate("document.getElementById('chosen').textContent = ''; 0")
        if how == "drop":
            self.browser.drop("#drop", bundle)
        elif how == "drop-files":
            self.browser.drop("#drop", *sorted(bundle.iterdir()))
        elif how == "folder" and bundle.is_dir():
            self.browser.choose("#folder", bundle)
        else:
            self.browser.choose("#files", *(sorted(bundle.iterdir()) if bundle.is_dir() else [bundle]))
        self.browser.wait("document.getElementById('chosen').textContent !== ''")

    def check(self) -> Said:
        self.browser.evaluate("document.getElementById('check').click(); 0")
        outcome = self.browser.wait("document.getElementById('result').dataset.outcome")
        each = "r => [r.dataset.slug, r.dataset.status, r.innerText]"
        rows = f"Array.from(document.querySelectorAll('tr[data-slug]'), {each})"
        text = self.browser.evaluate("document.getElementById('result').innerText")
        return Said(outcome, [tuple(row) for row in self.browser.evaluate(rows)], text)

    def hidden(self) -> bool:
        return self.browser.evaluate("document.getElementById('result').checkVisibility()") is False


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, absent: Any) -> Iterator[AuditorPage]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        absent("no Chromium (Debian package chromium)")
    browser = Chromium(program, tmp_path_factory.mktemp("browser") / "profile")
    try:
        page = AuditorPage(browser)
        page.reload()
        yield page
        noise = [event for event in browser.events if event["method"] == "Runtime.exceptionThrown"]
        assert not noise, noise
    finally:
        browser.close()


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """The address of the page on a server of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(PAGE.parent))) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/{PAGE.name}"
        server.shutdown()


@pytest.mark.parametrize("name", CASES)
def test_of_one_mind_with_ucaudit(page, name, tmp_path):
    laid = lay(name, tmp_path)
    someone = page.trust_file(laid.trust)
    page.give(laid.bundle)
    said = page.check()
    accepted = said.outcome == "verified"
    assert accepted is (laid.case["expect"]["exit"] == 0 or name in UNSEEN), said.rows
    failed = {slug for slug, status, _ in said.rows if status == "fail"}
    assert (said.outcome == "failed") is bool(failed)
    if accepted:
        assert said.text.startswith("Verified")
        assert "Determination: " in said.text
    else:
        assert ("NOT verified" if failed else "Incomplete: not verified") in said.text
        assert ("Determination: " in said.text) is not bool(failed)
    check = laid.case["expect"].get("check")
    if failed and check is not None and name not in UNSEEN:  # what is missing is incomplete, and fails nothing
        # A key for another type of record is a signature that counts for nothing here.
        assert (check.replace("-key", "-signature") if someone else "input") in failed


def test_every_limit_is_a_case_and_is_on_the_page():
    assert set(UNSEEN) <= set(CASES)
    assert all(CASES[name]["expect"]["exit"] != 0 for name in UNSEEN)
    text = PAGE.read_text(encoding="utf-8")
    for words in (
        "The figures.",
        "The pack and the model.",
        "Keys over time.",
        "Your policy.",
        "What a browser hides.",
    ):
        assert words in text


@pytest.mark.parametrize("how", ["drop-files", "folder", "files"])
def test_the_published_bundle_by_every_way_in(page, how):
    page.trust_file(ROOT / "fixtures" / "trust.toml")
    page.give(ROOT / "fixtures" / "bundle", how)
    said = page.check()
    assert said.outcome == "verified", said.rows
    assert "Determination: PASS" in said.text
    assert {status for _, status, _ in said.rows} == {"pass"}


def test_a_directory_with_files_is_seen(page, tmp_path):
    bundle = lay("good", tmp_path).bundle
    (bundle / ".git").mkdir()
    (bundle / ".git" / "config").write_text("")
    page.trust_file(HOSTILE / "trust.toml")
    page.give(bundle)
    assert page.check().outcome == "failed"


@pytest.mark.parametrize(
    "name", ["good", "directory-inside", "git-inside", "terminal-escape-in-a-name", "report-edited"]
)
def test_a_dropped_folder_where_the_page_is_served(page, served, name, tmp_path):
    page.browser.open(served, READY)
    try:
        laid = lay(name, tmp_path)
        page.trust_file(laid.trust)
        page.give(laid.bundle, "drop")
        assert page.check().outcome == ("verified" if name == "good" else "failed")
    finally:
        page.reload()


def test_a_dropped_folder_on_a_page_from_disk(page):
    """Chromium lists none there, and the page says what to do instead."""
    page.trust_file(ROOT / "fixtures" / "trust.toml")
    page.give(ROOT / "fixtures" / "bundle", "drop")
    assert page.check().outcome == "failed"
    assert "use the Folder button" in page.browser.evaluate("document.getElementById('chosen').textContent")


def test_an_authentic_failure_is_verified_and_says_fail(page, tmp_path):
    page.trust_file(HOSTILE / "trust.toml")
    page.give(lay("authentic-failure", tmp_path).bundle)
    said = page.check()
    assert said.outcome == "verified"
    assert "Determination: FAIL" in said.text


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        ({}, "verified"),
        ({"values": make_values(n=29)}, "verified"),
        ({"planned": False}, "verified"),
        ({"planned": False, "on_ledger": False}, "incomplete"),
        ({"late_plan": True}, "failed"),
    ],
    ids=["plain", "n29", "unplanned", "no-log", "late-plan"],
)
def test_what_our_writer_makes(page, made, outcome, tmp_path):
    setting = make_setting(tmp_path)
    page.trust_file(setting.trust)
    page.give(make_bundle(setting, tmp_path / "bundle", **made))
    assert page.check().outcome == outcome


@pytest.mark.parametrize(("seed", "outcome"), [(None, "incomplete"), (42, "failed")], ids=["follows", "another"])
def test_a_seed_from_outside(page, seed, outcome, tmp_path):
    """The formula is checked; who contributed is not, and the page says so instead of "verified"."""
    setting = make_setting(tmp_path)
    auditor = person(setting, "auditor")

    def contribute(plan: Envelope) -> Envelope:
        return sign(contribution_statement(plan.digest, "A. Auditor", value="ab" * 32).to_bytes(), auditor)

    def other_seed(record: Attestation) -> Attestation:
        return record.model_copy(update={"measurement": record.measurement.model_copy(update={"seed": seed})})

    change = {} if seed is None else {"change_record": other_seed}
    page.trust_file(setting.trust)
    page.give(make_bundle(setting, tmp_path / "bundle", contribute=contribute, **change))
    said = page.check()
    assert said.outcome == outcome
    assert ("plan" in {slug for slug, status, _ in said.rows if status == "fail"}) is (outcome == "failed")


class Token:
    """A signer with a P-256 key, as hardware has it."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        spki = self._key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.public_key = PublicKey.from_spki(spki, subject="token")

    def sign(self, data: bytes) -> bytes:
        return self._key.sign(data, ec.ECDSA(SHA256()))


def test_a_p256_endorsement(page, tmp_path):
    """Several, since a DER integer's length varies from signature to signature; and one with a changed byte."""
    setting = make_setting(tmp_path)
    bundle = make_bundle(setting, tmp_path / "bundle")
    digest = open_bundle(bundle).attestation.digest
    token = Token()
    trust = tomllib.loads(setting.trust.read_text(encoding="utf-8"))
    page.trust(
        signers=trust["key"][0]["public-key"],
        endorsers=token.public_key.pem().decode(),
        ledger=trust["ledger"][0]["vkey"],
    )
    for number in range(12):
        said = endorsement(digest, token, printed_name=f"Person {number}")
        append_line(bundle, said.raw, setting.signer)
    page.give(bundle)
    shown = page.check()
    assert shown.outcome == "verified", shown.rows
    assert sum(slug == "endorsement-signature" for slug, _, _ in shown.rows) == 12
    document = json.loads(endorsement(digest, token, printed_name="Another").raw)
    signature = bytearray(base64.b64decode(document["signatures"][0]["sig"]))
    signature[20] ^= 1
    document["signatures"][0]["sig"] = base64.b64encode(signature).decode()
    append_line(bundle, json.dumps(document).encode() + b"\n", setting.signer)
    page.give(bundle)
    assert page.check().outcome == "failed"


def test_flipped_bits_are_refused_in_every_file(page, tmp_path):
    bundle = lay("good", tmp_path).bundle
    page.trust_file(HOSTILE / "trust.toml")
    for path in sorted(bundle.iterdir()):
        data = path.read_bytes()
        position = len(data) // 3
        changed = bytearray(data)
        changed[position] ^= 1 << position % 8
        path.write_bytes(changed)
        page.give(bundle)
        assert page.check().outcome == "failed", path.name
        path.write_bytes(data)
    page.give(bundle)
    assert page.check().outcome == "verified"


def test_nothing_given_is_never_verified(page, tmp_path):
    good = lay("good", tmp_path).bundle
    trust = tomllib.loads((HOSTILE / "trust.toml").read_text(encoding="utf-8"))
    signer, validator = (key["public-key"] for key in trust["key"])
    vkey = trust["ledger"][0]["vkey"]
    page.reload()
    page.trust(signers=signer, endorsers=validator, ledger=vkey)
    assert page.check().outcome == "failed"  # no bundle
    page.give(good)
    page.trust(endorsers=validator, ledger=vkey)
    assert page.check().outcome == "failed"  # no signer
    page.trust(signers=signer, ledger=vkey)
    assert page.check().outcome == "failed"  # endorsed by somebody whom nobody vouches for
    page.trust(signers=signer, endorsers=validator)
    said = page.check()
    assert said.outcome == "incomplete"
    assert "Incomplete: not verified" in said.text
    page.trust(signers=signer, endorsers=validator, ledger=vkey)
    assert page.check().outcome == "verified"


def test_endorsers_close_only_where_the_auditor_says_so(page, tmp_path):
    laid = lay("closed-by-the-endorser", tmp_path)
    trust = tomllib.loads(laid.trust.read_text(encoding="utf-8"))
    signer, validator = (key["public-key"] for key in trust["key"])
    vkey = trust["ledger"][0]["vkey"]
    page.give(laid.bundle)
    page.trust(signers=signer, endorsers=validator, ledger=vkey)
    assert page.check().outcome == "failed"
    page.trust(signers=signer, endorsers=validator, ledger=vkey, may_close=True)
    assert page.check().outcome == "verified"


@pytest.mark.parametrize(
    ("field", "text", "said"),
    [
        (
            "signer",
            "-----BEGIN PRIVATE KEY-----\nMC4CAQAwBQYDK2VwBCIEIA==\n-----END PRIVATE KEY-----",
            "private key",
        ),
        ("signer", "bm90IGEga2V5", "not an Ed25519 or P-256"),
        ("signer", "MCowBQYDK2VwAyEAUtwns3jkAApa3yFAJWMo+HPWuqF0MuhvreKD5eQg/Mx=", "canonical"),
        ("ledger", "hostile.invalid/log+00000000+AaHB+s0gFTo3pxrNP/2jxyP5IRt1o/X3r78KMbUbgRTI", "give 92546d58"),
        ("ledger", "somebody", "not a ledger key"),
    ],
)
def test_keys_that_are_none(page, field, text, said, tmp_path):
    page.trust_file(HOSTILE / "trust.toml")
    page.give(lay("good", tmp_path).bundle)
    page.browser.evaluate(f"document.getElementById('{field}').value = {json.dumps(text)}; 0")
    shown = page.check()
    assert shown.outcome == "failed"
    assert said in shown.text


def test_a_verdict_does_not_outlive_what_it_was_about(page, tmp_path):
    page.trust_file(HOSTILE / "trust.toml")
    for change in (
        "document.getElementById('signer').dispatchEvent(new Event('input'))",
        "document.getElementById('endorsers-close').dispatchEvent(new Event('input'))",
    ):
        page.give(lay("good", tmp_path / str(len(change))).bundle)
        assert page.check().outcome == "verified"
        page.browser.evaluate(f"{change}; 0")
        assert page.hidden()
    assert page.check().outcome == "verified"
    page.give(lay("report-edited", tmp_path / "other").bundle)
    assert page.hidden()


def test_text_from_a_bundle_is_never_markup(page, tmp_path):
    setting = make_setting(tmp_path)
    bundle = make_bundle(setting, tmp_path / "bundle")
    name = '<img src=x onerror="document.title=`owned`">'
    (bundle / f"report-{name.replace('/', '')}").write_bytes(b"")
    page.trust_file(setting.trust)
    page.give(bundle)
    said = page.check()
    assert said.outcome == "failed"
    assert "<img src=x" in said.text
    assert page.browser.evaluate("document.querySelectorAll('#result img').length") == 0
    assert page.browser.evaluate("document.title") == "Check a ucaudit evidence bundle"


def test_what_turns_text_around_is_shown_as_a_code(page, tmp_path):
    setting = make_setting(tmp_path)
    bundle = make_bundle(setting, tmp_path / "bundle")
    vera = person(setting, "vera")
    digest = open_bundle(bundle).attestation.digest
    append_line(bundle, endorsement(digest, vera, printed_name="Vera\u202e\u200b Lid").raw, setting.signer)
    trust = tomllib.loads(setting.trust.read_text(encoding="utf-8"))
    page.trust(
        signers=trust["key"][0]["public-key"], endorsers=vera.public_key.base64, ledger=trust["ledger"][0]["vkey"]
    )
    page.give(bundle)
    said = page.check()
    assert said.outcome == "verified"
    assert said.text.count("Vera<U+202E><U+200B> Lid") == 2
    assert not {"\u202e", "\u200b"} & set(said.text)


def test_it_connects_to_nothing(page):
    """The policy is asked with requests of every kind to a server of our own, which must hear nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        heard: list[bytes] = []

        def listen() -> None:
            while True:
                try:
                    connection, _ = server.accept()
                except OSError:
                    return
                with connection:
                    heard.append(connection.recv(100))

        threading.Thread(target=listen, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}/"
        attempts = f"""(async () => {{
            const url = {json.dumps(url)};
            const refused = [];
            document.addEventListener("securitypolicyviolation", (event) => refused.push(event.effectiveDirective));
            await fetch(url, {{ mode: "no-cors" }}).catch(() => 0);
            navigator.sendBeacon(url, "x");
            for (const [tag, member] of [["img", "src"], ["iframe", "src"], ["video", "src"]]) {{
                const made = document.createElement(tag);
                made[member] = url;
                document.body.append(made);
            }}
            try {{ new WebSocket(url.replace("http", "ws")); }} catch {{}}
            try {{ document.body.innerHTML = "<b>x</b>"; refused.push("nothing"); }}
            catch {{ refused.push("markup"); }}
            await new Promise((done) => setTimeout(done, 300));
            return refused;
        }})()"""
        refused = page.browser.evaluate(attempts)
        server.shutdown(socket.SHUT_RDWR)
    page.reload()
    assert heard == []
    assert {"connect-src", "img-src", "frame-src", "media-src", "markup"} <= set(refused)
    assert "nothing" not in refused


def test_it_refers_to_no_other_file():
    text = PAGE.read_text(encoding="utf-8")
    markup = re.sub(r"<script>.*</script>", "", text, flags=re.DOTALL)
    assert not re.search(r"\b(src|href|action|background)\s*=", markup)
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function", text)


def test_a_browser_without_ed25519_says_so(page):
    source = """
        const real = globalThis.SubtleCrypto?.prototype.importKey;
        if (real) SubtleCrypto.prototype.importKey = function (format, data, algorithm, ...rest) {
            if (algorithm.name === "Ed25519") return Promise.reject(new DOMException("no", "NotSupportedError"));
            return real.call(this, format, data, algorithm, ...rest);
        };"""
    script = page.browser.send("Page.addScriptToEvaluateOnNewDocument", source=source)["identifier"]
    try:
        page.reload()
        assert page.browser.evaluate("document.body.dataset.ready") == "unsupported"
        assert "cannot check Ed25519" in page.browser.evaluate("document.body.innerText")
        assert page.browser.evaluate("document.getElementById('check').checkVisibility()") is False
    finally:
        page.browser.send("Page.removeScriptToEvaluateOnNewDocument", identifier=script)
        page.reload()
    assert page.browser.evaluate("document.body.dataset.ready") == "yes"

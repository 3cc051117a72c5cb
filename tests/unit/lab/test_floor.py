"""The floor protocol carried out on a tiny model: what is refused first, and that no finished stage is repeated."""

from __future__ import annotations

import json
import shutil

import pytest
from click.testing import CliRunner
from tinymodels import make_model, make_text

from ucaudit.cli.main import cli
from ucaudit.core.digest import sha256_file
from ucaudit.core.errors import (
    CorpusError,
    DigestMismatchError,
    InputError,
    LedgerInconsistentError,
    ModelError,
    RefusedError,
    UcauditError,
    UntrustedKeyError,
)
from ucaudit.evidence.bundle import open_bundle
from ucaudit.evidence.floors.protocol import load_protocol
from ucaudit.evidence.keys import generate, load_signer
from ucaudit.evidence.ledger import Ledger, population_of
from ucaudit.evidence.trust import add_key, add_ledger, load_trust
from ucaudit.evidence.verify import verify_bundle
from ucaudit.lab import floor, floor_publish, floor_stages
from ucaudit.lab.floor import FloorRequest, run_floor
from ucaudit.lab.floor_preflight import figures, floor_preflight
from ucaudit.packs.opened import open_pack

PROTOCOL = """
name = "tiny"
[model]
path = "model"
[measurement]
corpus = "evaluation.txt"
n = 6
seq_len = 16
[floor]
metric = "meanKl"
margin = 0.01
[baseline]
bits = 3
group = 16
rank = 1
sequences = 4
seq_len = 16
calibration = "calibration.txt"
[[perturbation]]
name = "rank-2"
direction = "capacity"
rank = 2
"""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    root = tmp_path_factory.mktemp("floor")
    make_model(root / "model")
    (root / "evaluation.txt").write_text(make_text(seed=5), encoding="utf-8")
    (root / "calibration.txt").write_text(make_text(seed=6), encoding="utf-8")
    return root


@pytest.fixture
def place(inputs, tmp_path):
    """A folder with a ledger, a key and a protocol beside the module's model and texts."""
    for name in ("model", "evaluation.txt", "calibration.txt"):
        (tmp_path / name).symlink_to(inputs / name)
    private, _, key = generate(tmp_path / "keys", "signer", password=None)
    signer = load_signer(str(private))
    Ledger.init(tmp_path / "ledger", "tests.invalid/log", signer)
    add_key(tmp_path / "trust.toml", key, "signer@tests.invalid", roles=("developer",))
    ledger = Ledger.open(tmp_path / "ledger")
    add_ledger(tmp_path / "trust.toml", ledger.origin, ledger.vkey)
    return tmp_path


def request(place, text=PROTOCOL, **changes) -> FloorRequest:
    (place / "protocol.toml").write_text(text, encoding="utf-8")
    options = {
        "protocol": load_protocol(place / "protocol.toml"),
        "signer": load_signer(str(place / "keys" / "signer.pem")),
        "out": place / "out",
        "ledger": place / "ledger",
        "threads": 1,
    }
    return FloorRequest(**{**options, **changes})


def entries(place):
    found: list[bytes] = []
    Ledger.open(place / "ledger").verify(sink=found.extend)
    return population_of(found)


@pytest.fixture
def counted(monkeypatch):
    """How often something was really encoded and really measured."""
    counts = {"encoded": 0, "measured": 0}
    compress, measure = floor_stages.compress, floor_stages.measure_planned

    def encoding(*args, **options):
        counts["encoded"] += 1
        return compress(*args, **options)

    def measuring(*args, **options):
        counts["measured"] += 1
        return measure(*args, **options)

    monkeypatch.setattr(floor_stages, "compress", encoding)
    monkeypatch.setattr(floor_stages, "measure_planned", measuring)
    return counts


def damage(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


# --- refused before a plan is committed -------------------------------------------------------------------
REFUSED = {
    "the calibration text as corpus": (
        PROTOCOL.replace("evaluation.txt", "calibration.txt"),
        CorpusError,
        "corpus and calibration text are the same",
    ),
    "too few windows for fresh ones": (
        PROTOCOL.replace("n = 6", "n = 6\nconfirm_n = 100000"),
        CorpusError,
        "too short: 100006 windows of 16 tokens",
    ),
    "a pin that is not met": (
        PROTOCOL.replace('"evaluation.txt"', f'"evaluation.txt"\ncorpus_sha256 = "{"0" * 64}"'),
        CorpusError,
        "the protocol pins sha-256 0000",
    ),
    "windows longer than the model reads": (
        PROTOCOL.replace("seq_len = 16", "seq_len = 512", 1),
        UcauditError,
        "512",
    ),
    "calibration sequences longer than the model reads": (
        PROTOCOL.replace("sequences = 4\nseq_len = 16", "sequences = 4\nseq_len = 512"),
        ModelError,
        "sequences of 51[23] tokens.*, the model reads at most",
    ),
    "no such model": (PROTOCOL.replace('"model"', '"modell"'), InputError, "modell"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_before_anything_is_committed(place, name):
    text, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        run_floor(request(place, text))
    assert entries(place) == [] and not (place / ".out.floor").exists()


def test_an_output_that_is_used_or_inside_the_model(place):
    (place / "out").mkdir()
    (place / "out" / "x").write_text("")
    with pytest.raises(RefusedError, match="not empty"):
        floor_preflight(request(place))
    with pytest.raises(RefusedError, match="which is an input"):
        floor_preflight(request(place, out=place / "model" / "out"))


def test_a_key_that_is_not_the_ledgers(place):
    private, _, _ = generate(place / "keys", "other", password=None)
    with pytest.raises((RefusedError, LedgerInconsistentError, InputError), match="key"):
        floor_preflight(request(place, signer=load_signer(str(private))))
    assert entries(place) == []


def test_the_preflight_says_what_it_will_take(place):
    wanted = request(place)
    found = figures(wanted, floor_preflight(wanted))
    assert (found["encodings"], found["windows"], found["freshWindows"]) == (10, 6, 6)
    assert found["diskMb"] > 30 and found["minutes"] >= 0
    assert not (place / ".out.floor").exists() and entries(place) == []


# --- carried out -------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_from_the_protocol_to_a_bundle_that_verifies(place, counted):
    outcome = run_floor(request(place, out=place / "evidence" / "floor"))  # the folder is made
    assert counted == {"encoded": 10, "measured": 10}
    result = verify_bundle(open_bundle(outcome.bundle), load_trust(place / "trust.toml"), floors=True)
    assert result.authentic and not result.failures, [check.detail for check in result.failures]
    plan, done = entries(place)
    assert (plan.entry.kind, plan.status, done.entry.kind, done.related) == ("floorplan", "closed", "floor", 0)
    record = outcome.record
    assert record.measurement.calibration_overlap == "none-found"
    assert len({run.pack_digest for run in record.runs}) == 10
    assert {item.id for item in record.limitations} >= {"directions-not-tried", "these-attempts", "packs-not-here"}
    # The work is gone, and nothing else was left.
    assert [path.name for path in (place / "evidence").iterdir()] == ["floor"]


@pytest.mark.slow
def test_anybody_can_encode_a_run_again(place):
    """With the settings and the seed in the record, under the name that docs/floors.md gives."""
    record = run_floor(request(place)).record
    run = next(item for item in record.runs if (item.arm, item.seed) == ("rank-2", 3))
    encoder = ["--bits", "3", "--group", "16", "--rank", "2", "--sequences", "4", "--seq-len", "16"]
    words = [*encoder, "--seed", "3", "--threads", "1", "-q"]
    inputs = [str(place / "model"), "--calibration", str(place / "calibration.txt")]
    done = CliRunner().invoke(
        cli, ["pack", *inputs, "--out", str(place / "rank-2-3"), *words], standalone_mode=False
    )
    assert done.return_value == 0, done.output
    with open_pack(place / "rank-2-3") as pack:
        assert pack.file_manifest().digest == run.pack_digest
    assert done.output.strip() == run.state_digest


@pytest.mark.slow
def test_an_interrupted_run_repeats_no_finished_stage(place, counted, monkeypatch):
    done = floor_stages.Stages.measured

    def until_the_fourth(self, arm, settings, seed, plan, **options):
        if (arm, seed) == ("baseline", 4):
            raise KeyboardInterrupt
        return done(self, arm, settings, seed, plan, **options)

    with monkeypatch.context() as patch:
        patch.setattr(floor_stages.Stages, "measured", until_the_fourth)
        with pytest.raises(KeyboardInterrupt):
            run_floor(request(place))
    assert counted == {"encoded": 3, "measured": 3}
    changed = PROTOCOL.replace("margin = 0.01", "margin = 0.02")
    with pytest.raises(
        RefusedError, match=r"changed after its plan was committed: protocol\.margin: planned 0.01, now"
    ):
        run_floor(request(place, changed))
    fewer = PROTOCOL + '[[perturbation]]\nname = "rank-3"\ndirection = "capacity"\nrank = 3\n'
    with pytest.raises(RefusedError, match=r"changed after its plan was committed: protocol\.perturbations"):
        run_floor(request(place, fewer))
    private, _, _ = generate(place / "keys", "other", password=None)
    with pytest.raises(UntrustedKeyError, match="signed by another key"):
        run_floor(
            request(
                place, signer=load_signer(str(private)), ledger_signer=load_signer(str(place / "keys/signer.pem"))
            )
        )
    outcome = run_floor(request(place))
    assert counted == {"encoded": 10, "measured": 10}
    assert outcome.ledger_index == 1 and len(entries(place)) == 2


@pytest.mark.slow
def test_interrupted_after_the_ledger_it_is_entered_once(place, counted, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(floor_publish, "close_bundle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            run_floor(request(place))
    assert len(entries(place)) == 2
    outcome = run_floor(request(place))
    assert counted == {"encoded": 10, "measured": 10}
    assert len(entries(place)) == 2 and outcome.ledger_index == 1


@pytest.mark.slow
def test_a_winner_whose_pack_is_gone_is_encoded_again_to_the_same_digest(place, counted, monkeypatch):
    monkeypatch.setattr(floor, "winners", lambda _: ("rank-2",))
    outcome = run_floor(request(place, drop_packs=True, given_work=place / "work"))
    # Ten encodings, and all ten again for the fresh windows; two sets of measurements.
    assert counted == {"encoded": 20, "measured": 20}
    record = outcome.record
    assert record.confirmation is not None and record.confirmation.n == 6
    assert {run.fresh_values is not None for run in record.runs} == {True}
    kept = run_floor(request(place, out=place / "again", given_work=place / "work"))
    assert counted == {"encoded": 20, "measured": 20}  # the work of another output serves this one too
    assert [run.pack_digest for run in kept.record.runs] == [run.pack_digest for run in record.runs]
    assert kept.record.results == record.results
    # Which the second record says: its plan came after the values.
    said = {item.id: item.text for item in kept.record.limitations}
    assert said["measured-before-plan"].endswith("in view.")
    assert "measured-before-plan" not in {item.id for item in record.limitations}
    # A pack that comes out otherwise than the one that was measured is not confirmed on.
    shutil.rmtree(place / "work" / "values")
    note = next((place / "work" / "packs").glob("*/done.json"))
    note.write_text(json.dumps(json.loads(note.read_text()) | {"packDigest": "1" * 64}))
    with pytest.raises(DigestMismatchError, match="has another digest than the pack that was measured"):
        run_floor(request(place, out=place / "third", given_work=place / "work"))


@pytest.mark.slow
def test_a_damaged_stage_is_made_again(place, counted):
    run_floor(request(place, given_work=place / "work"))
    run = next((place / "work" / "values").glob("*/run.safetensors"))
    before = sha256_file(run)
    damage(run)
    pack = next((place / "work" / "packs").glob("*/*/layer-00000.safetensors"))
    damage(pack)
    run_floor(request(place, out=place / "again", given_work=place / "work"))
    assert counted["measured"] == 11 and sha256_file(run) == before

"""The error tree. Every failure that a user can cause or meet is one of these classes.

Each error has a stable ``code`` (a slug that scripts may depend on), the ``subject`` it is about (a file, a
tensor, a key), and where possible a ``hint`` with the next step. The three branches map to exit codes, so a
finding (exit 1) and a failure to look (exit 3 or 4) never share a code.
"""

from __future__ import annotations

from typing import ClassVar, Final

EXIT_PASS: Final = 0
EXIT_FAIL: Final = 1
EXIT_USAGE: Final = 2
EXIT_INPUT: Final = 3
EXIT_UNAVAILABLE: Final = 4
EXIT_INCONCLUSIVE: Final = 5
EXIT_BUG: Final = 70
EXIT_INTERRUPTED: Final = 130


class UcauditError(Exception):
    """Base of all errors ucaudit raises on purpose.

    Args:
        message: one line, lower case, no full stop, with the expected and the found value where there are any.
        subject: what it is about: a path, a tensor name, a key id.
        hint: what the user can do next; the class's own where nothing more exact is known.
        reason: a slug finer than the class's code, for programs; the code where there is none.
    """

    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = EXIT_BUG
    default_hint: ClassVar[str | None] = None

    def __init__(
        self, message: str, *, subject: str | None = None, hint: str | None = None, reason: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.hint = hint if hint is not None else self.default_hint
        self.reason = reason if reason is not None else self.code

    def __str__(self) -> str:
        return f"{self.subject}: {self.message}" if self.subject else self.message


# --- findings: something was checked and did not hold -------------------------------------------------
class VerificationError(UcauditError):
    """A check was made and its outcome is negative.

    Attributes:
        checks: every check that was made, where a whole gate stands behind the error.
    """

    checks: tuple[object, ...] = ()

    code = "verification-failed"
    exit_code = EXIT_FAIL
    default_hint = "ask whoever made it: what was signed does not follow from what is there"


class SignatureInvalidError(VerificationError):
    """The signature does not fit the signed bytes under the given key."""

    code = "signature-invalid"
    default_hint = (
        "the signed bytes were changed, or another key signed them: ask the signer for the evidence again"
    )


class UntrustedKeyError(VerificationError):
    """No key of the trust file made this signature, or the key is not allowed this role, type or time."""

    code = "untrusted-key"
    default_hint = "ucaudit trust list shows whom you trust, for what and until when"


class DigestMismatchError(VerificationError):
    """Bytes on disk are not the bytes that were recorded."""

    code = "digest-mismatch"
    default_hint = "get the file again from whoever recorded it"


class StateDriftError(VerificationError):
    """A reconstructed tensor differs from the recorded state."""

    code = "state-drift"
    default_hint = "ucaudit reconstruct PACK --expect STATE names each tensor that drifted"


class PolicyViolationError(VerificationError):
    """The evidence is authentic but does not satisfy the policy."""

    code = "policy-violation"
    default_hint = "ucaudit policy check explains what the policy demands"


class InconclusiveError(PolicyViolationError):
    """A claim of the policy was neither shown to hold nor shown to fail: too little data."""

    code = "inconclusive"
    exit_code = EXIT_INCONCLUSIVE
    default_hint = "measure more windows: ucaudit bound says how many would decide"


class NotAdmittedError(VerificationError):
    """A pack that a gate refused was about to be used (:func:`ucaudit.guard`)."""

    code = "not-admitted"
    default_hint = "ucaudit gate lists every check"


class LedgerInconsistentError(VerificationError):
    """A ledger, checkpoint or proof contradicts itself or an earlier checkpoint."""

    code = "ledger-inconsistent"
    default_hint = "keep both versions, which together are the proof, and ask whoever runs the ledger"


# --- input errors: nothing can be said, because what was given is malformed ----------------------------
class InputError(UcauditError):
    """What was given cannot be read as what it should be."""

    code = "malformed-input"
    exit_code = EXIT_INPUT
    default_hint = "check that this is the file or value that was meant; the command's --help says what it takes"


class NotFoundError(InputError):
    """A file or directory that was named does not exist or is empty."""

    code = "not-found"
    default_hint = "check the path"


class UnsignedError(NotFoundError):
    """There is no evidence for a pack at all."""

    code = "unsigned"
    default_hint = "the pack is unsigned: ask its maker for a bundle, or make one with ucaudit attest"


class MalformedPackError(InputError):
    """A pack's files contradict their format."""

    code = "malformed-pack"
    default_hint = "the pack is damaged or incomplete: download or copy it again"


class UnsafePathError(InputError):
    """A path or link leaves the directory it must stay in, or names a special file."""

    code = "unsafe-path"
    default_hint = "replace it by a regular file, or take it away"


class UnsafeFileError(InputError):
    """A file kind that can run code when loaded (a pickle) lies where data is expected."""

    code = "unsafe-file"
    default_hint = "remove it; weights belong into safetensors or gguf files"


class MalformedRecordError(InputError):
    """A signed record, bundle or JSON document is not well formed."""

    code = "malformed-record"
    default_hint = "it is damaged, or not the kind of file that belongs here: get it again from its maker"


class MalformedPolicyError(InputError):
    """A policy or trust file is not well formed."""

    code = "malformed-policy"
    default_hint = "ucaudit policy init writes a policy to start from; docs/trust.md describes a trust file"


class MalformedProtocolError(InputError):
    """A floor protocol is not well formed, or contradicts itself."""

    code = "malformed-protocol"
    default_hint = "docs/floors.md has a protocol to start from"


class UnsupportedSchemaError(InputError):
    """A record of a type or version this release does not know."""

    code = "unsupported-schema"
    default_hint = "another release of ucaudit made it: read it with that one"


class MalformedKeyError(InputError):
    """A key file cannot be read as a key, or its password is missing or wrong."""

    code = "malformed-key"
    default_hint = "ucaudit keygen makes a pair: the .pem file signs, the .pub file is for everybody else"


class CorpusError(InputError):
    """An evaluation or calibration text cannot serve the measurement that was asked for."""

    code = "unusable-corpus"
    default_hint = "docs/corpora.md says what an evaluation text must be"


class ModelError(InputError):
    """A model checkpoint, tokenizer or config does not fit its purpose (mismatched vocabulary, NaN logits, …)."""

    code = "unusable-model"
    default_hint = "give the directory of a whole checkpoint: config, tokenizer and weights"


class RefusedError(InputError):
    """A request that would destroy something or contradict itself: overwriting a key, a used output."""

    code = "refused"
    default_hint = "choose another name or path"


# --- unavailable: this machine or installation cannot do it --------------------------------------------
class UnavailableError(UcauditError):
    """The request is sound but cannot be carried out here."""

    code = "unavailable"
    exit_code = EXIT_UNAVAILABLE
    default_hint = "ucaudit doctor says what this machine can do, and what is missing"


class MissingExtraError(UnavailableError):
    """An optional dependency is not installed."""

    code = "missing-extra"
    default_hint = "ucaudit doctor prints the line that installs it"


class CodecUnavailableError(UnavailableError):
    """No installed codec reconstructs this format."""

    code = "codec-unavailable"
    default_hint = "ucaudit inspect says what the pack is"


class DeviceUnavailableError(UnavailableError):
    """The device that was asked for is not there, or is refused for this work."""

    code = "device-unavailable"
    default_hint = "--device cpu"


class OutputError(UnavailableError):
    """The output cannot be written: no permission, no space, not a directory."""

    code = "output-unwritable"
    default_hint = "choose another output path"


def unreadable(subject: str, error: OSError, *, what: str = "cannot be read") -> InputError:
    """The error for a file or directory that this user may not look at."""
    hint = "give yourself permission to read it, or a copy that you may read"
    return InputError(f"{what}: {error.strerror}", subject=subject, hint=hint)


def missing_extra(extra: str, module: str) -> MissingExtraError:
    """The error for an absent optional dependency, with the line that installs it."""
    return MissingExtraError(
        f"this needs the {extra} extra ({module} is not installed)",
        hint=install_hint(extra),
    )


def install_hint(extra: str) -> str:
    """The line that installs an extra; ucaudit is on no public index, so it says where from."""
    return f"pip install 'ucaudit[{extra}]' with --find-links WHEELS, or '.[{extra}]' in a clone"

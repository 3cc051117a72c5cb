#!/usr/bin/env bash
# Makes .venv ready: a virtual environment, the system libraries WeasyPrint draws with, the locked
# dependencies, torch, and ucaudit itself (editable). `make test` and `make demo` call it; running it again
# when nothing changed costs a fraction of a second and prints nothing.
#
#   UCAUDIT_PYTHON=python3.12      the interpreter to build .venv with (default: the first one ≥ 3.11)
#   UCAUDIT_TORCH=cpu|cuda         which torch build (default: cuda where an NVIDIA GPU is, else cpu)
#   PIP_…                          pip's own settings are left alone: index, wheelhouse, certificates, cache
#
# Exit codes: 0 ready · 4 this machine lacks something, with the line that installs it · pip's own otherwise.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=.venv
readonly STAMP=$VENV/.ucaudit-ready       # holds the key of the state that was completely installed
readonly UNDERWAY=$VENV/.ucaudit-underway # there while pip works: left over, it marks an interrupted set-up
readonly HOME_NOTE=$VENV/.ucaudit-home    # where the clone lay and which Python built it: neither may change
readonly LOCKS=(requirements/lock.txt requirements/dev.txt)

say() { printf 'setup: %s\n' "$*" >&2; }
die() { # CODE MESSAGE [HINT…]
    printf 'setup: error: %s\n' "$2" >&2
    local code=$1 hint
    shift 2
    for hint in "$@"; do printf 'setup: hint: %s\n' "$hint" >&2; done
    exit "$code"
}

# --- one set-up at a time: `make demo` and `make test` may start together on a fresh clone -------------------
if command -v flock >/dev/null; then
    exec 9<"${BASH_SOURCE[0]}"
    flock -n 9 || { say "another set-up is running here, waiting for it"; flock 9; }
fi

# --- what is here -------------------------------------------------------------------------------------------
# A candidate must run, not only exist: version managers leave shims that answer with an error.
new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    if [ -n "${UCAUDIT_PYTHON:-}" ]; then
        new_enough "$UCAUDIT_PYTHON" || die 4 "UCAUDIT_PYTHON=$UCAUDIT_PYTHON is no working Python 3.11 or newer"
        echo "$UCAUDIT_PYTHON"
        return
    fi
    for candidate in python3.11 python3.12 python3.13 python3; do
        if new_enough "$candidate"; then echo "$candidate"; return; fi
    done
    die 4 "no Python 3.11 or newer found (looked for python3.11, python3.12, python3.13, python3)" \
        "install one ($(install_line python)), or name it with UCAUDIT_PYTHON"
}

package_manager() {
    local manager
    for manager in apt-get dnf apk brew; do
        if command -v "$manager" >/dev/null; then echo "$manager"; return; fi
    done
    echo unknown
}

# The line a person types for the things named: `python`, `venv` or `pango`.
install_line() {
    local manager packages=() thing
    manager=$(package_manager)
    for thing in "$@"; do
        case $manager:$thing in
            apt-get:python) packages+=(python3.11 python3.11-venv) ;;
            apt-get:venv) packages+=("python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv") ;;
            apt-get:pango) packages+=(libpango-1.0-0 libpangoft2-1.0-0 libharfbuzz-subset0) ;;
            dnf:python) packages+=(python3.11) ;;
            dnf:venv) packages+=(python3-pip) ;;
            dnf:pango) packages+=(pango harfbuzz) ;;
            apk:python) packages+=(python3) ;;
            apk:venv) packages+=(python3 py3-pip) ;;
            apk:pango) packages+=(pango harfbuzz-subset) ;;
            brew:python | brew:venv) packages+=(python@3.12) ;;
            brew:pango) packages+=(pango) ;;
        esac
    done
    case $manager in
        apt-get) echo "apt-get install -y --no-install-recommends ${packages[*]}" ;;
        dnf) echo "dnf install -y ${packages[*]}" ;;
        apk) echo "apk add ${packages[*]}" ;;
        brew) echo "brew install ${packages[*]}" ;;
        *) echo "with your system's package manager: Python 3.11 with venv and pip, Pango, HarfBuzz (subset)" ;;
    esac
}

has_pango() {
    "$python" - <<'PY' 2>/dev/null
import ctypes, ctypes.util, sys
if sys.platform == "linux":
    for soname in ("libpango-1.0.so.0", "libpangoft2-1.0.so.0", "libharfbuzz.so.0", "libharfbuzz-subset.so.0"):
        ctypes.CDLL(soname)
else:
    sys.exit(not (ctypes.util.find_library("pango-1.0") and ctypes.util.find_library("pangoft2-1.0")))
PY
}

torch_flavour() {
    case ${UCAUDIT_TORCH:-} in
        cpu | cuda) echo "$UCAUDIT_TORCH" ;;
        "") if [ -e /dev/nvidia0 ] || { command -v nvidia-smi && nvidia-smi -L; } >/dev/null 2>&1; then
                echo cuda
            else
                echo cpu
            fi ;;
        *) die 2 "UCAUDIT_TORCH=$UCAUDIT_TORCH is neither cpu nor cuda" ;;
    esac
}

# Everything the installed state depends on, as one hex digest: the locks, this script, the interpreter,
# the torch build, and where the clone lies (an environment can't be moved).
state_key() {
    "$1" - "$flavour" "$PWD" requirements/*.txt requirements/torch.in pyproject.toml scripts/setup.sh <<'PY'
import hashlib, pathlib, platform, sys
key = hashlib.sha256(repr((sys.version, platform.machine(), sys.argv[1:3])).encode())
for name in sys.argv[3:]:
    key.update(name.encode() + b"\0" + hashlib.sha256(pathlib.Path(name).read_bytes()).digest())
print(key.hexdigest())
PY
}

# --- nothing to do? -----------------------------------------------------------------------------------------
flavour=$(torch_flavour)
if [ -f "$STAMP" ] && [ ! -e "$UNDERWAY" ] && new_enough "$VENV/bin/python" \
    && [ "$(cat "$STAMP")" = "$(state_key "${UCAUDIT_PYTHON:-$VENV/bin/python}")" ]; then
    exit 0
fi
python=$(find_python)

# --- system packages ----------------------------------------------------------------------------------------
missing=()
"$python" -c 'import ensurepip, venv' >/dev/null 2>&1 || missing+=(venv)
has_pango || missing+=(pango)
if [ ${#missing[@]} -gt 0 ]; then
    line=$(install_line "${missing[@]}")
    as_root=()
    [ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
    if [ "$(package_manager)" != apt-get ]; then
        die 4 "system packages are missing: ${missing[*]}" "run: $line"
    elif [ ${#as_root[@]} -gt 0 ] && ! "${as_root[@]}" true >/dev/null 2>&1; then
        die 4 "system packages are missing (${missing[*]}), and neither root nor a sudo without password is here" \
            "run, or have an administrator run: sudo $line" "then give the same command again"
    fi
    say "installing system packages: ${line##*recommends }"
    log=$(mktemp)
    trap 'rm -f "$log"' EXIT
    # Old lists point at files the mirrors no longer have, so they are renewed first.
    # shellcheck disable=SC2086  # the line is words to split
    if ! { ${as_root[@]+"${as_root[@]}"} apt-get update -q \
        && ${as_root[@]+"${as_root[@]}"} env DEBIAN_FRONTEND=noninteractive $line -q; } >"$log" 2>&1 9<&-; then
        tail -n 20 "$log" >&2
        die 4 "apt-get could not install them" "run: sudo apt-get update && sudo $line"
    fi
fi

# --- the virtual environment --------------------------------------------------------------------------------
# Renamed first, so that an interruption never leaves a half-deleted environment under the real name.
start_over() {
    say "$1, starting over"
    mv "$VENV" "$VENV.old.$$"
    rm -rf "$VENV".old.*
}

home="$PWD $("$python" -V)"
if [ -e "$UNDERWAY" ]; then
    start_over "the last set-up did not finish"
elif [ -f "$HOME_NOTE" ] && [ "$(cat "$HOME_NOTE")" != "$home" ]; then
    start_over "the clone was moved or its Python changed"
elif [ -e "$VENV" ] && ! { new_enough "$VENV/bin/python" && "$VENV/bin/python" -m pip --version; } >/dev/null 2>&1; then
    start_over "$VENV does not work"
fi
fresh=no
[ -e "$VENV" ] || fresh=yes
mkdir -p "$VENV"
: >"$UNDERWAY"
rm -f "$STAMP"
if [ $fresh = yes ]; then
    say "creating $VENV with $("$python" -V)"
    "$python" -m venv "$VENV" || die 4 "$python -m venv failed" "run: $(install_line venv)"
    printf '%s\n' "$home" >"$HOME_NOTE"
fi

# --- packages -----------------------------------------------------------------------------------------------
# No step below may move torch, not even while a build back end is being installed.
own_constraint=${PIP_CONSTRAINT:-}
export PIP_CONSTRAINT="${PIP_CONSTRAINT:+$PIP_CONSTRAINT }requirements/torch.in"
export PIP_DISABLE_PIP_VERSION_CHECK=1
# -qq: warnings about the user's own index settings would fill the screen; errors still show.
pip() { "$VENV/bin/python" -m pip -qq "$@"; }
pip_with_progress() { # torch is large: on a terminal pip's progress bar is worth its other lines
    if [ -t 1 ]; then "$VENV/bin/python" -m pip "$@"; else pip "$@"; fi
}
installed_torch() { "$VENV/bin/python" -c 'from importlib.metadata import version; print(version("torch"))' 2>/dev/null; }

say "installing $(cat "${LOCKS[@]}" | grep -cE '^[a-z0-9].*==') locked packages, each checked against its SHA-256"
pip install --require-hashes --no-deps "${LOCKS[@]/#/--requirement=}"

install_torch_from_index() {
    pip_with_progress install --require-hashes --no-deps --requirement requirements/torch.txt
}
if [ "$flavour" = cuda ]; then
    # pip takes an installed +cpu build for the plain version; only removing it makes the switch.
    case $(installed_torch || true) in *+cpu) pip uninstall --yes torch ;; esac
    say "installing $(grep -oE '^torch==[^ ]+' requirements/torch.txt) (CUDA build, several GB)"
    install_torch_from_index
elif [ "$(uname -s)" = Linux ]; then
    say "installing $(grep '^torch==' requirements/torch-cpu.txt)"
    errors=$VENV/.ucaudit-pip-errors
    # Without our constraint, which would turn "no such build" into "conflicting requirements".
    if ! PIP_CONSTRAINT=$own_constraint pip_with_progress install --no-deps \
        --requirement requirements/torch-cpu.txt 2>"$errors"; then
        if ! grep -q "No matching distribution found for torch" "$errors"; then
            cat "$errors" >&2
            die 4 "pip could not install torch"
        fi
        say "pip's package indexes have no CPU build of torch: taking the general build instead."
        say "On x86-64 Linux that downloads several GB of CUDA libraries that this machine won't use. To avoid it,"
        say "stop now (Ctrl-C), set PIP_EXTRA_INDEX_URL to an index (or PIP_FIND_LINKS to a directory) that has"
        say "$(grep '^torch==' requirements/torch-cpu.txt), and give the same command again."
        install_torch_from_index
    fi
    rm -f "$errors"
else
    say "installing torch"
    install_torch_from_index
fi

say "installing ucaudit from this clone"
pip install --no-deps --no-build-isolation --editable .
"$VENV/bin/python" -m pip check >/dev/null || { "$VENV/bin/python" -m pip check >&2; die 70 "the locked packages don't fit together"; }

state_key "$VENV/bin/python" >"$STAMP.new"
rm -f "$UNDERWAY"
mv "$STAMP.new" "$STAMP"
say "ready: $VENV"

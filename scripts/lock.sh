#!/usr/bin/env bash
# Regenerates requirements/*.txt from pyproject.toml and requirements/*.in.
#
#   scripts/lock.sh              keep every pinned version that still fits; add what is new
#   scripts/lock.sh --upgrade    move everything to the newest version that fits
#
# The locks hold for every Python from 3.11 on and every platform (environment markers), with a SHA-256 for
# every file, and name no package index: pip takes the index from its own configuration.
# torch is kept out of all but torch.txt; docs/adr/0001-two-step-install.md says why.
set -euo pipefail
cd "$(dirname "$0")/.."

UV_VERSION=0.13.9

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"${UCAUDIT_PYTHON:-python3}" -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "uv==$UV_VERSION"
echo 'torch ; python_version < "3"' > "$work/no-torch.txt"

compile() {
    "$work/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --fork-strategy fewest \
        --no-emit-index-url --no-emit-find-links --custom-compile-command scripts/lock.sh "$@"
}

# pip must see one set of versions, so each later file is constrained by the one before it.
compile "${@}" --override "$work/no-torch.txt" --extra all --output-file requirements/lock.txt \
    pyproject.toml requirements/build.in requirements/torch-deps.in
compile "${@}" --constraint requirements/lock.txt --output-file requirements/base.txt pyproject.toml
compile "${@}" --constraint requirements/lock.txt --output-file requirements/dev.txt requirements/dev.in
compile "${@}" --constraint requirements/lock.txt --output-file requirements/torch.txt requirements/torch.in
echo "lock: wrote requirements/lock.txt base.txt dev.txt torch.txt"

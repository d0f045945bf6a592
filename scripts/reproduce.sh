#!/bin/bash
# Builds the image of a board again, from a fresh clone of HEAD in another folder
# with an empty cache, and compares every byte with out/BOARD.
set -euo pipefail
board=${1:?usage: reproduce.sh BOARD}
top=$(cd "$(dirname "$0")/.." && pwd)
made=$top/out/$board
if [ ! -d "$made" ]; then
    echo "reproduce: $made is missing" >&2
    echo "hint: run make image BOARD=$board first" >&2
    exit 1
fi
head=$(git -C "$top" rev-parse HEAD)
if ! grep -q "\"commit\": \"$head\"" "$made/manifest.json"; then
    echo "reproduce: $made was built from another commit than $head" >&2
    echo "hint: run make image BOARD=$board again" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
git clone -q "$top" "$work/clone"
cd "$work/clone"
LIFEBOAT_CACHE=$work/cache cargo run -q --bin lifeboat-builder -- image --board "$board"
diff -r "$made" "$work/clone/out/$board"
echo "reproduce: $(find "$made" -type f | wc -l) files of $board are the same bytes"

#!/bin/bash
# Fuzzes one target, or all of them two at a time, some seconds each, and says what came
# of it. `keep` folds the inputs that were found into tests/fuzz/corpus.
#   scripts/fuzz.sh [TARGET|all|keep] [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-all} seconds=${2:-600} work=$PWD/target/fuzz
mkdir -p "$work/log" "$work/found"

# Coverage instrumentation as cargo-fuzz asks for it, on a stable compiler: the pass is
# LLVM's, the counters and main() are libFuzzer's. Debug assertions and overflow checks
# are on. This replaces the static linking of .cargo/config.toml.
export RUSTFLAGS="--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 \
-Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-pc-table \
-Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
-Cllvm-args=-sanitizer-coverage-trace-compares \
-Cdebug-assertions=on -Coverflow-checks=on"
cargo build -q --release -p lifeboat-fuzz --features libfuzzer --bin lifeboat-fuzz \
    --target-dir "$work/build" --config 'profile.release.lto="off"' \
    --config 'profile.release.strip="none"' --config 'profile.release.debug="line-tables-only"'
fuzzer=$work/build/x86_64-unknown-linux-gnu/release/lifeboat-fuzz
list=$(LIFEBOAT_FUZZ_TARGET=list "$fuzzer" 2>/dev/null)
names=$(cut -d' ' -f1 <<<"$list")

merge() { # TARGET MAX_LEN
    mkdir -p "$work/found/$1"
    LIFEBOAT_FUZZ_TARGET=$1 "$fuzzer" -merge=1 -set_cover_merge=1 -use_counters=0 \
        -max_len="$2" "tests/fuzz/corpus/$1" "$work/found/$1" >"$work/log/$1.merge" 2>&1
}
fuzz() { # TARGET MAX_LEN
    mkdir -p "$work/found/$1"
    LIFEBOAT_FUZZ_TARGET=$1 nice -n 10 "$fuzzer" "$work/found/$1" "tests/fuzz/corpus/$1" \
        -max_len="$2" -max_total_time="$seconds" -timeout=25 -rss_limit_mb=1024 \
        -print_final_stats=1 -artifact_prefix="$work/crash-$1-" >"$work/log/$1" 2>&1 || true
}

if [ "$what" = keep ]; then
    while read -r name len _; do merge "$name" "$len"; done <<<"$list"
    exec du -sb tests/fuzz/corpus
fi
[ "$what" = all ] || list=$(grep "^$what " <<<"$list") ||
    { echo "fuzz: no target $what; there are: ${names//$'\n'/ }" >&2; exit 2; }
while read -r name len _; do
    while [ "$(jobs -rp | wc -l)" -ge 2 ]; do wait -n; done
    fuzz "$name" "$len" &
done <<<"$list"
wait
echo 'target          inputs run  cov first   last  corpus  peak RSS MB   heap bound  result'
while read -r name _ heap; do
    awk -v n="$name" -v h="$heap" -f scripts/fuzz.awk "$work/log/$name" || bad=1
done <<<"$list"
[ -z "${bad:-}" ] || { echo "hint: inputs are $work/crash-*, messages in $work/log" >&2; exit 1; }

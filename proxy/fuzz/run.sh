#!/usr/bin/env bash
# libFuzzer with a stable compiler: the coverage that cargo-fuzz asks a nightly for is LLVM's own pass, which any rustc runs.
#
#   proxy/fuzz/run.sh [SECONDS] [TARGET…]     [60] [config istio json policy stream]
#
# Without AddressSanitizer, which does need a nightly: what is found are panics, hangs and what asserts say. New inputs go to a folder
# outside; the corpus here is only read. Needs a C++ compiler.
set -euo pipefail
cd "$(dirname "$0")"
seconds=${1:-60}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=(config istio json policy stream)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/weir-fuzz-target}
# the versions of the workspace
[ -e Cargo.lock ] || cp ../../Cargo.lock Cargo.lock
RUSTC_WRAPPER=$PWD/instrument.sh cargo build --quiet --release --bins
for target in "${targets[@]}"; do
    found=$(mktemp -d)
    echo "== $target, $seconds s"
    "$CARGO_TARGET_DIR/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$found/" "$found" "corpus/$target" 2>&1 |
        tee "$found.log" | grep -E '^(INFO: (seed|Loaded 1 modules|seed corpus)|#[0-9]+\s+(INITED|DONE)|stat::|==|SUMMARY|Test unit|.*panicked)' || true
    grep -q '^stat::number_of_executed_units' "$found.log" || { tail -40 "$found.log"; exit 1; }
done

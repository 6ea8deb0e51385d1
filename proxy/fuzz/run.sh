#!/usr/bin/env bash
# libFuzzer with a stable compiler: the coverage that cargo-fuzz asks a nightly for is LLVM's own pass, which any rustc runs.
#
#   proxy/fuzz/run.sh [SECONDS] [TARGET…]     [60] [config istio json policy stream]
#
# Not proved yet: on a machine shared with other builds the 240 crates below compiled with these flags, with rustc 1.95, in 25 minutes;
# weir-proxy itself had not after seven more, so no target has been linked or run. On a quiet machine this is the way to go on.
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
host=$(rustc -vV | sed -n 's/^host: //p')
flags=(-Cpasses=sancov-module)
for pass in coverage-level=4 coverage-inline-8bit-counters coverage-pc-table coverage-trace-compares; do
    flags+=("-Cllvm-args=-sanitizer-$pass")
done
# naming the target keeps build scripts and macros, which have no fuzzer to report to, free of it
RUSTFLAGS="--cfg fuzzing -Cdebug-assertions -Ccodegen-units=1 ${flags[*]}" cargo build --quiet --release --target "$host" --bins
for target in "${targets[@]}"; do
    found=$(mktemp -d)
    echo "== $target, $seconds s"
    "$CARGO_TARGET_DIR/$host/release/$target" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 -artifact_prefix="$found/" "$found" "corpus/$target" 2>&1 |
        tee "$found.log" | grep -E '^(INFO: (seed|Loaded 1 modules|seed corpus)|#[0-9]+\s+(INITED|DONE)|stat::|==|SUMMARY|Test unit|.*panicked)' || true
    grep -q '^stat::number_of_executed_units' "$found.log" || { tail -40 "$found.log"; exit 1; }
done

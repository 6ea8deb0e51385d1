#!/usr/bin/env bash
# Durability, in long counts: kills, power cuts, torn logs, flipped bits, full disks. CI runs the same tests
# with small counts.
#
#   compare/durability/run.sh [PART…]      parts: kills steps power torn flips full restart; all without arguments
#
#   KILLS=1000  KILLS_PER_STEP=20  SEEDS=10000  SEED=1  TORN_EVERY=1  FLIPS=5000  FULL=200  FULL_ROUNDS=5
#   PROFILE=release|dev   RUN=name of the run file
#   SERVER_BIN, LOAD_BIN   for restart: weir and the example otlp_load   [target/release/…]
#
# Each part appends to compare/durability/runs/RUN.txt, so that a long run can be done in pieces. `full` mounts
# a volume of its own and needs root. A part that fails ends the run; its seed stands in the file.
set -euo pipefail
cd "$(dirname "$0")/../.."
parts=("$@")
[ ${#parts[@]} -gt 0 ] || parts=(kills steps power torn flips full restart)
profile=${PROFILE:-release}
export SERVER_BIN=${SERVER_BIN:-target/release/weir} LOAD_BIN=${LOAD_BIN:-target/release/examples/otlp_load}
out=compare/durability/runs/${RUN:-$(date -u +%F)}.txt
mkdir -p "$(dirname "$out")"

if [ ! -e "$out" ]; then
    {
        echo "date: $(date -u +%FT%TZ)"
        echo "commit: $(git describe --always --dirty)"
        echo "machine: $(nproc) CPUs, $(awk -F': ' '/model name/ { print $2; exit }' /proc/cpuinfo), $(awk '/MemTotal/ { printf "%.0f GiB", $2 / 1048576 }' /proc/meminfo), Linux $(uname -r)"
        echo "profile: $profile"
        echo "files of the tests on: $(df --output=fstype "${TMPDIR:-/tmp}" | tail -1)"
    } > "$out"
fi

# name, package, test, counts: what the test prints of itself goes into the file, without its seeds
part() {
    local name=$1 package=$2 test=$3 started log status=0; shift 3
    # the whole workspace, so that nothing is built twice with other features
    local target=(--workspace --lib)
    [ "$package" = weir ] && target=(--workspace --test integration)
    log=$(mktemp)
    started=$(date +%s)
    env "$@" cargo test --profile "$profile" "${target[@]}" -- --exact "$test" --nocapture > "$log" 2>&1 || status=$?
    {
        echo
        echo "== $name: $*"
        if [ "$status" = 0 ]; then
            grep -E 'lost|flips|torn tails|times full|skipped' "$log" || true
            grep -E '^test result: .* [1-9][0-9]* passed' "$log"
        else
            echo "FAILED with $status"
            tail -40 "$log"
        fi
        echo "seconds: $(($(date +%s) - started))"
    } | tee -a "$out"
    rm -f "$log"
    return "$status"
}

for name in "${parts[@]}"; do
    case $name in
        kills) part kills weir crash::every_acked_span_survives_kill_9_and_none_is_twice TEST_KILLS="${KILLS:-1000}" ;;
        steps) part steps weir-store store::kills::a_kill_at_every_step_loses_nothing_and_repeats_nothing \
            TEST_KILLS_PER_STEP="${KILLS_PER_STEP:-20}" ;;
        power) part power weir-store store::simulation::every_acked_request_survives_every_power_cut_once_and_whole \
            TEST_SEEDS="${SEEDS:-10000}" TEST_SEED="${SEED:-1}" ;;
        torn) part torn weir-store \
            store::simulation::damage::a_torn_tail_is_cut_at_every_byte_and_costs_the_torn_record_only \
            TEST_TORN_EVERY="${TORN_EVERY:-1}" ;;
        flips)
            part "flips in the log" weir-store \
                store::simulation::damage::a_flipped_bit_in_the_log_costs_one_record_which_is_set_aside_and_counted \
                TEST_FLIPS="${FLIPS:-5000}" TEST_SEED="${SEED:-1}"
            part "flips in data files" weir-store \
                store::simulation::damage::a_flipped_bit_in_a_data_file_sets_it_aside_and_the_rest_answers \
                TEST_FLIPS="${FLIPS:-5000}" TEST_SEED="${SEED:-1}" ;;
        full)
            part "full, simulated" weir-store \
                store::simulation::damage::a_full_disk_refuses_answers_and_recovers_by_itself \
                TEST_FULL="${FULL:-200}" TEST_SEED="${SEED:-1}"
            part "full, a mounted volume" weir disk_full::a_full_disk_refuses_answers_and_recovers_by_itself \
                TEST_FULL_ROUNDS="${FULL_ROUNDS:-5}" ;;
        restart)
            {
                echo
                echo "== restart"
                python3 compare/durability/restart.py
            } 2>&1 | tee -a "$out" ;;
        *) echo "no such part: $name" >&2; exit 2 ;;
    esac
done

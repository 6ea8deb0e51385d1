//! A fuzzer that needs no nightly compiler: mutates the corpus under `proxy/fuzz/corpus` for as long as
//! it is told and stops at the first input that breaks what has to hold.
//!
//! ```text
//! cargo run -p weir-proxy --features fuzzing --example fuzz -- stream 60 [seed]
//! ```
//!
//! It has no coverage to steer by, so its corpus has to be good: real messages of every kind, and words
//! of the grammars to splice in. The libFuzzer targets in `proxy/fuzz` call the same functions.

#![allow(clippy::print_stdout, clippy::disallowed_types, reason = "a program that takes the real time and prints")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{Duration, Instant},
};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use weir_proxy::fuzz;

/// 64 KiB: longer inputs find nothing that shorter ones do not, more slowly.
const MAX_BYTES: usize = 64 * 1024;

type Target = (&'static str, fn(&[u8]), &'static [&'static str]);

const TARGETS: [Target; 5] = [
    (
        "config",
        fuzz::config,
        &[
            "listeners:",
            "routes:",
            "- ",
            "{",
            "}",
            "limits:",
            "\n",
            "  ",
            "&a",
            "*a",
            "!!",
            ".nan",
            "match:",
            "upstream: app",
        ],
    ),
    (
        "istio",
        fuzz::istio,
        &[
            "---\n",
            "http:",
            "route:",
            "- ",
            "{",
            "}",
            "destination:",
            "host: reviews",
            "subset: v1",
            "weight: ",
            "match:",
            "regex: ",
            "1h30m",
            "trafficPolicy:",
            "\n",
            "  ",
        ],
    ),
    (
        "policy",
        fuzz::policy,
        &["{", "}", "null", "\"policies\":[", "1e309", "\"limit\":0", "\u{1}", "\u{8}", "\u{12}", "\"burst\":"],
    ),
    (
        "stream",
        fuzz::stream,
        &[
            "data: ",
            "\n\n",
            "\r",
            "\r\n\r\n",
            ":",
            "{",
            "}",
            "\"",
            "\\",
            "\"usage\":{",
            "\"prompt_tokens\":",
            "[DONE]",
            "\u{feff}",
        ],
    ),
    (
        "json",
        fuzz::json,
        &[
            "{",
            "}",
            "[",
            "]",
            "\"",
            "\\",
            ",",
            ":",
            "\"usage\":{",
            "\"completion_tokens\":",
            "18446744073709551616",
            "null",
            "\"model\":",
        ],
    ),
];

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, seconds, seed @ ..] = arguments.as_slice() else { return usage() };
    let Some((name, run, words)) = TARGETS.into_iter().find(|(known, ..)| known == name) else { return usage() };
    let Ok(seconds) = seconds.parse() else { return usage() };
    let seed = seed.first().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    let corpus = read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(name));
    println!("{name}: {} inputs, {seconds} s, seed {seed}", corpus.len());
    let (mut rng, began, mut runs) = (StdRng::seed_from_u64(seed), Instant::now(), 0u64);
    while began.elapsed() < Duration::from_secs(seconds) {
        let input = mutated(&corpus, words, &mut rng);
        let kept = input.clone();
        if std::panic::catch_unwind(move || run(&input)).is_err() {
            let path = PathBuf::from(format!("crash-{name}-{seed}-{runs}"));
            let saved = fs::write(&path, &kept);
            println!("broken after {runs} runs: {} ({saved:?})", path.display());
            return ExitCode::FAILURE;
        }
        runs += 1;
    }
    println!("{name}: {runs} runs in {:?}, nothing broken", began.elapsed());
    ExitCode::SUCCESS
}

fn usage() -> ExitCode {
    println!("fuzz <config|istio|policy|stream|json> <seconds> [seed]");
    ExitCode::FAILURE
}

fn read(folder: &Path) -> Vec<Vec<u8>> {
    let mut paths: Vec<PathBuf> =
        fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.sort();
    let mut inputs: Vec<Vec<u8>> = paths.iter().filter_map(|path| fs::read(path).ok()).collect();
    inputs.push(Vec::new());
    inputs
}

fn mutated(corpus: &[Vec<u8>], words: &[&str], rng: &mut StdRng) -> Vec<u8> {
    let mut input = corpus.choose(rng).cloned().unwrap_or_default();
    for _ in 0..rng.random_range(1..=8) {
        mutate(&mut input, corpus, words, rng);
    }
    input.truncate(MAX_BYTES);
    input
}

fn mutate(input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str], rng: &mut StdRng) {
    let at = rng.random_range(0..=input.len());
    let to = (at + rng.random_range(0..=16)).min(input.len());
    match rng.random_range(0..7) {
        0 if at < input.len() => input[at] ^= 1 << rng.random_range(0..8),
        1 if at < input.len() => input[at] = rng.random(),
        2 => drop(input.drain(at..to)),
        3 => {
            let again = input[at..to].to_vec();
            input.splice(at..at, again);
        }
        4 => input.truncate(at),
        5 => {
            let word = words.choose(rng).copied().unwrap_or_default();
            input.splice(at..to, word.bytes());
        }
        _ => {
            let other = corpus.choose(rng).map_or(&[][..], Vec::as_slice);
            let from = rng.random_range(0..=other.len());
            input.splice(at.., other[from..].iter().copied());
        }
    }
}

//! What the queueing half of the analyzer is worth, measured on simulated stations and meshes whose truth is known.
//!
//! `cargo run --release -p weir-analyzer --example queueing -- [exact|ggc|estimation|growth|mesh|all] [--seed N] [--ciw FILE]`. Seeds are
//! 9,000,000 and above by default: nothing was ever chosen by looking at those.

// why prints: this is a command, and its answer goes to the terminal
#![allow(clippy::print_stdout, reason = "a command")]

mod approximations;
mod estimation;
mod exact;
mod growth;
mod h2mc;
mod kinds;
mod mesh;
#[path = "../../analyzer/src/queueing/simulation.rs"]
mod simulation;
mod spans;
mod table;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let value = |name: &str| {
        let place = arguments.iter().position(|argument| argument == name)?;
        arguments.get(place + 1).cloned()
    };
    let seed: u64 = value("--seed").and_then(|seed| seed.parse().ok()).unwrap_or(9_000_000);
    let asked = arguments.first().filter(|part| !part.starts_with("--")).map_or("all", String::as_str);
    let wants = |part: &str| asked == part || asked == "all";
    if wants("exact") {
        exact::print(seed, 10_000_000);
    }
    if let Some(answers) = value("--ciw").and_then(|file| std::fs::read_to_string(file).ok()) {
        exact::print_peers(&answers, seed + 50_000, 4_000_000);
    }
    if wants("ggc") {
        approximations::print_ten(seed + 90_000, 4_000_000);
        approximations::print(seed + 100_000, 400_000);
    }
    if wants("estimation") {
        estimation::print(seed + 200_000);
    }
    if wants("growth") {
        growth::print(seed + 500_000);
    }
    if wants("mesh") {
        mesh::print(seed + 2_000_000);
    }
}

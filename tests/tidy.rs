//! Structure is tested: who may know whom, how a file opens, what only one crate may name.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use cargo_metadata::{DependencyKind, MetadataCommand};

/// The edges between our crates, as ARCHITECTURE.md draws them.
fn drawn_edges() -> BTreeSet<(String, String)> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap();
    let (_, rest) = text.split_once("<!-- edges -->").expect("ARCHITECTURE.md marks its edges");
    let (block, _) = rest.split_once("<!-- /edges -->").expect("the edges end");
    let mut edges = BTreeSet::new();
    for line in block.lines().filter(|line| line.contains('→')) {
        let (from, to) = line.split_once('→').unwrap();
        for to in to.split(',') {
            edges.insert((from.trim().to_owned(), to.trim().to_owned()));
        }
    }
    edges
}

#[test]
fn crates_know_only_whom_the_architecture_draws() {
    let metadata = MetadataCommand::new().manifest_path(root().join("Cargo.toml")).no_deps().exec().unwrap();
    let short = |name: &str| name.strip_prefix("weir-").unwrap_or(name).to_owned();
    let mut edges = BTreeSet::new();
    for package in &metadata.packages {
        for dependency in package.dependencies.iter().filter(|d| d.kind == DependencyKind::Normal) {
            if dependency.path.is_some() {
                edges.insert((short(&package.name), short(&dependency.name)));
            }
        }
    }
    let drawn = drawn_edges();
    let undrawn: Vec<_> = edges.difference(&drawn).collect();
    let gone: Vec<_> = drawn.difference(&edges).collect();
    assert!(undrawn.is_empty(), "edges that ARCHITECTURE.md does not draw: {undrawn:?}");
    assert!(gone.is_empty(), "edges that ARCHITECTURE.md draws but no manifest has: {gone:?}");
}

#[test]
fn every_source_file_opens_with_its_purpose() {
    let silent: Vec<_> =
        sources().into_iter().filter(|path| !fs::read_to_string(path).unwrap().starts_with("//!")).collect();
    assert!(silent.is_empty(), "files that do not open with `//!`: {silent:?}");
}

#[test]
fn only_the_store_names_datafusion() {
    let crates = ["schema", "policy", "accept", "proxy", "collector", "analyzer", "web", "demo", "ca", "src"];
    let naming = |path: &PathBuf| fs::read_to_string(path).unwrap().contains("datafusion::");
    let found: Vec<_> = crates.iter().flat_map(|dir| rust_files(&root().join(dir))).filter(naming).collect();
    assert!(found.is_empty(), "{found:?}");
}

#[test]
fn deltalakes_rewriting_operations_are_not_used() {
    let forbidden = ["operations::optimize", "operations::delete", "operations::update", "operations::merge"];
    for path in rust_files(&root().join("store")) {
        let text = fs::read_to_string(&path).unwrap();
        for name in forbidden {
            assert!(
                !text.contains(name),
                "{} uses {name}: it would rewrite files with its own encodings",
                path.display()
            );
        }
    }
}

#[test]
fn nothing_committed_names_a_path_of_one_machine() {
    let homes = [["/ro", "ot/"].concat(), ["/ho", "me/"].concat(), ["/Use", "rs/"].concat()];
    for path in committed() {
        // pictures and the like are not text
        let Ok(text) = fs::read_to_string(root().join(&path)) else { continue };
        let named = homes.iter().find(|home| text.contains(home.as_str()));
        assert!(named.is_none(), "{path} names a folder under {named:?}");
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All that git has, of every kind.
fn committed() -> Vec<String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output().unwrap();
    assert!(listed.status.success(), "{}", String::from_utf8_lossy(&listed.stderr));
    let names = String::from_utf8(listed.stdout).unwrap();
    names.split_terminator('\0').map(str::to_owned).collect()
}

fn sources() -> Vec<PathBuf> {
    let folders = [
        "schema",
        "policy",
        "proxy",
        "collector",
        "store",
        "analyzer",
        "web",
        "demo",
        "ca",
        "src",
        "tests",
        "benches",
        "compare",
    ];
    folders.iter().flat_map(|dir| rust_files(&root().join(dir))).collect()
}

fn rust_files(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let mut files = Vec::new();
    for path in entries.map(|entry| entry.unwrap().path()) {
        if path.is_dir() && path.file_name().is_some_and(|name| name != "target") {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}

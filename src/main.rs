//! `weir`: arguments → the subcommand → its exit code.

use std::process::ExitCode;

use clap::Parser;
use weir::{
    cli::{Cli, Command},
    exit,
    log::Speaker,
};

/// jemalloc: at full ingest the system's allocator takes a fifth of the CPU and keeps what threads freed
/// (measured in `compare/ingest`).
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let speaker = match cli.command {
        Command::Serve(_) => Speaker::Server,
        _ => Speaker::Command,
    };
    weir::log::start(speaker);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit::of_error(&anyhow::Error::new(error).context("starting threads")).into(),
    };
    let ended = runtime.block_on(async {
        match cli.command {
            Command::Demo(args) => weir::demo::run(args).await,
            Command::Serve(args) => weir::serve::run(args).await,
            Command::Sql(args) => weir::sql::run(args).await,
            Command::Import(args) => weir::import::run(args).await,
            Command::Analyze(args) => weir::analyze::run(args).await,
            Command::WhatIf(args) => weir::whatif::run(args).await,
            Command::Trace(args) => weir::trace::run(args).await,
            Command::Backup(args) => weir::backup::run(args).await,
            Command::Restore(args) => weir::backup::restore(args).await,
            Command::Ca(args) => weir::ca::run(args),
            Command::Doctor(args) => weir::doctor::run(args).await,
            Command::Config(args) => weir::config::run(args),
        }
    });
    ended.unwrap_or_else(|error| exit::of_error(&error)).into()
}

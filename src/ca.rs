//! `weir ca`: a root and certificates of workloads, for a mesh that has no authority of its own. What
//! it does is in the crate `ca`; here the clock is read and what was made is said.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::Context;
use weir_ca::{Authority, Issued, RootRequest, WorkloadRequest, inspect};
use weir_policy::SpiffeId;

use crate::{
    cli::{CaAction, CaArgs},
    exit::Exit,
    output,
};

/// Runs `weir ca`.
///
/// # Errors
/// A root or a certificate that exists, a name that cannot be certified, a file that cannot be read or written.
pub fn run(args: CaArgs) -> Result<Exit, anyhow::Error> {
    let now = SystemTime::now();
    match args.action {
        CaAction::Init { ca, trust_domain, lifetime } => {
            let root = Authority::create(&ca, &RootRequest { trust_domain, lifetime }, now).context("making a root")?;
            let (domain, folder) = (root.trust_domain(), ca.display());
            output::note(&format!("a root for spiffe://{domain}/… is in {folder}; keep ca.key to yourself"));
        }
        CaAction::Issue { ca, id, dns_names, out, lifetime } => {
            let id = id.parse::<SpiffeId>().with_context(|| format!("{id:?} is not a SPIFFE id"))?;
            let request = WorkloadRequest { id, dns_names, lifetime };
            let issued = open(&ca)?.issue_into(&out, &request, now).context("certifying the workload")?;
            said(&out, &issued, now);
        }
        CaAction::Renew { ca, out, lifetime } => {
            let issued = open(&ca)?.renew(&out, lifetime, now).context("renewing the certificate")?;
            said(&out, &issued, now);
        }
        CaAction::Inspect { file } => print(&file, now)?,
    }
    Ok(Exit::Ok)
}

fn open(folder: &Path) -> Result<Authority, anyhow::Error> {
    Authority::open(folder).context("opening the root: `weir ca init` makes one")
}

fn said(folder: &Path, issued: &Issued, now: SystemTime) {
    let left = issued.not_after.duration_since(now).unwrap_or_default();
    output::note(&format!("{}: certified for {}", folder.display(), hours(left)));
}

fn print(file: &Path, now: SystemTime) -> Result<(), anyhow::Error> {
    let pem = std::fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let all = inspect(&pem).map_err(|why| anyhow::anyhow!("{}: {why}", file.display()))?;
    for (n, description) in all.iter().enumerate() {
        if n > 0 {
            output::line("")?;
        }
        let left = description.left(now);
        let left = if left.is_zero() { "it is not valid any more".to_owned() } else { format!("for {}", hours(left)) };
        output::line(&format!("{description}\nvalid       {left}"))?;
    }
    Ok(())
}

/// Days where hours would be many.
fn hours(time: Duration) -> String {
    let hours = time.as_secs() / 3_600;
    if hours < 72 { format!("{hours} h {} min", time.as_secs() / 60 % 60) } else { format!("{} days", hours / 24) }
}

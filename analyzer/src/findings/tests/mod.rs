//! Findings of simulated meshes: health opens none, and each made fault the right one and only it.

mod attempts;
mod book;
mod calibration;
mod faults;
mod health;
mod mesh;
mod mixed;
mod regulated;
mod restart;
mod rows;
mod run;
mod sampled;
mod standing;

use mesh::{Mesh, Service, service};
use rows::{Row, SECOND, batch};

use crate::{
    analyzer::{Analyzer, Step},
    config::{Config, ControlConfig},
    queueing::simulation::Law,
    snapshot::{FindingState, FindingView},
};

/// Two entries over eight services, one with replicas, one with a database: 22 calls/s and some 40 spans/s an entry.
fn shop() -> Mesh {
    let cart = Service { database: Some(("postgresql", 4.0)), ..service("cart", 12.0, &[]) };
    let catalog = Service { replicas: 3, servers: 2, ..service("catalog", 20.0, &[]) };
    let services = vec![
        service("web", 8.0, &[(2, 0.7), (3, 1.0)]),
        service("api", 6.0, &[(3, 1.0), (5, 0.5)]),
        Service { law: Law::Lognormal(4.0), ..service("search", 25.0, &[(4, 1.0)]) },
        cart,
        catalog,
        service("order", 30.0, &[(6, 1.0), (7, 1.0)]),
        service("payment", 25.0, &[]),
        Service { law: Law::Lognormal(8.0), ..service("mail", 10.0, &[]) },
    ];
    Mesh { services, entries: vec![(0, 14.0), (1, 10.0)], events: Vec::new(), wave: (0.0, 600.0) }
}

/// Feeds rows as they end and steps every second; gives all findings as they changed, in order.
fn replay(config: Config, rows: &[Row]) -> Vec<FindingView> {
    let mut analyzer = Analyzer::new(config);
    let end = |row: &Row| row.start + row.duration;
    let mut found: Vec<FindingView> = Vec::new();
    let mut take = |step: Step| {
        let Some(snapshot) = step.snapshot else { return };
        for finding in snapshot.findings {
            match found.iter_mut().find(|known| known.finding_id == finding.finding_id) {
                // what it said while it was open says more than that it is over
                Some(known) if finding.state == FindingState::Open && finding.score >= known.score => *known = finding,
                Some(known) => known.closed_unix_nano = finding.closed_unix_nano,
                None => found.push(finding),
            }
        }
    };
    for second in rows.chunk_by(|a, b| end(a) / SECOND == end(b) / SECOND) {
        analyzer.push(&batch(second));
        take(analyzer.step(end(&second[0])));
    }
    take(analyzer.finish());
    found
}

fn said(findings: &[FindingView]) -> Vec<(&str, &str)> {
    findings.iter().map(|finding| (finding.service.as_str(), finding.kind.as_str())).collect()
}

/// A number that a longer look sets.
fn number(variable: &str, usual: u64) -> u64 {
    std::env::var(variable).ok().and_then(|n| n.parse().ok()).unwrap_or(usual)
}

//! Where load is shed that a full service cannot take.

use crate::snapshot::{FindingView, ServiceView, Snapshot};

/// Visits below this are none: a limit that follows from them would be no limit.
const MIN_VISITS: f64 = 1e-3;

/// The entry by which most requests come that a finding touches, and how often one that is admitted there visits the full service.
/// As the requests of this window show it; where none does, as usual rates have it.
pub(super) fn entry(
    finding: &FindingView,
    full: &ServiceView,
    snapshot: &Snapshot,
    usual_per_s: impl Fn(&str) -> Option<f64>,
) -> Option<(String, f64)> {
    let most = || full.entries.first().map(|entry| entry.service.clone());
    let entry = finding.entry.clone().or_else(most)?;
    if entry == full.service {
        return Some((entry, 1.0));
    }
    let usual = || Some(usual_per_s(&full.service)? / usual_per_s(&entry)?.max(1e-9));
    let visits = visits(&entry, full, snapshot).or_else(usual)?;
    Some((entry, visits))
}

/// Calls that requests of an entry make to a service, over the requests admitted there: what is shed at the entry makes none, and a
/// limit that took it for visits saved would let the more in the more it sheds.
fn visits(entry: &str, full: &ServiceView, snapshot: &Snapshot) -> Option<f64> {
    let at_entry = snapshot.services.iter().find(|service| service.service == entry)?;
    let admitted_per_s = at_entry.rate_per_s - at_entry.shed_per_s;
    let of_entry = full.entries.iter().filter(|view| view.service == entry);
    let calls_per_s: f64 = of_entry.map(|view| view.requests_per_s * view.visits_per_request).sum();
    let visits = calls_per_s / admitted_per_s;
    (admitted_per_s > 0.0 && visits >= MIN_VISITS).then_some(visits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::EntryView;

    fn service(name: &str, rate_per_s: f64, shed_per_s: f64) -> ServiceView {
        ServiceView { service: name.into(), rate_per_s, shed_per_s, ..ServiceView::default() }
    }

    fn by(service: &str, operation: &str, requests_per_s: f64, visits_per_request: f64) -> EntryView {
        let operation = Some(operation.into());
        EntryView { service: service.into(), operation, requests_per_s, visits_per_request, ..EntryView::default() }
    }

    #[test]
    fn load_is_shed_where_most_of_it_enters_by_what_its_own_requests_visit() {
        // of 100 a second at the web 80 buy, with two visits to the cart each; the admin's one visits it ten times
        let entries = vec![by("web", "buy", 80.0, 2.0), by("admin", "stock", 1.0, 10.0)];
        let cart = ServiceView { entries, ..service("cart", 170.0, 0.0) };
        let mesh = |shed| Snapshot {
            services: vec![service("admin", 1.0, 0.0), cart.clone(), service("web", 100.0 + shed, shed)],
            ..Snapshot::default()
        };
        let finding = |entry: Option<&str>| FindingView { entry: entry.map(str::to_owned), ..FindingView::default() };
        let usual = |service: &str| (service != "nobody").then_some(7.0);
        let found = |entry, mesh: &Snapshot| super::entry(&finding(entry), &cart, mesh, usual);
        for (asked, expected) in [(Some("web"), ("web", 1.6)), (None, ("web", 1.6)), (Some("admin"), ("admin", 10.0))] {
            let (entry, visits) = found(asked, &mesh(0.0)).unwrap();
            assert!(entry == expected.0 && (visits - expected.1).abs() < 1e-9, "{asked:?}: {entry} {visits}");
        }
        let while_shed = found(Some("web"), &mesh(400.0)).unwrap();
        assert!((while_shed.1 - 1.6).abs() < 1e-9, "what is shed visits nobody: {while_shed:?}");
        assert_eq!(found(Some("batch"), &mesh(0.0)), Some(("batch".into(), 1.0)), "by usual rates");
        assert_eq!(found(Some("nobody"), &mesh(0.0)), None);
        assert_eq!(found(Some("cart"), &mesh(0.0)), Some(("cart".into(), 1.0)));
    }
}

//! [`SavedCourse`]: what a restart must not lose of how a service went over time: its rates, so that growth and the time to saturation go on,
//! and the last windows, so that `steady` does. 7 KB a service at most.

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use super::{IDENTIFYING_NS, ServiceStations, Stations, recent::Recent};
use crate::{spans::Name, trend::Rates};

/// Services whose course is saved, 15 MB; those with most requests.
const MAX_COURSES: usize = 2_000;

/// As a checkpoint holds it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct SavedCourse {
    service: Name,
    rates: Rates,
    recent: Recent,
}

impl Stations {
    /// Those of the services with most requests, these first; and of how many there was none.
    pub(crate) fn save_courses(&self) -> (Vec<SavedCourse>, u64) {
        let mut all: Vec<(f64, Name, &ServiceStations)> =
            self.by_service.iter().map(|(name, service)| (service.recent.served(), *name, service)).collect();
        all.sort_by(|a, b| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1)));
        let beyond = all.len().saturating_sub(MAX_COURSES) as u64;
        let saved = |(_, service, of): (f64, Name, &ServiceStations)| SavedCourse {
            service,
            rates: of.rates.clone(),
            recent: of.recent.clone(),
        };
        (all.into_iter().take(MAX_COURSES).map(saved).collect(), beyond)
    }

    /// Goes on where they were.
    pub(crate) fn restore_courses(&mut self, saved: Vec<SavedCourse>) {
        for SavedCourse { service, rates, recent } in saved.into_iter().take(MAX_COURSES) {
            let of_service = self.by_service.entry(service).or_default();
            (of_service.rates, of_service.recent) = (rates.restored(), recent.restored());
        }
    }
}

impl ServiceStations {
    /// Whether it was there lately, with replicas or, after a restart, without.
    pub(super) fn is_known(&self, now: UnixNanos) -> bool {
        let lately = now.saturating_sub(IDENTIFYING_NS) as f64 / 1e9;
        !self.replicas.is_empty() || self.rates.newest_s().is_some_and(|newest| newest >= lately)
    }
}

#[cfg(test)]
mod tests {
    use super::{
        super::{ReplicaWindow, StationWindow},
        *,
    };
    use crate::{moments::Moments, window::ServiceWindow};

    #[test]
    fn a_course_takes_what_is_said() {
        let mut of_service = ServiceStations::default();
        for window in 1..200 {
            let moments: Moments = [0.1, 0.7].into_iter().collect();
            let replica = ReplicaWindow {
                between_ms: moments,
                service_ms: moments,
                wait_ms: moments,
                ..ReplicaWindow::default()
            };
            let station = StationWindow { replicas: vec![replica], ..StationWindow::default() };
            let mut service =
                ServiceWindow { requests: 12_345, busy_ns: 1e9 / 3.0, station, ..ServiceWindow::default() };
            of_service.remember(&mut service, window * 10_000_000_000, 10_000_000_000);
        }
        let mut stations = Stations::default();
        stations.by_service.insert(7, of_service);
        let (saved, beyond) = stations.save_courses();
        let mut note = Vec::new();
        ciborium::into_writer(&saved, &mut note).unwrap();
        assert!((3_000..8_000).contains(&note.len()) && beyond == 0, "{} bytes", note.len());
        let mut anew = Stations::default();
        anew.restore_courses(ciborium::from_reader(&note[..]).unwrap());
        assert_eq!(anew.by_service[&7].recent.steady(), stations.by_service[&7].recent.steady());
        assert!(anew.by_service[&7].is_known(2_400_000_000_000) && !anew.by_service[&7].is_known(2_600_000_000_000));
    }
}

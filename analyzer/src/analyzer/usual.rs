//! What is usual of services while nothing is wrong: their rates and service times.

use super::Analyzer;
use crate::window::Window;

/// Weight of the newest window in the usual rate: it follows the time of day.
const RATE_GAIN: f64 = 0.2;

/// The same for the usual service time, without what servers are held for by calls to others: slow, because the first windows of a fault still count.
const SERVICE_TIME_GAIN: f64 = 0.05;

impl Analyzer {
    pub(super) fn remember_usual(&mut self, window: &Window) {
        let seconds = window.length_ns as f64 / 1e9;
        for (name, service) in &window.services {
            let rate = service.requests as f64 / seconds;
            let usual = self.usual_rates.entry(*name).or_insert(rate);
            *usual += RATE_GAIN * (rate - *usual);
            if let Some((mean, _)) = service.service_time() {
                let mean = (mean - service.station.held_ms.unwrap_or(0.0)).max(0.0);
                let usual = self.usual_service_ms.entry(*name).or_insert(mean);
                *usual += SERVICE_TIME_GAIN * (mean - *usual);
            }
        }
    }

    pub(super) fn usual_service_time(&self, service: &str) -> Option<f64> {
        self.names.find(service).and_then(|name| self.usual_service_ms.get(&name)).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::Config, stations::StationWindow, window::ServiceWindow};

    #[test]
    fn what_servers_are_held_for_is_no_usual_work() {
        let mut analyzer = Analyzer::new(Config::default());
        let pool = analyzer.names.intern("pool");
        let mut remember = |held_ms| {
            let station = StationWindow { held_ms, ..StationWindow::default() };
            let service = ServiceWindow { requests: 9, service_ms: vec![38.0; 9], station, ..ServiceWindow::default() };
            let services = [(pool, service)].into();
            analyzer.usual_service_ms.clear();
            analyzer.remember_usual(&Window { services, length_ns: 1_000_000_000, ..Window::default() });
            analyzer.usual_service_time("pool")
        };
        assert_eq!((remember(None), remember(Some(33.0))), (Some(38.0), Some(5.0)));
    }
}

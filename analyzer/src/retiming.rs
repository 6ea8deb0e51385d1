//! [`Request`]: how long a recorded request would have taken had some services been slower or faster.
//!
//! What happens before what is read from its spans: a call begins some own work after the calls that had ended by then, and the request
//! ends some own work after the last of its calls. With own work scaled by service, the calls move, those beside each other wait for whichever is
//! the last now, and the end follows. So parallel calls need no share that was critical once. (The idea is that of causal
//! replays of traces, as in Z. Zhang et al., "CRISP: Critical path analysis of large-scale microservice architectures", USENIX ATC
//! 2022; a call that outlives its caller is taken as one that nobody waits for.)

/// Own work and calls of one request within one service, and the same of whom it called.
#[derive(Clone, Debug, PartialEq)]
pub struct Request<S> {
    /// Who served it.
    pub service: S,
    /// From its first to its last moment, milliseconds.
    pub duration_ms: f64,
    /// In order of their start.
    pub calls: Vec<Call<S>>,
}

/// A call to another service, as its caller sees it.
#[derive(Clone, Debug, PartialEq)]
pub struct Call<S> {
    /// After the beginning of the caller's part, milliseconds.
    pub start_ms: f64,
    /// The same of its end.
    pub end_ms: f64,
    /// What answered, when its own span is known.
    pub callee: Option<Box<Request<S>>>,
}

impl<S> Request<S> {
    /// The same with other names.
    pub fn named<T>(&self, name: impl Fn(&S) -> T + Copy) -> Request<T> {
        let calls = self.calls.iter().map(|call| Call {
            start_ms: call.start_ms,
            end_ms: call.end_ms,
            callee: call.callee.as_ref().map(|callee| Box::new(callee.named(name))),
        });
        Request { service: name(&self.service), duration_ms: self.duration_ms, calls: calls.collect() }
    }

    /// How long it takes when own work of a service takes so many times as long.
    pub fn retimed_ms(&self, slower: &impl Fn(&S) -> f64) -> f64 {
        let own = slower(&self.service);
        let mut ends: Vec<(f64, f64)> = Vec::with_capacity(self.calls.len());
        for call in &self.calls {
            let start = after(&ends, call.start_ms, own);
            ends.push((call.end_ms, start + call.retimed_ms(slower)));
        }
        after(&ends, self.duration_ms, own)
    }

    /// Time in which it waits for no call.
    pub fn own_ms(&self) -> f64 {
        let (mut covered, mut until) = (0.0, 0.0_f64);
        for call in &self.calls {
            let (start, end) = (call.start_ms.max(until), call.end_ms.min(self.duration_ms));
            covered += (end - start).max(0.0);
            until = until.max(end);
        }
        self.duration_ms - covered
    }

    /// It and all it called.
    pub fn each<'a>(&'a self, visit: &mut impl FnMut(&'a Self)) {
        visit(self);
        self.calls.iter().filter_map(|call| call.callee.as_deref()).for_each(|callee| callee.each(visit));
    }
}

impl<S> Call<S> {
    fn retimed_ms(&self, slower: &impl Fn(&S) -> f64) -> f64 {
        let duration = self.end_ms - self.start_ms;
        let Some(callee) = &self.callee else { return duration };
        // what lies between the two spans, the network, stays
        (duration - callee.duration_ms + callee.retimed_ms(slower)).max(0.0)
    }
}

/// When what happened at `moment` happens now: as long after the calls that had ended by then as before, own work scaled.
fn after(ends: &[(f64, f64)], moment: f64, own: f64) -> f64 {
    let over = ends.iter().filter(|(before, _)| *before <= moment);
    let (before, now) = over.fold((0.0_f64, 0.0_f64), |(b, n), (before, now)| (b.max(*before), n.max(*now)));
    now + (moment - before) * own
}

#[cfg(test)]
mod tests {
    use super::*;

    fn leaf(service: &'static str, duration_ms: f64) -> Option<Box<Request<&'static str>>> {
        Some(Box::new(Request { service, duration_ms, calls: vec![] }))
    }

    /// Works 10, calls a (20) and b (15) beside each other over a network that takes 2, works 3, calls c (5), works 1.
    fn request() -> Request<&'static str> {
        let calls = vec![
            Call { start_ms: 10.0, end_ms: 32.0, callee: leaf("a", 20.0) },
            Call { start_ms: 10.0, end_ms: 27.0, callee: leaf("b", 15.0) },
            Call { start_ms: 35.0, end_ms: 42.0, callee: leaf("c", 5.0) },
        ];
        Request { service: "front", duration_ms: 43.0, calls }
    }

    #[test]
    fn unchanged_it_takes_as_long_and_changed_whoever_is_last_counts() {
        let with = |name: &'static str, factor: f64| {
            request().retimed_ms(&|service: &&str| if *service == name { factor } else { 1.0 })
        };
        assert_eq!(with("nobody", 9.0), 43.0);
        assert_eq!(with("front", 2.0), 57.0, "its own 14 once more");
        assert_eq!(with("b", 1.2), 43.0, "3 more are hidden behind a");
        assert_eq!(with("b", 2.0), 53.0, "15 more, of which 5 are hidden");
        assert_eq!(with("a", 0.5), 38.0, "10 less, but b ends 5 before");
        assert_eq!(with("c", 3.0), 53.0);
        assert_eq!(request().own_ms(), 14.0);
    }

    #[test]
    fn nobody_waits_for_a_call_that_outlives_its_caller() {
        let mut request = request();
        request.calls.push(Call { start_ms: 40.0, end_ms: 99.0, callee: leaf("log", 50.0) });
        assert_eq!(request.retimed_ms(&|service: &&str| if *service == "log" { 9.0 } else { 1.0 }), 43.0);
        let mut services = Vec::new();
        request.each(&mut |part| services.push(part.service));
        assert_eq!(services, ["front", "a", "b", "c", "log"]);
    }
}

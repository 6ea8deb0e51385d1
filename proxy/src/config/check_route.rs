//! What the types of a route cannot say.

use crate::{
    config::{
        ConfigError, HeaderEdits, Redirect, Rewrite, Route, Upstream,
        validate::{LONGEST_MS, check},
    },
    routing,
};

impl Route {
    /// Checks one that may go to `upstreams`; errors name the key below it.
    pub(super) fn validate(&self, upstreams: &[Upstream]) -> Result<(), ConfigError> {
        self.check_places()?;
        self.check_answered_here()?;
        self.check_upstreams(upstreams)?;
        self.check_percents()?;
        self.check_times()?;
        self.check_statuses()?;
        // what is compiled is checked by compiling it
        routing::check(self)
    }

    fn check_places(&self) -> Result<(), ConfigError> {
        let places = [self.upstream.is_some(), !self.split.is_empty(), self.redirect.is_some(), self.respond.is_some()];
        check(places.iter().filter(|there| **there).count() == 1, || {
            "upstream, split, redirect or respond: one of them says where requests go".into()
        })?;
        let some = self.split.is_empty() || self.split.iter().any(|share| share.weight > 0);
        check(some, || "split: every weight is 0".into())
    }

    /// Refuses what is said of requests that go on, where the route answers itself.
    fn check_answered_here(&self) -> Result<(), ConfigError> {
        let here = match (&self.redirect, &self.respond) {
            (Some(_), _) => "redirect",
            (None, Some(_)) => "respond",
            (None, None) => return Ok(()),
        };
        for (key, there) in [
            ("rewrite", self.rewrite != Rewrite::default()),
            ("request_headers", self.request_headers != HeaderEdits::default()),
            ("timeout_ms", self.timeout_ms.is_some()),
            ("max_stream_duration_ms", self.max_stream_duration_ms.is_some()),
            ("answer_timeout_ms", self.answer_timeout_ms.is_some()),
            ("idle_timeout_ms", self.idle_timeout_ms.is_some()),
            ("retries", self.retries.is_some()),
            ("mirror", self.mirror.is_some()),
        ] {
            check(!there, || {
                format!("{key}: cannot be honoured beside {here}, which sends the request nowhere: remove one of both")
            })?;
        }
        Ok(())
    }

    fn check_upstreams(&self, upstreams: &[Upstream]) -> Result<(), ConfigError> {
        let one = self.upstream.iter().map(|name| (name, "upstream".to_owned()));
        let shares = self.split.iter().enumerate();
        let shares = shares.map(|(k, share)| (&share.upstream, format!("split[{k}].upstream")));
        let mirror = self.mirror.iter().map(|mirror| (&mirror.upstream, "mirror.upstream".to_owned()));
        for (name, key) in one.chain(shares).chain(mirror) {
            let known = upstreams.iter().any(|upstream| upstream.name == *name);
            check(known, || format!("{key}: no upstream is named {name:?}"))?;
        }
        let most = self.mirror.as_ref().map_or(1, |mirror| mirror.max_in_flight);
        check(most > 0, || "mirror.max_in_flight is 0: no copy would be sent".into())
    }

    fn check_percents(&self) -> Result<(), ConfigError> {
        let percents = [
            ("fault.delay.percent", self.fault.delay.map(|delay| delay.percent)),
            ("fault.abort.percent", self.fault.abort.map(|abort| abort.percent)),
            ("mirror.percent", self.mirror.as_ref().map(|mirror| mirror.percent)),
        ];
        for (key, percent) in percents {
            let percent = percent.unwrap_or(100.0);
            check((0.0..=100.0).contains(&percent), || format!("{key} is {percent}: from 0 to 100"))?;
        }
        Ok(())
    }

    fn check_times(&self) -> Result<(), ConfigError> {
        let retries = self.retries.as_ref();
        for (key, bound) in [
            ("timeout_ms", self.timeout_ms),
            ("max_stream_duration_ms", self.max_stream_duration_ms),
            ("answer_timeout_ms", self.answer_timeout_ms),
            ("idle_timeout_ms", self.idle_timeout_ms),
            ("fault.delay.ms", self.fault.delay.map(|delay| delay.ms)),
            ("retries.per_try_timeout_ms", retries.and_then(|retries| retries.per_try_timeout_ms)),
            ("retries.backoff_ms", retries.map(|retries| retries.backoff_ms)),
            ("retries.max_backoff_ms", retries.map(|retries| retries.max_backoff_ms)),
        ] {
            check(bound.is_none_or(|bound| (1..=LONGEST_MS).contains(&bound)), || {
                format!("{key} is {bound:?}: from 1 ms to a year, or leave it out")
            })?;
        }
        Ok(())
    }

    fn check_statuses(&self) -> Result<(), ConfigError> {
        if let Some(Redirect { status, .. }) = self.redirect {
            let usable = [301, 302, 303, 307, 308].contains(&status);
            check(usable, || format!("redirect.status is {status}: 301, 302, 303, 307 or 308"))?;
        }
        for (key, status) in [
            ("fault.abort.status", self.fault.abort.map(|abort| abort.status)),
            ("respond.status", self.respond.as_ref().map(|respond| respond.status)),
        ] {
            let status = status.unwrap_or(200);
            check((200..600).contains(&status), || format!("{key} is {status}: from 200 to 599"))?;
        }
        Ok(())
    }
}

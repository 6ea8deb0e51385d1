//! [`Panel`]: what the graph tells beside it of the service that is chosen.

use weir_analyzer::snapshot::ServiceView;

use crate::{
    fields::Fields,
    pages::format::{self, NONE},
};

pub(super) struct Panel {
    pub(super) service: String,
    /// The same service and range on another page.
    pub(super) address: String,
    pub(super) sql: String,
    pub(super) figures: Vec<(&'static str, String)>,
    pub(super) why: String,
    pub(super) what_if: Vec<(String, String)>,
    pub(super) operations: Vec<Operation>,
}

pub(super) struct Operation {
    pub(super) name: String,
    pub(super) rate: String,
    pub(super) errors: String,
    pub(super) p50: String,
    pub(super) p95: String,
    pub(super) p99: String,
}

impl Panel {
    pub(super) fn of(service: &ServiceView, fields: &Fields, is_past: bool) -> Self {
        let estimate = &service.estimate;
        let operations = service.operations.iter().map(|operation| Operation {
            name: operation.operation.clone(),
            rate: format::rate(operation.rate_per_s),
            errors: format::percent(operation.error_ratio),
            p50: format::ms(operation.duration_ms_p50),
            p95: format::ms(operation.duration_ms_p95),
            p99: format::ms(operation.duration_ms_p99),
        });
        let what_if = estimate.what_if.iter().map(|what_if| {
            let wait = what_if.queue_wait_ms.map_or_else(|| "grows without bound".to_owned(), format::ms);
            (format!("× {}", what_if.load_factor), wait)
        });
        let name = service.service.replace('\'', "''");
        let address = fields.address(&[("service", &service.service)]);
        Self {
            service: service.service.clone(),
            address,
            sql: format!("SELECT * FROM spans WHERE service = '{name}' ORDER BY start_unix_nano DESC LIMIT 100"),
            figures: figures(service, is_past),
            why: estimate.reason.clone().unwrap_or_else(|| estimate.rule.clone()),
            what_if: what_if.collect(),
            operations: operations.collect(),
        }
    }
}

/// What is known of a service; of a past range only what its minutes add up to.
fn figures(service: &ServiceView, is_past: bool) -> Vec<(&'static str, String)> {
    let estimate = &service.estimate;
    let wait = &estimate.queue_wait_ms;
    let mut figures = vec![
        ("rate", format::rate(service.rate_per_s)),
        ("errors", format::percent(service.error_ratio)),
        ("p50 / p95 / p99", {
            let [p50, p95, p99] =
                [service.duration_ms_p50, service.duration_ms_p95, service.duration_ms_p99].map(format::ms);
            format!("{p50} / {p95} / {p99}")
        }),
    ];
    if !is_past {
        figures.extend([
            ("in flight L", format!("{:.1}", service.in_flight)),
            ("… waits for others", format::ms(service.downstream_ms)),
            ("arrival rate λ", format::rate(estimate.arrival_rate_per_s)),
            ("service time S", format::maybe_ms(estimate.service_time_ms)),
            ("servers c", estimate.servers.map_or_else(|| NONE.into(), |c| c.to_string())),
            ("utilization ρ", format::maybe(estimate.utilization)),
            ("headroom", estimate.headroom.map_or_else(|| NONE.into(), format::percent)),
            ("queue wait, predicted", format::maybe_ms(wait.predicted)),
            ("queue wait, observed", format::maybe_ms(wait.observed)),
            ("… in the proxy", format::maybe_ms(wait.observed_proxy)),
            ("… for the service's own workers", format::maybe_ms(wait.observed_app)),
            ("ca² / cs²", format!("{} / {}", format::maybe(estimate.ca2), format::maybe(estimate.cs2))),
            ("model", format!("{}, confidence {}", estimate.model, format::percent(estimate.confidence))),
            ("limit", service.limit.map_or_else(|| NONE.into(), |limit| format!("{limit} in flight"))),
            ("shed", format::rate(service.shed_per_s)),
            ("tokens in / out", {
                let (input, output) = (service.input_tokens_per_s, service.output_tokens_per_s);
                if input + output > 0.0 {
                    format!("{} / {}", format::rate(input), format::rate(output))
                } else {
                    NONE.into()
                }
            }),
            ("time to first token, p50", format::maybe_ms(service.time_to_first_token_ms_p50)),
            (
                "… mean, predicted / observed",
                service.lm.as_ref().map_or_else(
                    || NONE.into(),
                    |lm| {
                        let predicted = lm.predicted.and_then(|p| p.time_to_first_token_ms).map(|times| times.mean);
                        let observed = lm.observed.map(|o| o.time_to_first_token_ms.mean);
                        format!("{} / {}", format::maybe_ms(predicted), format::maybe_ms(observed))
                    },
                ),
            ),
            ("output tokens, capacity", {
                let capacity = service.lm.as_ref().and_then(|lm| lm.capacity_tokens_per_s);
                capacity.map_or_else(|| NONE.into(), format::rate)
            }),
            ("instances", service.instances.join(", ")),
        ]);
    }
    figures
}

//! What causes rest on, as sentences.

use super::{
    latency::Excess,
    lines,
    marks::{Mark, Sign},
    strain::Surge,
};
use crate::{
    snapshot::Evidence,
    spans::{Name, Names},
};

/// What is otherwise at an operation that a service is blamed for.
pub(super) fn otherwise(service: Name, at: (Name, Name), sign: Sign, requests: f64, names: &Names) -> Evidence {
    let whose = match at.0 == service {
        true => String::new(),
        false => format!(" of {}, which called it last,", names.text(at.0)),
    };
    let line = |mark: Mark, failed: &str, logged: &str| match mark {
        Mark::Failed => failed.to_owned(),
        Mark::Line(template) if lines::is_error(names.text(template)) => {
            format!("{logged} the error line {:?}", names.text(template))
        }
        Mark::Line(template) => format!("{logged} the line {:?}", names.text(template)),
    };
    let how = match sign {
        Sign::Calls => "stops early, fails or calls otherwise than before".to_owned(),
        Sign::Shows(mark) => line(mark, "fails by itself more often than before", "logs, more often than before,"),
        Sign::Lacks(mark) => line(mark, "fails by itself less often than before", "no longer logs"),
    };
    let text = format!("{requests:.0} requests: {}{whose} {how}", names.text(at.1));
    Evidence { text, value: Some(requests), unit: Some("requests".into()), trace_id: None, sql: None }
}

pub(super) fn surged(what: &str, surge: &Surge, names: &Names) -> Evidence {
    let at = surge.instance.map_or(String::new(), |name| format!(" of {}", names.text(name)));
    let Surge { now, usual, z, .. } = *surge;
    let text = format!("{what}{at}: {now:.3} instead of {usual:.3} ({z:.0} standard deviations)");
    Evidence { text, value: Some(now), unit: None, trace_id: None, sql: None }
}

pub(super) fn slower(what: &str, excess: &Excess) -> Evidence {
    let (now, usual) = (excess.now.median, excess.usual.median);
    let text = format!(
        "{what}: {now:.1} ms instead of {usual:.1} ms in {:.0} requests ({:.0} standard deviations)",
        excess.now.traces, excess.z
    );
    Evidence { text, value: Some(now), unit: Some("ms".into()), trace_id: None, sql: None }
}

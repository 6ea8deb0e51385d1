//! Traces in each form, read, written and read again.

use super::*;
use Propagation::{B3 as Single, B3multi as Multi, Tracecontext as W3c};

const W3C: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
    let field = |(name, value): &(&'static str, &str)| (HeaderName::from_static(name), value.parse().unwrap());
    fields.iter().map(field).collect()
}

fn next(headers: &HeaderMap, forms: &[Propagation], ratio: f64) -> TraceContext {
    TraceContext::next(headers, forms, &Sampler::new(ratio))
}

#[test]
fn a_trace_is_continued() {
    let mut headers = headers(&[("traceparent", W3C), ("tracestate", "vendor=1"), ("baggage", "a=1")]);
    let context = next(&headers, &[W3c], 0.0);
    assert!(context.sampled);
    assert_eq!(context.parent_span_id, Some([0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31]));
    context.inject(&[W3c], &Sampler::new(0.0), &mut headers);
    let onward = next(&headers, &[W3c], 0.0);
    assert_eq!((onward.trace_id, onward.parent_span_id), (context.trace_id, Some(context.span_id)));
    assert_eq!((&headers["tracestate"], &headers["baggage"]), (&"vendor=1".parse().unwrap(), &"a=1".parse().unwrap()));
    assert!(!headers.contains_key("b3"));
}

#[test]
fn what_does_not_hold_starts_a_new_trace() {
    for broken in [
        "",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-more",
        "ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
        "00-00000000000000000000000000000000-b7ad6b7169203331-01",
        "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
        "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-0",
        "00_0af7651916cd43dd8448eb211c80319c_b7ad6b7169203331_01",
    ] {
        let mut headers = headers(&[("traceparent", broken), ("tracestate", "vendor=1")]);
        let context = next(&headers, &[W3c], 0.0);
        assert_eq!((context.parent_span_id, context.sampled), (None, false), "{broken}");
        context.inject(&[W3c], &Sampler::new(0.0), &mut headers);
        assert!(!headers.contains_key("tracestate"), "{broken}");
    }
    let later = headers(&[("traceparent", "01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00-more")]);
    assert!(next(&later, &[W3c], 1.0).parent_span_id.is_some(), "a later version may say more");
}

/// `trace parent sampled`, as far as the caller decides it.
fn read(fields: &[(&'static str, &str)], forms: &[Propagation]) -> String {
    let headers = headers(fields);
    let context = |ratio| next(&headers, forms, ratio);
    let (never, always) = (context(0.0), context(1.0));
    let hex = |bytes: &[u8]| hex_value(bytes).to_str().unwrap().to_owned();
    let ids = never.parent_span_id.map_or("new".into(), |p| format!("{} {}", hex(&never.trace_id), hex(&p)));
    let sampled = if never.sampled == always.sampled { never.sampled.to_string() } else { "undecided".into() };
    format!("{ids} {sampled}")
}

#[test]
fn b3_is_read_in_both_forms_and_in_the_order_that_is_configured() {
    const WIDE: &str = "0af7651916cd43dd8448eb211c80319c";
    let (a, b) = ("00f067aa0ba902b7", "b7ad6b7169203331");
    let wide = |sampled: &str| format!("{WIDE} {a} {sampled}");
    let narrow = format!("0000000000000000{b} {a} true");
    for (fields, forms, expected) in [
        (&[("b3", format!("{WIDE}-{a}-1"))][..], &[Single][..], wide("true")),
        (&[("b3", format!("{WIDE}-{a}-0-{b}"))], &[Single], wide("false")),
        (&[("b3", format!("{WIDE}-{a}"))], &[Single], wide("undecided")),
        (&[("b3", format!("{b}-{a}-d"))], &[Single], narrow.clone()),
        (&[("b3", "0".into())], &[Single], "new false".into()),
        (&[("b3", format!("{WIDE}-{a}-x"))], &[Single], "new undecided".into()),
        (&[("b3", format!("{WIDE}-{WIDE}-1"))], &[Single], "new undecided".into()),
        (&[("b3", format!("{WIDE}-{a}-1"))], &[W3c], "new undecided".into()),
        (&[("x-b3-traceid", b.into()), ("x-b3-spanid", a.into()), ("x-b3-flags", "1".into())], &[Multi], narrow),
        (&[("x-b3-traceid", WIDE.into()), ("x-b3-spanid", a.into())], &[Multi], wide("undecided")),
        (&[("x-b3-sampled", "0".into())], &[Multi], "new false".into()),
        (&[("x-b3-traceid", WIDE.into()), ("x-b3-spanid", "7".into())], &[Multi], "new undecided".into()),
        (&[("b3", format!("{WIDE}-{a}-0")), ("traceparent", W3C.into())], &[Single, W3c], wide("false")),
        (&[("b3", "broken-x".into()), ("traceparent", W3C.into())], &[Single, W3c], format!("{WIDE} {b} true")),
    ] {
        let fields: Vec<(&str, &str)> = fields.iter().map(|(name, value)| (*name, value.as_str())).collect();
        assert_eq!(read(&fields, forms), expected, "{fields:?}");
    }
}

#[test]
fn what_is_written_in_any_form_is_read_again() {
    let forms = [W3c, Single, Multi];
    for (parent, ratio) in [(Some(W3C), 0.0), (None, 1.0), (None, 0.0)] {
        let mut headers = parent.map_or_else(HeaderMap::new, |parent| headers(&[("traceparent", parent)]));
        let context = next(&headers, &forms, ratio);
        context.inject(&forms, &Sampler::new(ratio), &mut headers);
        for form in forms {
            let onward = next(&headers, &[form], 1.0 - ratio);
            let expected = (context.trace_id, Some(context.span_id), context.sampled);
            assert_eq!((onward.trace_id, onward.parent_span_id, onward.sampled), expected, "{form:?}");
        }
    }
}

#[test]
fn whoever_decides_says_what_a_span_stands_for() {
    let sampler = Sampler::new(0.5);
    let callers = [("traceparent", W3C), ("tracestate", "vendor=1,ot=th:c")];
    let open = [("b3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331"), ("tracestate", "vendor=1")];
    let shut = [("b3", "0af7651916cd43ddc048eb211c80319c-b7ad6b7169203331-0")];
    for (fields, sampled, decided_here, state) in
        [(&callers[..], true, false, Some("vendor=1,ot=th:c")), (&open, false, true, None), (&shut, false, false, None)]
    {
        let mut headers = headers(fields);
        let mut context = TraceContext::next(&headers, &[W3c, Single], &sampler);
        context.keep_state(&headers, &sampler);
        assert_eq!((context.sampled, context.decided_here), (sampled, decided_here), "{fields:?}");
        assert_eq!(context.state.as_deref(), state, "{fields:?}");
        context.inject(&[W3c, Single], &sampler, &mut headers);
        assert_eq!(headers.get("tracestate").map(|state| state.to_str().unwrap()), state, "{fields:?}");
    }
    for _ in 0..100 {
        let mut headers = HeaderMap::new();
        let mut context = TraceContext::next(&headers, &[W3c], &sampler);
        context.keep_state(&headers, &sampler);
        context.inject(&[W3c], &sampler, &mut headers);
        let said = headers.get("tracestate").map(|state| state.to_str().unwrap());
        assert_eq!((said, context.state.as_deref()), (context.sampled.then_some("ot=th:8"), said));
    }
}

/// W3C's random flag went, and B3's debug went on as sampled.
#[test]
fn what_else_is_said_of_a_trace_goes_on() {
    const IDS: &str = "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";
    let w3c = |flags: &str| ("traceparent", format!("00-{IDS}-{flags}"));
    let b3 = |said: &str| ("b3", format!("{IDS}-{said}"));
    for (field, traceparent, single, sampled, flags) in [
        (w3c("03"), "03", "1", Some("1"), None),
        (w3c("02"), "02", "0", Some("0"), None),
        (w3c("ff"), "03", "1", Some("1"), None),
        (w3c("01"), "01", "1", Some("1"), None),
        (b3("d"), "01", "d", None, Some("1")),
        (b3("1"), "01", "1", Some("1"), None),
        (("b3", "d".to_owned()), "01", "d", None, Some("1")),
        (("x-b3-flags", "1".to_owned()), "01", "d", None, Some("1")),
    ] {
        let mut headers = headers(&[(field.0, &field.1), ("x-b3-sampled", "0")]);
        let forms = [W3c, Single, Multi];
        next(&headers, &forms, 0.0).inject(&forms, &Sampler::new(0.0), &mut headers);
        let said = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
        assert!(said("traceparent").unwrap().ends_with(&format!("-{traceparent}")), "{field:?}: {headers:?}");
        assert_eq!(said("b3").unwrap().split('-').nth(2), Some(single), "{field:?}");
        assert_eq!((said("x-b3-sampled"), said("x-b3-flags")), (sampled, flags), "{field:?}");
    }
}

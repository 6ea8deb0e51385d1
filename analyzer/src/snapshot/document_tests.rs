//! What `/api/v1/findings` and `/api/v1/whatif` answer is what the served document says of it.

use std::collections::BTreeSet;

use serde_json::Value;

use super::*;
use crate::{
    findings::Kind,
    whatif::{EntryPrediction, Prediction, ServicePrediction},
};

const DOCUMENT: &str = include_str!("../../../web/static/openapi.json");

fn check(name: &str, made: &impl Serialize) {
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let schema = &document["components"]["schemas"][name];
    let made = serde_json::to_value(made).unwrap();
    let keys = |object: &Value| object.as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    let documented = keys(&schema["properties"]);
    assert_eq!(keys(&made).difference(&documented).count(), 0, "{name}: {made}");
    for (key, property) in schema["properties"].as_object().unwrap() {
        assert!(property["description"].as_str().is_some_and(|text| !text.is_empty()), "{name}.{key}");
        let is = match &made[key] {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(number) if number.is_f64() => "number",
            Value::Number(_) => "integer",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        let said = property["type"].to_string();
        // what is left out where it is null is not required
        let left_out = made.get(key).is_none() && !schema["required"].to_string().contains(&format!("\"{key}\""));
        assert!(left_out || said.contains(&format!("\"{is}\"")), "{name}.{key}: {is}, and {said} is said");
    }
}

#[test]
fn findings_and_predictions_are_what_the_document_says() {
    check("Finding", &FindingView::default());
    check(
        "Finding",
        &FindingView { operation: Some("GET".into()), closed_unix_nano: Some(5), ..FindingView::default() },
    );
    check("Evidence", &Evidence { value: Some(0.5), sql: Some("SELECT 1".into()), ..Evidence::default() });
    check("Prediction", &Prediction::default());
    check("EntryPrediction", &EntryPrediction::default());
    check("ServicePrediction", &ServicePrediction::default());
    let document: Value = serde_json::from_str(DOCUMENT).unwrap();
    let said = &document["components"]["schemas"]["Finding"]["properties"]["kind"]["enum"];
    let said: BTreeSet<&str> = said.as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert_eq!(said, Kind::ALL.iter().map(|kind| kind.as_str()).collect());
}

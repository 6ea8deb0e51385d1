//! The HTTP API keeps to the document it serves.

use crate::support::{client, server};

#[tokio::test(flavor = "multi_thread")]
async fn every_documented_path_answers_as_documented() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let api = format!("http://{}/api/v1", weir.addresses.web);
    let client = client();
    let document: serde_json::Value =
        client.get(format!("{api}/openapi.json")).send().await.unwrap().json().await.unwrap();
    let mut called = 0;
    for (path, methods) in document["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            let path_made = path.replace("{id}", "no-such-id").replace("{name}", "tested");
            let address = format!("{api}{path_made}{}", required(operation));
            let request = match method.as_str() {
                "get" => client.get(&address),
                "post" if path == "/policy" => {
                    client.post(&address).json(&serde_json::json!({"set_control": {"enabled": false}}))
                }
                "post" if path == "/sql" => client.post(&address).json(&serde_json::json!({"query": "SELECT 1"})),
                "post" if path == "/backups" => client.post(&address).json(&serde_json::json!({"name": "tested"})),
                _ => client.post(&address),
            };
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let json: serde_json::Value = answer.json().await.unwrap();
            if path.contains("{id}") {
                assert_eq!((status, json["error"]["code"].as_str()), (400, Some("bad_request")), "{path}");
            } else {
                assert!(operation["responses"].get(status.to_string()).is_some(), "{method} {path}: {status} {json}");
                let schema = &operation["responses"][status.to_string()]["content"]["application/json"]["schema"];
                for key in schema["required"].as_array().into_iter().flatten() {
                    assert!(json.get(key.as_str().unwrap()).is_some(), "{method} {path} lacks {key}: {json}");
                }
            }
            called += 1;
        }
    }
    assert!(called >= 18, "{called}");
    let unknown = client.get(format!("{api}/nothing")).send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_or_unknown_is_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let cases = [
        ("/traces?servce=cart", "servce"),
        ("/traces?cursor=7", "cursor"),
        ("/services?from=noon", "from"),
        ("/graph?from=-1h&to=-2h", "from"),
        ("/operations", "service"),
        ("/red?service=cart&step=10s", "step"),
        ("/red?service=cart&from=-90000h&step=60s", "points"),
        ("/critical-path?servce=cart", "servce"),
        ("/critical-path?from=-1h&to=-2h", "from"),
        ("/attribute_values", "key"),
        ("/logs", "trace_id"),
        ("/logs?trace_id=xyz", "trace_id"),
        ("/sql?query=SELECT%201&format=xml", "format"),
    ];
    for (path, named) in cases {
        let answer = client().get(format!("http://{}/api/v1{path}", weir.addresses.web)).send().await.unwrap();
        let (status, json) = (answer.status().as_u16(), answer.json::<serde_json::Value>().await.unwrap());
        assert_eq!((status, json["error"]["code"].as_str()), (400, Some("bad_request")), "{path}: {json}");
        assert!(json["error"]["message"].as_str().unwrap().contains(named), "{path}: {json}");
    }
    weir.stop().await.unwrap();
}

/// The parameters that an operation needs, as its document gives examples of them.
fn required(operation: &serde_json::Value) -> String {
    let parameters = operation["parameters"].as_array().into_iter().flatten();
    let needed = parameters.filter(|p| p["required"] == true && p["in"] == "query");
    let pairs = needed.map(|p| (p["name"].as_str().unwrap(), p["example"].as_str().unwrap()));
    let address = reqwest::Url::parse_with_params("http://weir/", pairs).unwrap();
    address.query().filter(|query| !query.is_empty()).map_or_else(String::new, |query| format!("?{query}"))
}

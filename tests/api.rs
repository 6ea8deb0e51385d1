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
        let address = match path.as_str() {
            "/sql" => format!("{api}/sql?query=SELECT%201"),
            path => format!("{api}{}", path.replace("{id}", "no-such-id")),
        };
        for (method, operation) in methods.as_object().unwrap() {
            let request = match method.as_str() {
                "get" => client.get(&address),
                "post" if path == "/policy" => {
                    client.post(&address).json(&serde_json::json!({"set_control": {"enabled": false}}))
                }
                "post" if path == "/sql" => client.post(&address).json(&serde_json::json!({"query": "SELECT 1"})),
                _ => client.post(&address),
            };
            let answer = request.send().await.unwrap();
            let status = answer.status().as_u16();
            let json: serde_json::Value = answer.json().await.unwrap();
            if path.contains("{id}") {
                assert_eq!((status, json["error"]["code"].as_str()), (400, Some("bad_request")), "{path}");
            } else {
                assert!(operation["responses"].get(status.to_string()).is_some(), "{method} {path}: {status} {json}");
            }
            called += 1;
        }
    }
    assert!(called >= 13, "{called}");
    let unknown = client.get(format!("{api}/nothing")).send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    weir.stop().await.unwrap();
}

//! Calls to language models in whole flows: what is read of them as they pass, and the budget of
//! tokens that they are held to.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod flow;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::State,
    http::HeaderMap,
    response::Response,
    routing::post,
};
use futures::StreamExt;
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};

use flow::{
    app, client,
    collector::{Collector, attributes},
    config, proxy, url,
};
use weir_proxy::Proxy;

/// A model whose answer uses as many tokens as the request's `metadata.uses` says.
async fn model() -> SocketAddr {
    let answer = async |Json(asked): Json<Value>| {
        let uses = asked["metadata"]["uses"].as_u64().unwrap_or(10);
        Json(json!({
            "id": "1", "model": "small-1", "length": asked.to_string().len(),
            "choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 5, "completion_tokens": uses - 5, "total_tokens": uses}
        }))
    };
    app(Router::new().route("/v1/chat/completions", post(answer))).await
}

async fn chat(proxy: &weir_proxy::Proxy, tenant: &str, max_tokens: u64, uses: u64) -> reqwest::Response {
    let body = json!({"model": "small", "messages": [], "max_tokens": max_tokens, "metadata": {"uses": uses}});
    let request = client().post(url(proxy, "/v1/chat/completions")).header("x-tenant", tenant);
    request.json(&body).send().await.unwrap()
}

fn field(response: &reqwest::Response, name: &str) -> u64 {
    let value = response.headers().get(name).unwrap_or_else(|| panic!("no {name} in {response:?}"));
    value.to_str().unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_is_charged_what_it_used_and_not_what_it_might_have() {
    const LEFT: &str = "x-ratelimit-remaining-tokens";
    let limits = "limits: { token_rate_limit: { tokens_per_s: 0.001, burst: 1000, tenant_header: x-tenant } }";
    let proxy = proxy(model().await, "      - { upstream: app }", limits);
    // nearly everything is set aside for each call, and nearly everything comes back
    for n in 0..5 {
        let response = chat(&proxy, "a", 900, 20).await;
        assert_eq!(response.status(), 200, "call {n}");
        let left = field(&response, LEFT);
        assert!((50..100).contains(&(left + 20 * n)), "call {n}: {left} left while it runs");
        assert_eq!(field(&response, "x-ratelimit-limit-tokens"), 1_000);
        response.bytes().await.unwrap();
    }
    let response = chat(&proxy, "a", 10, 2_900).await;
    assert_eq!(response.status(), 200, "it asked for little and took much");
    response.bytes().await.unwrap();
    let refused = chat(&proxy, "a", 10, 20).await;
    assert_eq!((refused.status().as_u16(), field(&refused, LEFT)), (429, 0));
    assert_eq!(refused.headers()["x-weir-reason"], "tokens_exhausted");
    // 2,000 in debt and some to gain, at a thousandth of a token a second
    assert!(field(&refused, "retry-after") > 2_000_000, "{refused:?}");
    assert_eq!(chat(&proxy, "b", 10, 20).await.status(), 200, "another tenant has its own budget");
    let metrics = flow::admin(&proxy, "/metrics").await;
    let series = "{route=\"app\",gen_ai_operation_name=\"chat\",gen_ai_request_model=\"small\",gen_ai_response_model=\"small-1\",gen_ai_token_type=\"input\"}";
    assert!(
        metrics.contains(&format!("\ngen_ai_client_token_usage_sum{series} 35\n")),
        "seven calls of five: {metrics}"
    );
    let list = client().get(url(&proxy, "/v1/models")).header("x-tenant", "a").send().await.unwrap();
    assert_eq!(list.status(), 404, "to look costs no tokens, so it is passed on");
    assert_eq!(proxy.drain().await.shed, 1);
}

/// An event counts as a token where no usage is said, and a client that leaves pays for what came.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_left_is_charged_for_what_came() {
    let go_on = Arc::new(Notify::new());
    let limits = "limits: { token_rate_limit: { tokens_per_s: 0.001, burst: 1000 } }";
    let proxy = proxy(streaming_model(go_on.clone()).await, "      - { upstream: app }", limits);
    let ask = async || {
        let body = json!({"messages": [], "max_tokens": 900});
        client().post(url(&proxy, "/v1/chat/completions")).json(&body).send().await.unwrap()
    };
    let mut stream = ask().await.bytes_stream();
    stream.next().await.unwrap().unwrap();
    go_on.notify_one();
    let second = stream.next().await.unwrap().unwrap();
    assert!(second.starts_with(b"data: {\"choices\":[{\"delta\":{\"content\":\"One"), "{second:?}");
    drop(stream);
    // two events came; what else was set aside is back as soon as the proxy sees that nobody reads
    flow::until("refunded", async || {
        let next = ask().await;
        next.status() == 200 && field(&next, "x-ratelimit-remaining-tokens") >= 60
    })
    .await;
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_refused_or_fails_costs_nothing() {
    let gone = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let limits = "limits: { token_rate_limit: { tokens_per_s: 0.001, burst: 1000 } }";
    let proxy = proxy(gone, "      - { upstream: app }", limits);
    for _ in 0..5 {
        assert_eq!(chat(&proxy, "a", 900, 20).await.status(), 502, "the tokens of the call before are back");
    }
    proxy.drain().await;
}

/// What a request holds back is sent on whole, however long it is and however it is cut.
#[tokio::test(flavor = "multi_thread")]
async fn the_body_reaches_the_model_as_it_was_sent() {
    let routes = "      - { upstream: app, limits: { token_rate_limit: { tokens_per_s: 1e6, burst: 100000000 } } }";
    let echo = post(async |headers: HeaderMap, body: Bytes| {
        let length = headers.get("content-length").map(|l| l.to_str().unwrap().to_owned());
        ([("x-length", length.unwrap_or_default())], body)
    });
    let proxy = proxy(app(Router::new().fallback(echo)).await, routes, "");
    for (prompt, announced) in [(0, true), (10, true), (200_000, true), (200_000, false), (1_500_000, false)] {
        let body = json!({"messages": "x".repeat(prompt), "max_tokens": 5}).to_string();
        let request = client().post(url(&proxy, "/v1/chat/completions"));
        let request = if announced {
            request.body(body.clone())
        } else {
            let pieces: Vec<_> = body.as_bytes().chunks(1_000).map(Bytes::copy_from_slice).collect();
            request.body(reqwest::Body::wrap_stream(futures::stream::iter(pieces.into_iter().map(Ok::<_, Infallible>))))
        };
        let response = request.send().await.unwrap();
        let length = if announced { body.len().to_string() } else { String::new() };
        assert_eq!(response.headers()["x-length"], length.as_str(), "{prompt} {announced}");
        assert!(response.bytes().await.unwrap() == body.as_bytes(), "{prompt} {announced}");
    }
    proxy.drain().await;
}

/// Streams three tokens; each waits until the client has had the one before, so that a proxy which
/// gathers would hang.
async fn streaming_model(go_on: Arc<Notify>) -> SocketAddr {
    let stream = async |State(go_on): State<Arc<Notify>>| {
        let (send, receive) = mpsc::channel::<Result<Bytes, Infallible>>(1);
        tokio::spawn(async move {
            let head =
                "data: {\"model\":\"big-2\",\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n";
            send.send(Ok(Bytes::from_static(head.as_bytes()))).await.unwrap();
            for token in ["One", " two", " three"] {
                go_on.notified().await;
                tokio::time::sleep(Duration::from_millis(10)).await; // a gap that the proxy is to measure
                let event = format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{token}\"}}}}]}}\r\n\r\n");
                send.send(Ok(event.into())).await.unwrap();
            }
            for end in [
                "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n: bye\n\ndata: {\"choices\":[],\"usage\":{\"prompt_",
                "tokens\":7,\"completion_tokens\":3}}\n\ndata: [DONE]\n\n",
            ] {
                send.send(Ok(Bytes::from_static(end.as_bytes()))).await.unwrap();
            }
        });
        let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receive));
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    };
    app(Router::new().route("/v1/chat/completions", post(stream)).with_state(go_on)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_measured_as_the_conventions_say_and_not_held_up() {
    let (collector, otlp) = Collector::start().await;
    let go_on = Arc::new(Notify::new());
    let telemetry = format!("telemetry: {{ otlp: \"http://{otlp}\" }}");
    let model = streaming_model(go_on.clone()).await;
    let mut config = config(model, "      - { name: lm, upstream: app }", &telemetry);
    config.upstreams[0].gen_ai_provider = Some("vllm".into());
    let proxy = Proxy::start(config).unwrap();
    let body = json!({"messages": [{"role": "user", "content": "\"model\":\"no\""}], "model": "big", "stream": true});
    let response = client().post(url(&proxy, "/v1/chat/completions")).json(&body).send().await.unwrap();
    let (mut chunks, mut seen) = (response.bytes_stream(), String::new());
    while let Some(chunk) = chunks.next().await {
        seen.push_str(std::str::from_utf8(&chunk.unwrap()).unwrap());
        go_on.notify_one();
    }
    assert!(seen.contains(" three") && seen.ends_with("data: [DONE]\n\n"), "{seen}");
    proxy.drain().await;

    let span = collector.spans().pop().unwrap();
    let said = attributes(&span.attributes);
    for (key, value) in [
        ("gen_ai.operation.name", "chat"),
        ("gen_ai.provider.name", "vllm"),
        ("gen_ai.request.model", "big"),
        ("gen_ai.response.model", "big-2"),
        ("gen_ai.response.finish_reasons", "stop"),
        ("gen_ai.usage.input_tokens", "7"),
        ("gen_ai.usage.output_tokens", "3"),
    ] {
        assert_eq!(said.get(key).map(String::as_str), Some(value), "{key} of {said:?}");
    }
    let ns = |key: &str| said[key].parse::<u64>().unwrap();
    let duration_ns = span.end_time_unix_nano - span.start_time_unix_nano;
    assert!((10_000_000..duration_ns).contains(&ns("weir.time_to_first_token_ns")), "{said:?}");
    assert!((10_000_000..duration_ns).contains(&ns("weir.time_per_output_token_ns")), "{said:?}");
    for (metric, points) in [
        ("gen_ai.client.token.usage", 2),
        ("gen_ai.server.time_to_first_token", 1),
        ("gen_ai.server.time_per_output_token", 1),
        ("gen_ai.server.request.duration", 1),
    ] {
        use opentelemetry_proto::tonic::metrics::v1::metric::Data;
        let Some(Data::Histogram(histogram)) = collector.metric(metric).unwrap().data else { panic!("{metric}") };
        assert_eq!(histogram.data_points.len(), points, "{metric}");
        let said = attributes(&histogram.data_points[0].attributes);
        for (key, value) in
            [("gen_ai.provider.name", "vllm"), ("gen_ai.request.model", "big"), ("gen_ai.response.model", "big-2")]
        {
            assert_eq!(said[key], value, "{key} of {metric}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compressed_answer_is_left_alone_and_said_so() {
    let (collector, otlp) = Collector::start().await;
    let answer = post(async || {
        let headers = [("content-type", "application/json"), ("content-encoding", "gzip")];
        (headers, Bytes::from_static(b"\x1f\x8b not really"))
    });
    let address = app(Router::new().route("/v1/completions", answer)).await;
    let proxy = proxy(address, "      - { upstream: app }", &format!("telemetry: {{ otlp: \"http://{otlp}\" }}"));
    let response = client().post(url(&proxy, "/v1/completions")).body("{}").send().await.unwrap();
    assert_eq!(response.bytes().await.unwrap(), &b"\x1f\x8b not really"[..]);
    flow::until("counted", async || flow::metric(&proxy, "weir_proxy_lm_unread_total").await == 1.0).await;
    proxy.drain().await;
    let said = attributes(&collector.spans()[0].attributes);
    assert_eq!(
        (said["weir.lm_unread"].as_str(), said["gen_ai.operation.name"].as_str()),
        ("compressed", "text_completion")
    );
    assert!(!said.contains_key("gen_ai.usage.input_tokens"), "{said:?}");
}

/// Tokens that were set aside were lost when the client left before the answer, and nothing bounded how
/// many one call could ask for.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_its_client_leaves_costs_what_was_sent_of_it() {
    let (entered, mut has_entered) = mpsc::unbounded_channel();
    let hang = async |State(entered): State<mpsc::UnboundedSender<()>>, Json(asked): Json<Value>| {
        if asked["metadata"]["hang"] == true {
            entered.send(()).unwrap();
            std::future::pending::<()>().await;
        }
        Json(json!({"usage": {"prompt_tokens": 1, "completion_tokens": 1}}))
    };
    let router = Router::new().route("/v1/chat/completions", post(hang)).with_state(entered);
    let limits = "limits: { token_rate_limit: { tokens_per_s: 0.001, burst: 1000 } }";
    let proxy = proxy(app(router).await, "      - { upstream: app }", limits);
    let body = json!({"messages": [], "max_tokens": u64::MAX, "metadata": {"hang": true}});
    let call = client().post(url(&proxy, "/v1/chat/completions")).json(&body);
    let call = tokio::spawn(async move { call.send().await.map(|response| response.status()) });
    has_entered.recv().await.unwrap();
    assert_eq!(chat(&proxy, "a", 1, 20).await.status(), 429, "all of it is set aside");
    call.abort();
    flow::until("what was set aside is back", async || chat(&proxy, "a", 900, 20).await.status() == 200).await;
    proxy.drain().await;
}

/// Uploads were charged by their size, as prompts.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_prompt_is_charged_by_the_usage_of_its_answer_alone() {
    let answer = async |headers: HeaderMap, _: Bytes| {
        let used: u64 = headers.get("x-used").map_or(0, |used| used.to_str().unwrap().parse().unwrap());
        let usage = json!({"input_tokens": used, "output_tokens": 0});
        if used > 0 { Json(json!({"text": "Hi", "usage": usage})) } else { Json(json!({"stored": true})) }
    };
    let limits = "limits: { token_rate_limit: { tokens_per_s: 0.001, burst: 1000 } }";
    let proxy = proxy(app(Router::new().fallback(post(answer))).await, "      - { upstream: app }", limits);
    let send = async |path: &str, kind: &str, bytes: usize, used: u64| {
        let request = client().post(url(&proxy, path)).header("content-type", kind).header("x-used", used);
        let response = request.body("x".repeat(bytes)).send().await.unwrap();
        let (status, left) = (response.status().as_u16(), field(&response, "x-ratelimit-remaining-tokens"));
        response.bytes().await.unwrap();
        (status, left)
    };
    let (json, form) = ("application/json", "multipart/form-data; boundary=x");
    for (path, kind, bytes, used, expected) in [
        ("/v1/files", "application/octet-stream", 3_600, 0, (200, 1_000)),
        ("/items", json, 20_000, 0, (200, 1_000)),
        ("/v1/audio/transcriptions", form, 20_000, 100, (200, 1_000)),
        ("/v1/messages", form, 20_000, 0, (200, 900)),
        ("/v1/messages", json, 400, 100, (200, 544)),
        ("/v1/audio/transcriptions", form, 9, 1_100, (200, 800)),
        ("/v1/audio/transcriptions", form, 9, 1, (429, 0)),
    ] {
        assert_eq!(send(path, kind, bytes, used).await, expected, "{bytes} bytes of {kind} to {path}");
    }
    proxy.drain().await;
}

/// SDKs ask for gzip unless told otherwise, and nothing was known of the answers they got.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_to_be_read_may_not_come_compressed() {
    let echo = post(async |headers: HeaderMap| headers["accept-encoding"].to_str().unwrap().to_owned());
    let routes = "
      - { match: { path_prefix: /billed }, upstream: app, limits: { token_rate_limit: { tokens_per_s: 1e6, burst: 1000000 } } }
      - { name: free, upstream: app }";
    let proxy = proxy(app(Router::new().fallback(echo)).await, routes, "");
    for (path, expected) in
        [("/billed", "identity"), ("/free", "gzip"), ("/v1/chat/completions", "identity"), ("/v1/models", "gzip")]
    {
        let request = client().post(url(&proxy, path)).header("accept-encoding", "gzip").body("{}");
        assert_eq!(request.send().await.unwrap().text().await.unwrap(), expected, "{path}");
    }
    proxy.drain().await;
}

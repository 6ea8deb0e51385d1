//! Web pages that send by OTLP/HTTP, as browsers ask for it.

use prost::Message;
use reqwest::{Method, Response};
use weir::server::Server;

use crate::support::{client, request, server_with, span};

const PAGE: &str = "https://shop.example";
const HEADERS: &str = "content-encoding,content-type,x-tenant";

async fn asks(weir: &Server, origin: &str) -> Response {
    let url = format!("http://{}/v1/traces", weir.addresses.otlp_http);
    let ask = client().request(Method::OPTIONS, url).header("origin", origin);
    let ask = ask.header("access-control-request-method", "POST").header("access-control-request-headers", HEADERS);
    ask.send().await.unwrap()
}

async fn posts(weir: &Server, origin: &str, body: Vec<u8>) -> Response {
    let url = format!("http://{}/v1/traces", weir.addresses.otlp_http);
    let post = client().post(url).header("origin", origin).header("content-type", "application/x-protobuf");
    post.body(body).send().await.unwrap()
}

fn header<'a>(response: &'a Response, name: &str) -> Option<&'a str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_an_allowed_origin_may_send_and_read_the_answer() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |config| config.collector.cors_allowed_origins = vec![PAGE.into()]).await;
    let answer = asks(&weir, PAGE).await;
    assert_eq!(answer.status(), 204);
    for (name, expected) in [
        ("access-control-allow-origin", PAGE),
        ("access-control-allow-methods", "POST"),
        ("access-control-allow-headers", HEADERS),
        ("access-control-allow-credentials", "true"),
        ("vary", "origin"),
    ] {
        assert_eq!(header(&answer, name), Some(expected), "{name}");
    }
    let spans = request("page", vec![span(1, 1, 0, "x", 1_700_000_000_000_000_000, 1)]).encode_to_vec();
    for (body, status) in [(spans, 200), (vec![0xff; 9], 400)] {
        let answer = posts(&weir, PAGE, body).await;
        assert_eq!(answer.status(), status);
        assert_eq!(header(&answer, "access-control-allow-origin"), Some(PAGE), "a failure can be read too");
    }
    let answer = asks(&weir, "https://other.example").await;
    assert_eq!((answer.status().as_u16(), header(&answer, "vary")), (405, Some("origin")));
    assert_eq!(header(&answer, "access-control-allow-origin"), None);
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn no_page_may_send_unless_it_is_configured() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |_| {}).await;
    let answer = asks(&weir, PAGE).await;
    assert_eq!(answer.status(), 405);
    assert_eq!((header(&answer, "access-control-allow-origin"), header(&answer, "vary")), (None, None));
    weir.stop().await.unwrap();
}

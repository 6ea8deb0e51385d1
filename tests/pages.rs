//! The pages in a real browser: what they show, that they answer to keys and clicks, and that no page
//! logs an error, breaks its content security policy or asks another host.
//!
//! `TEST_SCREENSHOTS=DIR` keeps a picture of every page, light and dark.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use chromiumoxide::{
    Browser, BrowserConfig, Page,
    cdp::browser_protocol::{
        emulation::{MediaFeature, SetEmulatedMediaParams},
        log::{EventEntryAdded, LogEntryLevel},
        network::EventRequestWillBeSent,
        page::{CaptureScreenshotFormat, EventJavascriptDialogOpening, HandleJavaScriptDialogParams},
    },
    cdp::js_protocol::runtime::{ConsoleApiCalledType, EventConsoleApiCalled, EventExceptionThrown},
    page::ScreenshotParams,
};
use futures::StreamExt;
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value},
    trace::v1::Status,
};
use tokio::task::JoinHandle;
use weir::server::Server;

use crate::support::{client, request, send, server_with, span};

const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;

/// Address, what the heading says, and a piece of text the page must hold.
const PAGES: [(&str, &str, &str); 23] = [
    ("/", "Service graph", "cart"),
    ("/?service=gateway", "Service graph", "queue wait, predicted"),
    ("/?from=-15m", "Service graph", "cart"),
    ("/?from=0&to=60000000000", "Service graph", "Nothing was measured"),
    ("/services?from=-15m", "Services", "gateway"),
    ("/services?service=cart&from=-15m", "cart", "GET /cart"),
    ("/services?service=nobody", "nobody", "Nothing was measured"),
    ("/critical-path?from=-15m", "Critical path", "GET /cart"),
    (
        "/critical-path?service=gateway&operation=GET+/&from=-15m",
        "Critical path · gateway · GET /",
        "the one trace in the range",
    ),
    ("/critical-path?service=nobody", "Critical path · nobody", "No request was found"),
    ("/traces", "Traces", "gateway GET /"),
    ("/traces?service=nobody", "Traces", "No trace matches"),
    ("/traces?service=cart&status=error&min_duration_ms=1&attribute=shop.tier=gold", "Traces", "GET /cart"),
    ("/traces/0af7651916cd43dd8448eb211c80319c?span=0000000000000002", "Trace", "shop.tier"),
    ("/traces/0af7651916cd43dd8448eb211c80319c", "Trace", "clock −2.0 ms"),
    ("/traces/0af7651916cd43dd8448eb211c80319c", "Trace", "async: after its parent"),
    ("/sql?q=SELECT+service,+count(*)+AS+n+FROM+spans+GROUP+BY+service+ORDER+BY+service", "SQL", "gateway"),
    ("/findings", "Findings", "Nothing is wrong"),
    ("/whatif", "What if", "What each service can still take"),
    ("/whatif?service=cart&arrivals=1.5", "What if", "Queues that change"),
    ("/whatif?service=cart&arrivals=-1", "What if", "arrivals"),
    ("/policy", "Policy", "Nothing is regulated"),
    ("/alerts", "Alerts", "No alert yet"),
];

/// What went wrong on any page so far.
type Complaints = Arc<Mutex<Vec<String>>>;

struct Opened {
    browser: Browser,
    page: Page,
    complaints: Complaints,
    tasks: Vec<JoinHandle<()>>,
    _profile: tempfile::TempDir,
}

#[tokio::test(flavor = "multi_thread")]
async fn every_page_shows_what_is_stored_and_keeps_to_its_policy() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let weir = served(dir.path()).await;
    let web = format!("http://{}", weir.addresses.web);
    let opened = open(&chromium, &web).await;
    for scheme in ["light", "dark"] {
        let media = MediaFeature { name: "prefers-color-scheme".into(), value: scheme.into() };
        let emulate = SetEmulatedMediaParams { media: None, features: Some(vec![media]) };
        opened.page.execute(emulate).await.unwrap();
        for (path, heading, text) in PAGES {
            opened.page.goto(format!("{web}{path}")).await.unwrap();
            let shown: String = evaluate(&opened.page, "document.body.innerText").await;
            let h1: String = evaluate(&opened.page, "document.querySelector('h1').innerText").await;
            assert!(h1.starts_with(heading), "{path}: {h1}");
            assert!(shown.contains(text), "{path} lacks {text:?}:\n{shown}");
            let paper: String =
                evaluate(&opened.page, "getComputedStyle(document.documentElement).backgroundColor").await;
            assert_eq!(paper == "rgb(16, 23, 29)", scheme == "dark", "{path}: {paper}");
            keep_picture(&opened.page, scheme, path).await;
        }
    }
    opened.close().await;
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_answer_to_people() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let weir = served(dir.path()).await;
    let web = format!("http://{}", weir.addresses.web);
    let opened = open(&chromium, &web).await;
    let page = &opened.page;

    page.goto(format!("{web}/")).await.unwrap();
    let nodes: u32 = evaluate(page, "document.querySelectorAll('a.node').length").await;
    let rows: u32 = evaluate(page, "document.querySelectorAll('.twin table:first-of-type tbody tr').length").await;
    assert_eq!((nodes, rows), (2, 2), "the table holds what the graph draws");
    page.find_element("a.node[href='/?service=cart']")
        .await
        .unwrap()
        .focus()
        .await
        .unwrap()
        .press_key("Enter")
        .await
        .unwrap();
    until(page, "document.querySelector('.panel h2')?.innerText === 'cart'").await;
    assert_eq!(evaluate::<String>(page, "location.search").await, "?service=cart", "the address holds the state");

    page.find_element("#theme").await.unwrap().click().await.unwrap();
    until(page, "document.documentElement.dataset.theme === 'dark'").await;
    page.goto(format!("{web}/sql")).await.unwrap();
    until(page, "document.documentElement.dataset.theme === 'dark'").await;
    let text = page.find_element("#q").await.unwrap();
    text.click().await.unwrap().type_str("SELECT 6 * 7 AS answer").await.unwrap();
    evaluate::<bool>(page, "document.getElementById('sql').requestSubmit(), true").await;
    until(page, "document.querySelector('.scroll tbody td')?.innerText === '42'").await;
    page.goto(format!("{web}/sql?q=DROP+TABLE+spans")).await.unwrap();
    until(page, "document.querySelector('[role=alert]') !== null").await;

    page.goto(format!("{web}/traces?limit=1")).await.unwrap();
    let key = "document.querySelector('#attributes option[value=\"shop.tier=\"]') !== null";
    assert!(evaluate::<bool>(page, key).await, "keys that were seen are suggested");
    let field = page.find_element("input[name=attribute]").await.unwrap();
    field.click().await.unwrap().type_str("shop.tier=").await.unwrap();
    until(page, "document.querySelector('#attributes option[value=\"shop.tier=gold\"]') !== null").await;
    field.type_str("gold").await.unwrap().press_key("Enter").await.unwrap();
    until(page, "document.querySelectorAll('input[name=attribute]').length === 2").await;
    let rows: u32 = evaluate(page, "document.querySelectorAll('main tbody tr').length").await;
    assert_eq!(rows, 1, "one trace is gold");
    page.goto(format!("{web}/traces?limit=1")).await.unwrap();
    let first: String = evaluate(page, "document.querySelector('tbody code').innerText").await;
    page.find_element("a[rel=next]").await.unwrap().click().await.unwrap();
    until(page, &format!("document.querySelector('tbody code').innerText !== '{first}'")).await;
    assert!(evaluate::<bool>(page, "document.querySelector('a[rel=next]') === null").await, "there are two traces");

    page.goto(format!("{web}/services?service=gateway&operation=GET+/&from=-15m")).await.unwrap();
    page.find_element("a[href^='/critical-path']").await.unwrap().click().await.unwrap();
    until(page, "document.querySelectorAll('a.frame').length === 2").await;
    let rows: u32 = evaluate(page, "document.querySelectorAll('.twin tbody tr').length").await;
    assert_eq!(rows, 2, "the table holds what the flame draws");
    let widths = "[...document.querySelectorAll('a.frame .box')].map(b => b.getBoundingClientRect().width)";
    let widths: Vec<f64> = evaluate(page, widths).await;
    assert!((widths[1] / widths[0] - 0.6).abs() < 0.01, "3 of 5 ms: {widths:?}");
    page.find_element("a.frame:nth-of-type(2)").await.unwrap().focus().await.unwrap().press_key("Enter").await.unwrap();
    until(page, "document.querySelector('.panel h2')?.innerText === 'GET /cart'").await;
    assert!(evaluate::<bool>(page, "location.search.includes('frame=')").await, "the address holds the state");
    let panel: String = evaluate(page, "document.querySelector('.panel').innerText").await;
    assert!(panel.contains("60 %") && panel.contains("1 of 1") && panel.contains("3.0 ms"), "{panel}");
    page.find_element(".panel a.close").await.unwrap().click().await.unwrap();
    until(page, "document.querySelector('.panel') === null").await;

    page.goto(format!("{web}/policy")).await.unwrap();
    page.find_element("button[data-order*=set_control]").await.unwrap().click().await.unwrap();
    until(page, "document.body.innerText.includes('control on')").await;
    opened.close().await;
    weir.stop().await.unwrap();
}

/// Short windows, a trace of two services with an error, a job that nobody waits for, and a window that has closed over it.
async fn served(dir: &Path) -> Server {
    let weir = server_with(dir, |config| {
        config.analyzer.window_ms = 200;
        config.analyzer.lateness_ms = 100;
    })
    .await;
    let otlp = format!("http://{}", weir.addresses.otlp_http);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let entry = span(TRACE, 1, 0, "GET /", now, 5_000_000);
    // its clock is 2 ms ahead: it seems to end after its caller; and it leaves a job behind
    let mut cart = span(TRACE, 2, 1, "GET /cart", now + 3_000_000, 3_000_000);
    let mut job = span(TRACE, 4, 2, "tidy up", now + 6_500_000, 100_000);
    job.kind = 1;
    cart.status = Some(Status { code: 2, message: "out of stock <b>".into() });
    let value = Some(AnyValue { value: Some(Value::StringValue("gold".into())) });
    cart.attributes.push(KeyValue { key: "shop.tier".into(), value, ..KeyValue::default() });
    let other = span(1, 3, 0, "GET /health", now - 1_000_000_000, 1_000_000);
    // in one request: they fall into one window however busy the machine is
    let mut both = request("gateway", vec![entry, other]);
    both.resource_spans.extend(request("cart", vec![cart, job]).resource_spans);
    assert!(send(&client(), &otlp, &both).await);
    let mut snapshot = weir.snapshot.clone();
    let closed = snapshot.wait_for(|snapshot| snapshot.services.len() == 2);
    tokio::time::timeout(Duration::from_secs(30), closed).await.expect("no window closed").unwrap();
    weir
}

async fn open(chromium: &Path, web: &str) -> Opened {
    let profile = tempfile::tempdir().unwrap();
    let config = BrowserConfig::builder().chrome_executable(chromium).no_sandbox().user_data_dir(profile.path());
    let config = config.window_size(1600, 900).viewport(None).build().unwrap();
    let (browser, mut handler) = Browser::launch(config).await.unwrap();
    let mut tasks = vec![tokio::spawn(async move { while handler.next().await.is_some() {} })];
    let page = browser.new_page("about:blank").await.unwrap();
    let complaints = Complaints::default();
    page.enable_log().await.unwrap();
    page.enable_runtime().await.unwrap();
    tasks.extend(listen(&page, web, &complaints).await);
    Opened { browser, page, complaints, tasks, _profile: profile }
}

/// Collects errors, and says yes to every question.
async fn listen(page: &Page, web: &str, complaints: &Complaints) -> [JoinHandle<()>; 5] {
    let web = web.to_owned();
    let mut entries = page.event_listener::<EventEntryAdded>().await.unwrap();
    let mut exceptions = page.event_listener::<EventExceptionThrown>().await.unwrap();
    let mut console = page.event_listener::<EventConsoleApiCalled>().await.unwrap();
    let mut requests = page.event_listener::<EventRequestWillBeSent>().await.unwrap();
    let mut dialogs = page.event_listener::<EventJavascriptDialogOpening>().await.unwrap();
    let complain = |complaints: &Complaints| {
        let complaints = complaints.clone();
        move |text: String| complaints.lock().unwrap().push(text)
    };
    let (log, threw, said, asked) =
        (complain(complaints), complain(complaints), complain(complaints), complain(complaints));
    let answering = page.clone();
    [
        tokio::spawn(async move {
            while let Some(event) = entries.next().await {
                if matches!(event.entry.level, LogEntryLevel::Error | LogEntryLevel::Warning) {
                    log(format!("log: {} ({:?})", event.entry.text, event.entry.url));
                }
            }
        }),
        tokio::spawn(async move {
            while let Some(event) = exceptions.next().await {
                threw(format!("exception: {:?}", event.exception_details.text));
            }
        }),
        tokio::spawn(async move {
            while let Some(event) = console.next().await {
                if matches!(event.r#type, ConsoleApiCalledType::Error | ConsoleApiCalledType::Warning) {
                    said(format!("console: {:?}", event.args));
                }
            }
        }),
        tokio::spawn(async move {
            while let Some(event) = requests.next().await {
                let url = &event.request.url;
                if !url.starts_with(&web) && !url.starts_with("data:") && !url.starts_with("about:") {
                    asked(format!("off the origin: {url}"));
                }
            }
        }),
        tokio::spawn(async move {
            while dialogs.next().await.is_some() {
                answering.execute(HandleJavaScriptDialogParams::new(true)).await.unwrap();
            }
        }),
    ]
}

impl Opened {
    /// Closes the browser; anything it complained of fails the test.
    async fn close(mut self) {
        self.browser.close().await.unwrap();
        self.browser.wait().await.unwrap();
        self.tasks.iter().for_each(JoinHandle::abort);
        let complaints = self.complaints.lock().unwrap().clone();
        assert!(complaints.is_empty(), "{complaints:#?}");
    }
}

async fn evaluate<T: serde::de::DeserializeOwned>(page: &Page, script: &str) -> T {
    page.evaluate(script).await.unwrap().into_value().unwrap_or_else(|e| panic!("{script}: {e}"))
}

/// Waits until the page makes it true.
async fn until(page: &Page, condition: &str) {
    let wait = async {
        // a navigation in between loses the answer: it is asked again
        while !page.evaluate(condition).await.is_ok_and(|found| found.into_value().unwrap_or(false)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("never true: {condition}"));
}

async fn keep_picture(page: &Page, scheme: &str, path: &str) {
    let Some(folder) = std::env::var_os("TEST_SCREENSHOTS") else { return };
    let name = path.split(['?', '/']).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("-");
    let name: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').take(40).collect();
    let file = PathBuf::from(folder).join(format!("test-{scheme}-{name}.png"));
    let params = ScreenshotParams::builder().format(CaptureScreenshotFormat::Png).build();
    page.save_screenshot(params, file).await.unwrap();
}

fn chromium() -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let found = std::env::split_paths(&folders)
        .flat_map(|folder| ["chromium", "chromium-browser", "google-chrome"].map(|name| folder.join(name)))
        .find(|file| file.is_file());
    if found.is_none() {
        println!("skipped: no Chromium on the PATH; ./tests/run installs it");
    }
    found
}

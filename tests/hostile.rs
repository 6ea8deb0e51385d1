//! Statements that would hurt: each ends in an answer or an error within its limits, none changes or
//! reaches anything, and after all of them the server ingests and answers as before.

use std::time::{Duration, Instant};

use weir::server::Server;
use weir_store::{SqlConfig, SqlError};

use futures::StreamExt;

use crate::support::{Process, client, request, send, server_with, span};

mod statements;

use statements::{DOUBLING, End, SLOW, WIDE, chain, statements};

/// Limits small enough that a statement which ignored them would be noticed.
fn limits() -> SqlConfig {
    SqlConfig { timeout_ms: 1_500, memory_bytes: 64 << 20, max_rows: 20_000, ..SqlConfig::default() }
}

/// How long a statement may take to its end: its own two seconds and a step of its plan. Without
/// optimization a step is ten to twenty times as long.
const LONGEST: Duration = Duration::from_secs(if cfg!(debug_assertions) { 15 } else { 4 });

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_hostile_statements_leave_the_server_well() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server_with(dir.path(), |config| config.store.sql = limits()).await;
    let otlp = format!("http://{}", weir.addresses.otlp_http);
    let some = |first: u64| {
        (first..first + 2_000).map(|n| span(u128::from(n / 10) + 1, n + 1, 0, "GET", 1_000 + n, 500)).collect()
    };
    assert!(send(&client(), &otlp, &request("cart", some(0))).await);

    let statements = statements();
    assert!(statements.len() >= 200, "{}", statements.len());
    let (mut refused, mut limited, mut answered) = (0, 0, 0);
    let mut wrong = Vec::new();
    for (statement, end) in &statements {
        let started = Instant::now();
        let short: String = statement.chars().take(120).collect();
        let ended = tokio::time::timeout(2 * LONGEST, ask(&weir, statement)).await;
        let took = started.elapsed();
        match (end, ended) {
            (_, Err(_)) => wrong.push(format!("{short}: does not end")),
            (_, Ok(_)) if took > LONGEST => wrong.push(format!("{short}: took {took:?}")),
            (End::Refused, Ok(Ok(rows))) => wrong.push(format!("{short}: answered {rows} rows")),
            (_, Ok(Err(SqlError::Execution(why)))) if why.contains("inside the engine") => {
                wrong.push(format!("{short}: {why}"));
            }
            (_, Ok(Ok(_))) => answered += 1,
            (
                _,
                Ok(Err(
                    SqlError::NotReadOnly(_) | SqlError::Syntax(_) | SqlError::Unknown(..) | SqlError::Execution(_),
                )),
            ) => {
                refused += 1;
            }
            (_, Ok(Err(_))) => limited += 1,
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    println!("{} statements: {refused} refused, {limited} met a limit, {answered} answered", statements.len());

    assert!(send(&client(), &otlp, &request("cart", some(2_000))).await, "it ingests");
    assert_eq!(ask(&weir, "SELECT * FROM spans LIMIT 4001").await.unwrap(), 4_000, "nothing was changed");
    assert!(!dir.path().join("stolen").exists());
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_goes_away_frees_the_cpu_within_a_second() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Process::start(dir.path());
    let statement = "SELECT count(*) FROM generate_series(1, 100000) a CROSS JOIN generate_series(1, 10000000) b WHERE a.value * b.value < 0";
    let url = format!("{}/api/v1/sql", weir.web);
    let asked = client().post(url).body(statement).timeout(Duration::from_millis(700)).send().await;
    let read = match asked {
        Ok(answer) => answer.text().await,
        Err(error) => Err(error),
    };
    assert!(read.is_err(), "it runs longer than its reader waits");
    assert!(sql_cpu_ticks(weir.pid()) > 10, "it ran");
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = sql_cpu_ticks(weir.pid());
    tokio::time::sleep(Duration::from_millis(500)).await;
    let used = sql_cpu_ticks(weir.pid()).saturating_sub(before);
    assert!(used <= 5, "one second later the statement used {used} ticks of half a second");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_doubles_is_refused_before_it_fills_the_memory() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Process::start(dir.path());
    assert!(send(&client(), &weir.otlp_http, &request("cart", vec![span(1, 1, 0, "GET", 1_000, 500)])).await);
    assert_eq!(crate::support::sql(&weir.web, "SELECT count(*) FROM spans").await, ["1"]);
    let before = peak_mib(weir.pid());
    for made in DOUBLING {
        let text = format!("{} SELECT * FROM last", chain(&format!("SELECT {made} AS s FROM @"), 28));
        let (status, answer) = post(&weir, &text).await;
        assert_eq!(status, 422, "{made}: {answer}");
        assert!(answer.contains("the limit is"), "{made}: {answer}");
    }
    // 28 doublings of four bytes are a gigabyte
    let used = peak_mib(weir.pid()).saturating_sub(before);
    assert!(used < 700, "{used} MiB");
}

/// Spans enough for a batch of full length.
async fn with_a_full_batch(dir: &std::path::Path) -> Process {
    let weir = Process::start(dir);
    for first in (0..10_000).step_by(2_000) {
        let some = (first..first + 2_000).map(|n| span(u128::from(n / 10) + 1, n + 1, 0, "GET", 1_000 + n, 500));
        assert!(send(&client(), &weir.otlp_http, &request("cart", some.collect())).await);
    }
    weir
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_long_does_not_stand_in_every_row() {
    let dir = tempfile::tempdir().unwrap();
    let weir = with_a_full_batch(dir.path()).await;
    assert_eq!(crate::support::sql(&weir.web, "SELECT count(*) FROM spans").await, ["10000"]);
    for statement in WIDE {
        // from here on the peak is counted anew
        std::fs::write(format!("/proc/{}/clear_refs", weir.pid()), "5").unwrap();
        let before = peak_mib(weir.pid());
        let (status, answer) = post(&weir, statement).await;
        let used = peak_mib(weir.pid()).saturating_sub(before);
        let said: String = answer.chars().take(200).collect();
        println!("{used} MiB more, {status}: {statement}: {said}");
        assert!(matches!(status, 200 | 400 | 422), "{status}: {statement}");
        assert!(used < 1_000, "{used} MiB: {statement}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_call_ends_with_its_reader() {
    let dir = tempfile::tempdir().unwrap();
    let weir = with_a_full_batch(dir.path()).await;
    for statement in SLOW {
        let url = format!("{}/api/v1/sql", weir.web);
        // answered, refused, or left alone
        let _ = client().post(url).body(statement).timeout(Duration::from_millis(500)).send().await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        let before = sql_cpu_ticks(weir.pid());
        tokio::time::sleep(Duration::from_millis(500)).await;
        let used = sql_cpu_ticks(weir.pid()).saturating_sub(before);
        assert!(used <= 5, "one second later {statement} used {used} ticks of half a second");
    }
    assert_eq!(crate::support::sql(&weir.web, "SELECT 1").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn short_texts_of_large_plans_hold_no_thread() {
    let dir = tempfile::tempdir().unwrap();
    let weir = Process::start(dir.path());
    let bombs = [
        format!("{} SELECT count(*) FROM last", chain("SELECT * FROM @ UNION ALL SELECT * FROM @", 18)),
        format!("{} SELECT count(*) FROM last", chain("SELECT x.s FROM @ x JOIN @ y ON x.s = y.s", 17)),
        format!("EXPLAIN {} SELECT count(*) FROM last", chain("SELECT * FROM @ UNION ALL SELECT * FROM @", 18)),
        format!("{} SELECT * FROM last WHERE s = 'x'", chain("SELECT s || s AS s FROM @", 28)),
        format!("SELECT 1 FROM spans GROUP BY CUBE (service{})", ", kind".repeat(24)),
    ];
    for bomb in &bombs {
        let (status, answer) = post(&weir, bomb).await;
        assert_eq!(status, 400, "{answer}");
        assert!(answer.contains("too_complex"), "{answer}");
    }
    let started = Instant::now();
    assert_eq!(crate::support::sql(&weir.web, "SELECT 1").await, ["1"]);
    assert!(started.elapsed() < LONGEST, "{:?}", started.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn planning_ends_with_the_time_of_its_statement() {
    let dir = tempfile::tempdir().unwrap();
    let short = SqlConfig { timeout_ms: 50, ..SqlConfig::default() };
    let weir = server_with(dir.path(), |config| config.store.sql = short).await;
    let text = format!("{} SELECT count(*) FROM last", chain("SELECT x.s FROM @ x JOIN @ y ON x.s = y.s", 6));
    let started = Instant::now();
    let ended = ask(&weir, &text).await;
    assert!(matches!(ended, Err(SqlError::Timeout { limit_ms: 50 })), "{ended:?}");
    assert!(started.elapsed() < LONGEST, "{:?}", started.elapsed());
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_that_do_not_read_hold_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let two = SqlConfig { timeout_ms: 120_000, concurrency: 2, ..SqlConfig::default() };
    let weir = server_with(dir.path(), |config| config.store.sql = two).await;
    let endless = "SELECT * FROM generate_series(1, 4000000)";
    let mut unread = Vec::new();
    for _ in 0..4 {
        let asked = tokio::time::timeout(4 * LONGEST, weir.store.sql(endless, None)).await;
        unread.push(asked.expect("a turn is given back").unwrap());
    }
    let asked = tokio::time::timeout(4 * LONGEST, ask(&weir, "SELECT 1")).await;
    assert_eq!(asked.expect("a turn is free").unwrap(), 1);
    let mut late = unread.pop().unwrap();
    let mut rows = 0;
    while let Some(batch) = late.stream.next().await {
        rows += batch.unwrap().num_rows();
    }
    assert_eq!(rows, 4_000_000, "who reads late gets all");
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_have_turns_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let one = SqlConfig { timeout_ms: 120_000, concurrency: 1, ..SqlConfig::default() };
    let weir = server_with(dir.path(), |config| config.store.sql = one).await;
    let otlp = format!("http://{}", weir.addresses.otlp_http);
    assert!(send(&client(), &otlp, &request("cart", vec![span(1, 1, 0, "GET", 1_000, 500)])).await);
    let long = "SELECT count(*) FROM generate_series(1, 100000) a CROSS JOIN generate_series(1, 10000000) b WHERE a.value * b.value < 0";
    let mut held = weir.store.sql(long, None).await.unwrap();
    assert!(futures::FutureExt::now_or_never(held.stream.next()).is_none(), "it computes");
    let page = format!("http://{}/api/v1/traces/{:032x}", weir.addresses.web, 1);
    let page = client().get(page).send().await.unwrap();
    assert!(page.status().is_success(), "{}", page.text().await.unwrap());
    drop(held);
    weir.stop().await.unwrap();
}

/// The most memory that a process had at once, in MiB. The kernel counts pages in lots for each CPU: a second reading
/// can be a little less than the first.
fn peak_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    peak.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

/// A statement over HTTP: the status, and the answer.
async fn post(weir: &Process, statement: &str) -> (u16, String) {
    let answer = client().post(format!("{}/api/v1/sql", weir.web)).body(statement.to_owned()).send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// User and system time of the threads that run statements, in hundredths of a second.
fn sql_cpu_ticks(pid: u32) -> u64 {
    let mut ticks = 0;
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        // a thread may end while it is looked at
        let Ok(stat) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let Some((name, rest)) = stat.rsplit_once(')') else { continue };
        if name.contains("weir-sql") {
            let fields: Vec<&str> = rest.split_whitespace().collect();
            ticks += fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap();
        }
    }
    ticks
}

async fn ask(weir: &Server, statement: &str) -> Result<usize, SqlError> {
    let mut answer = weir.store.sql(statement, None).await?;
    let mut rows = 0;
    while let Some(batch) = answer.stream.next().await {
        rows += batch?.num_rows();
    }
    Ok(rows)
}

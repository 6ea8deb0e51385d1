//! A stop and a start of the server: what people ordered holds.

use std::{num::NonZeroU32, time::Duration};

use weir_analyzer::Command;
use weir_policy::{Policy, RateLimit};

use crate::support::{client, server};

#[tokio::test(flavor = "multi_thread")]
async fn orders_outlive_a_restart_and_show_before_the_first_window() {
    let dir = tempfile::tempdir().unwrap();
    let first = server(dir.path()).await;
    first.store.replayed().await; // a stop before that leaves all to the next start
    let policy = Policy {
        service: "cart".into(),
        rate_limit: RateLimit::new(7.0, NonZeroU32::MIN),
        reason: "by hand".into(),
        ..Policy::default()
    };
    let by_hand = Command::Override { policy, author: "ana".into(), expires_unix_nano: None };
    first.commands.send(by_hand).await.unwrap();
    first.commands.send(Command::SetControl { enabled: true }).await.unwrap();
    first.stop().await.unwrap();

    let second = server(dir.path()).await;
    let mut snapshot = second.snapshot.clone();
    let restored = snapshot.wait_for(|snapshot| snapshot.control.enabled);
    let restored = tokio::time::timeout(Duration::from_secs(60), restored).await.unwrap().unwrap().clone();
    assert_eq!(restored.control.overrides.len(), 1);
    assert!(restored.policy.sequence > 0 && restored.policy.for_service("cart").is_some(), "{:?}", restored.policy);
    let web = format!("http://{}", second.addresses.web);
    let lift = serde_json::json!({ "kill_switch": { "engaged": true, "author": "ana" } });
    let answer = client().post(format!("{web}/api/v1/policy")).json(&lift).send().await.unwrap();
    assert!(answer.status().is_success(), "{}", answer.text().await.unwrap());
    let lifted = snapshot.wait_for(|snapshot| snapshot.control.kill_switch);
    tokio::time::timeout(Duration::from_secs(60), lifted).await.unwrap().unwrap();
    second.stop().await.unwrap();

    let third = server(dir.path()).await;
    let mut snapshot = third.snapshot.clone();
    let restored = snapshot.wait_for(|snapshot| snapshot.control.kill_switch);
    let restored = tokio::time::timeout(Duration::from_secs(60), restored).await.unwrap().unwrap().clone();
    assert!(restored.policy.policies.is_empty() && restored.control.overrides.len() == 1);
    third.stop().await.unwrap();
}

//! The controller, decision by decision.

use weir_policy::RateLimit;

use super::*;

fn bottleneck(service_time_ms: f64) -> Bottleneck {
    Bottleneck {
        finding_id: "f1".into(),
        service: "tagger".into(),
        servers: NonZeroU32::new(4),
        service_time_ms: Some(service_time_ms),
        own_service_time_ms: Some(service_time_ms),
        usual_service_time_ms: Some(20.0),
        downstream_ms: 0.0,
        utilization: Some(1.0),
        completions_per_s: 50.0,
        is_measured: true,
        only_if_full: false,
        entry: Some(("gateway".into(), 1.0)),
    }
}

fn controller(config: ControlConfig) -> Controller {
    Controller::new(ControlConfig { enabled: true, ..config })
}

/// When it is found out that threads are held for calls, S grows by these at once: the service is no slower.
#[test]
fn what_servers_are_held_for_makes_nobody_slow() {
    let held = Bottleneck { own_service_time_ms: Some(20.0), ..bottleneck(100.0) };
    assert!(controller(ControlConfig::default()).step(&[held], 0).policy.is_none());
}

#[test]
fn a_bottleneck_is_limited_and_shed_at_the_entry() {
    let mut controller = controller(ControlConfig::default());
    assert!(controller.step(&[bottleneck(20.0)], 0).policy.is_none());
    let policy = controller.step(&[bottleneck(80.0)], 1).policy.unwrap();
    assert_eq!(policy.validate(), Ok(()));
    assert_eq!(policy.for_service("tagger").unwrap().concurrency_limit.unwrap().limit.get(), 9);
    assert!((policy.for_service("gateway").unwrap().rate_limit.unwrap().rate_per_s() - 46.0).abs() < 1e-9);
    assert!(controller.step(&[bottleneck(81.0)], 2).policy.is_none(), "noise changes nothing");
    let lifted = controller.step(&[], 3);
    assert!(lifted.policy.unwrap().policies.is_empty());
    assert_eq!(lifted.rows.unwrap().rows.num_rows(), 2);
}

#[test]
fn a_limit_moves_in_steps_and_never_below_the_workers() {
    let mut controller = controller(ControlConfig::default());
    controller.step(&[bottleneck(20.0)], 0);
    controller.step(&[bottleneck(20.0)], 1);
    let mut last = 24.0;
    for now in 2..20 {
        controller.step(&[bottleneck(100_000.0)], now);
        let limit =
            f64::from(controller.policy().for_service("tagger").unwrap().concurrency_limit.unwrap().limit.get());
        assert!(limit >= 4.0 && limit >= last * 0.8 - 1.0, "{limit} after {last}");
        last = limit;
    }
    assert!(last <= 6.0);
}

#[test]
fn people_win() {
    let mut controller = controller(ControlConfig::default());
    controller.step(&[bottleneck(80.0)], 0);
    controller.step(&[bottleneck(80.0)], 1);
    controller.command(Command::KillSwitch { engaged: true, author: "ana".into() });
    assert!(controller.step(&[bottleneck(80.0)], 2).policy.unwrap().policies.is_empty());
    controller.command(Command::KillSwitch { engaged: false, author: "ana".into() });
    let policy = Policy {
        service: "tagger".into(),
        rate_limit: RateLimit::new(7.0, NonZeroU32::MIN),
        reason: "by hand".into(),
        ..Policy::default()
    };
    controller.command(Command::Override { policy, author: "ana".into(), expires_unix_nano: Some(10) });
    let set = controller.step(&[bottleneck(80.0)], 3).policy.unwrap();
    assert!(set.for_service("tagger").unwrap().concurrency_limit.is_none());
    let set = controller.step(&[bottleneck(80.0)], 10).policy.unwrap();
    assert!(set.for_service("tagger").unwrap().concurrency_limit.is_some(), "the override expired");
}

#[test]
fn limits_move_with_windows_only_and_switching_off_lifts_at_once() {
    let mut controller = controller(ControlConfig::default());
    controller.step(&[bottleneck(20.0)], 0);
    controller.step(&[bottleneck(20.0)], 1);
    let before = controller.policy().clone();
    assert!((2..10).all(|now| controller.obey(now).policy.is_none()));
    assert_eq!(controller.policy(), &before);
    controller.command(Command::SetControl { enabled: false });
    assert!(controller.obey(11).policy.unwrap().policies.is_empty());
}

#[test]
fn nothing_is_begun_for_a_service_that_is_not_full() {
    let mut controller = controller(ControlConfig::default());
    let recovered = Bottleneck { utilization: Some(0.4), ..bottleneck(20.0) };
    assert!(controller.step(std::slice::from_ref(&recovered), 1).policy.is_none());
    assert!(controller.step(&[bottleneck(20.0)], 1).policy.is_some(), "a surge that lasts");
    controller.step(&[], 1);
    assert!(controller.step(&[bottleneck(20.0)], 2).policy.is_none(), "the last of a backlog at the usual pace");
    assert!(controller.step(&[bottleneck(80.0)], 2).policy.is_some(), "slow, at once");
    let set = controller.step(&[recovered], 3).policy.unwrap();
    assert!(set.for_service("tagger").is_some(), "what was begun is loosened in steps until the finding is over");
}

#[test]
fn who_is_not_measured_keeps_its_limits_however_long_nothing_comes() {
    let mut controller = controller(ControlConfig::default());
    controller.step(&[bottleneck(80.0)], 0);
    let before = controller.policy().clone();
    assert_eq!(before.policies.len(), 2);
    let silent = Bottleneck {
        servers: None,
        service_time_ms: None,
        utilization: None,
        completions_per_s: 0.0,
        is_measured: false,
        entry: None,
        ..bottleneck(80.0)
    };
    for now in 1..20 {
        assert!(controller.step(std::slice::from_ref(&silent), now).policy.is_none());
    }
    assert_eq!(controller.policy(), &before);
    assert!(controller.step(&[], 20).policy.unwrap().policies.is_empty(), "until the finding is over");
    assert!(controller.step(&[silent], 21).policy.is_none(), "and nothing is begun for it");
}

#[test]
fn without_a_measured_load_a_limit_is_set_once_and_does_not_follow_what_it_lets_through() {
    let mut controller = controller(ControlConfig::default());
    let unknown = |completions_per_s: f64| Bottleneck {
        servers: None,
        service_time_ms: None,
        utilization: None,
        completions_per_s,
        ..bottleneck(80.0)
    };
    let limit = |controller: &Controller| {
        controller.policy().for_service("gateway").and_then(|policy| policy.rate_limit).map(|rate| rate.rate_per_s())
    };
    controller.step(&[unknown(50.0)], 0);
    for (now, completions) in [(1, 46.0), (2, 42.0), (3, 30.0), (4, 3.0)] {
        controller.step(&[unknown(completions)], now);
        assert!((limit(&controller).unwrap() - 46.0).abs() < 1e-9, "{:?}", limit(&controller));
    }
    controller.step(&[], 5);
    controller.step(&[Bottleneck { only_if_full: true, ..unknown(50.0) }], 6);
    assert_eq!(limit(&controller), None, "that calls to it are repeated does not say that it is full");
    controller.step(&[Bottleneck { only_if_full: true, ..bottleneck(80.0) }], 7);
    assert!(limit(&controller).is_some(), "its measured load does");
}

#[test]
fn off_and_dry_run_change_nothing() {
    let mut off = Controller::new(ControlConfig::default());
    assert!(off.step(&[bottleneck(80.0)], 1).policy.is_none());
    let mut dry = controller(ControlConfig { dry_run: true, ..ControlConfig::default() });
    let decision = dry.step(&[bottleneck(80.0)], 1);
    assert!(decision.policy.is_none() && decision.rows.is_some(), "proposed in the audit, not enforced");
}

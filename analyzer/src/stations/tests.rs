//! Replicas that come, go and are too many, and what a note for a restart holds of them.

use super::*;

const SECOND: i64 = 1_000_000_000;

/// One visit to each of these replicas, whose servers they say or not.
fn visits(replicas: std::ops::Range<Name>, servers: Option<NonZeroU16>) -> Vec<Ended> {
    let ended = |replica: Name| {
        let arrival = SECOND + i64::from(replica);
        let visit = Visit { arrival, departure: arrival + 1_000, gave_up: false };
        let (start, end) = (arrival, visit.departure);
        Ended { visit, called_ns: 0, instance: Some(replica), operation: 0, servers, start, end, weight: 1 }
    };
    replicas.map(ended).collect()
}

fn known(stations: &mut Stations, name: Name, visits: Vec<Ended>, configured: Option<NonZeroU32>) -> Known {
    let mut service = ServiceWindow { requests: visits.len() as u64, ..ServiceWindow::default() };
    stations.window(name, &mut service, visits, configured, (10 * SECOND, 10 * SECOND));
    service.known
}

#[test]
fn a_service_of_which_a_replica_is_beyond_the_bound_is_not_judged_and_says_why() {
    let mut stations = Stations::default();
    let one = NonZeroU16::new(1);
    let most = MAX_STATIONS as Name - 1;
    let first = known(&mut stations, 1, visits(0..most, one), None);
    assert!(matches!(first, Known::Given { replicas, .. } if replicas == most), "{first:?}");
    for configured in [None, NonZeroU32::new(3)] {
        let second = known(&mut stations, 2, visits(5_000..5_003, one), configured);
        let why = "not looked at: 2 of its 3 replicas are beyond the 2000 of the mesh that are told apart";
        assert_eq!(second, Known::Unknown(why.into()));
    }
    let third = known(&mut stations, 3, visits(6_000..6_001, one), None);
    assert!(matches!(third, Known::Unknown(why) if why.starts_with("not looked at: 1 of its 1 replicas")));
    assert_eq!(stations.refused, 5);
}

/// So many visits to each of three replicas in a window of ten seconds, of which some call others.
fn visited(window: i64, replicas: std::ops::Range<Name>, called_ns: i64) -> Vec<Ended> {
    let ended = |(n, replica): (i64, Name)| {
        let arrival = (window - 1) * 10 * SECOND + n * 10_000_000;
        let visit = Visit { arrival, departure: arrival + 1_000_000, gave_up: false };
        let (start, end) = (arrival, visit.departure + called_ns);
        Ended { visit, called_ns, instance: Some(replica), operation: 0, servers: None, start, end, weight: 1 }
    };
    (0..900).map(|n| ended((n, replicas.start + n as Name % (replicas.end - replicas.start)))).collect()
}

/// One of service 1 that was found to have so many servers.
fn saved(replica: Name, servers: u32) -> SavedStation {
    let servers = NonZeroU32::new(servers).unwrap();
    let discipline = servers::Discipline::Fifo;
    let found = servers::Station { discipline, servers, service_ns: 1e6, cs2: 1.0, margin: 5.0 };
    let (said, holding, held_of) = (None, None, None);
    SavedStation { service: 1, replica: Some(replica), tried: 0, found: Some(found), said, holding, held_of }
}

/// What is known of service 1 after a window in which these replicas were visited.
fn known_after(stations: &mut Stations, window: i64, replicas: std::ops::Range<Name>) -> Known {
    let mut service = ServiceWindow { requests: 900, ..ServiceWindow::default() };
    stations.window(1, &mut service, visited(window, replicas, 0), None, (window * 10 * SECOND, 10 * SECOND));
    service.known
}

#[test]
fn a_replica_that_has_just_come_is_as_its_siblings_only_where_these_are_alike() {
    for (servers, alike) in [([2, 2], true), ([2, 3], false)] {
        let mut stations = Stations::default();
        stations.restore((1..3).zip(servers).map(|(replica, servers)| saved(replica, servers)).collect());
        let known = known_after(&mut stations, 1, 1..4);
        assert_eq!(matches!(known, Known::Identified { replicas: 3, .. }), alike, "{known:?}");
        assert_eq!(known == Known::Unknown("it was not looked at yet".into()), !alike, "{known:?}");
    }
}

#[test]
fn of_replicas_that_hardly_ever_let_wait_it_is_said_how_many_servers_these_have_at_least() {
    let mut stations = Stations::default();
    known_after(&mut stations, 1, 1..4);
    stations.identify(10 * SECOND);
    let known = known_after(&mut stations, 2, 1..4);
    assert!(matches!(known, Known::AtLeast { servers: 3, .. }), "{known:?}");
}

#[test]
fn who_says_its_servers_takes_no_turn_of_those_that_are_to_be_identified() {
    let mut stations = Stations::default();
    let said = visits(0..3 * IDENTIFIED_A_WINDOW as Name, NonZeroU16::new(1));
    // only where there are calls it is asked what servers are held for
    let said = said.into_iter().map(|ended| Ended { called_ns: 5_000_000, ..ended }).collect();
    known(&mut stations, 2, said, None);
    known_after(&mut stations, 2, 1..2);
    stations.identify(20 * SECOND);
    assert!(stations.by_service[&1].replicas[&Some(1)].tried().is_some());
}

#[test]
fn who_has_no_share_of_the_servers_has_no_vote_on_what_these_are_held_for() {
    let (mut stations, servers) = (Stations::default(), NonZeroU32::new(12));
    for (window, replicas) in (1..).zip([1..4, 4..6, 4..6, 4..6, 4..6]) {
        let mut service = ServiceWindow { requests: 900, ..ServiceWindow::default() };
        let time = (window * 10 * SECOND, 10 * SECOND);
        stations.window(1, &mut service, visited(window, replicas, 5_000_000), servers, time);
        let holding = if window == 1 { Holding::OwnTime } else { Holding::Calls };
        let of_service = stations.by_service.get_mut(&1).unwrap();
        of_service.replicas.values_mut().filter(|station| station.holding().is_none()).for_each(|it| it.held(holding));
    }
    // three were gone before two came
    assert_eq!(stations.by_service[&1].holding(), Some(Holding::Calls));
}

/// For a minute after replicas came or went nothing, or what was before, was said of the service.
#[test]
fn replicas_count_as_soon_as_they_come_and_go() {
    let mut stations = Stations::default();
    stations.restore((1..4).map(|replica| saved(replica, 2)).collect());
    // three, then a fourth, then two of them
    for (window, replicas, expect) in
        [(1, 1..4, 3), (2, 1..4, 3), (3, 1..5, 4), (4, 1..5, 4), (5, 1..3, 2), (6, 1..3, 2)]
    {
        let mut service = ServiceWindow { requests: 900, ..ServiceWindow::default() };
        let time = (window * 10 * SECOND, 10 * SECOND);
        stations.window(1, &mut service, visited(window, replicas, 0), None, time);
        let said = match service.known {
            Known::Identified { servers, replicas, .. } => (servers.get(), replicas),
            other => panic!("window {window}: {other:?}"),
        };
        assert_eq!(said, (2 * expect, expect), "window {window}");
    }
}

/// Visits are kept for ten minutes, and replicas that were gone so long still had their share.
#[test]
fn replicas_that_are_gone_leave_their_servers_to_those_that_came() {
    let (mut stations, servers) = (Stations::default(), NonZeroU32::new(12));
    for (window, replicas) in (1..).zip([1..4, 1..4, 1..4, 4..7, 4..7, 4..7, 4..7]) {
        let mut service = ServiceWindow { requests: 900, ..ServiceWindow::default() };
        let time = (window * 10 * SECOND, 10 * SECOND);
        stations.window(1, &mut service, visited(window, replicas.clone(), 0), servers, time);
        if !(4..7).contains(&window) {
            let all = service.station.replicas.iter().filter(|replica| replica.visits > 0);
            assert!(all.clone().all(|replica| replica.servers == NonZeroU32::new(4)), "window {window}");
            let (servers, replicas, by) = (servers.unwrap(), 3, Giver::Configuration);
            assert_eq!(service.known, Known::Given { servers, replicas, by }, "window {window}");
        }
    }
    let due = stations.by_service.get_mut(&1).unwrap().due(70 * SECOND).count();
    assert_eq!(due, 0, "nobody asks how many servers those have that are gone");
}

#[test]
fn what_servers_are_held_for_is_in_the_note_until_other_servers_are_said() {
    let mut stations = Stations::default();
    let window = |stations: &mut Stations, number: i64, servers: u32| {
        let mut service = ServiceWindow { requests: 900, ..ServiceWindow::default() };
        let time = (number * 10 * SECOND, 10 * SECOND);
        let visits = visited(number, 1..2, 5_000_000);
        stations.window(1, &mut service, visits, NonZeroU32::new(servers), time);
        stations.by_service[&1].holding()
    };
    assert_eq!(window(&mut stations, 1, 4), None);
    stations.by_service.get_mut(&1).unwrap().replicas.get_mut(&Some(1)).unwrap().held(Holding::Neither);
    let note = stations.save();
    assert_eq!(note.iter().map(|saved| saved.holding).collect::<Vec<_>>(), [Some(Holding::Neither)]);
    // the number was corrected while nothing ran, and stayed refused
    let mut corrected = Stations::default();
    corrected.restore(note.clone());
    assert_eq!(window(&mut corrected, 2, 8), None);
    let of_before = note.clone().into_iter().map(|saved| SavedStation { held_of: None, ..saved }).collect();
    let mut anew = Stations::default();
    anew.restore(of_before);
    assert_eq!(window(&mut anew, 2, 4), None, "nobody knows of which number");
    let mut anew = Stations::default();
    anew.restore(note);
    assert_eq!(window(&mut anew, 2, 4), Some(Holding::Neither));
    assert_eq!(window(&mut anew, 3, 5), None, "of five nothing is known");
}

#[test]
fn what_sidecars_say_is_in_the_note() {
    let mut stations = Stations::default();
    let before = known(&mut stations, 1, visits(7..9, NonZeroU16::new(4)), None);
    let mut anew = Stations::default();
    let mut note = Vec::new();
    ciborium::into_writer(&stations.save(), &mut note).unwrap();
    anew.restore(ciborium::from_reader(&note[..]).unwrap());
    assert_eq!(known(&mut anew, 1, visits(7..9, None), None), before, "stored spans are read without it");
}

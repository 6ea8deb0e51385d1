//! What it costs a data thread to leave one record of 320 bytes: by the shared channel that was used
//! first, and by a ring of its own. The other end is a runtime on another thread, as in the proxy.
//!
//! `paced` leaves one every 20 µs, as 50,000 requests a second would, so the reader sleeps in between;
//! `burst` leaves them back to back. Only the leaving is timed.

#![allow(clippy::print_stdout, clippy::disallowed_types, reason = "a program that takes the real time and prints")]

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use rtrb::RingBuffer;
use tokio::{
    runtime::Builder,
    sync::{Notify, mpsc},
};

const RECORDS: usize = 50_000;
const PACE: Duration = Duration::from_micros(20);
const RING: usize = 4_096;

#[derive(Clone)]
struct Record([u64; 40]);

fn main() {
    for round in 0..3 {
        for (pace, name) in [(PACE, "paced"), (Duration::ZERO, "burst")] {
            report(round, name, "channel", channel(pace));
            report(round, name, "ring", ring(pace));
        }
    }
}

fn channel(pace: Duration) -> Vec<u64> {
    let (records, mut queued) = mpsc::channel::<Record>(65_536);
    let reader = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut sum = 0u64;
            while let Some(record) = queued.recv().await {
                sum = sum.wrapping_add(record.0[0]);
            }
            sum
        })
    });
    let times = timed(pace, |record| drop(records.try_send(record)));
    drop(records);
    reader.join().expect("the reader");
    times
}

fn ring(pace: Duration) -> Vec<u64> {
    let (mut producer, mut consumer) = RingBuffer::<Record>::new(RING);
    let wake = Arc::new(Notify::new());
    let waked = wake.clone();
    let reader = thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut sum = 0u64;
            while !consumer.is_abandoned() {
                let _ = tokio::time::timeout(Duration::from_millis(50), waked.notified()).await;
                while let Ok(record) = consumer.pop() {
                    sum = sum.wrapping_add(record.0[0]);
                }
            }
            sum
        })
    });
    let times = timed(pace, |record| {
        let _ = producer.push(record);
        if producer.slots() == RING / 2 {
            wake.notify_one();
        }
    });
    drop(producer);
    reader.join().expect("the reader");
    times
}

fn timed(pace: Duration, mut leave: impl FnMut(Record)) -> Vec<u64> {
    let record = Record([7; 40]);
    let mut next = Instant::now();
    let mut one = || {
        while Instant::now() < next {
            std::hint::spin_loop();
        }
        next += pace;
        let (record, began) = (record.clone(), Instant::now());
        leave(record);
        began.elapsed().as_nanos() as u64
    };
    (0..RECORDS).map(|_| one()).collect()
}

fn report(round: u32, pace: &str, by: &str, mut ns: Vec<u64>) {
    ns.sort_unstable();
    let at = |share: f64| ns[(ns.len() as f64 * share) as usize];
    let mean = ns.iter().sum::<u64>() / ns.len() as u64;
    println!("{round},{pace},{by},{mean},{},{},{}", at(0.5), at(0.99), at(0.999));
}

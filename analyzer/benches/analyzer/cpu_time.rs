//! [`CpuTime`]: what a thread itself computed, so that others on the machine do not count.

use std::time::Duration;

use criterion::measurement::{Measurement, ValueFormatter, WallTime};

/// Nanoseconds on a processor, as Linux counts them for each thread.
pub(crate) struct CpuTime;

impl CpuTime {
    fn now() -> Duration {
        let stat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux counts a thread's time");
        let on_cpu = stat.split_whitespace().next().and_then(|field| field.parse().ok());
        Duration::from_nanos(on_cpu.expect("its first field is that"))
    }
}

impl Measurement for CpuTime {
    type Intermediate = Duration;
    type Value = Duration;

    fn start(&self) -> Duration {
        Self::now()
    }

    fn end(&self, start: Duration) -> Duration {
        Self::now() - start
    }

    fn add(&self, a: &Duration, b: &Duration) -> Duration {
        *a + *b
    }

    fn zero(&self) -> Duration {
        Duration::ZERO
    }

    fn to_f64(&self, value: &Duration) -> f64 {
        value.as_nanos() as f64
    }

    fn formatter(&self) -> &dyn ValueFormatter {
        WallTime.formatter()
    }
}

//! [`FrameScan`]: counts the HTTP/2 frames that cost the receiver more than the sender.
//!
//! Rapid resets, PING, SETTINGS, PRIORITY, CONTINUATION and empty DATA floods all are cheap frames in
//! great number. A token bucket a connection holds them to a rate no honest client needs; everything
//! else about frames is the HTTP/2 library's business. Only the nine bytes of each header are read.

use tokio::time::Instant;

/// `PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n`, after which frames begin.
pub(crate) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Length (3 bytes), kind, flags, stream (4 bytes).
const HEADER_BYTES: usize = 9;

/// A burst of so many seconds' worth is let through: clients cancel a whole page at once.
const BURST_S: f64 = 5.0;

const DATA: u8 = 0;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;

/// The state between two reads.
#[derive(Debug)]
pub(crate) struct FrameScan {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header read so far.
    read: usize,
    /// Bytes until the next header: payload, or the preface.
    skip: usize,
    tokens: f64,
    rate_per_s: f64,
    filled: Instant,
    flooded: bool,
}

impl FrameScan {
    /// `rate_per_s` control frames are allowed in the long run.
    pub(crate) fn new(rate_per_s: u32) -> Self {
        let rate_per_s = f64::from(rate_per_s);
        Self {
            header: [0; HEADER_BYTES],
            read: 0,
            skip: PREFACE.len(),
            tokens: rate_per_s * BURST_S,
            rate_per_s,
            filled: Instant::now(),
            flooded: false,
        }
    }

    /// Reads on. When there were too many, the bytes up to the next frame, where a reader can be told.
    pub(crate) fn scan(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut at = 0;
        loop {
            let skipped = self.skip.min(bytes.len() - at);
            self.skip -= skipped;
            at += skipped;
            if self.flooded && self.skip == 0 && self.read == 0 {
                return Some(at);
            }
            if at == bytes.len() {
                return None;
            }
            let taken = (HEADER_BYTES - self.read).min(bytes.len() - at);
            self.header[self.read..self.read + taken].copy_from_slice(&bytes[at..at + taken]);
            self.read += taken;
            at += taken;
            if self.read == HEADER_BYTES {
                self.frame();
            }
        }
    }

    fn frame(&mut self) {
        let [a, b, c, kind, flags, ..] = self.header;
        self.read = 0;
        self.skip = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
        let empty = kind == DATA && self.skip == 0 && flags & END_STREAM == 0;
        if empty || matches!(kind, PRIORITY | RST_STREAM | SETTINGS | PING | CONTINUATION) {
            self.take_token();
        }
    }

    fn take_token(&mut self) {
        if self.tokens < 1.0 {
            let now = Instant::now();
            let earned = now.duration_since(self.filled).as_secs_f64() * self.rate_per_s;
            self.tokens = (self.tokens + earned).min(self.rate_per_s * BURST_S);
            self.filled = now;
        }
        self.flooded = self.tokens < 1.0;
        self.tokens -= 1.0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, payload: usize) -> Vec<u8> {
        let mut frame = vec![0, 0, payload as u8, kind, 0, 0, 0, 0, 1];
        frame.resize(HEADER_BYTES + payload, 7);
        frame
    }

    fn cut(frames: &[Vec<u8>], rate_per_s: u32, size: usize) -> bool {
        let mut bytes = PREFACE.to_vec();
        bytes.extend(frames.iter().flatten());
        let mut scan = FrameScan::new(rate_per_s);
        bytes.chunks(size).any(|read| scan.scan(read).is_some())
    }

    #[tokio::test(start_paused = true)]
    async fn only_control_frames_in_great_number_are_cut() {
        for (kind, payload, count, expected) in [
            (PING, 8, 50, false),
            (PING, 8, 52, true),
            (RST_STREAM, 4, 100, true),
            (1, 20, 1_000, false),
            (DATA, 9, 1_000, false),
            (DATA, 0, 100, true),
        ] {
            let frames = vec![frame(kind, payload); count];
            for size in [1, 8, 100, 1 << 20] {
                assert_eq!(cut(&frames, 10, size), expected, "{count} of kind {kind} in reads of {size}");
            }
        }
    }
}

//! [`Timeline`]: how many sequences ran at any time, and what prompts were begun beside a stream, from the requests
//! that were seen. O(n log n) to build, O(log n) to ask.

use super::recent::LmRequest;

/// What ran beside one request while it streamed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Beside {
    /// Steps: its tokens after the first.
    pub(crate) steps: f64,
    /// From its first token to its last.
    pub(crate) ms: f64,
    /// Sequences at once, itself among them, mean over that time.
    pub(crate) batch: f64,
    /// Prompts that were done meanwhile, and their tokens.
    pub(crate) prompts: f64,
    pub(crate) prompt_tokens: f64,
}

/// The requests of one replica over time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timeline {
    /// When the number of running sequences changed, and to how many.
    changes: Vec<(f64, f64)>,
    /// When prompts were done, in order, and tokens of all until then.
    prompts: Vec<(f64, f64)>,
}

impl Timeline {
    pub(crate) fn new<'a>(requests: impl Iterator<Item = &'a LmRequest>) -> Self {
        let (mut edges, mut prompts) = (Vec::new(), Vec::new());
        for request in requests {
            edges.push((request.first_token_ms, 1.0));
            edges.push((request.end_ms, -1.0));
            prompts.push((request.first_token_ms, request.input_tokens));
        }
        edges.sort_by(|a, b| a.0.total_cmp(&b.0));
        prompts.sort_by(|a, b| a.0.total_cmp(&b.0));
        let mut running = 0.0;
        edges.iter_mut().for_each(|(_, change)| {
            running += *change;
            *change = running;
        });
        let mut tokens = 0.0;
        prompts.iter_mut().for_each(|(_, of_prompt)| {
            tokens += *of_prompt;
            *of_prompt = tokens;
        });
        Self { changes: edges, prompts }
    }

    /// Every stretch of time and the sequences that ran in it.
    pub(crate) fn stretches(&self) -> impl Iterator<Item = (f64, f64, f64)> {
        self.changes.windows(2).map(|pair| (pair[0].0, pair[1].0, pair[0].1))
    }

    /// The integral of a function of the batch since the beginning, at every change.
    pub(crate) fn integral(&self, of: impl Fn(f64) -> f64) -> Integral<'_> {
        let mut sum = 0.0;
        let mut until = vec![(0.0, 0.0); self.changes.len()];
        for (place, (at, running)) in self.changes.iter().enumerate() {
            if place > 0 {
                sum += (at - self.changes[place - 1].0) * of(self.changes[place - 1].1);
            }
            until[place] = (sum, of(*running));
        }
        Integral { timeline: self, until }
    }

    pub(crate) fn beside(&self, request: &LmRequest, batch: &Integral<'_>) -> Beside {
        let (from, to) = (request.first_token_ms, request.end_ms);
        let ((before, tokens_before), (after, tokens_after)) = (self.done_until(from), self.done_until(to));
        Beside {
            steps: request.output_tokens - 1.0,
            ms: to - from,
            batch: batch.mean(from, to),
            prompts: after - before,
            prompt_tokens: tokens_after - tokens_before,
        }
    }

    fn done_until(&self, at: f64) -> (f64, f64) {
        let count = self.prompts.partition_point(|(done, _)| *done <= at);
        (count as f64, count.checked_sub(1).map_or(0.0, |last| self.prompts[last].1))
    }
}

/// A function of the batch, summed over time.
pub(crate) struct Integral<'a> {
    timeline: &'a Timeline,
    until: Vec<(f64, f64)>,
}

impl Integral<'_> {
    /// Its mean between two times.
    pub(crate) fn mean(&self, from: f64, to: f64) -> f64 {
        (self.at(to) - self.at(from)) / (to - from).max(1e-9)
    }

    fn at(&self, time: f64) -> f64 {
        let changes = &self.timeline.changes;
        let Some(last) = changes.partition_point(|(at, _)| *at <= time).checked_sub(1) else { return 0.0 };
        let (sum, value) = self.until[last];
        sum + (time - changes[last].0) * value
    }
}

/// One timeline a replica.
pub(crate) fn timelines(requests: &[LmRequest]) -> Vec<Timeline> {
    let replicas = requests.iter().map(|request| request.replica + 1).max().unwrap_or(0);
    (0..replicas).map(|replica| Timeline::new(requests.iter().filter(|request| request.replica == replica))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batch_and_prompts_beside_a_stream_are_counted() {
        let request = |first_token_ms, end_ms, input_tokens| LmRequest {
            arrival_ms: 0.0,
            first_token_ms,
            end_ms,
            input_tokens,
            output_tokens: 11.0,
            replica: 0,
        };
        let requests = [request(0.0, 100.0, 7.0), request(20.0, 60.0, 30.0), request(90.0, 120.0, 50.0)];
        let timeline = &timelines(&requests)[0];
        let batch = timeline.integral(|batch| batch);
        let beside = timeline.beside(&requests[0], &batch);
        assert_eq!((beside.steps, beside.ms, beside.prompts, beside.prompt_tokens), (10.0, 100.0, 2.0, 80.0));
        assert!((beside.batch - 1.5).abs() < 1e-9, "{beside:?}");
        let second = timeline.integral(|batch| (batch - 1.0).max(0.0));
        assert!((second.mean(0.0, 100.0) - 0.5).abs() < 1e-9);
        assert_eq!(timeline.stretches().map(|(_, _, batch)| batch).fold(0.0, f64::max), 2.0);
    }
}

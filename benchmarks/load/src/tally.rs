//! What became of the requests.

use crate::options::Options;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The status of an answer, `"0"` for success, and the bytes of its body.
pub type Answer = (String, usize);

#[derive(Default)]
struct Tally {
    latencies_us: Vec<u32>,
    refusals_us: Vec<u32>,
    /// How long after its instant each request of an open loop left: the client's own delay.
    lags_us: Vec<u32>,
    codes: BTreeMap<String, u64>,
    in_slo: u64,
    offered: u64,
    reply_bytes: u64,
    failure: Option<String>,
}

pub struct Shared {
    pub options: Options,
    pub begin: Instant,
    pub end: Instant,
    tally: RefCell<Tally>,
}

fn micros(duration: Duration) -> u32 {
    duration.as_micros().min(u32::MAX as u128) as u32
}

impl Shared {
    pub fn new(options: Options, begin: Instant, end: Instant) -> Self {
        Shared {
            options,
            begin,
            end,
            tally: RefCell::default(),
        }
    }

    fn is_measured(&self, sent: Instant) -> bool {
        self.begin <= sent && sent < self.end
    }

    /// Count a request of an open loop that was due at an instant and leaves now.
    pub fn offer(&self, due: Instant) {
        if self.is_measured(due) {
            let mut tally = self.tally.borrow_mut();
            tally.offered += 1;
            tally.lags_us.push(micros(due.elapsed()));
        }
    }

    /// Count an answer if its request belongs to the measured time.
    pub fn note(&self, sent: Instant, code: &str, reply_bytes: usize) {
        if !self.is_measured(sent) {
            return;
        }
        let took = sent.elapsed();
        let mut tally = self.tally.borrow_mut();
        *tally.codes.entry(code.to_string()).or_default() += 1;
        if code == "0" {
            tally.latencies_us.push(micros(took));
            tally.reply_bytes += reply_bytes as u64;
            if took.as_secs_f64() * 1000.0 <= self.options.slo_ms {
                tally.in_slo += 1;
            }
        } else {
            tally.refusals_us.push(micros(took));
        }
    }

    /// Have no figure, for this reason.
    pub fn fail(&self, reason: String) {
        self.tally.borrow_mut().failure.get_or_insert(reason);
    }

    /// Return the figures as JSON.
    pub fn report(&self, client_cpu_s: f64) -> Result<String, String> {
        let mut tally = self.tally.borrow_mut();
        if let Some(reason) = tally.failure.take() {
            return Err(reason);
        }
        tally.latencies_us.sort_unstable();
        tally.refusals_us.sort_unstable();
        tally.lags_us.sort_unstable();
        let answered = tally.latencies_us.len() as f64;
        let all = (tally.latencies_us.len() + tally.refusals_us.len()).max(1) as f64;
        let codes: Vec<String> = tally
            .codes
            .iter()
            .map(|(code, number)| format!("\"{code}\": {number}"))
            .collect();
        Ok(format!(
            "{{\"requests_per_s\": {:.1}, \"answered\": {}, \"offered\": {}, \"in_slo\": {}, \
             \"p50_ms\": {:.3}, \"p99_ms\": {:.3}, \"refusal_p50_ms\": {:.3}, \
             \"refusal_p99_ms\": {:.3}, \"lag_p50_ms\": {:.3}, \"lag_p99_ms\": {:.3}, \
             \"client_cpu_us\": {:.1}, \"mean_reply_bytes\": {:.1}, \"codes\": {{{}}}}}",
            answered / self.options.seconds,
            tally.latencies_us.len(),
            tally.offered,
            tally.in_slo,
            percentile_ms(&tally.latencies_us, 0.5),
            percentile_ms(&tally.latencies_us, 0.99),
            percentile_ms(&tally.refusals_us, 0.5),
            percentile_ms(&tally.refusals_us, 0.99),
            percentile_ms(&tally.lags_us, 0.5),
            percentile_ms(&tally.lags_us, 0.99),
            client_cpu_s * 1e6 / all,
            tally.reply_bytes as f64 / answered.max(1.0),
            codes.join(", "),
        ))
    }
}

fn percentile_ms(sorted_us: &[u32], share: f64) -> f64 {
    if sorted_us.is_empty() {
        return 0.0;
    }
    let index = (sorted_us.len() as f64 * share).ceil() as usize;
    sorted_us[index.clamp(1, sorted_us.len()) - 1] as f64 / 1000.0
}

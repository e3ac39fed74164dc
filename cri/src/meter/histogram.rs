//! How long things took, counted by limits.

use std::time::Duration;

/// Seconds, of requests: from a look into memory to an image that is pulled.
const OF_REQUESTS: &[f64] = &[
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0,
];
/// Seconds, of pulls.
const OF_PULLS: &[f64] = &[
    0.1, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 900.0,
];

/// Counts.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Histogram {
    limits: &'static [f64],
    /// One more than limits.
    counts: Vec<u64>,
    sum: Duration,
}

impl Histogram {
    pub(super) fn of_requests() -> Self {
        Self::new(OF_REQUESTS)
    }

    pub(super) fn of_pulls() -> Self {
        Self::new(OF_PULLS)
    }

    fn new(limits: &'static [f64]) -> Self {
        Self {
            limits,
            counts: vec![0; limits.len() + 1],
            sum: Duration::ZERO,
        }
    }

    pub(super) fn add(&mut self, took: Duration) {
        let seconds = took.as_secs_f64();
        let index = self.limits.partition_point(|limit| *limit < seconds);
        self.counts[index] += 1;
        self.sum = self.sum.saturating_add(took);
    }

    pub(super) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(super) fn sum(&self) -> f64 {
        self.sum.as_secs_f64()
    }

    /// Each limit, and how many were not longer.
    pub(super) fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        let mut all = 0;
        self.limits
            .iter()
            .zip(&self.counts)
            .map(move |(limit, count)| {
                all += count;
                (*limit, all)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_add_up() {
        let mut histogram = Histogram::of_pulls();
        for milliseconds in [0, 100, 101, 2_500, 901_000, 5_000_000] {
            histogram.add(Duration::from_millis(milliseconds));
        }
        let buckets: Vec<_> = histogram.buckets().collect();
        assert_eq!(buckets[..4], [(0.1, 2), (0.5, 3), (1.0, 3), (2.5, 4)]);
        assert_eq!(buckets.last(), Some(&(900.0, 4)));
        assert_eq!((histogram.count(), histogram.sum()), (6, 5903.701));
        for limits in [OF_PULLS, OF_REQUESTS] {
            assert!(limits.is_sorted());
        }
    }
}

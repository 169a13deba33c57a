//! How a figure is spread over many.

use serde::Serialize;

/// Milliseconds until half, nearly all and all have something.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Spread {
    pub fn from_samples(took: &[f64]) -> Self {
        let mut took = took.to_vec();
        took.sort_by(f64::total_cmp);
        let part = |share: f64| {
            let last = took.len().saturating_sub(1) as f64;
            took.get((last * share) as usize).copied().unwrap_or_default()
        };
        Self { p50: part(0.5), p99: part(0.99), max: part(1.0) }
    }

    /// Of each of the three figures.
    pub fn median(all: &[Self]) -> Self {
        let of = |figure: fn(&Self) -> f64| {
            Self::from_samples(&all.iter().map(figure).collect::<Vec<_>>()).p50
        };
        Self { p50: of(|one| one.p50), p99: of(|one| one.p99), max: of(|one| one.max) }
    }
}

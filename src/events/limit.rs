//! How many events there may be, as client-go's EventCorrelator has it: 25 about one object at once and
//! one in five minutes after that; after ten different ones about an object within ten minutes, further
//! ones are told as one that stands for all. And in all: 100 at once, 20 a minute after that, since ten
//! thousand proxies may reject the same push. Pure, without a clock of its own.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::xxh3_64;

use super::findings::{Finding, Object};

const PER_OBJECT: Rate = Rate { burst: 25.0, each: Duration::from_secs(300) };
const IN_ALL: Rate = Rate { burst: 100.0, each: Duration::from_secs(3) };
/// Different notes about an object, before they are told as one, and for how long they count.
const DIFFERENT: usize = 10;
const WINDOW: Duration = Duration::from_secs(600);
/// Objects that are remembered; of more, the one that was quiet longest is forgotten.
const MAX_OBJECTS: usize = 4096;

/// A token bucket's size, and the time for one token.
#[derive(Clone, Copy, Debug)]
struct Rate {
    burst: f64,
    each: Duration,
}

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    tokens: f64,
    at: Instant,
}

impl Bucket {
    fn full(rate: Rate, now: Instant) -> Self {
        Self { rate, tokens: rate.burst, at: now }
    }

    fn has_one(&mut self, now: Instant) -> bool {
        let gained = (now - self.at).as_secs_f64() / self.rate.each.as_secs_f64();
        self.tokens = (self.tokens + gained).min(self.rate.burst);
        self.at = now;
        self.tokens >= 1.0
    }

    fn take(&mut self) {
        self.tokens -= 1.0;
    }
}

/// What becomes of a finding.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Tell {
        note: String,
        /// Equal for what is told by the same event, in every process.
        key: u64,
        /// How often this has been told, from 1 on.
        count: u32,
    },
    Limited,
}

#[derive(Debug)]
struct About {
    bucket: Bucket,
    /// How often each was told, by its key.
    told: HashMap<u64, u32>,
    /// Since when those are counted.
    since: Instant,
}

#[derive(Debug, Default)]
pub(super) struct Limiter {
    all: Option<Bucket>,
    objects: HashMap<Object, About>,
}

impl Limiter {
    /// Nothing more is told now, whatever it is about.
    pub(super) fn is_exhausted(&mut self, now: Instant) -> bool {
        !self.all(now).has_one(now)
    }

    pub(super) fn admit(&mut self, finding: &Finding, now: Instant) -> Verdict {
        if self.is_exhausted(now) {
            return Verdict::Limited;
        }
        if !self.objects.contains_key(&finding.object) && self.objects.len() >= MAX_OBJECTS {
            let quiet = self.objects.iter().min_by_key(|(_, about)| about.bucket.at);
            if let Some(object) = quiet.map(|(object, _)| object.clone()) {
                self.objects.remove(&object);
            }
        }
        let about = self.objects.entry(finding.object.clone()).or_insert_with(|| About {
            bucket: Bucket::full(PER_OBJECT, now),
            told: HashMap::new(),
            since: now,
        });
        if !about.bucket.has_one(now) {
            return Verdict::Limited;
        }
        about.bucket.take();
        if now - about.since >= WINDOW {
            about.told.clear();
            about.since = now;
        }
        let own = key(finding, &finding.note);
        let is_new = !about.told.contains_key(&own);
        let (key, note) = match is_new && about.told.len() >= DIFFERENT {
            true => (key(finding, ""), format!("(one of many) {}", finding.note)),
            false => (own, finding.note.clone()),
        };
        let count = about.told.entry(key).or_default();
        *count = count.saturating_add(1);
        let count = *count;
        self.all(now).take();
        Verdict::Tell { note, key, count }
    }

    fn all(&mut self, now: Instant) -> &mut Bucket {
        self.all.get_or_insert_with(|| Bucket::full(IN_ALL, now))
    }
}

fn key(finding: &Finding, note: &str) -> u64 {
    xxh3_64(format!("{:?}\n{}\n{note}", finding.object.kind, finding.reason).as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::findings::Kind;
    use super::*;

    fn finding(pod: &str, note: &str) -> Finding {
        let object = Object { kind: Kind::Pod, namespace: "shop".into(), name: pod.into() };
        Finding { object, reason: "ConfigRejected", note: note.into() }
    }

    fn told(verdict: Verdict) -> Option<(u64, u32)> {
        match verdict {
            Verdict::Tell { key, count, .. } => Some((key, count)),
            Verdict::Limited => None,
        }
    }

    #[test]
    fn what_repeats_is_one_event_that_counts() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let first = told(limiter.admit(&finding("a", "x"), now)).unwrap();
        let second = told(limiter.admit(&finding("a", "x"), now)).unwrap();
        let other = told(limiter.admit(&finding("a", "y"), now)).unwrap();
        assert_eq!((first.1, second, other.1), (1, (first.0, 2), 1));
        assert_ne!(first.0, other.0);
        // Another process gives it the same key.
        assert_eq!(told(Limiter::default().admit(&finding("a", "x"), now)), Some(first));
    }

    #[test]
    fn ten_different_ones_about_an_object_and_one_for_all_others() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let verdicts = (0..10_000).map(|n| limiter.admit(&finding("a", &n.to_string()), now));
        let all: Vec<_> = verdicts.filter_map(told).collect();
        assert_eq!(all.len(), 25);
        assert_eq!(all.iter().map(|(key, _)| key).collect::<BTreeSet<_>>().len(), 11);
        assert_eq!(all.last().unwrap().1, 15);
        // One more in five minutes, and another object has its own.
        let later = now + Duration::from_secs(299);
        assert_eq!(told(limiter.admit(&finding("a", "x"), later)), None);
        let later = now + Duration::from_secs(301);
        assert!(told(limiter.admit(&finding("a", "x"), later)).is_some());
        assert_eq!(told(limiter.admit(&finding("a", "x"), later)), None);
        assert!(told(limiter.admit(&finding("b", "x"), later)).is_some());
    }

    #[test]
    fn a_hundred_in_all_then_one_in_three_seconds() {
        let (mut limiter, now) = (Limiter::default(), Instant::now());
        let mut flood = |now| {
            let all = (0..10_000).map(|n| limiter.admit(&finding(&n.to_string(), "x"), now));
            all.filter_map(told).count()
        };
        assert_eq!(flood(now), 100);
        assert_eq!(flood(now + Duration::from_secs(2)), 0);
        assert_eq!(flood(now + Duration::from_secs(30)), 10);
        // What is remembered is limited.
        for n in 0..10_000_u32 {
            let now = now + Duration::from_secs(60 + 3 * u64::from(n));
            assert!(told(limiter.admit(&finding(&format!("p{n}"), "x"), now)).is_some());
        }
        assert!(limiter.objects.len() <= MAX_OBJECTS);
    }
}

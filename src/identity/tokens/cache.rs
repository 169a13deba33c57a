//! Tokens that were looked at before: a proxy that reconnects brings the same one, and with TokenReview each
//! costs the API server a request. By their SHA-256, so that no token stays in memory, and bounded: who
//! brings ever new tokens drives out the oldest, and refused ones never drive out accepted ones.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use ring::digest::{SHA256, digest};

use super::{TokenError, VerifiedToken};

/// Accepted tokens that are remembered, a few hundred bytes each.
const MAX_ACCEPTED: usize = 16_384;
/// Refused ones.
const MAX_REFUSED: usize = 1_024;
/// For how long a refusal is remembered: a client that tries again at once costs nothing.
const REFUSED_FOR: Duration = Duration::from_secs(10);

type Hash = [u8; 32];

/// The hash that a token is known by here.
pub(super) fn hash(token: &str) -> Hash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
    hash
}

#[derive(Debug, Default)]
pub(super) struct Cache {
    /// Which keys the accepted ones were verified with: a key that is published no more takes its tokens
    /// along.
    generation: u64,
    accepted: Bounded<VerifiedToken>,
    refused: Bounded<TokenError>,
}

impl Cache {
    /// What was found when this token was last looked at, if that still holds.
    pub(super) fn get(
        &mut self,
        hash: &Hash,
        generation: u64,
        now: Instant,
    ) -> Option<Result<VerifiedToken, TokenError>> {
        self.turn_to(generation);
        match self.accepted.get(hash, now) {
            Some(token) => Some(Ok(token)),
            None => self.refused.get(hash, now).map(Err),
        }
    }

    /// An accepted token is remembered until then.
    pub(super) fn accepted(
        &mut self,
        hash: Hash,
        generation: u64,
        token: VerifiedToken,
        until: Instant,
    ) {
        // Verified with keys that have gone meanwhile: to be verified again.
        if generation >= self.generation {
            self.turn_to(generation);
            self.accepted.put(hash, token, until, MAX_ACCEPTED);
        }
    }

    pub(super) fn refused(&mut self, hash: Hash, error: TokenError, now: Instant) {
        self.refused.put(hash, error, now + REFUSED_FOR, MAX_REFUSED);
    }

    fn turn_to(&mut self, generation: u64) {
        if generation > self.generation {
            *self = Self { generation, ..Self::default() };
        }
    }
}

/// Entries with an end; the oldest goes when there are too many.
#[derive(Debug)]
struct Bounded<T> {
    entries: HashMap<Hash, (T, Instant)>,
    /// In the order in which they came, each once.
    order: VecDeque<Hash>,
}

impl<T> Default for Bounded<T> {
    fn default() -> Self {
        Self { entries: HashMap::new(), order: VecDeque::new() }
    }
}

impl<T: Clone> Bounded<T> {
    fn get(&self, hash: &Hash, now: Instant) -> Option<T> {
        self.entries.get(hash).filter(|(_, until)| now < *until).map(|(entry, _)| entry.clone())
    }

    fn put(&mut self, hash: Hash, entry: T, until: Instant, most: usize) {
        if self.entries.insert(hash, (entry, until)).is_some() {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > most
            && let Some(oldest) = self.order.pop_front()
        {
            self.entries.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ERROR: TokenError = TokenError::TooLong { bytes: 1 };

    fn token() -> VerifiedToken {
        VerifiedToken {
            namespace: "shop".into(),
            service_account: "web".into(),
            pod: None,
            expires: std::time::SystemTime::UNIX_EPOCH,
            issuer: "https://issuer".into(),
            audiences: Vec::new(),
            groups: Vec::new(),
        }
    }

    #[test]
    fn an_entry_lasts_until_its_end() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let (good, bad) = (hash("good"), hash("bad"));
        cache.accepted(good, 0, token(), now + Duration::from_secs(60));
        cache.refused(bad, ERROR, now);
        assert_eq!(cache.get(&good, 0, now), Some(Ok(token())));
        assert_eq!(cache.get(&bad, 0, now), Some(Err(ERROR)));
        assert_eq!(cache.get(&bad, 0, now + REFUSED_FOR), None);
        assert_eq!(cache.get(&good, 0, now + Duration::from_secs(60)), None);
        assert_eq!(cache.get(&hash("other"), 0, now), None);
    }

    #[test]
    fn other_keys_make_all_be_verified_again() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        let until = now + Duration::from_secs(60);
        cache.accepted(hash("good"), 1, token(), until);
        assert_eq!(cache.get(&hash("good"), 2, now), None);
        // One that was being verified with the keys of before.
        cache.accepted(hash("late"), 1, token(), until);
        assert_eq!(cache.get(&hash("late"), 2, now), None);
    }

    #[test]
    fn a_flood_of_refused_tokens_is_bounded_and_drives_out_no_accepted_one() {
        let (mut cache, now) = (Cache::default(), Instant::now());
        cache.accepted(hash("good"), 0, token(), now + Duration::from_secs(60));
        for number in 0..3 * MAX_REFUSED {
            cache.refused(hash(&number.to_string()), ERROR, now);
        }
        assert_eq!(cache.refused.entries.len(), MAX_REFUSED);
        assert_eq!(cache.refused.order.len(), MAX_REFUSED);
        assert_eq!(cache.get(&hash("0"), 0, now), None);
        assert_eq!(cache.get(&hash("good"), 0, now), Some(Ok(token())));
    }
}

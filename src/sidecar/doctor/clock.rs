//! What is expired or not yet valid may be so by one clock only: the clocks of this machine and of others
//! are compared, and both are said. Pure but for the reading of this machine's.

use std::time::{Duration, SystemTime};

use super::finding::{Code, Finding};
use crate::sidecar::credentials::files::{Validity, utc};

/// Clocks that differ by less are taken as equal: a `date` header has whole seconds, and an answer takes
/// its time.
const TOLERANCE: Duration = Duration::from_secs(30);

/// Somebody else's clock, and this machine's at the same time.
#[derive(Clone, Debug)]
pub(super) struct OtherClock {
    pub(super) whose: String,
    pub(super) theirs: SystemTime,
    pub(super) ours: SystemTime,
}

impl OtherClock {
    /// Just now.
    pub(super) fn now(whose: impl Into<String>, theirs: SystemTime) -> Self {
        Self { whose: whose.into(), theirs, ours: SystemTime::now() }
    }

    /// How far this machine's is ahead of it or behind it, in words; `None` if they agree.
    fn difference(&self) -> Option<String> {
        let (words, by) = match self.ours.duration_since(self.theirs) {
            Ok(ahead) => ("ahead of", ahead),
            Err(behind) => ("behind", behind.duration()),
        };
        let whole = Duration::from_secs(by.as_secs());
        (by > TOLERANCE).then(|| format!("{} {words}", humantime::format_duration(whole)))
    }
}

/// Whether the code says that something is out of its time.
pub(super) fn is_about_time(code: Code) -> bool {
    matches!(
        code,
        Code::TlsCaExpired
            | Code::ServerCertificateExpired
            | Code::ServerCertificateNotYetValid
            | Code::ClientCertificateExpired
            | Code::ClientCertificateNotYetValid
            | Code::TokenExpired
            | Code::TokenNotYetValid
    )
}

/// The finding with both clocks; another one if they are what is wrong.
pub(super) fn explain(
    found: Finding,
    validity: Option<Validity>,
    clocks: &[OtherClock],
) -> Finding {
    if !is_about_time(found.code) {
        return found;
    }
    let Some(first) = clocks.first() else {
        let here = utc(SystemTime::now());
        return Finding {
            cause: format!(
                "{}; this machine's clock says {here}, and no other could be read to compare it with",
                found.cause
            ),
            ..found
        };
    };
    let here = utc(first.ours);
    let others: Vec<String> = clocks
        .iter()
        .map(|clock| format!("{}'s says {}", clock.whose, utc(clock.theirs)))
        .collect();
    let both = format!("this machine's clock says {here}, {}", others.join(", "));
    // The API server's is the better witness: who issues and who checks lives by it.
    let different = clocks.iter().rev().find_map(|clock| Some((clock, clock.difference()?)));
    let Some((other, difference)) = different else {
        let cause = format!("{}; the clocks agree: {both}", found.cause);
        return Finding { cause, ..found };
    };
    let disputed =
        validity.is_some_and(|valid| valid.contains(other.ours) != valid.contains(other.theirs));
    if !disputed {
        let cause = format!(
            "{}; besides, {both}: it is {difference} the clock of {}",
            found.cause, other.whose
        );
        return Finding { cause, ..found };
    }
    Finding::new(
        Code::ClockSkew,
        format!(
            "the clocks differ: {both}, so this machine's is {difference} that of {}; only because of \
             that {}",
            other.whose, found.cause
        ),
        "set the clock that is wrong, by NTP (chrony, systemd-timesyncd) on the node: `date -u` on both \
         nodes shows which; nothing has to be issued anew",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn explained(code: Code, validity: Option<Validity>, clocks: &[OtherClock]) -> Finding {
        explain(Finding::new(code, "it has expired", "renew it"), validity, clocks)
    }

    fn clock(whose: &str, theirs: SystemTime) -> OtherClock {
        OtherClock { whose: whose.to_owned(), theirs, ours: SystemTime::now() }
    }

    #[test]
    fn a_clock_is_blamed_only_where_the_other_one_judges_differently() {
        let now = SystemTime::now();
        let expired = Validity { not_before: now - 3 * HOUR, not_after: now - HOUR };
        let found = explained(Code::ServerCertificateExpired, Some(expired), &[]);
        assert_eq!(found.code, Code::ServerCertificateExpired);
        assert!(found.cause.contains("no other could be read"), "{}", found.cause);

        let agreeing = [clock("Pilot", now)];
        let found = explained(Code::ServerCertificateExpired, Some(expired), &agreeing);
        assert_eq!((found.code, &*found.fix), (Code::ServerCertificateExpired, "renew it"));
        assert!(found.cause.contains("the clocks agree"), "{}", found.cause);

        let behind = [clock("Pilot", now), clock("the API server", now - 2 * HOUR)];
        let found = explained(Code::ServerCertificateExpired, Some(expired), &behind);
        assert_eq!(found.code, Code::ClockSkew);
        let words = "2h ahead of that of the API server";
        assert!(found.cause.contains(words), "{}", found.cause);

        let long_gone = Validity { not_before: now - 9 * HOUR, not_after: now - 8 * HOUR };
        let found = explained(Code::TokenExpired, Some(long_gone), &behind);
        assert_eq!(found.code, Code::TokenExpired);
        assert!(found.cause.contains("besides"), "{}", found.cause);
    }

    #[test]
    fn other_findings_are_left_as_they_are() {
        let found = explained(Code::ConnectionRefused, None, &[]);
        assert_eq!(&*found.cause, "it has expired");
    }
}

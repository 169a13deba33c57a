//! Times and counts.

use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

/// What stands for no limit. Tokio's own "far future"; with `Duration::MAX` every sum would overflow.
const FOREVER: Duration = Duration::from_secs(30 * 365 * 24 * 60 * 60);

const HOUR: Duration = Duration::from_secs(60 * 60);
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Below this a busy machine, or one that is far away, would be taken for one that hangs.
const SHORTEST_LIMIT: Duration = Duration::from_millis(100);

/// The API server's clients of client-go ask for 5 to 10 minutes; the kube crate goes up to this.
const LONGEST_WATCH: Duration = Duration::from_secs(290);

/// Envoy answers pings on the thread that also takes in its configuration.
const SHORTEST_KEEPALIVE: Duration = Duration::from_secs(1);

const LONGEST_PACE: Duration = Duration::from_secs(5);

const MOST: u32 = 1_000_000_000;

/// The first request of an Envoy brings its node along, which has some KiB.
const REQUEST_BYTES: RangeInclusive<usize> = 4096..=1 << 30;

const MEMORY: RangeInclusive<usize> = 1 << 20..=1 << 40;

/// A limit on time; [`or_forever`] reads its 0.
pub fn time_limit(text: &str) -> Result<Duration, String> {
    match duration(text)? {
        Duration::ZERO => Ok(Duration::ZERO),
        time => within(time, SHORTEST_LIMIT, YEAR, "; 0 for no limit"),
    }
}

/// The least time between two snapshots.
pub fn pace(text: &str) -> Result<Duration, String> {
    let why = ", as a new sort of proxy waits for the next snapshot too";
    within(duration(text)?, Duration::ZERO, LONGEST_PACE, why)
}

/// A wait that may be none.
pub fn pause(text: &str) -> Result<Duration, String> {
    within(duration(text)?, Duration::ZERO, HOUR, "")
}

/// The time for which a client is kept waiting for what its request needs.
pub fn on_demand_timeout(text: &str) -> Result<Duration, String> {
    let why = ", as clients wait meanwhile, and not without end";
    within(duration(text)?, Duration::from_millis(1), Duration::from_secs(60), why)
}

/// The same in Istio's words, where a plain number is one of seconds.
pub fn pause_in_seconds(text: &str) -> Result<Duration, String> {
    let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let time = match is_number {
        true => duration(&format!("{text}s"))?,
        false => duration(text)?,
    };
    within(time, Duration::ZERO, YEAR, "")
}

/// A time within which something must be over.
pub fn deadline(text: &str) -> Result<Duration, String> {
    let why = "; there is no \"no limit\" here, since nothing may hang for ever";
    within(duration(text)?, Duration::from_millis(1), HOUR, why)
}

pub fn keepalive(text: &str) -> Result<Duration, String> {
    let why = ", as a peer has a third of it to answer; it cannot be switched off, or peers that \
               vanished would never be missed";
    within(duration(text)?, SHORTEST_KEEPALIVE, HOUR, why)
}

pub fn watch_timeout(text: &str) -> Result<Duration, String> {
    let why = ", since the API server takes whole seconds and ends longer watches itself";
    within(duration(text)?, Duration::from_secs(1), LONGEST_WATCH, why)
}

/// A limit on a count; [`or_any`] reads its 0.
pub fn count_limit(text: &str) -> Result<usize, String> {
    count(text, 0, MOST).map(|count| count as usize)
}

/// The same for requests a second.
pub fn requests(text: &str) -> Result<u32, String> {
    count(text, 0, MOST)
}

/// The same, but no less than the types that are served.
pub fn type_limit(text: &str) -> Result<usize, String> {
    match count_limit(text)? {
        1..4 => {
            Err("the four types that are served always count, so it is 4 to 1000000000; 0 for \
                     no limit"
                .to_owned())
        }
        count => Ok(count),
    }
}

pub fn request_bytes(text: &str) -> Result<usize, String> {
    let count = number::<usize>(text)?;
    let (least, most) = (REQUEST_BYTES.start(), REQUEST_BYTES.end());
    match REQUEST_BYTES.contains(&count) {
        true => Ok(count),
        false => Err(format!(
            "it must be {least} to {most} bytes: an Envoy's first request takes some KiB, and \
             without a limit one peer could fill the memory"
        )),
    }
}

/// A limit on memory, 0 for none.
pub fn memory(text: &str) -> Result<usize, String> {
    let count = number::<usize>(text)?;
    match count == 0 || MEMORY.contains(&count) {
        true => Ok(count),
        false => Err(format!(
            "it must be {} to {} bytes, as less than that would not do for one Envoy; 0 for no limit",
            MEMORY.start(),
            MEMORY.end()
        )),
    }
}

/// Threads of Envoy, of which it starts as many as it is told.
pub fn threads(text: &str) -> Result<u32, String> {
    count(text, 0, 1024)
}

/// A [`time_limit`] as those who wait take it.
pub fn or_forever(limit: Duration) -> Duration {
    if limit.is_zero() { FOREVER } else { limit }
}

/// A [`count_limit`] as those who count take it.
pub fn or_any(limit: usize) -> usize {
    if limit == 0 { usize::MAX } else { limit }
}

fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    humantime::parse_duration(text).map_err(|error| match error {
        humantime::DurationError::NumberOverflow => "it is too long, or too fine".to_owned(),
        _ => "it must be a number and a unit, as in 500ms, 30s or 1m 30s".to_owned(),
    })
}

fn within(time: Duration, least: Duration, most: Duration, why: &str) -> Result<Duration, String> {
    let shown = humantime::format_duration;
    match (least..=most).contains(&time) {
        true => Ok(time),
        false if least.is_zero() => Err(format!("it must be at most {}{why}", shown(most))),
        false => Err(format!("it must be {} to {}{why}", shown(least), shown(most))),
    }
}

fn count(text: &str, least: u32, most: u32) -> Result<u32, String> {
    match number::<u32>(text) {
        Ok(count) if (least..=most).contains(&count) => Ok(count),
        _ => Err(format!("it must be a whole number, {least} to {most}")),
    }
}

fn number<T: FromStr>(text: &str) -> Result<T, String> {
    text.trim().parse().map_err(|_| "it must be a whole number".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_is_no_limit_or_refused_with_a_sentence() {
        assert_eq!(time_limit("0").map(or_forever), Ok(FOREVER));
        assert_eq!(time_limit("0s").map(or_forever), Ok(FOREVER));
        assert_eq!(count_limit("0").map(or_any), Ok(usize::MAX));
        assert_eq!(pause("0"), Ok(Duration::ZERO));
        for (refused, word) in [
            (keepalive("0").unwrap_err(), "never be missed"),
            (deadline("0s").unwrap_err(), "hang for ever"),
            (watch_timeout("0").unwrap_err(), "API server"),
            (request_bytes("0").unwrap_err(), "fill the memory"),
        ] {
            assert!(refused.contains(word), "{refused}");
        }
    }

    #[test]
    fn no_sum_of_two_values_overflows() {
        let most = [
            or_forever(time_limit("365days").unwrap()),
            or_forever(time_limit("0").unwrap()),
            pause("1h").unwrap(),
            pause_in_seconds("365days").unwrap(),
            deadline("1h").unwrap(),
            keepalive("1h").unwrap(),
            watch_timeout("290s").unwrap(),
        ];
        for one in most {
            for other in most {
                let sum =
                    std::time::Instant::now().checked_add(one).map(|at| at.checked_add(other));
                assert!(sum.flatten().is_some(), "{one:?} and {other:?}");
            }
        }
        let all = [time_limit, pause, pause_in_seconds, deadline, keepalive, watch_timeout];
        for parse in all {
            for beyond in ["366days", "18446744073709551615s", "18446744073709551615"] {
                assert!(parse(beyond).is_err(), "{beyond}");
            }
        }
    }

    #[test]
    fn what_would_cut_every_proxy_is_refused() {
        for parse in [keepalive, time_limit] {
            for tiny in ["1ns", "1ms", "99ms"] {
                assert!(parse(tiny).unwrap_err().contains("it must be"), "{tiny}");
            }
        }
        assert_eq!(keepalive("1s"), Ok(Duration::from_secs(1)));
    }

    #[test]
    fn the_types_that_are_served_fit_into_every_limit() {
        assert!(["1", "3"].iter().all(|few| type_limit(few).unwrap_err().contains("always count")));
        assert_eq!((type_limit("4"), type_limit("0")), (Ok(4), Ok(0)));
    }

    #[test]
    fn a_plain_number_is_one_of_seconds_where_istio_has_it_so() {
        assert_eq!(pause_in_seconds("5"), Ok(Duration::from_secs(5)));
        assert_eq!(pause_in_seconds("5s"), Ok(Duration::from_secs(5)));
        assert!(pause("5").unwrap_err().contains("unit"));
    }
}

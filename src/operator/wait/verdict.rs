//! What follows from what the replicas said.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::operator::Outcome;
use crate::operator::answers::{State, Straggler, age};
use crate::operator::print;
use crate::operator::table::{Cell, Screen, Table, Tone, elastic, rigid};
use crate::output::{self, Unwritten};

/// What one replica says of the change.
#[derive(Clone, Debug)]
pub(super) enum Said {
    /// All of its proxies have acknowledged it.
    Everywhere { proxies: u64 },
    /// Some have not.
    Lagging { proxies: u64, missing: u64, stragglers: Vec<Straggler> },
    /// It has not seen or not published it.
    NotYet(String),
    /// It has no way to know.
    CannotTell(String),
    /// There was no answer.
    NotAsked(String),
}

impl Said {
    pub(super) fn document(&self, replica: &str) -> Value {
        match self {
            Self::Everywhere { proxies } => {
                json!({ "replica": replica, "state": "everywhere", "proxies": proxies })
            }
            Self::Lagging { proxies, missing, stragglers } => json!({
                "replica": replica, "state": "lagging", "proxies": proxies, "missing": missing,
                "stragglers": stragglers
                    .iter()
                    .map(|one| json!({
                        "name": one.name, "type": one.of, "state": one.state, "since": one.since,
                        "error": one.error,
                    }))
                    .collect::<Vec<_>>(),
            }),
            Self::NotYet(why) => json!({ "replica": replica, "state": "not yet", "why": why }),
            Self::CannotTell(why) => {
                json!({ "replica": replica, "state": "cannot tell", "why": why })
            }
            Self::NotAsked(why) => json!({ "replica": replica, "state": "not asked", "why": why }),
        }
    }
}

/// What holds of all of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    Everywhere,
    /// Some proxy, or some replica, does not have it, be there others that cannot tell.
    NotEverywhere,
    /// Nobody is known not to have it, and somebody could not be asked.
    Untold,
    /// The same, and asking again does not help, if it stays so.
    Untellable,
}

impl Verdict {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Everywhere => "everywhere",
            Self::NotEverywhere => "not everywhere",
            Self::Untold | Self::Untellable => "cannot be told",
        }
    }

    pub(super) fn outcome(self) -> Outcome {
        match self {
            Self::Everywhere => Outcome::Done,
            Self::NotEverywhere => Outcome::Incomplete,
            Self::Untold | Self::Untellable => Outcome::Unknown,
        }
    }
}

/// `by_version`: whether the change is known by its version. Without one, a replica that knows of no change
/// may know of it a moment later.
pub(super) fn judge(said: &[(String, Said)], by_version: bool) -> Verdict {
    let any = |wanted: fn(&Said) -> bool| said.iter().any(|(_, said)| wanted(said));
    if any(|said| matches!(said, Said::Lagging { .. } | Said::NotYet(_))) {
        return Verdict::NotEverywhere;
    }
    if said.is_empty() || any(|said| matches!(said, Said::NotAsked(_))) {
        return Verdict::Untold;
    }
    match any(|said| matches!(said, Said::CannotTell(_))) {
        true if by_version => Verdict::Untellable,
        true => Verdict::Untold,
        false => Verdict::Everywhere,
    }
}

/// Says how it ended: the stragglers on standard output, why it cannot be told beside it.
pub(super) fn print(
    what: &str,
    verdict: Verdict,
    said: &[(String, Said)],
    took: Duration,
    screen: Screen,
) -> Result<(), Unwritten> {
    let seconds = format!("{:.1}s", took.as_secs_f64());
    if verdict == Verdict::Everywhere {
        let proxies: u64 = said
            .iter()
            .map(|(_, said)| if let Said::Everywhere { proxies } = said { *proxies } else { 0 })
            .sum();
        let (ies, s) = (plural(proxies, "y", "ies"), plural(said.len() as u64, "", "s"));
        let text = format!(
            "{what} is everywhere: acknowledged by {proxies} prox{ies} of {} replica{s}, after {seconds}",
            said.len()
        );
        return output::print(&format!("{}\n", crate::escape::line(&text)));
    }
    let missing: u64 = said
        .iter()
        .map(|(_, said)| if let Said::Lagging { missing, .. } = said { *missing } else { 0 })
        .sum();
    let table = stragglers(said, SystemTime::now());
    if !table.rows.is_empty() {
        output::print(&table.render(screen))?;
        let hidden = missing.saturating_sub(table.rows.len() as u64);
        if hidden > 0 {
            output::print(&format!("and {hidden} more\n"))?;
        }
    }
    for (replica, said) in said {
        match said {
            Said::NotYet(why) => {
                print::warn(&format!("the replica {replica} does not have it yet: {why}"))
            }
            Said::CannotTell(why) => {
                print::warn(&format!("the replica {replica} cannot tell: {why}"))
            }
            Said::NotAsked(why) => {
                print::warn(&format!("the replica {replica} could not be asked: {why}"))
            }
            Said::Everywhere { .. } | Said::Lagging { .. } => {}
        }
    }
    print::error(&match verdict {
        Verdict::NotEverywhere if missing > 0 => {
            let ies = plural(missing, "y has", "ies have");
            format!(
                "{what} is not everywhere after {seconds}: {missing} prox{ies} not acknowledged it"
            )
        }
        Verdict::NotEverywhere => format!("{what} is not everywhere after {seconds}"),
        _ => format!("it cannot be told whether {what} is everywhere (after {seconds})"),
    });
    Ok(())
}

fn plural<'a>(count: u64, one: &'a str, many: &'a str) -> &'a str {
    if count == 1 { one } else { many }
}

fn stragglers(said: &[(String, Said)], now: SystemTime) -> Table {
    let mut table = Table::new(&[
        elastic("STRAGGLER"),
        rigid("TYPE"),
        rigid("STATE"),
        rigid("SINCE"),
        elastic("REPLICA"),
        elastic("ERROR"),
    ]);
    for (replica, said) in said {
        let Said::Lagging { stragglers, .. } = said else { continue };
        for one in stragglers {
            let tone = match State::read(&one.state) {
                Some(State::Rejected) => Tone::Bad,
                _ => Tone::Waiting,
            };
            table.rows.push(vec![
                Cell::new(&one.name),
                Cell::new(&one.of),
                Cell::toned(&one.state, tone),
                Cell::new(&age(&one.since, now).unwrap_or_default()),
                Cell::new(replica),
                Cell::new(&one.error),
            ]);
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verdict(said: &[Said]) -> Verdict {
        let said: Vec<_> = said.iter().map(|said| ("r".to_owned(), said.clone())).collect();
        judge(&said, true)
    }

    #[test]
    fn it_is_everywhere_only_if_every_replica_says_so() {
        let everywhere = Said::Everywhere { proxies: 3 };
        let lagging = Said::Lagging { proxies: 3, missing: 1, stragglers: Vec::new() };
        let not_asked = Said::NotAsked("hangs".to_owned());
        let not_yet = Said::NotYet("not seen".to_owned());
        let cannot = Said::CannotTell("a folder".to_owned());
        let all =
            |said: &[&Said]| verdict(&said.iter().map(|one| (*one).clone()).collect::<Vec<_>>());
        assert_eq!(all(&[&everywhere, &everywhere]), Verdict::Everywhere);
        assert_eq!(all(&[&everywhere, &not_asked]), Verdict::Untold);
        assert_eq!(all(&[&not_asked, &cannot]), Verdict::Untold, "it may be asked yet");
        assert_eq!(all(&[&everywhere, &cannot]), Verdict::Untellable);
        // A proxy that lacks it is told, whoever else cannot be asked.
        assert_eq!(all(&[&not_asked, &lagging, &cannot]), Verdict::NotEverywhere);
        assert_eq!(all(&[&everywhere, &not_yet]), Verdict::NotEverywhere);
        assert_eq!(all(&[]), Verdict::Untold);
        let of_a_folder = [("r".to_owned(), cannot)];
        assert_eq!(judge(&of_a_folder, false), Verdict::Untold);
    }
}

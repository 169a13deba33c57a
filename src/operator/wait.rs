//! `pilothouse wait`: until every connected proxy that should have a change has acknowledged it.
//!
//! Each replica is asked which generation of its snapshot has the change, then whether its proxies have
//! acknowledged that one. A proxy may move to another replica meanwhile, and replicas come and go, so it is
//! everywhere only when all replicas of now say so twice, one round right after the other.

mod object;
mod verdict;

use std::collections::HashMap;
use std::time::Duration;

use futures::future::join_all;
use serde::Deserialize;
use serde_json::json;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::Outcome;
use super::args::{OutputArgs, ReplicaArgs};
use super::ask::{AskError, Replica, with_query};
use super::changes::ChangesPage;
use super::print;
use super::replicas::{FindError, Finder};
use crate::flags;
use crate::output::Unwritten;

use object::{ObjectName, Version};
use verdict::{Said, Verdict, judge};

/// The first pause between two rounds; each is twice as long as the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);
/// So long before the end it is asked for the last time, as an answer takes its time.
const LAST_LOOK: Duration = Duration::from_millis(200);
/// A replica that has just been started has listed nothing, and knows as little as one that can never tell.
const STARTS: Duration = Duration::from_secs(5);
/// How long a list of pods is good for while nothing is decided.
const LIST_AGE: Duration = Duration::from_secs(2);

#[derive(Clone, Debug, clap::Args)]
pub struct WaitArgs {
    /// The object that was changed: a service, endpointslice, endpoints, node, httproute, grpcroute or
    /// referencegrant, as in service/reviews
    #[arg(value_name = "KIND/NAME", value_parser = object::name)]
    pub object: ObjectName,

    /// Namespace of the object [default: the context's, else default]
    #[arg(short, long, value_name = "NAMESPACE", value_parser = flags::namespace)]
    pub namespace: Option<String>,

    /// The version that the change made, as in .metadata.resourceVersion [default: the object's of now]
    #[arg(long, value_name = "VERSION", value_parser = object::resource_version)]
    pub resource_version: Option<String>,

    /// How long to wait at most, up to 1h; 0s to ask once
    #[arg(long, value_name = "DURATION", value_parser = flags::pause, default_value = "60s")]
    pub timeout: Duration,

    #[command(flatten)]
    pub output: OutputArgs,

    #[command(flatten)]
    pub replicas: ReplicaArgs,
}

/// What is waited for.
#[derive(Debug)]
struct Change {
    object: ObjectName,
    /// Empty for an object without one.
    namespace: String,
    version: Version,
}

/// `/debug/convergence` of an object.
#[derive(Debug, Deserialize)]
struct Placed {
    instance: String,
    state: String,
    #[serde(default)]
    why: Option<String>,
    #[serde(default)]
    generation: Option<u64>,
}

/// `/debug/convergence` of a generation.
#[derive(Debug, Deserialize)]
struct Acknowledged {
    instance: String,
    proxies: u64,
    acknowledged: u64,
    #[serde(default)]
    stragglers: Vec<super::answers::Straggler>,
    #[serde(default)]
    stragglers_total: u64,
}

/// Which generation of which run of a replica has the change.
#[derive(Clone, Debug)]
struct Place {
    instance: String,
    generation: u64,
}

impl WaitArgs {
    /// Waits, and prints how it ended.
    ///
    /// # Errors
    /// Standard output does not take it.
    pub async fn run(&self) -> Result<Outcome, Unwritten> {
        let start = Instant::now();
        let begun = async {
            let mut finder =
                Finder::new(&self.replicas).await.map_err(|error| error.to_string())?;
            let change = self.change(&finder).await?;
            let replicas = finder.list().await.map_err(|error| error.to_string())?;
            Ok::<_, String>((finder, change, replicas))
        };
        let (finder, change, replicas) = match begun.await {
            Ok(begun) => begun,
            Err(error) => {
                print::error(&format!("it cannot be told: {error}"));
                return Ok(Outcome::Unknown);
            }
        };
        let end = start + self.timeout;
        let mut rounds =
            Rounds { finder, change, replicas, places: HashMap::new(), last: Vec::new() };
        let verdict = rounds.until(end, self.replicas.request_timeout).await;
        self.print(&rounds, verdict, start.elapsed())?;
        Ok(verdict.outcome())
    }

    async fn change(&self, finder: &Finder) -> Result<Change, String> {
        let default = finder.cluster.as_ref().map(|cluster| &*cluster.default_namespace);
        let namespace = match self.object.kind.is_namespaced() {
            true => self.namespace.as_deref().or(default).unwrap_or("default").to_owned(),
            false => String::new(),
        };
        let version = match (&self.resource_version, &finder.cluster) {
            (Some(version), _) => Version::Of(version.clone()),
            (None, None) => Version::LastKnown,
            (None, Some(cluster)) => {
                let limit = self.replicas.request_timeout;
                object::version(cluster, &self.object, &namespace, limit).await?
            }
        };
        Ok(Change { object: self.object.clone(), namespace, version })
    }

    fn print(&self, rounds: &Rounds, verdict: Verdict, took: Duration) -> Result<(), Unwritten> {
        let change = &rounds.change;
        let version = change.version.resource_version();
        let document = json!({
            "object": {
                "kind": change.object.kind.as_str(), "namespace": change.namespace, "name": change.object.name,
            },
            "resourceVersion": version,
            "verdict": verdict.as_str(),
            "seconds": took.as_secs_f64(),
            "replicas": rounds.last.iter().map(|(name, said)| said.document(name)).collect::<Vec<_>>(),
        });
        if print::document(&self.output, &document)? {
            return Ok(());
        }
        let what = match &change.version {
            Version::Of(version) => format!("{} of version {version}", change.object),
            Version::Gone { .. } => format!("the deletion of {}", change.object),
            Version::LastKnown => format!("the last known change of {}", change.object),
        };
        verdict::print(&what, verdict, &rounds.last, took, print::screen(&self.output))
    }
}

/// Replicas that are asked again and again.
struct Rounds {
    finder: Finder,
    change: Change,
    replicas: Vec<Replica>,
    places: HashMap<String, Place>,
    /// What each has said last.
    last: Vec<(String, Said)>,
}

impl Rounds {
    async fn until(&mut self, end: Instant, request_timeout: Duration) -> Verdict {
        let mut pause = FIRST_PAUSE;
        let mut listed = Instant::now();
        let mut list_error: Option<FindError> = None;
        // It is asked once in any case.
        let mut round_end = end.max(Instant::now() + request_timeout);
        let mut was_everywhere = false;
        let mut untellable_since: Option<Instant> = None;
        loop {
            self.round(round_end).await;
            round_end = end;
            if let Some(error) = &list_error {
                self.last
                    .push(("(the list of replicas)".to_owned(), Said::NotAsked(error.to_string())));
            }
            let verdict = judge(&self.last, !matches!(self.change.version, Version::LastKnown));
            let is_everywhere = verdict == Verdict::Everywhere;
            if verdict == Verdict::Untellable {
                untellable_since.get_or_insert_with(Instant::now);
            } else {
                untellable_since = None;
            }
            let never = untellable_since.is_some_and(|since| since.elapsed() >= STARTS);
            if is_everywhere && was_everywhere || never {
                return verdict;
            }
            let mut next = Instant::now();
            if !is_everywhere {
                let last_look = end.checked_sub(LAST_LOOK).unwrap_or(end);
                if next >= last_look {
                    return verdict;
                }
                next = last_look.min(next + pause);
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
            sleep_until(next).await;
            let failed = self.last.iter().any(|(_, said)| matches!(said, Said::NotAsked(_)));
            if is_everywhere || failed || listed.elapsed() > LIST_AGE {
                listed = Instant::now();
                match self.finder.list().await {
                    Ok(replicas) => {
                        list_error = None;
                        self.replicas = replicas;
                    }
                    Err(error) => list_error = Some(error),
                }
            }
            // The second look may come when the time is over.
            if is_everywhere {
                round_end = end.max(Instant::now() + request_timeout);
            }
            was_everywhere = is_everywhere;
        }
    }

    /// Asks all of them side by side; who does not answer before `end` has said what it said before.
    async fn round(&mut self, end: Instant) {
        let asked = self.replicas.iter().map(async |replica| {
            let mut place = self.places.get(&replica.name).cloned();
            let said = timeout_at(end, ask(replica, &self.change, &mut place)).await.ok();
            (replica.name.clone(), said, place)
        });
        let mut before: HashMap<String, Said> = HashMap::new();
        let answers = join_all(asked).await;
        before.extend(self.last.drain(..));
        self.places.clear();
        for (name, said, place) in answers {
            let said = said.or_else(|| before.remove(&name));
            let said = said.unwrap_or_else(|| Said::NotAsked("no answer in time".to_owned()));
            if let Some(place) = place {
                self.places.insert(name.clone(), place);
            }
            self.last.push((name, said));
        }
    }
}

async fn ask(replica: &Replica, change: &Change, place: &mut Option<Place>) -> Said {
    let said = match placed(replica, change, place).await {
        Ok(Ok(known)) => acknowledged(replica, known, place).await,
        Ok(Err(said)) => return said,
        Err(error) => Err(error),
    };
    said.unwrap_or_else(|error| match error {
        AskError::Refused { status: 404, .. } => Said::CannotTell(
            "it has no answer to this question: it is of an older version".to_owned(),
        ),
        error => Said::NotAsked(error.to_string()),
    })
}

/// Which generation has the change, or why none.
async fn placed(
    replica: &Replica,
    change: &Change,
    place: &mut Option<Place>,
) -> Result<Result<Place, Said>, AskError> {
    if let Some(place) = place {
        return Ok(Ok(place.clone()));
    }
    let path = with_query(
        "/debug/convergence",
        &[
            ("kind", change.object.kind.as_str()),
            ("namespace", &change.namespace),
            ("name", &change.object.name),
            ("resource_version", change.version.resource_version().unwrap_or_default()),
        ],
    );
    let answer: Placed = replica.json(&path).await?;
    let why = answer.why.unwrap_or_default();
    let found = match (&*answer.state, answer.generation) {
        ("published", Some(generation)) => Place { instance: answer.instance, generation },
        ("pending", _) => return Ok(Err(Said::NotYet(why))),
        ("not_seen", _) if matches!(change.version, Version::Gone { .. }) => {
            // The watch may be quiet; the log of changes may have the deletion itself.
            match deletion(replica, change).await? {
                Some(place) => place,
                None => return Ok(Err(Said::NotYet(why))),
            }
        }
        ("not_seen", _) => return Ok(Err(Said::NotYet(why))),
        ("unknown", _) => return Ok(Err(Said::CannotTell(why))),
        (other, generation) => {
            return Err(AskError::Nonsense(format!(
                "state {other:?} of generation {generation:?}"
            )));
        }
    };
    *place = Some(found.clone());
    Ok(Ok(found))
}

/// The generation without the object, if its deletion is the last that is known of it.
async fn deletion(replica: &Replica, change: &Change) -> Result<Option<Place>, AskError> {
    let path = with_query("/debug/changes", &[("search", &change.object.name), ("limit", "1000")]);
    let page: ChangesPage = replica.json(&path).await?;
    let newest = page.changes.iter().find(|one| {
        one.kind == change.object.kind.as_str()
            && one.namespace == change.namespace
            && one.name == change.object.name
    });
    let deleted = newest.filter(|one| one.action == "deleted");
    let generation = deleted.and_then(|one| one.generation);
    Ok(generation.map(|generation| Place { instance: page.instance.clone(), generation }))
}

async fn acknowledged(
    replica: &Replica,
    known: Place,
    place: &mut Option<Place>,
) -> Result<Said, AskError> {
    let generation = known.generation.to_string();
    let path = with_query("/debug/convergence", &[("generation", &generation)]);
    let answer: Acknowledged = replica.json(&path).await?;
    if answer.instance != known.instance {
        *place = None;
        return Ok(Said::NotYet("it has restarted".to_owned()));
    }
    let Acknowledged { proxies, acknowledged, stragglers, stragglers_total, .. } = answer;
    let total = stragglers_total.max(stragglers.len() as u64);
    Ok(match acknowledged >= proxies && total == 0 {
        true => Said::Everywhere { proxies },
        false => {
            let missing = proxies.saturating_sub(acknowledged).max(total);
            Said::Lagging { proxies, missing, stragglers }
        }
    })
}

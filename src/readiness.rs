//! Conditions as named conditions, each held by a guard.
//!
//! Whoever can say that a condition is met holds its guard and sets it; the page of a probe only reads.
//! A guard that is dropped loses its condition for good, so a part of the process that has ended or
//! panicked cannot leave a process behind that still calls itself ready.

use std::sync::Arc;

use tokio::sync::watch;

/// The conditions of one process. Clones are handles of the same.
#[derive(Clone, Debug)]
pub struct Conditions(Arc<watch::Sender<Vec<Condition>>>);

#[derive(Clone, Debug)]
struct Condition {
    name: &'static str,
    state: State,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Met,
    /// With what is waited for, in one sentence.
    Unmet(String),
    /// Nobody holds it any more, or whoever did has given up: only a restart helps.
    Lost(String),
}

impl Default for Conditions {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(Vec::new())))
    }
}

impl Conditions {
    /// A new condition, which is not met until its guard says so; `reason` says what is waited for.
    #[must_use = "a dropped guard loses the condition"]
    pub fn condition(&self, name: &'static str, reason: impl Into<String>) -> Guard {
        let state = State::Unmet(reason.into());
        self.0.send_modify(|conditions| conditions.push(Condition { name, state }));
        Guard { name, readiness: self.clone() }
    }

    /// Why the process is not ready, `None` if it is: what was lost, else the first condition that is
    /// not met, in the order in which they were made.
    pub fn waiting_for(&self) -> Option<String> {
        waiting_for(&self.0.borrow())
    }

    /// Why only a restart helps; `None` as long as every condition is held.
    pub fn lost(&self) -> Option<String> {
        lost(&self.0.borrow())
    }

    /// Waits until every condition is met.
    pub async fn all_met(&self) {
        // The sender is held here, so waiting cannot fail.
        _ = self.0.subscribe().wait_for(|conditions| waiting_for(conditions).is_none()).await;
    }

    /// Sets the state of a condition that is not lost.
    fn set(&self, name: &'static str, state: State) {
        self.0.send_if_modified(|conditions| {
            let own = conditions.iter_mut().find(|condition| condition.name == name);
            match own {
                Some(own) if !matches!(own.state, State::Lost(_)) && own.state != state => {
                    own.state = state;
                    true
                }
                _ => false,
            }
        });
    }
}

fn lost(conditions: &[Condition]) -> Option<String> {
    conditions.iter().find_map(|condition| match &condition.state {
        State::Lost(reason) => Some(reason.clone()),
        State::Met | State::Unmet(_) => None,
    })
}

fn waiting_for(conditions: &[Condition]) -> Option<String> {
    let unmet = || {
        conditions.iter().find_map(|condition| match &condition.state {
            State::Unmet(reason) => Some(reason.clone()),
            State::Met | State::Lost(_) => None,
        })
    };
    lost(conditions).or_else(unmet)
}

/// The right to say whether a condition is met.
#[derive(Debug)]
pub struct Guard {
    name: &'static str,
    readiness: Conditions,
}

impl Guard {
    pub fn meet(&self) {
        self.readiness.set(self.name, State::Met);
    }

    /// It is not met, or no longer.
    pub fn fail(&self, reason: impl Into<String>) {
        self.readiness.set(self.name, State::Unmet(reason.into()));
    }

    /// It will not be met again in this process.
    pub fn lose(&self, reason: impl Into<String>) {
        self.readiness.set(self.name, State::Lost(reason.into()));
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.lose(format!("whatever held the condition {:?} has ended", self.name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_condition_that_is_not_met_is_the_reason() {
        let readiness = Conditions::default();
        assert_eq!(readiness.waiting_for(), None);
        let listed = readiness.condition("listed", "services");
        let published = readiness.condition("published", "the first snapshot");
        assert_eq!(readiness.waiting_for().as_deref(), Some("services"));
        listed.meet();
        assert_eq!(readiness.waiting_for().as_deref(), Some("the first snapshot"));
        published.meet();
        assert_eq!(readiness.waiting_for(), None);
        listed.fail("again services");
        assert_eq!(readiness.waiting_for().as_deref(), Some("again services"));
        assert_eq!(readiness.lost(), None);
    }

    #[test]
    fn a_condition_whose_guard_is_gone_is_lost_and_comes_before_all_others() {
        let readiness = Conditions::default();
        let _listed = readiness.condition("listed", "services");
        let published = readiness.condition("published", "the first snapshot");
        published.meet();
        let held = std::panic::AssertUnwindSafe(published);
        let panicked = std::panic::catch_unwind(|| {
            let _published = held;
            panic!("of a part");
        });
        assert!(panicked.is_err());
        let reason = readiness.lost().unwrap();
        assert!(reason.contains("\"published\""), "{reason}");
        assert_eq!(readiness.waiting_for(), Some(reason));
    }

    #[test]
    fn the_first_reason_for_a_loss_stays() {
        let readiness = Conditions::default();
        let parts = readiness.condition("parts", "");
        parts.lose("the publisher panicked");
        parts.meet();
        drop(parts);
        assert_eq!(readiness.lost().as_deref(), Some("the publisher panicked"));
    }

    #[tokio::test]
    async fn all_are_waited_for() {
        let readiness = Conditions::default();
        let guard = readiness.condition("one", "it");
        let wait = tokio::spawn({
            let readiness = readiness.clone();
            async move { readiness.all_met().await }
        });
        guard.meet();
        wait.await.unwrap();
    }
}

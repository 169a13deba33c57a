//! The time that is left, shared out among the steps.

use std::time::{Duration, Instant};

use super::finding::{Code, Finding};

/// Of the whole limit, what one step may take at most, in percent: enough for a name server that
/// loses a packet or two, and three steps that hang still leave time to say so.
const STEP_PERCENT: u32 = 30;

#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    started: Instant,
    limit: Duration,
}

impl Deadline {
    pub(super) fn start(limit: Duration) -> Self {
        Self { started: Instant::now(), limit }
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(super) fn limit(&self) -> Duration {
        self.limit
    }

    pub(super) fn left(&self) -> Duration {
        self.limit.saturating_sub(self.elapsed())
    }

    /// What a step may take that merely adds to the diagnosis; maybe next to nothing.
    pub(super) fn optional_step(&self) -> Duration {
        (self.limit * STEP_PERCENT / 100).min(self.left())
    }

    /// What the next step may take.
    ///
    /// # Errors
    /// If so little is left that silence would mean nothing.
    pub(super) fn step(&self) -> Result<Duration, Finding> {
        let share = self.optional_step();
        if share < self.limit / 20 { Err(self.out_of_time()) } else { Ok(share) }
    }

    pub(super) fn out_of_time(&self) -> Finding {
        Finding::new(
            Code::OutOfTime,
            format!("{:?} were not enough to walk the path to its end", self.limit),
            "give it more time: pilothouse doctor --timeout 30s",
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_step_has_its_share_and_none_when_the_time_is_up() {
        let hour = Duration::from_secs(3600);
        let share = Deadline::start(hour).step().unwrap();
        assert!(share <= hour * 3 / 10 && share > hour / 20, "{share:?}");
        let nearly_over = Deadline { started: Instant::now() - hour, limit: hour + hour / 30 };
        let finding = nearly_over.step().unwrap_err();
        assert_eq!(finding.code, Code::OutOfTime);
        assert!(finding.fix.contains("--timeout"), "{}", finding.fix);
    }
}

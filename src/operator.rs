//! The operator's wing: commands that ask every replica of the control plane and say what holds over all
//! of them. `status`: who has what. `uses`: who calls what. `changes`: what changed and who has it. `wait`: until a change is
//! everywhere. `dashboard`: the page of all replicas.
//!
//! It meets the control plane over the network only, at its debug port: by port-forwarding to each pod,
//! or at an address that is given. Every question has a deadline and a limit on its answer, so that a
//! replica that hangs, restarts or answers nonsense costs only itself, and is named.
//!
//! `replicas` finds them, `ask` asks one, `answers` reads what they say; what is made of it is pure.

mod answers;
mod args;
mod ask;
mod changes;
mod dashboard;
mod print;
mod replicas;
mod shell;
mod status;
mod table;
mod uses;
mod wait;

pub use changes::ChangesArgs;
pub use dashboard::{DashboardArgs, Page, PageFile};
pub use shell::{CompletionArgs, ManArgs, complete, man};
pub use status::StatusArgs;
pub use uses::UsesArgs;
pub use wait::WaitArgs;

/// How a command ended; the exit codes of each are in its help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Everything that was asked for is there.
    Done,
    /// Something is missing, and was named.
    Incomplete,
    /// It cannot be told; why was said.
    Unknown,
}

impl Outcome {
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Incomplete => 1,
            Self::Unknown => 2,
        }
    }
}

//! A child process: its log is kept, it ends with the test, and a failing test shows its log.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use super::eventually;

/// Lines of a log that a failing test shows.
const SHOWN: usize = 80;

#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    pub(crate) fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        let log = Arc::default();
        // A pipe that nobody reads would stop the process once it is full.
        let readers = vec![
            follow(child.stdout.take().expect("it is piped"), &log),
            follow(child.stderr.take().expect("it is piped"), &log),
        ];
        Self { name: name.to_owned(), child, log, readers }
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        self.log.lock().expect("readers do not panic").clone()
    }

    /// The whole log, for a search in it.
    pub(crate) fn log(&self) -> String {
        self.lines().join("\n")
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its status, if it has ended.
    pub(crate) fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits until it ends; its log is complete then.
    pub(crate) async fn end(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        let status =
            eventually(deadline, &what, async || self.status().ok_or("running".to_owned())).await;
        self.drain();
        status
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("it is our child");
    }

    pub(crate) fn kill(&mut self) {
        // An error means that it has ended already.
        _ = self.child.kill();
        _ = self.child.wait();
        self.drain();
    }

    /// Reads what is left in the pipes of a process that has ended.
    fn drain(&mut self) {
        for reader in self.readers.drain(..) {
            reader.join().expect("readers do not panic");
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let lines = self.lines();
            let shown = &lines[lines.len().saturating_sub(SHOWN)..];
            let (name, id, count) = (&self.name, self.id(), shown.len());
            eprintln!("--- {name} (process {id}), last {count} lines:\n{}", shown.join("\n"));
        }
    }
}

fn follow(pipe: impl Read + Send + 'static, log: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let log = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            log.lock().expect("readers do not panic").push(line);
        }
    })
}

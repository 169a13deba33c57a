//! A child process: its log is kept, it ends with the test, and a failing test shows its log.

use std::io::{BufRead as _, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, setrlimit};

use crate::eventually;

/// Lines of a log that a failing test shows.
const SHOWN: usize = 80;

#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: Arc<Mutex<Vec<String>>>,
    readers: Vec<JoinHandle<()>>,
}

impl Process {
    pub fn start(name: &str, command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot start {name} ({command:?}): {error}"));
        let log = Arc::default();
        // A pipe that nobody reads would stop the process once it is full.
        let readers = vec![
            read_lines(child.stdout.take().expect("it is piped"), &log),
            read_lines(child.stderr.take().expect("it is piped"), &log),
        ];
        Self { name: name.to_owned(), child, log, readers }
    }

    pub fn lines(&self) -> Vec<String> {
        self.log.lock().expect("readers do not panic").clone()
    }

    /// The whole log, for a search in it.
    pub fn log(&self) -> String {
        self.lines().join("\n")
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// A line of `/proc/PID/status` in bytes: `VmRSS` is its memory now, `VmHWM` at its highest.
    pub fn memory(&self, line: &str) -> usize {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let found = status.lines().find_map(|one| one.strip_prefix(line)?.strip_prefix(':'));
        let kilobytes = found.unwrap_or_else(|| panic!("no {line}: the process has ended"));
        let number: usize = kilobytes.trim().trim_end_matches(" kB").parse().unwrap();
        number << 10
    }

    /// Seconds of processor time used so far.
    pub fn cpu(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.id())).unwrap();
        let fields: Vec<_> = stat.rsplit(") ").next().unwrap().split(' ').collect();
        let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
        ticks / 100.0
    }

    /// Its status, if it has ended.
    pub fn status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("it is our child")
    }

    /// Waits until it ends; its log is complete then.
    pub async fn end(&mut self, deadline: Duration) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        let status =
            eventually(deadline, &what, async || self.status().ok_or("running".to_owned())).await;
        self.drain();
        status
    }

    pub fn signal(&self, signal: Signal) {
        let id = Pid::from_child(&self.child);
        kill_process(id, signal).expect("it is our child");
    }

    pub fn kill(&mut self) {
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

/// Lets this process, and those that it starts, have that many files and sockets open.
pub fn allow_files(number: u64) {
    let limit = getrlimit(Resource::Nofile);
    if limit.current.is_some_and(|current| current < number) {
        let raised = Rlimit { current: Some(number), maximum: limit.maximum };
        setrlimit(Resource::Nofile, raised).expect("`ulimit -Hn` allows that many");
    }
}

fn read_lines(pipe: impl Read + Send + 'static, log: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let log = log.clone();
    std::thread::spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            log.lock().expect("readers do not panic").push(line);
        }
    })
}

//! Where lines go: a queue with a bound, and a thread that writes them. A reader that hangs stops that
//! thread and nothing else.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tracing::{Metadata, warn};
use tracing_subscriber::fmt::MakeWriter;

use super::rate::{RateLimiter, SUMMARY_INTERVAL};
use crate::escape;

/// What waits to be written, at most.
const LINES: usize = 8192;
const BYTES: usize = 2 << 20;

/// How long the end of the process waits for what is queued.
const LAST: Duration = Duration::from_secs(1);

/// The target of what the log says of itself.
pub(super) const OWN: &str = module_path!();

pub(super) static LOST: AtomicU64 = AtomicU64::new(0);

/// Who sees to it that a line holds nothing unsafe.
#[derive(Clone, Copy, Debug)]
pub(super) enum Escapes {
    /// Whoever formats it.
    Done,
    /// It is JSON, which escapes what would break a line, and nothing else.
    OfJson,
}

enum Order {
    Line(Box<[u8]>),
    /// To be answered once all that came before is written.
    End(SyncSender<()>),
}

/// Takes lines and never waits.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    queue: SyncSender<Order>,
    queued: Arc<AtomicUsize>,
    escapes: Escapes,
    lost: &'static AtomicU64,
}

/// Starts the thread that writes to `out`. Without a thread every line is lost, and counted.
pub(super) fn start(
    out: impl Write + Send + 'static,
    escapes: Escapes,
    rate: RateLimiter,
    lost: &'static AtomicU64,
) -> (Sink, Writing) {
    let (queue, orders) = sync_channel(LINES);
    let queued = Arc::new(AtomicUsize::new(0));
    let mut writer = Writer { out, queued: queued.clone(), rate, lost, lost_said: 0, works: true };
    // Not joined: a reader that hangs would hold up the end of the process.
    _ = thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&orders));
    (Sink { queue: queue.clone(), queued, escapes, lost }, Writing { queue })
}

impl Write for &Sink {
    /// A record, whole.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let line: Box<[u8]> = match (self.escapes, std::str::from_utf8(record)) {
            (Escapes::OfJson, Ok(text)) => {
                let escaped = escape::json(text.trim_end_matches('\n'));
                [escaped.as_bytes(), b"\n"].concat().into()
            }
            _ => record.into(),
        };
        let len = line.len();
        let fits = self.queued.fetch_add(len, Ordering::Relaxed) + len <= BYTES;
        if !fits || self.queue.try_send(Order::Line(line)).is_err() {
            self.queued.fetch_sub(len, Ordering::Relaxed);
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(record.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Sink {
    type Writer = &'a Sink;

    fn make_writer(&'a self) -> &'a Sink {
        self
    }
}

struct Writer<W> {
    out: W,
    queued: Arc<AtomicUsize>,
    rate: RateLimiter,
    lost: &'static AtomicU64,
    lost_said: u64,
    /// Whether the last line was written.
    works: bool,
}

impl<W: Write> Writer<W> {
    fn run(&mut self, orders: &Receiver<Order>) {
        let mut said = Instant::now();
        loop {
            match orders.recv_timeout(SUMMARY_INTERVAL) {
                Ok(Order::Line(line)) => self.line(&line),
                Ok(Order::End(done)) => {
                    self.sum_up();
                    // What that has said is behind this in the queue.
                    while let Ok(Order::Line(line)) = orders.try_recv() {
                        self.line(&line);
                    }
                    _ = done.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if said.elapsed() >= SUMMARY_INTERVAL {
                self.sum_up();
                said = Instant::now();
            }
        }
    }

    fn line(&mut self, line: &[u8]) {
        self.queued.fetch_sub(line.len(), Ordering::Relaxed);
        self.works = self.out.write_all(line).is_ok();
        if !self.works {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn sum_up(&mut self) {
        for (of, count) in self.rate.take_left_out() {
            say_left_out(of, count);
        }
        let lost = self.lost.load(Ordering::Relaxed);
        if self.works && lost > self.lost_said {
            say_lost(lost - self.lost_said);
            self.lost_said = lost;
        }
    }
}

fn say_left_out(of: &'static Metadata<'static>, count: u64) {
    let (file, line) = (of.file().unwrap_or_default(), of.line().unwrap_or_default());
    warn!(
        kind = of.target(), place = %format_args!("{file}:{line}"),
        "lines of one kind came too fast: {count} more were left out"
    );
}

fn say_lost(count: u64) {
    warn!("{count} lines of this log were lost: they could not be written, or not in time");
}

/// Writes what is queued when dropped, if that goes soon.
#[derive(Debug)]
pub(super) struct Writing {
    queue: SyncSender<Order>,
}

impl Drop for Writing {
    fn drop(&mut self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Order::End(done)).is_ok() {
            _ = written.recv_timeout(LAST);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Says what it is given to write, and writes as the answers say.
    struct Scripted {
        written: Sender<String>,
        answers: Receiver<io::Result<()>>,
    }

    impl Write for Scripted {
        fn write(&mut self, line: &[u8]) -> io::Result<usize> {
            self.written.send(String::from_utf8_lossy(line).into_owned()).unwrap();
            self.answers.recv().unwrap_or(Ok(()))?;
            Ok(line.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    struct Log {
        sink: Sink,
        writing: Writing,
        written: Receiver<String>,
        answers: Sender<io::Result<()>>,
        lost: &'static AtomicU64,
    }

    impl Log {
        fn start(escapes: Escapes) -> Self {
            let (written, lines) = channel();
            let (answers, scripted) = channel();
            let lost: &AtomicU64 = Box::leak(Box::default());
            let out = Scripted { written, answers: scripted };
            let (sink, writing) = start(out, escapes, RateLimiter::default(), lost);
            Self { sink, writing, written: lines, answers, lost }
        }

        fn says(&self, line: &str) {
            (&self.sink).write_all(line.as_bytes()).expect("it takes every line");
        }

        fn lost(&self) -> u64 {
            self.lost.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_the_next_one_is_tried() {
        let log = Log::start(Escapes::Done);
        log.answers.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        log.answers.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            log.says(line);
        }
        drop(log.answers);
        drop(log.writing);
        assert_eq!(log.written.try_iter().collect::<Vec<_>>(), ["one\n", "two\n", "three\n"]);
        assert_eq!(log.lost.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_reader_that_hangs_costs_lines_and_holds_up_nobody() {
        let log = Log::start(Escapes::Done);
        let line = "x".repeat(1023) + "\n";
        log.says(&line);
        // The thread hangs in this one.
        assert_eq!(log.written.recv().unwrap(), line);
        let fit = BYTES / line.len();
        for _ in 0..fit + 500 {
            log.says(&line);
        }
        assert_eq!(log.lost(), 500);
        drop(log.answers);
        drop(log.writing);
        assert_eq!(log.written.try_iter().count(), fit, "what fitted is written");
    }

    #[test]
    fn json_keeps_its_one_line_without_what_drives_a_terminal() {
        let log = Log::start(Escapes::OfJson);
        drop(log.answers);
        (&log.sink).write_all("{\"a\":\"\u{9b}2J\"}\n".as_bytes()).unwrap();
        drop(log.writing);
        assert_eq!(log.written.recv().unwrap(), "{\"a\":\"\\u009b2J\"}\n");
    }
}

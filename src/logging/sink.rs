//! The log's output: a bounded queue of lines and a thread that writes them. A reader that hangs blocks that
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

/// How much is queued at most; lines beyond that are dropped and counted.
const MAX_QUEUED_LINES: usize = 8192;
const MAX_QUEUED_BYTES: usize = 2 << 20;

/// How long the end of the process waits until the queued lines are written.
const FLUSH_TIMEOUT: Duration = Duration::from_secs(1);

/// The target of the lines in which the log reports about itself.
pub(super) const TARGET: &str = module_path!();

pub(super) static LOST_LINES: AtomicU64 = AtomicU64::new(0);

/// Who escapes control characters in a line.
#[derive(Clone, Copy, Debug)]
pub(super) enum Escaping {
    /// The formatter has.
    ByFormatter,
    /// The sink must: JSON escapes only the characters that would break a line.
    Json,
}

enum Command {
    Write(Box<[u8]>),
    /// Answered once all lines before it are written.
    Flush(SyncSender<()>),
}

/// Queues lines and never blocks.
#[derive(Clone, Debug)]
pub(super) struct Sink {
    queue: SyncSender<Command>,
    queued_bytes: Arc<AtomicUsize>,
    escaping: Escaping,
    lost: &'static AtomicU64,
}

/// Starts the thread that writes to `out`. If the thread cannot start, every line is dropped and counted.
pub(super) fn start(
    out: impl Write + Send + 'static,
    escaping: Escaping,
    rate: RateLimiter,
    lost: &'static AtomicU64,
) -> (Sink, WriterGuard) {
    let (queue, commands) = sync_channel(MAX_QUEUED_LINES);
    let queued_bytes = Arc::new(AtomicUsize::new(0));
    let mut writer = Writer {
        out,
        queued_bytes: queued_bytes.clone(),
        rate,
        lost,
        reported_lost: 0,
        last_write_succeeded: true,
    };
    // Not joined: a reader that hangs would hold up the end of the process.
    _ = thread::Builder::new().name("log".to_owned()).spawn(move || writer.run(&commands));
    (Sink { queue: queue.clone(), queued_bytes, escaping, lost }, WriterGuard { queue })
}

impl Write for &Sink {
    /// Queues a whole record.
    fn write(&mut self, record: &[u8]) -> io::Result<usize> {
        let line: Box<[u8]> = match (self.escaping, std::str::from_utf8(record)) {
            (Escaping::Json, Ok(text)) => {
                let escaped = escape::json(text.trim_end_matches('\n'));
                [escaped.as_bytes(), b"\n"].concat().into()
            }
            _ => record.into(),
        };
        let len = line.len();
        let fits = self.queued_bytes.fetch_add(len, Ordering::Relaxed) + len <= MAX_QUEUED_BYTES;
        if !fits || self.queue.try_send(Command::Write(line)).is_err() {
            self.queued_bytes.fetch_sub(len, Ordering::Relaxed);
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
    queued_bytes: Arc<AtomicUsize>,
    rate: RateLimiter,
    lost: &'static AtomicU64,
    reported_lost: u64,
    last_write_succeeded: bool,
}

impl<W: Write> Writer<W> {
    fn run(&mut self, commands: &Receiver<Command>) {
        let mut last_summary = Instant::now();
        loop {
            match commands.recv_timeout(SUMMARY_INTERVAL) {
                Ok(Command::Write(line)) => self.write_line(&line),
                Ok(Command::Flush(done)) => {
                    self.log_summary();
                    // The summary itself is behind this command in the queue.
                    while let Ok(Command::Write(line)) = commands.try_recv() {
                        self.write_line(&line);
                    }
                    _ = done.try_send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if last_summary.elapsed() >= SUMMARY_INTERVAL {
                self.log_summary();
                last_summary = Instant::now();
            }
        }
    }

    fn write_line(&mut self, line: &[u8]) {
        self.queued_bytes.fetch_sub(line.len(), Ordering::Relaxed);
        self.last_write_succeeded = self.out.write_all(line).is_ok();
        if !self.last_write_succeeded {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn log_summary(&mut self) {
        for (metadata, count) in self.rate.take_left_out() {
            log_left_out(metadata, count);
        }
        let lost = self.lost.load(Ordering::Relaxed);
        if self.last_write_succeeded && lost > self.reported_lost {
            log_lost(lost - self.reported_lost);
            self.reported_lost = lost;
        }
    }
}

fn log_left_out(metadata: &'static Metadata<'static>, count: u64) {
    let (file, line) = (metadata.file().unwrap_or_default(), metadata.line().unwrap_or_default());
    warn!(
        kind = metadata.target(), place = %format_args!("{file}:{line}"),
        "lines of one kind came too fast: {count} more were left out"
    );
}

fn log_lost(count: u64) {
    warn!("{count} lines of this log were lost: they could not be written, or not in time");
}

/// Waits, when dropped, until the queued lines are written, but not longer than [`FLUSH_TIMEOUT`].
#[derive(Debug)]
pub(super) struct WriterGuard {
    queue: SyncSender<Command>,
}

impl Drop for WriterGuard {
    fn drop(&mut self) {
        let (done, written) = sync_channel(1);
        if self.queue.try_send(Command::Flush(done)).is_ok() {
            _ = written.recv_timeout(FLUSH_TIMEOUT);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Sender, channel};

    use super::*;

    /// Reports what it is given to write; the test scripts the results.
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
        guard: WriterGuard,
        written: Receiver<String>,
        answers: Sender<io::Result<()>>,
        lost: &'static AtomicU64,
    }

    impl Log {
        fn start(escaping: Escaping) -> Self {
            let (written, lines) = channel();
            let (answers, scripted) = channel();
            let lost: &AtomicU64 = Box::leak(Box::default());
            let out = Scripted { written, answers: scripted };
            let (sink, guard) = start(out, escaping, RateLimiter::default(), lost);
            Self { sink, guard, written: lines, answers, lost }
        }

        fn write(&self, line: &str) {
            (&self.sink).write_all(line.as_bytes()).expect("it takes every line");
        }

        fn lost(&self) -> u64 {
            self.lost.load(Ordering::Relaxed)
        }
    }

    #[test]
    fn a_line_that_cannot_be_written_is_counted_and_the_next_one_is_tried() {
        let log = Log::start(Escaping::ByFormatter);
        log.answers.send(Err(io::ErrorKind::StorageFull.into())).unwrap();
        log.answers.send(Err(io::ErrorKind::BrokenPipe.into())).unwrap();
        for line in ["one\n", "two\n", "three\n"] {
            log.write(line);
        }
        drop(log.answers);
        drop(log.guard);
        assert_eq!(log.written.try_iter().collect::<Vec<_>>(), ["one\n", "two\n", "three\n"]);
        assert_eq!(log.lost.load(Ordering::Relaxed), 2);
    }

    #[test]
    fn a_reader_that_hangs_costs_lines_and_holds_up_nobody() {
        let log = Log::start(Escaping::ByFormatter);
        let line = "x".repeat(1023) + "\n";
        log.write(&line);
        // The thread hangs in this one.
        assert_eq!(log.written.recv().unwrap(), line);
        let fit = MAX_QUEUED_BYTES / line.len();
        for _ in 0..fit + 500 {
            log.write(&line);
        }
        assert_eq!(log.lost(), 500);
        drop(log.answers);
        drop(log.guard);
        assert_eq!(log.written.try_iter().count(), fit, "what fitted is written");
    }

    #[test]
    fn json_keeps_its_one_line_without_what_drives_a_terminal() {
        let log = Log::start(Escaping::Json);
        drop(log.answers);
        (&log.sink).write_all("{\"a\":\"\u{9b}2J\"}\n".as_bytes()).unwrap();
        drop(log.guard);
        assert_eq!(log.written.recv().unwrap(), "{\"a\":\"\\u009b2J\"}\n");
    }
}

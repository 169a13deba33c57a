//! The log: one record a line on standard error, whatever is said in it and whoever reads it.
//!
//! ```text
//! event ──> filter (--log) ──> rate (of one kind) ──> format, escaped ──> queue ──> writer's thread
//! ```
//!
//! What must never happen for the sake of the log: that the program waits (a reader that hangs), ends
//! (a reader that is gone, a disk that is full) or grows (a peer that makes it log). So lines are left
//! out and lost instead, and both are counted.

use std::panic::PanicHookInfo;

use tracing::error;
use tracing::field::Field;
use tracing_subscriber::field::MakeExt as _;
use tracing_subscriber::filter::{EnvFilter, ParseError};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::fmt::{self, FormatFields};
use tracing_subscriber::layer::{Layer as _, SubscriberExt as _};
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::escape::Escaping;
use crate::output;

mod rate;
mod sink;

use rate::RateLimiter;
use sink::{LOST_LINES, WriterGuard};

/// How a line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// With colours where the reader is a person.
    Text {
        colours: bool,
    },
    Json,
}

/// Lines that were lost: standard error did not take them, or not in time.
#[must_use]
pub fn lost() -> u64 {
    LOST_LINES.load(std::sync::atomic::Ordering::Relaxed)
}

/// Lines that were left out because there were too many of their kind.
#[must_use]
pub fn left_out() -> u64 {
    rate::LEFT_OUT.load(std::sync::atomic::Ordering::Relaxed)
}

/// Ends the log when dropped: what is queued is written, if that goes soon.
#[derive(Debug)]
pub struct Logging {
    _guard: WriterGuard,
}

/// Starts the log of this process; `filter` is `--log`.
///
/// # Errors
/// The filter makes no sense.
pub fn start(filter: &str, format: Format) -> Result<Logging, ParseError> {
    let filter = EnvFilter::try_new(filter)?;
    let rate = RateLimiter::default();
    let escaping = match format {
        Format::Text { .. } => sink::Escaping::ByFormatter,
        Format::Json => sink::Escaping::Json,
    };
    let (sink, guard) = sink::start(std::io::stderr(), escaping, rate.clone(), &LOST_LINES);
    let lines = fmt::layer().with_writer(sink).log_internal_errors(false);
    let lines = match format {
        Format::Text { colours } => lines.with_ansi(colours).fmt_fields(fields()).boxed(),
        Format::Json => lines.with_ansi(false).json().boxed(),
    };
    tracing_subscriber::registry().with(filter).with(rate).with(lines).init();
    std::panic::set_hook(Box::new(panicked));
    Ok(Logging { _guard: guard })
}

/// `message NAME=value …`, with nothing in it that is not seen as what it is.
fn fields() -> impl for<'a> FormatFields<'a> + Send + Sync + 'static {
    debug_fn(|writer: &mut Writer<'_>, field: &Field, value| {
        use std::fmt::Write as _;
        match field.name() {
            "message" => write!(Escaping(&mut *writer), "{value:?}"),
            // Where a line of the `log` crate came from, which stands in its target already.
            name if name.starts_with("log.") => Ok(()),
            name if writer.has_ansi_escapes() => {
                write!(writer, "\u{1b}[3m{name}\u{1b}[0m\u{1b}[2m=\u{1b}[0m")?;
                write!(Escaping(&mut *writer), "{value:?}")
            }
            name => {
                write!(writer, "{name}=")?;
                write!(Escaping(&mut *writer), "{value:?}")
            }
        }
    })
    .delimited(" ")
}

/// A panic is a line of the log like any other; where errors are not logged it is said all the same.
fn panicked(panic: &PanicHookInfo<'_>) {
    let message = crate::parts::panic_message(panic.payload());
    let place = panic.location().map(ToString::to_string).unwrap_or_default();
    let thread = std::thread::current();
    let thread = thread.name().unwrap_or("without a name");
    if tracing::enabled!(tracing::Level::ERROR) {
        error!(%place, thread, "panic: {message}");
    } else {
        output::eprint_line(format_args!(
            "error: panic at {place}: {}",
            crate::escape::line(&message)
        ));
    }
}

/// Says a fatal error: in the log, or if that is silent on standard error.
pub fn fatal(problem: &anyhow::Error) {
    if tracing::enabled!(tracing::Level::ERROR) {
        error!("{problem:#}");
    } else {
        output::eprint_line(format_args!(
            "error: {}",
            crate::escape::line(&format!("{problem:#}"))
        ));
    }
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::sync::{Arc, Mutex};

    use tracing::{info, warn};

    use super::*;

    #[derive(Clone, Default)]
    struct Page(Arc<Mutex<Vec<u8>>>);

    impl Write for Page {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// What is logged as text, colours and all.
    fn logged(colours: bool, log: impl FnOnce()) -> String {
        let page = Page::default();
        let out = page.clone();
        let lines = fmt::layer().with_writer(move || out.clone()).with_ansi(colours);
        let lines = lines.fmt_fields(fields());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(lines), log);
        let bytes = page.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_peer_can_neither_forge_a_line_nor_drive_a_terminal() {
        let evil = "x\n2026-11-26T00:00:00Z ERROR forged\r\u{1b}[2J\u{9b}31m\u{202e}y";
        let log = || {
            info!(proxy = %evil, quoted = evil, other = ?evil, count = 7, "node says {evil}");
            warn!("two\nlines");
        };
        let text = logged(false, log);
        assert_eq!(text.lines().count(), 2, "{text}");
        let unsafe_at =
            text.trim_end().find(|c: char| c.is_control() && c != '\n' || c == '\u{202e}');
        assert_eq!(unsafe_at, None, "{text}");
        assert!(text.contains("node says x\\n2026-11-26T00:00:00Z ERROR forged"), "{text}");
        assert!(text.contains("\\r\\u{1b}[2J\\u{9b}31m\\u{202e}y proxy=x\\n"), "{text}");
        assert!(text.contains(" count=7") && text.ends_with("two\\nlines\n"), "{text}");
        // Colours are ours, and nobody else's.
        let coloured = logged(true, log);
        assert_eq!(coloured.lines().count(), 2, "{coloured}");
        assert!(coloured.contains("\u{1b}[3mproxy\u{1b}[0m"), "{coloured}");
        assert!(!coloured.contains("\u{1b}[2J") && !coloured.contains('\u{9b}'), "{coloured}");
    }
}

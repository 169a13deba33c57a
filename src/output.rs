//! What a command prints. `print!` and `eprintln!` panic where nobody reads or a disk is full; here
//! standard output gives an error, and what goes to standard error may be lost.

use std::fmt;
use std::io::{self, Write as _};

use thiserror::Error;

/// Standard output does not take what was to be printed.
#[derive(Debug, Error)]
#[error("standard output cannot be written: {0}")]
pub struct Unwritten(#[from] io::Error);

impl Unwritten {
    /// Whoever read has gone, as in `inject … | head`: that is no news to anybody.
    #[must_use]
    pub fn is_unread(&self) -> bool {
        self.0.kind() == io::ErrorKind::BrokenPipe
    }
}

/// Prints the whole of `text`.
///
/// # Errors
/// Some of it was not taken.
pub fn print(text: &str) -> Result<(), Unwritten> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// Says a line on standard error, if somebody listens.
pub fn eprint_line(line: impl fmt::Display) {
    _ = writeln!(io::stderr().lock(), "{line}");
}

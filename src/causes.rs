//! An error as one sentence with its causes.

use std::error::Error;

/// The error and all its causes, each once: most libraries repeat the cause in their own text.
#[must_use]
pub fn with_causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use thiserror::Error;

    use super::*;

    #[derive(Debug, Error)]
    #[error("client error")]
    struct Outer(#[source] Middle);

    #[derive(Debug, Error)]
    #[error("connect: {0}")]
    struct Middle(#[source] io::Error);

    #[test]
    fn each_cause_is_told_once() {
        let error = Outer(Middle(io::Error::other("refused")));
        assert_eq!(with_causes(&error), "client error: connect: refused");
    }
}

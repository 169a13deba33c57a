//! Text that a peer sent, cut to a limit: whatever is kept, logged or echoed of it costs no more than that,
//! however much the peer sends.

use std::borrow::Cow;

/// At most `limit` bytes of `text`. Of what is longer the beginning is kept, and how long it was.
pub fn cut(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit {
        return Cow::Borrowed(text);
    }
    let note = format!("… ({} bytes)", text.len());
    let kept = text.floor_char_boundary(limit.saturating_sub(note.len()));
    Cow::Owned(format!("{}{note}", &text[..kept]))
}

/// The same for bytes that may be no UTF-8: what is none stands as U+FFFD.
pub fn cut_lossy(bytes: &[u8], limit: usize) -> String {
    let note = format!("… ({} bytes)", bytes.len());
    let whole = bytes.len() <= limit;
    let kept = if whole { bytes } else { &bytes[..limit] };
    let text = String::from_utf8_lossy(kept);
    if whole && text.len() <= limit {
        return text.into_owned();
    }
    let kept = text.floor_char_boundary(limit.saturating_sub(note.len()));
    format!("{}{note}", &text[..kept])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_longer_is_cut_between_characters_and_says_how_long_it_was() {
        assert_eq!(cut("short", 5), "short");
        assert_eq!(cut("", 5), "");
        let long = "ä".repeat(100);
        for limit in 20..60 {
            let got = cut(&long, limit);
            assert!(got.len() <= limit && got.ends_with("… (200 bytes)"), "{got}");
            assert_eq!(got, cut_lossy(long.as_bytes(), limit));
        }
        // Each byte that is no UTF-8 becomes three.
        let got = cut_lossy(&[0xff; 40], 60);
        assert!(got.len() <= 60 && got.ends_with("… (40 bytes)"), "{got}");
        assert_eq!(cut_lossy(b"as it is", 60), "as it is");
    }
}

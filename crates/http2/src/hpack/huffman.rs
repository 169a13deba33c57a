//! The Huffman code of HPACK (RFC 7541, appendix B), for decoding only: what we send is not coded.
//!
//! The code is canonical: codes of one length follow each other in the order of their symbols, so
//! the table can be computed from the lengths alone.

/// The end-of-string symbol, which must not occur in a string (section 5.2).
const EOS: usize = 256;

/// Length of the longest code in bits.
const MAX_LENGTH: usize = 30;

/// Length of each symbol's code in bits.
#[rustfmt::skip]
const LENGTHS: [u8; EOS + 1] = [
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28,
    28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 28,
    6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6,
    5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7, 8, 15, 6, 12, 10,
    13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7,
    7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19, 13, 14, 6,
    15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5,
    6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13, 28,
    20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23,
    24, 24, 22, 23, 24, 23, 23, 23, 23, 21, 22, 23, 22, 23, 23, 24,
    22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23,
    21, 21, 22, 21, 23, 22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23,
    26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27,
    20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25, 25, 24, 24, 26, 23,
    26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26,
    30,
];

/// The codes of one length.
#[derive(Clone, Copy)]
struct Row {
    first_code: u32,
    codes: u32,
    /// The index of the first code's symbol in [`SYMBOLS`].
    first_symbol: usize,
}

const ROWS: [Row; MAX_LENGTH + 1] = {
    let mut rows = [Row { first_code: 0, codes: 0, first_symbol: 0 }; MAX_LENGTH + 1];
    let mut symbol = 0;
    while symbol <= EOS {
        rows[LENGTHS[symbol] as usize].codes += 1;
        symbol += 1;
    }
    let mut len = 1;
    while len <= MAX_LENGTH {
        let shorter = rows[len - 1];
        rows[len].first_code = (shorter.first_code + shorter.codes) << 1;
        rows[len].first_symbol = shorter.first_symbol + shorter.codes as usize;
        len += 1;
    }
    rows
};

/// Symbols in the order of their codes.
const SYMBOLS: [u16; EOS + 1] = {
    let mut symbols = [0; EOS + 1];
    let mut next = [0; MAX_LENGTH + 1];
    let mut symbol = 0;
    while symbol <= EOS {
        let len = LENGTHS[symbol] as usize;
        symbols[ROWS[len].first_symbol + next[len]] = symbol as u16;
        next[len] += 1;
        symbol += 1;
    }
    symbols
};

/// Appends the decoded bytes; `None` if `coded` is not a valid string.
pub(super) fn decode(coded: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (mut code, mut len) = (0_u32, 0);
    for byte in coded {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            len += 1;
            let row = ROWS.get(len)?;
            let within = code.wrapping_sub(row.first_code);
            if within < row.codes {
                let symbol = *SYMBOLS.get(row.first_symbol + within as usize)?;
                out.push(u8::try_from(symbol).ok()?);
                (code, len) = (0, 0);
            }
        }
    }
    // The padding is less than a byte of the most significant bits of EOS, which are ones.
    (len < 8 && code + 1 == 1 << len).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(coded: &[u8]) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        decode(coded, &mut out).map(|()| out)
    }

    fn encode(text: &[u8]) -> Vec<u8> {
        let (mut bits, mut out) = (String::new(), Vec::new());
        for byte in text {
            let len = LENGTHS[*byte as usize] as usize;
            let order = SYMBOLS.iter().position(|one| *one == u16::from(*byte)).unwrap();
            let code = ROWS[len].first_code as usize + order - ROWS[len].first_symbol;
            bits += &format!("{code:0len$b}");
        }
        bits += &"1".repeat((8 - bits.len() % 8) % 8);
        for at in (0..bits.len()).step_by(8) {
            out.push(u8::from_str_radix(&bits[at..at + 8], 2).unwrap());
        }
        out
    }

    /// RFC 7541, appendix C.4 and C.6, and codes from appendix B's table.
    #[test]
    fn the_examples_of_the_rfc() {
        let www = [0xf1, 0xe3, 0xc2, 0xe5, 0xf2, 0x3a, 0x6b, 0xa0, 0xab, 0x90, 0xf4, 0xff];
        assert_eq!(text(&www).unwrap(), b"www.example.com");
        assert_eq!(text(&[0xa8, 0xeb, 0x10, 0x64, 0x9c, 0xbf]).unwrap(), b"no-cache");
        assert_eq!(text(&[0x64, 0x02]).unwrap(), b"302");
        assert_eq!(text(&[0xff, 0xc7]).unwrap(), b"\0", "13 bits: 1ff8");
        assert_eq!(text(&[0xff, 0xff, 0xff, 0xf3]).unwrap(), b"\n", "30 bits: 3ffffffc");
        assert_eq!(text(&[0xff, 0xff, 0xfb, 0xbf]).unwrap(), [255], "26 bits: 3ffffee");
    }

    #[test]
    fn every_symbol_comes_back() {
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(text(&encode(&all)).unwrap(), all);
    }

    #[test]
    fn what_is_no_string_is_refused() {
        assert_eq!(text(&[0x00]), None, "padded with zeros");
        assert_eq!(text(&[0xff]), None, "a whole byte of padding");
        assert_eq!(text(&[0xff, 0xff, 0xff, 0xff]), None, "EOS");
        assert_eq!(text(&[0x07, 0xff]), None, "more than seven bits of padding");
        assert_eq!(text(b""), Some(Vec::new()));
    }
}

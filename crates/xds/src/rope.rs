//! Bytes in several parts that others share.
//!
//! What differs little from something else (the table of a namespace, the response of a view) is made of
//! slices of that and of its own few bytes, instead of a copy.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;

/// Immutable bytes in parts, one after the other. A clone shares the parts.
#[derive(Clone, Debug)]
pub struct Rope(Repr);

#[derive(Clone, Debug)]
enum Repr {
    One(Bytes),
    Many(Arc<[Part]>),
}

#[derive(Clone, Debug)]
struct Part {
    /// Where in the rope the part ends.
    end: usize,
    /// A pointer, since a response of thousands of resources has hundreds of parts, and each view its own list.
    bytes: Arc<Bytes>,
}

impl Rope {
    pub fn len(&self) -> usize {
        match &self.0 {
            Repr::One(bytes) => bytes.len(),
            Repr::Many(parts) => parts.last().map_or(0, |part| part.end),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The parts of a range; none of them is empty.
    pub fn slices(&self, range: Range<usize>) -> impl Iterator<Item = Bytes> + '_ {
        let (one, parts) = match &self.0 {
            Repr::One(bytes) => (Some((0, bytes)), &[][..]),
            Repr::Many(parts) => (
                None,
                parts
                    .get(parts.partition_point(|part| part.end <= range.start)..)
                    .unwrap_or_default(),
            ),
        };
        let parts = parts.iter().map(|part| (part.end - part.bytes.len(), &*part.bytes));
        let within = one.into_iter().chain(parts).take_while({
            let end = range.end;
            move |(start, _)| *start < end
        });
        within.filter_map(move |(start, bytes)| {
            let from = range.start.saturating_sub(start).min(bytes.len());
            let to = range.end.saturating_sub(start).min(bytes.len());
            (from < to).then(|| bytes.slice(from..to))
        })
    }

    /// All parts.
    pub fn parts(&self) -> impl Iterator<Item = Bytes> + '_ {
        self.slices(0..self.len())
    }

    /// The bytes of a range in one piece: a copy, unless they are in one part.
    pub fn contiguous(&self, range: Range<usize>) -> Bytes {
        let mut slices = self.slices(range.clone()).peekable();
        let first = slices.next().unwrap_or_default();
        if slices.peek().is_none() {
            return first;
        }
        let mut all = Vec::with_capacity(range.len());
        all.extend_from_slice(&first);
        slices.for_each(|slice| all.extend_from_slice(&slice));
        all.into()
    }

    /// Bytes that the list of parts takes beside the parts.
    pub(crate) fn overhead(&self) -> usize {
        match &self.0 {
            Repr::One(_) => 0,
            Repr::Many(parts) => std::mem::size_of_val(&**parts),
        }
    }

    /// Where the first part is: tells whether two are one.
    pub fn address(&self) -> usize {
        self.parts().next().map_or(0, |part| part.as_ptr() as usize)
    }
}

impl Default for Rope {
    fn default() -> Self {
        Self(Repr::One(Bytes::new()))
    }
}

impl From<Vec<u8>> for Rope {
    fn from(bytes: Vec<u8>) -> Self {
        Self(Repr::One(bytes.into()))
    }
}

impl FromIterator<Bytes> for Rope {
    fn from_iter<I: IntoIterator<Item = Bytes>>(parts: I) -> Self {
        parts.into_iter().map(Arc::new).collect()
    }
}

impl FromIterator<Arc<Bytes>> for Rope {
    fn from_iter<I: IntoIterator<Item = Arc<Bytes>>>(parts: I) -> Self {
        let mut end = 0;
        let parts = parts.into_iter().filter(|bytes| !bytes.is_empty()).map(|bytes| {
            end += bytes.len();
            Part { end, bytes }
        });
        let parts: Arc<[Part]> = parts.collect();
        match &*parts {
            [] => Self::default(),
            [Part { bytes, .. }] => Self(Repr::One(Bytes::clone(bytes))),
            _ => Self(Repr::Many(parts)),
        }
    }
}

impl PartialEq for Rope {
    fn eq(&self, other: &Self) -> bool {
        self.len() == other.len()
            && self.contiguous(0..self.len()) == other.contiguous(0..other.len())
    }
}

impl Eq for Rope {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_range_is_that_of_the_bytes_and_shares_them() {
        let parts = [&b"ab"[..], b"", b"c", b"defg"].map(Bytes::from_static);
        for count in 0..=parts.len() {
            let whole = parts[..count].concat();
            let rope: Rope = parts[..count].iter().cloned().collect();
            assert_eq!((rope.len(), rope.is_empty()), (whole.len(), whole.is_empty()));
            for from in 0..=whole.len() {
                for to in from..=whole.len() {
                    let slices: Vec<Bytes> = rope.slices(from..to).collect();
                    assert!(slices.iter().all(|slice| !slice.is_empty()), "{from}..{to}");
                    assert_eq!(slices.concat(), whole[from..to], "{from}..{to} of {count}");
                    assert_eq!(rope.contiguous(from..to), whole[from..to]);
                }
            }
        }
        let rope: Rope = parts.iter().cloned().collect();
        let last = rope.parts().last().unwrap();
        assert_eq!(last.as_ptr(), parts[3].as_ptr(), "not a copy");
    }
}

//! Bytes on their way to the kernel: what is a connection's own, copied into one buffer, and what
//! all connections share, as it is.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use bytes::{Buf, Bytes};

/// Copying so few costs less than a part of its own.
pub(crate) const COPIED: usize = 4096;

/// What one call to the kernel takes at most (`writev`).
pub(crate) const MAX_PARTS: usize = 64;

/// What is kept of the buffer for the next connection.
const KEPT: usize = 512 << 10;

#[derive(Debug)]
enum Part {
    Own(Range<usize>),
    Shared(Bytes),
}

/// What is to be written together. Meant to be used again and again, by one connection after the
/// other, so that gathering allocates nothing.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    own: Vec<u8>,
    parts: Vec<Part>,
    len: usize,
}

impl Batch {
    pub(crate) fn clear(&mut self) {
        self.own.clear();
        // What one peer made long is not kept for the others.
        self.own.shrink_to(KEPT);
        self.parts.clear();
        self.len = 0;
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there is room for one more frame (its head, and both kinds of content).
    pub(crate) fn has_room(&self, bytes: usize) -> bool {
        self.len < bytes && self.parts.len() + 3 <= MAX_PARTS
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        let at = self.own.len();
        self.own.extend_from_slice(bytes);
        self.len += bytes.len();
        match self.parts.last_mut() {
            Some(Part::Own(range)) => range.end = self.own.len(),
            _ => self.parts.push(Part::Own(at..self.own.len())),
        }
    }

    pub(crate) fn push_shared(&mut self, bytes: Bytes) {
        if bytes.len() <= COPIED {
            return self.push(&bytes);
        }
        self.len += bytes.len();
        self.parts.push(Part::Shared(bytes));
    }

    fn part<'a>(&'a self, part: &'a Part) -> &'a [u8] {
        match part {
            Part::Own(range) => self.own.get(range.clone()).unwrap_or_default(),
            Part::Shared(bytes) => bytes,
        }
    }

    pub(crate) fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| self.part(part))
    }

    /// What is left when `written` bytes are in the kernel.
    pub(crate) fn rest(&self, mut written: usize) -> VecDeque<Bytes> {
        let mut rest = VecDeque::new();
        for part in &self.parts {
            let len = self.part(part).len();
            let skip = written.min(len);
            written -= skip;
            if skip < len {
                rest.push_back(match part {
                    Part::Own(_) => Bytes::copy_from_slice(&self.part(part)[skip..]),
                    Part::Shared(bytes) => bytes.slice(skip..),
                });
            }
        }
        rest
    }
}

/// As many parts as fit, as the kernel takes them.
pub(crate) fn slices<'a, 'b>(
    parts: impl Iterator<Item = &'a [u8]>,
    into: &'b mut [IoSlice<'a>; MAX_PARTS],
) -> &'b [IoSlice<'a>] {
    let mut count = 0;
    for (slot, part) in into.iter_mut().zip(parts) {
        *slot = IoSlice::new(part);
        count += 1;
    }
    into.get(..count).unwrap_or_default()
}

/// Takes `written` bytes off the front.
pub(crate) fn advance(rest: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(first) = rest.front_mut() {
        if written < first.len() {
            first.advance(written);
            return;
        }
        written -= first.len();
        rest.pop_front();
    }
    // Nothing is kept for a connection that is quiet.
    *rest = VecDeque::new();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_what_was_not_written() {
        let shared = Bytes::from(vec![7; COPIED + 1]);
        let mut batch = Batch::default();
        batch.push(b"head");
        batch.push_shared(Bytes::from_static(b"small"));
        batch.push_shared(shared.clone());
        batch.push(b"tail");
        let whole = [&b"headsmall"[..], &shared, b"tail"].concat();
        assert_eq!((batch.len(), batch.parts.len()), (whole.len(), 3));
        let mut into = [IoSlice::new(&[]); MAX_PARTS];
        let slices = slices(batch.parts(), &mut into);
        assert_eq!(slices.iter().flat_map(|one| one.to_vec()).collect::<Vec<_>>(), whole);
        for written in [0, 3, 8, 9, 10, COPIED, COPIED + 10, COPIED + 11, whole.len()] {
            let mut rest = batch.rest(written);
            let left = |rest: &VecDeque<Bytes>| rest.iter().flatten().copied().collect::<Vec<_>>();
            assert_eq!(left(&rest), whole[written..], "{written}");
            let half = rest.iter().map(Bytes::len).sum::<usize>() / 2;
            advance(&mut rest, half);
            assert_eq!(left(&rest), whole[written + half..], "{written}, then {half}");
        }
        let mut rest = batch.rest(0);
        let own = rest.get(1).map(|one| one.as_ptr());
        assert_eq!(own, Some(shared.as_ptr()), "what is shared is not copied");
        advance(&mut rest, whole.len());
        assert_eq!(rest.capacity(), 0);
    }
}

//! Gathers bytes for one `writev`: small pieces are copied into one buffer, large ones are referenced
//! where all connections share them.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::ops::Range;

use bytes::{Buf, Bytes};

/// Shared bytes up to this length are copied into a batch: that costs less than an `iovec` of their
/// own.
pub const COPY_LIMIT: usize = 4096;

/// The number of slices that one `writev` gets at most.
pub const MAX_IO_SLICES: usize = 128;

/// Parts of a DATA frame: its header, and a payload of up to 16 KiB in shared parts longer than [`COPY_LIMIT`],
/// with copied ones between them.
const FRAME_PARTS: usize = 9;

/// The capacity in bytes of the copy buffer that [`WriteBatch::clear`] keeps.
const MAX_KEPT_CAPACITY: usize = 512 << 10;

#[derive(Debug)]
enum Part {
    /// A range of the copy buffer.
    Copied(Range<usize>),
    Shared(Bytes),
}

/// The bytes of one `writev`. One batch serves many connections in turn, so that gathering
/// allocates nothing.
#[derive(Debug, Default)]
pub struct WriteBatch {
    copied: Vec<u8>,
    parts: Vec<Part>,
    len: usize,
}

impl WriteBatch {
    /// Empties the batch and drops its references to shared bytes.
    pub fn clear(&mut self) {
        self.copied.clear();
        // A buffer that one connection made large is not kept for all others.
        self.copied.shrink_to(MAX_KEPT_CAPACITY);
        self.parts.clear();
        self.len = 0;
    }

    /// Bytes in the batch.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nothing was pushed.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether one more frame may be pushed (a header, and a payload of shared and copied parts)
    /// before the batch has `limit` bytes or [`MAX_IO_SLICES`] parts.
    pub fn has_room(&self, limit: usize) -> bool {
        self.len < limit && self.parts.len() + FRAME_PARTS <= MAX_IO_SLICES
    }

    /// Copies bytes into the batch.
    pub fn push(&mut self, bytes: &[u8]) {
        let at = self.copied.len();
        self.copied.extend_from_slice(bytes);
        self.len += bytes.len();
        match self.parts.last_mut() {
            Some(Part::Copied(range)) => range.end = self.copied.len(),
            _ => self.parts.push(Part::Copied(at..self.copied.len())),
        }
    }

    /// Adds bytes without copying them, unless they are few ([`COPY_LIMIT`]).
    pub fn push_shared(&mut self, bytes: Bytes) {
        if bytes.len() <= COPY_LIMIT {
            return self.push(&bytes);
        }
        self.len += bytes.len();
        self.parts.push(Part::Shared(bytes));
    }

    fn part_bytes<'a>(&'a self, part: &'a Part) -> &'a [u8] {
        match part {
            Part::Copied(range) => self.copied.get(range.clone()).unwrap_or_default(),
            Part::Shared(bytes) => bytes,
        }
    }

    /// The bytes in the order in which they were pushed.
    pub fn parts(&self) -> impl Iterator<Item = &[u8]> {
        self.parts.iter().map(|part| self.part_bytes(part))
    }

    /// The bytes after the first `written` ones: what a short write has left, for the connection to
    /// keep until its socket is writable.
    pub fn unsent(&self, mut written: usize) -> VecDeque<Bytes> {
        let mut unsent = VecDeque::new();
        for part in &self.parts {
            let len = self.part_bytes(part).len();
            let skip = written.min(len);
            written -= skip;
            if skip < len {
                unsent.push_back(match part {
                    Part::Copied(_) => Bytes::copy_from_slice(&self.part_bytes(part)[skip..]),
                    Part::Shared(bytes) => bytes.slice(skip..),
                });
            }
        }
        unsent
    }
}

/// Fills `into` with as many parts as fit, for a vectored write; returns the filled ones.
pub fn fill_io_slices<'a, 'b>(
    parts: impl Iterator<Item = &'a [u8]>,
    into: &'b mut [IoSlice<'a>; MAX_IO_SLICES],
) -> &'b [IoSlice<'a>] {
    let mut count = 0;
    for (slot, part) in into.iter_mut().zip(parts) {
        *slot = IoSlice::new(part);
        count += 1;
    }
    into.get(..count).unwrap_or_default()
}

/// Removes `written` bytes from the front.
pub fn advance_unsent(unsent: &mut VecDeque<Bytes>, mut written: usize) {
    while let Some(first) = unsent.front_mut() {
        if written < first.len() {
            first.advance(written);
            return;
        }
        written -= first.len();
        unsent.pop_front();
    }
    // A quiet connection keeps no capacity.
    *unsent = VecDeque::new();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_unsent_is_what_was_not_written() {
        let shared = Bytes::from(vec![7; COPY_LIMIT + 1]);
        let mut batch = WriteBatch::default();
        batch.push(b"head");
        batch.push_shared(Bytes::from_static(b"small"));
        batch.push_shared(shared.clone());
        batch.push(b"tail");
        let whole = [&b"headsmall"[..], &shared, b"tail"].concat();
        assert_eq!((batch.len(), batch.parts.len()), (whole.len(), 3));
        let mut into = [IoSlice::new(&[]); MAX_IO_SLICES];
        let slices = fill_io_slices(batch.parts(), &mut into);
        assert_eq!(slices.iter().flat_map(|one| one.to_vec()).collect::<Vec<_>>(), whole);
        for written in [0, 3, 8, 9, 10, COPY_LIMIT, COPY_LIMIT + 10, COPY_LIMIT + 11, whole.len()] {
            let mut unsent = batch.unsent(written);
            let bytes =
                |unsent: &VecDeque<Bytes>| unsent.iter().flatten().copied().collect::<Vec<_>>();
            assert_eq!(bytes(&unsent), whole[written..], "{written}");
            let half = unsent.iter().map(Bytes::len).sum::<usize>() / 2;
            advance_unsent(&mut unsent, half);
            assert_eq!(bytes(&unsent), whole[written + half..], "{written}, then {half}");
        }
        let mut unsent = batch.unsent(0);
        let shared_at = unsent.get(1).map(|one| one.as_ptr());
        assert_eq!(shared_at, Some(shared.as_ptr()), "shared bytes are not copied");
        advance_unsent(&mut unsent, whole.len());
        assert_eq!(unsent.capacity(), 0);
    }
}

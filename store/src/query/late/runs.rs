//! [`Runs`]: small numbers as Parquet stores levels and places in a dictionary: in turns a number that is
//! repeated, and numbers packed into as few bits as the largest needs.
//!
//! A run begins with a varint. Its lowest bit tells the kind, the others the length: how often the number
//! that follows is repeated, or how many groups of eight packed numbers follow.

use arrow::{array::BooleanBufferBuilder, buffer::BooleanBuffer};

/// Numbers of one kind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Run<'a> {
    /// One, repeated.
    Same {
        number: u32,
        count: usize,
    },
    Packed(Packed<'a>),
}

/// Numbers of a few bits each, the lowest bits first.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Packed<'a> {
    bytes: &'a [u8],
    width: usize,
    pub(super) count: usize,
}

/// The runs of so many numbers. It ends early where the bytes are not what they should be.
#[derive(Debug)]
pub(super) struct Runs<'a> {
    bytes: &'a [u8],
    /// Bits of a number.
    width: usize,
    left: usize,
}

impl<'a> Runs<'a> {
    pub(super) fn new(bytes: &'a [u8], width: usize, count: usize) -> Self {
        Self { bytes, width, left: count }
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(taken)
    }

    fn varint(&mut self) -> Option<usize> {
        let mut number = 0;
        for shift in (0..35).step_by(7) {
            let byte = self.take(1)?[0];
            number |= usize::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(number);
            }
        }
        None
    }
}

impl<'a> Iterator for Runs<'a> {
    type Item = Run<'a>;

    fn next(&mut self) -> Option<Run<'a>> {
        if self.left == 0 || self.width > 32 {
            return None;
        }
        let header = self.varint()?;
        let length = header >> 1;
        let (run, count) = if header & 1 == 0 {
            let number =
                self.take(self.width.div_ceil(8))?.iter().rev().fold(0, |all, byte| all << 8 | u32::from(*byte));
            let count = length.min(self.left);
            (Run::Same { number, count }, count)
        } else {
            let bytes = self.take(length.checked_mul(self.width)?)?;
            let count = length.checked_mul(8)?.min(self.left);
            (Run::Packed(Packed { bytes, width: self.width, count }), count)
        };
        self.left -= count;
        Some(run)
    }
}

impl Run<'_> {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Same { count, .. } => *count,
            Self::Packed(packed) => packed.count,
        }
    }

    /// The number at a place before `count`.
    pub(super) fn get(&self, at: usize) -> u32 {
        match self {
            Self::Same { number, .. } => *number,
            Self::Packed(packed) => packed.get(at),
        }
    }
}

impl<'a> Packed<'a> {
    /// All numbers.
    pub(super) fn iter(self) -> impl Iterator<Item = u32> + 'a {
        (0..self.count).map(move |at| self.get(at))
    }

    /// The number at a place before `count`.
    pub(super) fn get(self, at: usize) -> u32 {
        let first_bit = at * self.width;
        let from = &self.bytes[first_bit / 8..];
        let word = match from.first_chunk() {
            Some(eight) => u64::from_le_bytes(*eight),
            None => from.iter().rev().fold(0, |all, byte| all << 8 | u64::from(*byte)),
        };
        (word >> (first_bit % 8) & ((1 << self.width) - 1)) as u32
    }
}

/// Which of so many levels, up to `most`, are at least `least`.
pub(super) fn levels_from(least: u32, most: u32, bytes: &[u8], count: usize) -> Option<BooleanBuffer> {
    let width = (u32::BITS - most.leading_zeros()) as usize;
    let mut marks = BooleanBufferBuilder::new(count);
    for run in Runs::new(bytes, width, count) {
        match run {
            Run::Same { number, count } => marks.append_n(count, number >= least),
            Run::Packed(packed) if (width, least) == (1, 1) => marks.append_packed_range(0..packed.count, packed.bytes),
            Run::Packed(packed) => packed.iter().for_each(|number| marks.append(number >= least)),
        }
    }
    (marks.len() == count).then(|| marks.finish())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(bytes: &[u8], width: usize, count: usize) -> Vec<u32> {
        let of_run = |run| match run {
            Run::Same { number, count } => vec![number; count],
            Run::Packed(packed) => packed.iter().collect(),
        };
        Runs::new(bytes, width, count).flat_map(of_run).collect()
    }

    #[test]
    fn runs_are_read_as_the_format_says() {
        let packed_0_to_7 = [0b1000_1000, 0b1100_0110, 0b1111_1010]; // the format's own example, three bits each
        let cases: [(&[u8], usize, usize, Vec<u32>); 8] = [
            (&[4 << 1, 7], 3, 4, vec![7; 4]),
            (&[4 << 1, 7], 3, 3, vec![7; 3]),
            (&[&[1 << 1 | 1], packed_0_to_7.as_slice()].concat(), 3, 8, (0..8).collect()),
            (
                &[&[1 << 1 | 1], packed_0_to_7.as_slice(), &[2 << 1, 1]].concat(),
                3,
                10,
                vec![0, 1, 2, 3, 4, 5, 6, 7, 1, 1],
            ),
            (&[0x80 | (200 << 1 & 0x7f) as u8, (200 << 1 >> 7) as u8, 0x34, 0x12], 13, 200, vec![0x1234; 200]),
            (&[5 << 1], 0, 5, vec![0; 5]),
            (&[1 << 1 | 1, 1, 2], 3, 8, vec![]), // a byte is missing
            (&[2 << 1, 1], 1, 5, vec![1, 1]),    // runs are missing
        ];
        for (bytes, width, count, expect) in cases {
            assert_eq!(numbers(bytes, width, count), expect, "{bytes:?}");
        }
    }

    #[test]
    fn levels_are_marked_only_if_all_are_there() {
        let marks = |least, most, bytes: &[u8], count| {
            levels_from(least, most, bytes, count).map(|marks| marks.iter().collect::<Vec<_>>())
        };
        assert_eq!(marks(1, 1, &[1 << 1 | 1, 0b101], 3), Some(vec![true, false, true]));
        assert_eq!(marks(2, 3, &[1 << 1 | 1, 0b11_10_01_00, 0], 4), Some(vec![false, false, true, true]));
        assert_eq!(marks(3, 3, &[2 << 1, 3, 1 << 1, 2], 3), Some(vec![true, true, false]));
        assert_eq!(marks(1, 1, &[2 << 1, 1], 3), None);
    }
}

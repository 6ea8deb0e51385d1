//! [`Bits`]: marks on the levels of a page, such as those that begin a row. A search asks how many there
//! are before a level, and which level has the nth; both cost next to nothing once the words are counted.

use arrow::buffer::BooleanBuffer;

/// Bits, and how many are set before each word of them.
#[derive(Debug)]
pub(super) struct Bits {
    words: Vec<u64>,
    before: Vec<usize>,
}

impl Bits {
    /// The marks of all levels.
    pub(super) fn of(marks: &BooleanBuffer) -> Self {
        let words: Vec<u64> = marks.bit_chunks().iter_padded().collect();
        let mut count = 0;
        let count_before = |word: &u64| {
            let before = count;
            count += word.count_ones() as usize;
            before
        };
        let before = words.iter().map(count_before).collect();
        Self { words, before }
    }

    /// Whether the bit at a place is set.
    pub(super) fn get(&self, at: usize) -> bool {
        self.words.get(at / 64).is_some_and(|word| word >> (at % 64) & 1 == 1)
    }

    /// How many are set before a place, which is at most that of the last bit.
    pub(super) fn rank(&self, at: usize) -> usize {
        let Some((word, before)) = self.words.get(at / 64).zip(self.before.get(at / 64)) else { return 0 };
        before + (word & ((1 << (at % 64)) - 1)).count_ones() as usize
    }

    /// The place of the nth that is set, counted from 0.
    pub(super) fn select(&self, nth: usize) -> Option<usize> {
        let place = self.before.partition_point(|before| *before <= nth).checked_sub(1)?;
        let mut word = self.words[place];
        for _ in self.before[place]..nth {
            word &= word.wrapping_sub(1); // without its lowest
        }
        (word != 0).then(|| place * 64 + word.trailing_zeros() as usize)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_and_places_are_those_of_a_plain_count() {
        let every = |nth: usize, of: usize| (0..of).map(|at| at % nth == nth - 1).collect::<Vec<_>>();
        for marks in
            [vec![], vec![true], vec![false; 200], vec![true; 130], every(3, 500), every(70, 1_000), every(2, 64)]
        {
            let bits = Bits::of(&BooleanBuffer::from(marks.clone()));
            let places: Vec<usize> = (0..marks.len()).filter(|at| marks[*at]).collect();
            for (at, set) in marks.iter().enumerate() {
                let before = places.iter().filter(|place| **place < at).count();
                assert_eq!((bits.get(at), bits.rank(at)), (*set, before), "{at} of {}", marks.len());
            }
            let selected: Vec<_> = (0..places.len()).map(|nth| bits.select(nth).unwrap()).collect();
            assert_eq!(selected, places);
            assert_eq!((bits.select(places.len()), bits.get(marks.len())), (None, false));
        }
    }
}

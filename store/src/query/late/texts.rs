//! [`Texts`]: the texts that a search is for, and where the dictionary of a column chunk has them; and
//! [`Plain`]: texts as they stand in a page.

use memchr::memmem::Finder;

/// More texts than that are not looked for in a page's bytes one after another.
const FINDERS: usize = 8;

/// Texts, one of which is sought.
#[derive(Debug)]
pub(super) struct Texts {
    sorted: Vec<Vec<u8>>,
    /// Each as it stands in a page. Empty: there are too many.
    finders: Vec<Finder<'static>>,
    /// Of each place in the dictionary, whether a text of ours stands there.
    in_dictionary: Vec<bool>,
}

/// Texts one after another, each behind its length, four bytes.
#[derive(Debug)]
pub(super) struct Plain<'a>(pub(super) &'a [u8]);

impl Texts {
    pub(super) fn new(texts: &[Vec<u8>]) -> Self {
        let mut sorted = texts.to_vec();
        sorted.sort_unstable();
        sorted.dedup();
        let few = if sorted.len() > FINDERS { &[] } else { sorted.as_slice() };
        let finders = few.iter().map(|text| as_stored(text)).collect();
        Self { sorted, finders, in_dictionary: Vec::new() }
    }

    /// Learns the dictionary. `None`: it does not have as many texts as it says.
    pub(super) fn look_up(&mut self, dictionary: &[u8], count: usize) -> Option<()> {
        let here = Plain(dictionary).take(count).map(|text| self.have(text)).collect::<Vec<_>>();
        self.in_dictionary = here;
        (self.in_dictionary.len() == count).then_some(())
    }

    pub(super) fn have(&self, text: &[u8]) -> bool {
        match self.sorted.as_slice() {
            [only] => only == text,
            sorted => sorted.binary_search_by(|ours| ours.as_slice().cmp(text)).is_ok(),
        }
    }

    /// Whether the text at a place in the dictionary is sought; `None` where there is no such place.
    pub(super) fn have_place(&self, place: u32) -> Option<bool> {
        self.in_dictionary.get(place as usize).copied()
    }

    pub(super) fn any_in_dictionary(&self) -> bool {
        self.in_dictionary.contains(&true)
    }

    /// Whether one may stand in these bytes. They may have the bytes of a text across two others.
    pub(super) fn may_be_in(&self, bytes: &[u8]) -> bool {
        self.finders.is_empty() || self.finders.iter().any(|text| text.find(bytes).is_some())
    }
}

fn as_stored(text: &[u8]) -> Finder<'static> {
    let length = u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes();
    Finder::new(&[length.as_slice(), text].concat()).into_owned()
}

impl<'a> Iterator for Plain<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let (length, rest) = self.0.split_first_chunk()?;
        let (text, rest) = rest.split_at_checked(u32::from_le_bytes(*length) as usize)?;
        self.0 = rest;
        Some(text)
    }
}

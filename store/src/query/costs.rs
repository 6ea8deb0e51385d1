//! What calls of functions cost: the bytes they make, where that is more than they are given, and the
//! steps they take, where those grow faster than what they are given.

use super::arguments::Arguments;

/// The function behind `||` of texts.
pub(super) const CONCAT: &str = "textcat";

/// The function behind `~`.
pub(super) const MATCHES: &str = "regexp_like";

/// Bytes that a number takes as text, beside those it is given.
const NUMBER_TEXT: usize = 40;

/// Bytes that two of a format become at most (`%c`, `%+`), and time that a part of it takes beside a byte's.
const FORMATTED: usize = 20;

/// Bytes of an item of an array, at least: truths aside, which are compared fast.
const ITEM_BYTES: usize = 4;

/// Places of a pattern that is usual.
pub(super) const USUAL_PLACES: usize = 500;

/// Bytes that a search compares in one step.
const COMPARED: usize = 16;

/// A measure of a call: bytes, or steps of some nanoseconds.
pub(super) type Measure = fn(&Arguments) -> usize;

/// What a call costs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cost {
    pub(super) name: &'static str,
    /// Bytes it makes of a batch.
    pub(super) bytes: Measure,
    /// Steps it takes for a batch.
    pub(super) steps: Measure,
}

/// Functions that cost more than what they are given.
pub(super) const COSTS: [Cost; 41] = [
    grows(CONCAT, |given| given.bytes),
    grows("concat", |given| given.bytes),
    grows("concat_ws", |given| given.bytes.saturating_add(given.of[0].bytes.saturating_mul(given.count))),
    grows("overlay", |given| given.bytes),
    grows("encode", |given| given.bytes.saturating_mul(2)),
    grows("translate", |given| given.bytes.saturating_mul(4)),
    grows("repeat", |given| given.rows.saturating_mul(given.of[0].longest).saturating_mul(given.number)),
    grows("lpad", |given| given.rows.saturating_mul(given.number).saturating_mul(4)),
    grows("rpad", |given| given.rows.saturating_mul(given.number).saturating_mul(4)),
    grows("replace", replaced),
    grows("upper", as_long),
    grows("lower", as_long),
    grows("initcap", as_long),
    grows("reverse", as_long),
    grows("string_to_array", |given| given.bytes.saturating_mul(17)),
    grows("array_to_string", |given| {
        let of_item = NUMBER_TEXT.saturating_add(given.of[1].longest).saturating_add(given.of[2].longest);
        given.bytes.saturating_add((given.of[0].bytes / ITEM_BYTES).saturating_mul(of_item))
    }),
    grows("make_array", |given| given.bytes),
    grows("map", |given| given.bytes),
    grows("array_append", |given| given.bytes),
    grows("array_prepend", |given| given.bytes),
    grows("array_concat", |given| given.bytes),
    grows("array_union", |given| given.bytes),
    // the shorter are filled up to the longest
    grows("arrays_zip", |given| given.bytes.saturating_mul(given.count)),
    grows("array_replace", |given| given.bytes),
    grows("array_replace_n", items_replaced),
    grows("array_replace_all", items_replaced),
    Cost { name: "regexp_replace", bytes: replaced, steps: matched },
    Cost { name: "regexp_match", bytes: |given| given.of[0].bytes.saturating_mul(given.groups + 1), steps: matched },
    takes(MATCHES, matched),
    takes("regexp_count", matched),
    takes("regexp_instr", matched),
    Cost {
        name: "to_char",
        bytes: |given| given.rows.saturating_mul(given.of[1].longest).saturating_mul(FORMATTED),
        steps: |given| given.rows.saturating_mul(given.of[1].longest).saturating_mul(FORMATTED),
    },
    takes("levenshtein", |given| each_with_each(given, 1)),
    takes("strpos", |given| each_with_each(given, COMPARED)),
    takes("contains", |given| each_with_each(given, COMPARED)),
    takes("btrim", |given| each_with_each(given, 1)),
    takes("ltrim", |given| each_with_each(given, 1)),
    takes("rtrim", |given| each_with_each(given, 1)),
    takes("array_has_all", |given| each_with_each(given, ITEM_BYTES * ITEM_BYTES)),
    takes("array_has_any", |given| each_with_each(given, ITEM_BYTES * ITEM_BYTES)),
    takes("find_in_set", |given| given.rows.saturating_mul(given.of[1].longest)),
];

const fn grows(name: &'static str, bytes: Measure) -> Cost {
    Cost { name, bytes, steps: |_| 0 }
}

const fn takes(name: &'static str, steps: Measure) -> Cost {
    Cost { name, bytes: |_| 0, steps }
}

/// As long as what it is given, which is in memory anyhow: a quarter counts, so that only many of them are too much.
fn as_long(given: &Arguments) -> usize {
    given.bytes / 4
}

/// Each byte, and the place behind the last, may become the new text.
fn replaced(given: &Arguments) -> usize {
    given.of[0].bytes.saturating_add(given.rows).saturating_mul(given.of[2].longest.max(1))
}

fn items_replaced(given: &Arguments) -> usize {
    given.bytes.saturating_add((given.of[0].bytes / ITEM_BYTES).saturating_mul(given.of[2].longest))
}

/// Of each row, all of the first argument with all of the second.
fn each_with_each(given: &Arguments, at_once: usize) -> usize {
    let of_row = given.of[0].longest.saturating_mul(given.of[1].longest) / at_once;
    given.rows.saturating_mul(of_row)
}

/// A text is compared with all places of a large pattern; a small one becomes a table, one look for each byte.
fn matched(given: &Arguments) -> usize {
    let places = if given.places > USUAL_PLACES { given.places } else { given.places / COMPARED };
    given.rows.saturating_mul(given.of[0].longest).saturating_mul(places.max(1))
}

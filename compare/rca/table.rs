//! [`Table`]: ranks by kind of fault, a column a set of signals; and [`Confidence`]: how often answers were right.

use std::collections::BTreeMap;

/// Ranks of true causes.
pub(crate) struct Table {
    title: String,
    columns: Vec<&'static str>,
    ranks: BTreeMap<String, Vec<Vec<Option<usize>>>>,
}

/// Answers with history: how sure, whether right.
#[derive(Default)]
pub(crate) struct Confidence {
    answers: BTreeMap<&'static str, Vec<(f64, bool)>>,
}

impl Table {
    pub(crate) fn new(title: impl Into<String>, columns: &[&'static str]) -> Self {
        Self { title: title.into(), columns: columns.to_vec(), ranks: BTreeMap::new() }
    }

    /// The ranks of one fault, one a column.
    pub(crate) fn add(&mut self, groups: &[&str], ranks: &[Option<usize>]) {
        for group in groups {
            let columns = self.ranks.entry((*group).to_owned()).or_insert_with(|| vec![Vec::new(); self.columns.len()]);
            columns.iter_mut().zip(ranks).for_each(|(column, rank)| column.push(*rank));
        }
    }

    pub(crate) fn print(&self) {
        let heads: Vec<String> = self.columns.iter().map(|name| format!("{name}: top-1/3/5 | 95 %")).collect();
        println!("\n| {} | n | {} |", self.title, heads.join(" | "));
        println!("|---|---|{}", "---|---|".repeat(self.columns.len()));
        for (group, columns) in &self.ranks {
            let n = columns.first().map_or(0, Vec::len);
            let cells: Vec<String> = columns.iter().map(|ranks| cell(ranks)).collect();
            println!("| {group} | {n} | {} |", cells.join(" | "));
        }
    }
}

fn cell(ranks: &[Option<usize>]) -> String {
    let within = |most: usize| ranks.iter().filter(|rank| rank.is_some_and(|rank| rank <= most)).count();
    format!("{}/{}/{} | {}", within(1), within(3), within(5), wilson(within(1), ranks.len()))
}

impl Confidence {
    pub(crate) fn add(&mut self, column: &'static str, confidence: f64, right: bool) {
        self.answers.entry(column).or_default().push((confidence, right));
    }

    pub(crate) fn print(&self) {
        let heads: Vec<&str> = self.answers.keys().copied().collect();
        println!("\n| said, right of n | {} |\n|---|{}", heads.join(" | "), "---|".repeat(heads.len()));
        for (low, high) in [(0.8, 1.01), (0.6, 0.8), (0.4, 0.6), (0.2, 0.4), (0.0, 0.2)] {
            let cell = |answers: &Vec<(f64, bool)>| {
                let said: Vec<_> = answers.iter().filter(|(sure, _)| (low..high).contains(sure)).collect();
                let right = said.iter().filter(|(_, right)| *right).count();
                format!("{right} of {} {}", said.len(), wilson(right, said.len()))
            };
            let cells: Vec<String> = self.answers.values().map(cell).collect();
            println!("| {low} to {high:.1} | {} |", cells.join(" | "));
        }
    }
}

/// Wilson's interval of a share, in percent.
pub(crate) fn wilson(hits: usize, n: usize) -> String {
    if n == 0 {
        return String::new();
    }
    let (n, p, z) = (n as f64, hits as f64 / n as f64, 1.96_f64);
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    format!("{:.0} % [{:.0}, {:.0}]", p * 100.0, (middle - half).max(0.0) * 100.0, (middle + half).min(1.0) * 100.0)
}

//! The prompt: statements end with `;`, Tab completes tables, columns, functions and attribute keys,
//! the arrows bring back what was asked before.

use std::path::PathBuf;

use anyhow::Context;
use rustyline::{
    Completer, CompletionType, Config, Context as Line, Editor, Helper, Highlighter, Hinter, Validator,
    completion::Pair, error::ReadlineError, history::FileHistory,
};
use weir_schema::{Table, columns};

use super::statements::{Split, split};
use crate::{cli::Format, output, target::Target};

/// Statements that are remembered.
const HISTORY: usize = 2_000;

const HELP: &str = "\
A statement ends with ; and may take several lines. Tab completes, the arrows bring back statements.
  \\d         tables            \\d TABLE   its columns
  \\f FORMAT  table, json, csv, arrow or parquet
  \\q         end (or Ctrl-D)   Ctrl-C     cancels the statement that runs";

/// Words of SQL that are completed.
const KEYWORDS: [&str; 32] = [
    "SELECT",
    "FROM",
    "WHERE",
    "GROUP BY",
    "ORDER BY",
    "LIMIT",
    "DESC",
    "AND",
    "OR",
    "NOT",
    "IN",
    "LIKE",
    "BETWEEN",
    "IS NULL",
    "IS NOT NULL",
    "JOIN",
    "LEFT JOIN",
    "ON",
    "AS",
    "WITH",
    "UNION ALL",
    "HAVING",
    "DISTINCT",
    "CASE",
    "WHEN",
    "THEN",
    "ELSE",
    "END",
    "count(*)",
    "EXPLAIN",
    "SHOW TABLES",
    "DESCRIBE",
];

/// Where the words of a store come from that only it knows: its functions, and the keys it has seen.
const FUNCTIONS: &str = "SELECT DISTINCT routine_name AS word FROM information_schema.routines";
const KEYS: &str = "SELECT DISTINCT key AS word FROM attribute_keys";

/// What a line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Wish<'a> {
    Nothing,
    Help,
    Quit,
    Format(&'a str),
    /// A command that there is none of.
    Unknown(&'a str),
    Statements(Vec<String>),
    /// The statement goes on in the next line.
    More,
}

#[derive(Helper, Completer, Hinter, Highlighter, Validator)]
struct Words {
    #[rustyline(Completer)]
    words: WordCompleter,
}

struct WordCompleter {
    /// Keywords, functions, tables and columns.
    words: Vec<String>,
    /// Attribute keys, completed inside `attributes['…']`.
    keys: Vec<String>,
}

/// The terminal and what was asked before.
struct Terminal {
    editor: Editor<Words, FileHistory>,
    /// Where the history is kept, if it can be.
    history: Option<PathBuf>,
}

/// Asks, runs and prints until the person leaves.
pub(super) async fn run(target: &Target, mut format: Format) -> Result<(), anyhow::Error> {
    let mut terminal = Terminal::open(target).await?;
    output::note("weir sql: statements end with ; \\h helps, \\q ends");
    let mut statement = String::new();
    loop {
        let sign = if statement.is_empty() { "weir> " } else { "   -> " };
        let read;
        (terminal, read) = terminal.read(sign).await?;
        let line = match read {
            Ok(line) => line,
            Err(ReadlineError::Interrupted) => {
                statement.clear();
                continue;
            }
            Err(ReadlineError::Eof) => return Ok(()),
            Err(error) => return Err(error).context("reading the terminal"),
        };
        match wish(&mut statement, &line) {
            Wish::Nothing | Wish::More => {}
            Wish::Help => output::note(HELP),
            Wish::Quit => return Ok(()),
            Wish::Format(name) => match <Format as clap::ValueEnum>::from_str(name, true) {
                Ok(chosen) => format = chosen,
                Err(_) => output::note(&format!("\\f {name}: table, json, csv, arrow or parquet")),
            },
            Wish::Unknown(command) => output::note(&format!("{command}: there is no such command; \\h lists them")),
            Wish::Statements(statements) => {
                terminal.remember(&statements);
                for text in statements {
                    if let Err(error) = super::once(target, &text, format).await {
                        output::note(&format!("error: {error:#}"));
                    }
                }
            }
        }
    }
}

impl Terminal {
    async fn open(target: &Target) -> Result<Self, anyhow::Error> {
        let config = Config::builder()
            .max_history_size(HISTORY)
            .context("the history")?
            .completion_type(CompletionType::List)
            .auto_add_history(false)
            .build();
        let mut editor: Editor<Words, FileHistory> = Editor::with_config(config).context("the terminal")?;
        let words = WordCompleter::new(words(target, FUNCTIONS).await, words(target, KEYS).await);
        editor.set_helper(Some(Words { words }));
        let history = history_file();
        if let Some(path) = &history {
            // the first prompt has none yet
            let _ = editor.load_history(path);
        }
        Ok(Self { editor, history })
    }

    /// One line. The editor blocks its thread, and a statement that runs needs the others only.
    async fn read(mut self, sign: &'static str) -> Result<(Self, rustyline::Result<String>), anyhow::Error> {
        let read = tokio::task::spawn_blocking(move || {
            let line = self.editor.readline(sign);
            (self, line)
        });
        read.await.context("the prompt ended")
    }

    fn remember(&mut self, statements: &[String]) {
        // a history that cannot be kept is no reason to stop
        let _ = self.editor.add_history_entry(format!("{};", statements.join("; ")));
        if let Some(path) = &self.history {
            let _ = self.editor.save_history(path);
        }
    }
}

fn wish<'a>(statement: &mut String, line: &'a str) -> Wish<'a> {
    if statement.is_empty() {
        let line = line.trim();
        let (command, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
        match (command, rest.trim()) {
            ("", _) => return Wish::Nothing,
            ("\\q" | "exit" | "quit", "") => return Wish::Quit,
            ("\\h" | "\\?" | "help", "") => return Wish::Help,
            ("\\d", "") => return Wish::Statements(vec!["SHOW TABLES".into()]),
            ("\\d", table) => return Wish::Statements(vec![format!("DESCRIBE {}", table.trim_end_matches(';'))]),
            ("\\f", name) => return Wish::Format(name),
            (command, _) if command.starts_with('\\') => return Wish::Unknown(command),
            _ => {}
        }
    }
    if !statement.is_empty() {
        statement.push('\n');
    }
    statement.push_str(line);
    let Split { statements, rest } = split(statement);
    *statement = rest;
    if statements.is_empty() { Wish::More } else { Wish::Statements(statements) }
}

/// `$XDG_STATE_HOME/weir/sql_history`, by default under `~/.local/state`.
fn history_file() -> Option<PathBuf> {
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let state = state.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".local/state")))?;
    let dir = state.join("weir");
    std::fs::create_dir_all(&dir).ok()?;
    Some(dir.join("sql_history"))
}

/// The texts that a statement answers; none when it fails, for a prompt completes less but works.
async fn words(target: &Target, statement: &str) -> Vec<String> {
    let Ok(answer) = target.query(statement).await else { return Vec::new() };
    let rows = answer.collect().await.unwrap_or_default();
    let rows = rows.iter().flat_map(weir_store::render::to_json_rows);
    rows.filter_map(|row| row["word"].as_str().map(str::to_owned)).collect()
}

impl WordCompleter {
    fn new(functions: Vec<String>, seen_keys: Vec<String>) -> Self {
        let functions = functions.into_iter().map(|name| format!("{name}("));
        let tables = Table::ALL.into_iter().map(|table| table.name().to_owned());
        let columns = || Table::ALL.into_iter().flat_map(columns::columns);
        let names = columns().map(|column| column.name.to_owned());
        let hot_keys = columns().filter_map(|column| column.attribute).map(str::to_owned);
        let mut words: Vec<String> =
            KEYWORDS.into_iter().map(str::to_owned).chain(functions).chain(tables).chain(names).collect();
        let mut keys: Vec<String> = hot_keys.chain(seen_keys).collect();
        for list in [&mut words, &mut keys] {
            list.sort();
            list.dedup();
        }
        Self { words, keys }
    }

    fn matching(&self, line: &str) -> (usize, Vec<String>) {
        if let Some(start) = line.rfind("attributes['").map(|place| place + "attributes['".len())
            && !line[start..].contains('\'')
        {
            let keys = self.keys.iter().filter(|key| key.starts_with(&line[start..]));
            return (start, keys.map(|key| format!("{key}']")).collect());
        }
        let start = line.rfind(|c: char| !c.is_alphanumeric() && c != '_').map_or(0, |place| place + 1);
        let begun = line[start..].to_lowercase();
        if begun.is_empty() {
            return (start, Vec::new());
        }
        (start, self.words.iter().filter(|word| word.to_lowercase().starts_with(&begun)).cloned().collect())
    }
}

impl rustyline::completion::Completer for WordCompleter {
    type Candidate = Pair;

    fn complete(&self, line: &str, place: usize, _: &Line<'_>) -> rustyline::Result<(usize, Vec<Pair>)> {
        let (start, words) = self.matching(&line[..place]);
        Ok((start, words.into_iter().map(|word| Pair { display: word.clone(), replacement: word }).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_may_take_several_lines() {
        let mut statement = String::new();
        assert_eq!(wish(&mut statement, "SELECT 1"), Wish::More);
        assert_eq!(wish(&mut statement, "\\q"), Wish::More, "inside a statement it is text");
        assert_eq!(wish(&mut statement, "+ 1;"), Wish::Statements(vec!["SELECT 1\n\\q\n+ 1".into()]));
        assert_eq!(wish(&mut statement, ""), Wish::Nothing);
        assert_eq!(wish(&mut statement, "\\d spans;"), Wish::Statements(vec!["DESCRIBE spans".into()]));
        assert_eq!(wish(&mut statement, "\\x on"), Wish::Unknown("\\x"));
        assert_eq!(wish(&mut statement, "SELECT ';"), Wish::More);
        let both = vec!["SELECT ';\n'".to_owned(), "SELECT 2".to_owned()];
        assert_eq!(wish(&mut statement, "'; SELECT 2; SELECT"), Wish::Statements(both));
        assert_eq!(wish(&mut statement, "3;"), Wish::Statements(vec!["SELECT\n3".into()]));
        assert_eq!(wish(&mut statement, "\\f json"), Wish::Format("json"));
        assert_eq!(wish(&mut statement, "exit"), Wish::Quit);
    }

    #[test]
    fn tables_columns_and_keywords_complete_where_the_word_begins() {
        let words = WordCompleter::new(vec!["percentile".into()], vec!["shop.tier".into()]);
        assert_eq!(words.matching("SELECT duration_n"), (7, vec!["duration_ns".to_owned()]));
        assert_eq!(words.matching("sel").1, ["SELECT"]);
        assert_eq!(words.matching("SELECT perc").1, ["percentile("]);
        assert!(words.matching("SELECT * FROM sp").1.contains(&"spans".to_owned()));
        assert_eq!(words.matching("SELECT ").1, Vec::<String>::new());
    }

    #[test]
    fn attribute_keys_complete_inside_their_brackets_only() {
        let words = WordCompleter::new(Vec::new(), vec!["shop.tier".into()]);
        assert_eq!(words.matching("SELECT attributes['shop"), (19, vec!["shop.tier']".to_owned()]));
        assert_eq!(words.matching("SELECT s.attributes['http.rou").1, ["http.route']"]);
        assert_eq!(words.matching("SELECT attributes['x'] FROM shop").1, Vec::<String>::new());
    }
}

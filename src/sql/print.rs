//! How an answer is printed: as it comes, in the format that was asked for, with a word on stderr
//! while a statement runs long.

use std::time::Duration;

use anyhow::Context;
use arrow::{ipc::writer::StreamWriter, record_batch::RecordBatch};
use futures::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use weir_store::render;

use crate::{
    cli::Format,
    output,
    target::{Answer, Target},
};

/// Rows that a table on a terminal holds before it is printed: widths need all of them.
const TABLE_ROWS: usize = 10_000;

/// What a row group of a Parquet answer holds in memory at most.
const ROW_GROUP_BYTES: usize = 64 << 20;

/// A statement that runs longer says so.
const LONG: Duration = Duration::from_millis(700);

/// Runs a statement and prints its answer; dropped, it cancels the statement.
pub(super) async fn run(target: &Target, statement: &str, format: Format) -> Result<(), anyhow::Error> {
    let progress = Progress::new();
    let answer = progress.beside(target.query(statement)).await?;
    progress.beside(print(answer, format, &progress)).await
}

async fn print(mut answer: Answer, format: Format, progress: &Progress) -> Result<(), anyhow::Error> {
    let bar = progress.bar.clone();
    let counted = answer.batches.inspect(move |batch| {
        bar.inc(batch.as_ref().map_or(0, |batch| batch.num_rows() as u64));
    });
    answer.batches = counted.boxed();
    match format {
        Format::Table => print_table(answer, progress).await,
        Format::Json => print_json(answer).await,
        Format::Csv => print_csv(answer).await,
        Format::Arrow => print_arrow(answer).await,
        Format::Parquet => print_parquet(answer).await,
    }
}

/// A line on stderr with the time and the rows so far; nothing where stderr is no terminal.
struct Progress {
    bar: ProgressBar,
}

impl Progress {
    fn new() -> Self {
        let bar = ProgressBar::new_spinner();
        if let Ok(style) = ProgressStyle::with_template("{spinner} {elapsed}, {human_pos} rows (Ctrl-C cancels)") {
            bar.set_style(style);
        }
        Self { bar }
    }

    /// Waits for `work`, drawing once it takes long.
    async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                done = &mut work => {
                    self.bar.finish_and_clear();
                    return done;
                }
                () = tokio::time::sleep(LONG) => self.bar.tick(),
            }
        }
    }
}

async fn print_table(mut answer: Answer, progress: &Progress) -> Result<(), anyhow::Error> {
    let mut batches = vec![RecordBatch::new_empty(answer.schema.clone())];
    let mut rows = 0;
    while let Some(batch) = answer.batches.next().await {
        let batch = batch?;
        let room = TABLE_ROWS.saturating_sub(rows);
        rows += batch.num_rows();
        if room > 0 {
            batches.push(batch.slice(0, batch.num_rows().min(room)));
        }
    }
    progress.bar.finish_and_clear();
    output::line(&render::table(&batches))?;
    let cut = if rows > TABLE_ROWS {
        format!(" (the first {TABLE_ROWS} shown: --format csv prints all)")
    } else {
        String::new()
    };
    output::note(&format!("{rows} row(s){cut}"));
    Ok(())
}

async fn print_json(mut answer: Answer) -> Result<(), anyhow::Error> {
    while let Some(batch) = answer.batches.next().await {
        for row in render::to_json_rows(&batch?) {
            output::line(&serde_json::to_string(&row)?)?;
        }
    }
    Ok(())
}

async fn print_csv(mut answer: Answer) -> Result<(), anyhow::Error> {
    output::bytes(render::csv_header(&answer.schema).as_bytes())?;
    while let Some(batch) = answer.batches.next().await {
        output::bytes(render::csv_rows(&batch?).as_bytes())?;
    }
    Ok(())
}

async fn print_arrow(mut answer: Answer) -> Result<(), anyhow::Error> {
    let schema = render::shown_schema(&answer.schema);
    let mut writer = StreamWriter::try_new(Vec::new(), &schema).context("starting the Arrow stream")?;
    while let Some(batch) = answer.batches.next().await {
        writer.write(&render::shown(&batch?)?)?;
        output::bytes(&std::mem::take(writer.get_mut()))?;
    }
    writer.finish()?;
    Ok(output::bytes(writer.get_ref())?)
}

/// Row groups go out as they are full, so that the file may be larger than memory.
async fn print_parquet(mut answer: Answer) -> Result<(), anyhow::Error> {
    let mut file = render::ParquetAnswer::new(&answer.schema)?;
    while let Some(batch) = answer.batches.next().await {
        file.write(&batch?)?;
        let writer = &mut file.writer;
        if writer.in_progress_size() > ROW_GROUP_BYTES {
            writer.flush()?;
        }
        // the writer counts what it wrote, not what is still here
        output::bytes(&std::mem::take(writer.inner_mut()))?;
    }
    Ok(output::bytes(&file.writer.into_inner()?)?)
}

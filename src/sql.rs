//! `weir sql "SELECT …"`: one statement against a folder or a running server, printed as it comes.

use std::io::IsTerminal;

use anyhow::Context;
use arrow::{ipc::writer::StreamWriter, record_batch::RecordBatch};
use futures::StreamExt;
use weir_store::render;

use crate::{
    cli::{Format, SqlArgs},
    exit::Exit,
    output,
    remote::{Answer, Place},
};

/// Rows that a table on a terminal holds before it is printed: widths need all of them.
const TABLE_ROWS: usize = 10_000;

/// Runs `weir sql`.
///
/// # Errors
/// A store that cannot be reached, or a statement that is refused or fails.
pub async fn run(args: SqlArgs) -> Result<Exit, anyhow::Error> {
    let place = Place::open_existing(&args.target).await?;
    let default = if std::io::stdout().is_terminal() { Format::Table } else { Format::Csv };
    let printed = tokio::select! {
        printed = print(&place, &args.statement, args.format.unwrap_or(default)) => printed,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("cancelled")),
    };
    place.close().await?;
    printed.map(|()| Exit::Ok)
}

async fn print(place: &Place, statement: &str, format: Format) -> Result<(), anyhow::Error> {
    let answer = place.query(statement).await?;
    match format {
        Format::Table => print_table(answer).await,
        Format::Json => print_json(answer).await,
        Format::Csv => print_csv(answer).await,
        Format::Arrow => print_arrow(answer).await,
        Format::Parquet => print_parquet(answer).await,
    }
}

async fn print_table(mut answer: Answer) -> Result<(), anyhow::Error> {
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
    let mut writer = StreamWriter::try_new(Vec::new(), &answer.schema).context("starting the Arrow stream")?;
    while let Some(batch) = answer.batches.next().await {
        writer.write(&batch?)?;
        output::bytes(&std::mem::take(writer.get_mut()))?;
    }
    writer.finish()?;
    Ok(output::bytes(writer.get_ref())?)
}

async fn print_parquet(mut answer: Answer) -> Result<(), anyhow::Error> {
    let mut writer = render::parquet_writer(&answer.schema)?;
    while let Some(batch) = answer.batches.next().await {
        writer.write(&batch?)?;
    }
    Ok(output::bytes(&writer.into_inner()?)?)
}

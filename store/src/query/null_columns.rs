//! A file without the columns that hold nothing but nulls: whoever reads it gets null for them
//! without opening them. Of some fifty columns a mesh fills twenty, and a selective query would
//! spend most of its time on opening the others.

use std::sync::Arc;

use parquet::{
    arrow::ARROW_SCHEMA_META_KEY,
    errors::Result,
    file::metadata::{
        ColumnChunkMetaData, FileMetaData, KeyValue, ParquetMetaData, ParquetMetaDataBuilder, RowGroupMetaData,
    },
    schema::types::{SchemaDescriptor, Type},
};

/// The metadata without columns that are null in every row.
pub(super) fn left_out(metadata: ParquetMetaData) -> Result<ParquetMetaData> {
    let schema = metadata.file_metadata().schema_descr();
    let kept: Vec<bool> = (0..schema.num_columns()).map(|leaf| !is_null(&metadata, leaf)).collect();
    if kept.iter().all(|kept| *kept) || !kept.contains(&true) {
        return Ok(metadata);
    }
    let schema = Arc::new(without(schema, &kept)?);
    let row_groups = metadata.row_groups().iter().map(|group| of_row_group(group, &schema, &kept));
    let row_groups = row_groups.collect::<Result<Vec<_>>>()?;
    let file = metadata.file_metadata();
    let file = FileMetaData::new(
        file.version(),
        file.num_rows(),
        file.created_by().map(str::to_owned),
        file.key_value_metadata().map(|all| without_arrow_schema(all)),
        schema,
        file.column_orders().map(|orders| of_leaves(orders, &kept)),
    );
    let built = ParquetMetaDataBuilder::new(file)
        .set_row_groups(row_groups)
        .set_column_index(metadata.column_index().map(|groups| of_groups(groups, &kept)))
        .set_offset_index(metadata.offset_index().map(|groups| of_groups(groups, &kept)));
    Ok(built.build())
}

/// Whether a column, itself and not a part of one, has no value in the file.
fn is_null(metadata: &ParquetMetaData, leaf: usize) -> bool {
    let of_its_own = metadata.file_metadata().schema_descr().column(leaf).path().parts().len() == 1;
    let no_value = |chunk: &ColumnChunkMetaData| {
        let nulls = chunk.statistics().and_then(|statistics| statistics.null_count_opt());
        nulls.and_then(|nulls| i64::try_from(nulls).ok()) == Some(chunk.num_values())
    };
    of_its_own && metadata.row_groups().iter().all(|group| no_value(group.column(leaf)))
}

fn without(schema: &SchemaDescriptor, kept: &[bool]) -> Result<SchemaDescriptor> {
    let leaves = (0..kept.len()).filter(|leaf| kept[*leaf]);
    let mut roots: Vec<usize> = leaves.map(|leaf| schema.get_column_root_idx(leaf)).collect();
    roots.dedup();
    let fields = schema.root_schema().get_fields();
    let fields = roots.into_iter().map(|place| fields[place].clone()).collect();
    let root = Type::group_type_builder(schema.name()).with_fields(fields).build()?;
    Ok(SchemaDescriptor::new(Arc::new(root)))
}

/// What a writer says of Arrow's types speaks of all columns; ours are told by Parquet's types.
fn without_arrow_schema(all: &[KeyValue]) -> Vec<KeyValue> {
    all.iter().filter(|pair| pair.key != ARROW_SCHEMA_META_KEY).cloned().collect()
}

fn of_row_group(group: &RowGroupMetaData, schema: &Arc<SchemaDescriptor>, kept: &[bool]) -> Result<RowGroupMetaData> {
    let mut built = RowGroupMetaData::builder(schema.clone())
        .set_num_rows(group.num_rows())
        .set_total_byte_size(group.total_byte_size())
        .set_column_metadata(of_leaves(group.columns(), kept));
    if let Some(offset) = group.file_offset() {
        built = built.set_file_offset(offset);
    }
    if let Some(ordinal) = group.ordinal() {
        built = built.set_ordinal(ordinal);
    }
    built.build()
}

fn of_groups<T: Clone>(groups: &[Vec<T>], kept: &[bool]) -> Vec<Vec<T>> {
    groups.iter().map(|leaves| of_leaves(leaves, kept)).collect()
}

fn of_leaves<T: Clone>(leaves: &[T], kept: &[bool]) -> Vec<T> {
    leaves.iter().zip(kept).filter(|(_, kept)| **kept).map(|(leaf, _)| leaf.clone()).collect()
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{ArrayRef, AsArray, Int64Array, ListArray, StringArray},
        datatypes::Int64Type,
        record_batch::RecordBatch,
    };
    use bytes::Bytes;
    use parquet::{
        arrow::{
            ArrowWriter,
            arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions, ParquetRecordBatchReaderBuilder},
        },
        file::metadata::{PageIndexPolicy, ParquetMetaDataReader},
    };

    use super::*;

    #[test]
    fn columns_of_nulls_are_left_out_and_the_others_read_as_before() {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1), None]), None, Some(vec![])]);
        let columns: [(&str, ArrayRef, bool); 5] = [
            ("nothing", Arc::new(StringArray::from(vec![None::<&str>; 3])), true),
            ("some", Arc::new(Int64Array::from(vec![None, Some(2), None])), true),
            ("list", Arc::new(list), true),
            ("nought", Arc::new(Int64Array::from(vec![None; 3])), true),
            ("all", Arc::new(StringArray::from(vec!["a", "b", "c"])), false),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
        let mut bytes = Vec::new();
        let mut writer = ArrowWriter::try_new(&mut bytes, rows.schema(), None).unwrap();
        writer.write(&rows).unwrap();
        writer.flush().unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
        let bytes = Bytes::from(bytes);
        let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
        let metadata = left_out(reader.parse_and_finish(&bytes).unwrap()).unwrap();
        let index_lengths = |group: usize| {
            (metadata.column_index().unwrap()[group].len(), metadata.offset_index().unwrap()[group].len())
        };
        assert_eq!([index_lengths(0), index_lengths(1)], [(3, 3), (3, 3)]);
        let metadata = ArrowReaderMetadata::try_new(Arc::new(metadata), ArrowReaderOptions::new()).unwrap();
        let reader = ParquetRecordBatchReaderBuilder::new_with_metadata(bytes, metadata).build().unwrap();
        let read: Vec<_> = reader.map(Result::unwrap).collect();
        let names: Vec<_> = read[0].schema().fields().iter().map(|field| field.name().clone()).collect();
        assert_eq!(names, ["some", "list", "all"]);
        assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), 6);
        assert_eq!(read[0]["some"].as_primitive::<Int64Type>().value(1), 2);
        assert_eq!(read[0]["list"].as_list::<i32>().value(0).len(), 2);
        assert_eq!(read[0]["all"].as_string::<i32>().value(2), "c");
    }
}

//! [`SmallSteps`]: hands its input on a few rows at a time and gives way after each. In front of a
//! nested loop, which compares each such row with all rows of the other side before it looks up, it
//! makes the steps between two looks at the deadline short.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use arrow::{datatypes::SchemaRef, record_batch::RecordBatch};
use datafusion::{
    common::{Result, tree_node::TreeNodeRecursion},
    execution::{RecordBatchStream, SendableRecordBatchStream, TaskContext},
    physical_expr::PhysicalExpr,
    physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PlanProperties},
};
use futures::{Stream, StreamExt};

/// Rows handed on at once.
const ROWS: usize = 8;

/// The operator.
#[derive(Debug)]
pub(super) struct SmallSteps {
    pub(super) input: Arc<dyn ExecutionPlan>,
}

impl DisplayAs for SmallSteps {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SmallSteps")
    }
}

impl ExecutionPlan for SmallSteps {
    fn name(&self) -> &'static str {
        "SmallSteps"
    }

    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.input.properties()
    }

    fn maintains_input_order(&self) -> Vec<bool> {
        vec![true]
    }

    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        vec![&self.input]
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, mut children: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        let input = children.pop().unwrap_or_else(|| self.input.clone());
        Ok(Arc::new(Self { input }))
    }

    fn execute(&self, partition: usize, context: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        let input = self.input.execute(partition, context)?;
        Ok(Box::pin(Steps { input, rest: None, gave_way: false }))
    }
}

struct Steps {
    input: SendableRecordBatchStream,
    rest: Option<RecordBatch>,
    gave_way: bool,
}

impl Stream for Steps {
    type Item = Result<RecordBatch>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if !std::mem::replace(&mut self.gave_way, true) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        let batch = match self.rest.take() {
            Some(rest) => rest,
            None => match self.input.poll_next_unpin(context) {
                Poll::Ready(Some(Ok(batch))) => batch,
                other => return other,
            },
        };
        self.gave_way = false;
        if batch.num_rows() <= ROWS {
            return Poll::Ready(Some(Ok(batch)));
        }
        self.rest = Some(batch.slice(ROWS, batch.num_rows() - ROWS));
        Poll::Ready(Some(Ok(batch.slice(0, ROWS))))
    }
}

impl RecordBatchStream for Steps {
    fn schema(&self) -> SchemaRef {
        self.input.schema()
    }
}

//! [`GiveWay`]: what keeps one operator from using a thread for itself. A deadline and a cancellation
//! are noticed only between two turns of a statement, and operators that make many rows of one take
//! long ones.

use std::sync::Arc;

use datafusion::{
    common::{
        Result,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions, coop::CooperativeExec},
};

use super::small_steps::SmallSteps;

/// Makes operators that turn one row into many give way to others after each batch.
#[derive(Debug)]
pub(super) struct GiveWay;

impl PhysicalOptimizerRule for GiveWay {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let wrap = |plan: Arc<dyn ExecutionPlan>| {
            let plan = if plan.name() == "NestedLoopJoinExec" { with_small_steps(plan)? } else { plan };
            let multiplies = plan.name().contains("Join") || matches!(plan.name(), "UnnestExec" | "RecursiveQueryExec");
            Ok(if multiplies {
                Transformed::yes(Arc::new(CooperativeExec::new(plan)) as Arc<dyn ExecutionPlan>)
            } else {
                Transformed::no(plan)
            })
        };
        plan.transform_up(wrap).map(|wrapped| wrapped.data)
    }

    fn name(&self) -> &'static str {
        "give_way"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

fn with_small_steps(join: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let mut children: Vec<Arc<dyn ExecutionPlan>> = join.children().into_iter().cloned().collect();
    if let Some(probe) = children.pop() {
        children.push(Arc::new(SmallSteps { input: probe }));
    }
    join.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

//! [`Watch`]: what ends a statement from outside: its time, and a reader that went away.
//!
//! A statement that runs is dropped between two of its steps. Planning has no such steps: it is one
//! call into the engine, so the rules of its optimizer, node by node, and the functions it evaluates
//! ahead look at the watch of the task they run in.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use datafusion::{
    common::{Result, config::ConfigOptions, exec_err, tree_node::Transformed},
    execution::{SessionStateBuilder, session_state::SessionState},
    logical_expr::LogicalPlan,
    optimizer::{ApplyOrder, OptimizerConfig, OptimizerRule},
    physical_optimizer::{PhysicalOptimizerContext, PhysicalOptimizerRule},
    physical_plan::ExecutionPlan,
};
use tokio_util::sync::CancellationToken;

tokio::task_local! {
    static WATCH: Watch;
}

/// What ends a statement from outside.
#[derive(Clone, Debug)]
pub(super) struct Watch {
    started: Instant,
    limit: Duration,
    gone: CancellationToken,
}

impl Watch {
    /// From now on; `gone` is cancelled when nobody waits for the answer any more.
    pub(super) fn new(limit: Duration, gone: CancellationToken) -> Self {
        Self { started: Instant::now(), limit, gone }
    }

    /// Does work under this watch.
    pub(super) async fn over<T>(self, work: impl Future<Output = T>) -> T {
        WATCH.scope(self, work).await
    }

    /// Of the statement that this task works for.
    pub(super) fn current() -> Option<Self> {
        WATCH.try_with(Self::clone).ok()
    }

    /// Fails when the statement has to end.
    pub(super) fn look(&self) -> Result<()> {
        match self.gone.is_cancelled() || self.is_late() {
            true => exec_err!("the statement was ended"),
            false => Ok(()),
        }
    }

    /// Whether its time is over.
    pub(super) fn is_late(&self) -> bool {
        self.started.elapsed() > self.limit
    }
}

/// Fails when the statement that this task works for has to end. Outside of a statement nobody waits.
pub(super) fn look() -> Result<()> {
    WATCH.try_with(Watch::look).unwrap_or(Ok(()))
}

/// The same session, whose rules look at the watch.
pub(super) fn watched(state: SessionState) -> SessionState {
    let logical = state.optimizers().iter().map(|rule| Arc::new(Watched(rule.clone())) as _).collect();
    let physical = state.physical_optimizers().iter().map(|rule| Arc::new(Watched(rule.clone())) as _).collect();
    let builder = SessionStateBuilder::new_from_existing(state);
    builder.with_optimizer_rules(logical).with_physical_optimizer_rules(physical).build()
}

/// A rule that looks before it works.
#[derive(Debug)]
struct Watched<R: ?Sized>(Arc<R>);

impl OptimizerRule for Watched<dyn OptimizerRule + Send + Sync> {
    fn name(&self) -> &str {
        self.0.name()
    }

    fn apply_order(&self) -> Option<ApplyOrder> {
        self.0.apply_order()
    }

    fn rewrite(&self, plan: LogicalPlan, config: &dyn OptimizerConfig) -> Result<Transformed<LogicalPlan>> {
        look()?;
        self.0.rewrite(plan, config)
    }
}

impl PhysicalOptimizerRule for Watched<dyn PhysicalOptimizerRule + Send + Sync> {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, config: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        look()?;
        self.0.optimize(plan, config)
    }

    fn optimize_with_context(
        &self,
        plan: Arc<dyn ExecutionPlan>,
        context: &dyn PhysicalOptimizerContext,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        look()?;
        self.0.optimize_with_context(plan, context)
    }

    fn name(&self) -> &str {
        self.0.name()
    }

    fn schema_check(&self) -> bool {
        self.0.schema_check()
    }
}

#[cfg(test)]
mod tests {
    use datafusion::prelude::SessionContext;

    use super::*;

    #[tokio::test]
    async fn work_ends_when_it_is_late_or_nobody_waits() {
        assert!(look().is_ok(), "outside of a statement");
        let (patient, gone) = (Duration::from_secs(3_600), CancellationToken::new());
        let seen = async {
            let before = look();
            gone.cancel();
            (before.is_ok(), look().is_ok())
        };
        assert_eq!(Watch::new(patient, gone.clone()).over(seen).await, (true, false));
        let session = SessionContext::new_with_state(watched(SessionContext::new().state()));
        let plan = session.state().create_logical_plan("SELECT 1 + 1").await.unwrap();
        assert!(session.state().optimize(&plan).is_ok());
        let cancelled = Watch::new(patient, gone).over(async { session.state().optimize(&plan) }).await;
        assert!(cancelled.unwrap_err().to_string().contains("the statement was ended"));
        let late = Watch::new(Duration::ZERO, CancellationToken::new());
        while !late.is_late() {}
        assert!(late.over(async { look() }).await.is_err());
    }
}

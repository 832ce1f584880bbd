//! Where a node finds the revision that a call names.

use dunlin_api::{BoxFuture, FunctionName, Revision, RevisionId};
use std::sync::Arc;

use crate::catalog::Catalog;

/// Revisions by function and id.
pub trait Revisions: Send + Sync + 'static {
    /// Looks everywhere, the store included.
    fn find<'a>(&'a self, function: &'a FunctionName, id: &'a RevisionId) -> BoxFuture<'a, Option<Arc<Revision>>>;

    /// Looks only at what is at hand.
    fn known(&self, function: &FunctionName, id: &RevisionId) -> Option<Arc<Revision>>;
}

impl Revisions for Catalog {
    fn find<'a>(&'a self, function: &'a FunctionName, id: &'a RevisionId) -> BoxFuture<'a, Option<Arc<Revision>>> {
        Box::pin(async move {
            if let Some(known) = self.known(function, id) {
                return Some(known);
            }
            match self.revision(function, id).await {
                Ok(found) => found.map(Arc::new),
                Err(error) => {
                    tracing::warn!(%function, revision = %id, %error, "a revision cannot be read");
                    None
                }
            }
        })
    }

    fn known(&self, function: &FunctionName, id: &RevisionId) -> Option<Arc<Revision>> {
        let snapshot = self.snapshot();
        let serving = &snapshot.functions.get(function)?.serving;
        serving.iter().find(|(revision, _)| revision.id == *id).map(|(revision, _)| revision.clone())
    }
}

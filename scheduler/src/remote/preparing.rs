//! How a worker makes revisions ready: because a deploy asks for it, or because calls came for one that was not.
//!
//! Bounded: [`PREPARING`] that were asked for and [`WARMING`] in the background at once; more are refused, or left to a later
//! call. They end with the server.

use async_nats::Subject;
use dunlin_api::{FunctionName, InvokeError, LocalNode, Refusal, Revision, RevisionId};
use futures::FutureExt;
use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, atomic::Ordering},
};
use tokio::{
    pin, select,
    time::{Instant, interval},
};

use super::{
    PULSE, Server,
    frame::{Frame, Prepare, Progress, Ready, Unprepared, encode},
    link::{lock, publish},
};

/// Preparations that others asked for, at once.
pub(super) const PREPARING: usize = 64;
/// Revisions that are made ready in the background because calls came for them, at once.
const WARMING: usize = 16;

impl<N: LocalNode> Server<N> {
    pub(super) async fn prepare(&self, frame: &Frame, reply: Subject) {
        let done = match self.prepared(frame, &reply).await {
            Ok(()) => encode(frame.key, &Ready),
            Err(refusal) => {
                let refusal = serde_json::to_string(&refusal).expect("a refusal has only string keys");
                encode(frame.key, &Unprepared { refusal: &refusal })
            }
        };
        self.outbox.post(reply, done);
    }

    async fn prepared(&self, frame: &Frame, reply: &Subject) -> Result<(), Refusal> {
        let node = |reason: String| Refusal::Node(reason);
        if self.draining.load(Ordering::Acquire) {
            return Err(node(InvokeError::Draining.to_string()));
        }
        let prepare = frame.head::<Prepare<'_>>().map_err(|error| node(error.to_string()))?;
        let revision: Revision = serde_json::from_str(prepare.revision).map_err(|error| node(error.to_string()))?;
        let full = |_| node(format!("it prepares {PREPARING} revisions already"));
        let _permit = self.preparing.try_acquire().map_err(full)?;
        let work = self.node.prepare(Arc::new(revision));
        pin!(work);
        let mut pulse = interval(PULSE);
        loop {
            select! {
                biased;
                done = &mut work => return done,
                _ = pulse.tick() => {
                    let progress = encode(frame.key, &Progress { load: self.node.load() });
                    // A pulse that is missed is followed by another.
                    let _ = publish(&self.nats.control, reply.clone(), None, progress).await;
                }
            }
        }
    }

    /// Makes a revision ready in the background, once, because a call came for it.
    pub(super) fn warm(self: &Arc<Self>, function: FunctionName, id: RevisionId) {
        let mut warming = lock(&self.warming);
        if warming.len() >= WARMING || !warming.insert((function.clone(), id.clone())) {
            return;
        }
        drop(warming);
        let server = self.clone();
        self.tasks.spawn(async move {
            let began = Instant::now();
            let work = async {
                match server.revisions.find(&function, &id).await {
                    Some(revision) => server.node.prepare(revision).await.map_err(|refusal| refusal.to_string()),
                    None => Err("the catalog does not have it".to_owned()),
                }
            };
            // A panic must not keep the revision from being tried again.
            let done = server.ended.run_until_cancelled(AssertUnwindSafe(work).catch_unwind()).await;
            let ms = began.elapsed().as_millis() as u64;
            match done {
                Some(Ok(Ok(()))) => tracing::info!(%function, revision = %id, ms, "made ready because calls came"),
                Some(Ok(Err(error))) => tracing::warn!(%function, revision = %id, error, "could not be made ready"),
                _ => {}
            }
            lock(&server.warming).remove(&(function, id));
        });
    }
}

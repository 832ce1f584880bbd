//! A scripted node: what it does with a call, and what it refuses, are closures and values of the test.

use dunlin_api::{
    Body, BoxFuture, Declined, Digest, Invocation, Invoke, InvokeError, Load, LocalNode, Prepare, Refusal, Revision,
    Settings, World,
};
use http::Response;
use std::{
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
};
use tokio::sync::Semaphore;

pub(crate) type Answer = Result<Response<Body>, InvokeError>;
type Script = Box<dyn Fn(Invocation) -> BoxFuture<'static, Answer> + Send + Sync>;

pub(crate) struct Scripted {
    script: Script,
    /// Why it declines calls.
    pub(crate) declines: Mutex<Option<InvokeError>>,
    /// Calls it began.
    pub(crate) began: AtomicU32,
    /// Calls it loaded the revision for.
    pub(crate) loaded: AtomicU32,
    /// One permit for each preparation that was asked for.
    pub(crate) asked: Semaphore,
    /// A preparation takes one permit.
    pub(crate) prepares: Semaphore,
    pub(crate) refusal: Mutex<Option<Refusal>>,
}

impl Scripted {
    pub(crate) fn new<F>(script: impl Fn(Invocation) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Answer> + Send + 'static,
    {
        Self {
            script: Box::new(move |call| Box::pin(script(call))),
            declines: Mutex::default(),
            began: AtomicU32::new(0),
            loaded: AtomicU32::new(0),
            asked: Semaphore::new(0),
            prepares: Semaphore::new(1_000),
            refusal: Mutex::default(),
        }
    }
}

impl Invoke for Scripted {
    async fn invoke(&self, call: Invocation) -> Answer {
        self.loaded.fetch_add(1, Ordering::SeqCst);
        (self.script)(call).await
    }
}

impl Prepare for Scripted {
    fn check<'a>(&'a self, _: bytes::Bytes, _: &'a Settings) -> BoxFuture<'a, Result<World, Refusal>> {
        Box::pin(async { Ok(World::Http02) })
    }

    fn prepare(&self, _: Arc<Revision>) -> BoxFuture<'_, Result<(), Refusal>> {
        Box::pin(async {
            self.asked.add_permits(1);
            self.prepares.acquire().await.unwrap().forget();
            self.refusal.lock().unwrap().clone().map_or(Ok(()), Err)
        })
    }

    fn retire(&self, _: Digest) {}
}

impl LocalNode for Scripted {
    fn begin(&self, call: Invocation) -> Result<impl Future<Output = Answer> + Send, Box<Declined>> {
        if let Some(why) = self.declines.lock().unwrap().clone() {
            return Err(Box::new(Declined { call, why }));
        }
        self.began.fetch_add(1, Ordering::SeqCst);
        Ok((self.script)(call))
    }

    fn load(&self) -> Load {
        Load { in_flight: 3, slots: 8 }
    }

    fn is_ready(&self, _: &Revision) -> bool {
        true
    }

    fn ready_count(&self) -> usize {
        1
    }
}

//! How a guest that computes lets others run, between two slices of a tick each. The sandbox awaits it at every tick.
//!
//! Tokio promises no order, so this goes by how its scheduler works: what becomes ready while a guest computes is seen when
//! the driver is polled, and what a worker wakes last runs first. It promises that sockets and timers that were ready when
//! the guest stopped are served before it goes on, unless another worker takes it. It costs three polls each tick.

use std::{future::poll_fn, task::Poll};

/// Waits until all that is ready had its turn.
pub(crate) async fn give_way() {
    // Behind the tasks that wait for this worker. If guests were deferred at once they would come back together whenever
    // the driver is polled, and a call that it found would wait for all of them: twice as long beside 16 on two cores.
    queue_again().await;
    // Behind sockets and timers: the task is woken after the driver was polled, and after those that it woke.
    tokio::task::yield_now().await;
    // The last one woken would be the next to run, before what the driver has just found.
    queue_again().await;
}

/// Puts the task at the end of its worker's queue: tokio does that with one that wakes itself.
async fn queue_again() {
    let mut queued = false;
    poll_fn(|context| {
        if queued {
            return Poll::Ready(());
        }
        queued = true;
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::give_way;
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    };
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::UnixStream,
        task::JoinSet,
    };

    /// One worker, which polls the driver only when it must.
    fn lazy_runtime() -> tokio::runtime::Runtime {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().event_interval(u32::MAX).build().unwrap()
    }

    #[test]
    fn a_socket_that_became_ready_during_a_slice_is_served_before_the_next() {
        lazy_runtime().block_on(async {
            let mut tasks = JoinSet::new();
            let (mut near, mut far) = UnixStream::pair().unwrap();
            let served = Arc::new(AtomicU32::new(0));
            let count = served.clone();
            tasks.spawn(async move { while far.read_u8().await.is_ok_and(|_| count.fetch_add(1, SeqCst) < 100) {} });
            tasks.spawn(async move {
                give_way().await;
                for slice in 1..=100 {
                    near.write_u8(0).await.unwrap();
                    give_way().await;
                    assert_eq!(served.load(SeqCst), slice);
                }
            });
            while let Some(ended) = tasks.join_next().await {
                ended.unwrap();
            }
        });
    }
}

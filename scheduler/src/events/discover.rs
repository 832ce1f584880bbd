//! Finds the queues that hold work: by the signals of those who append, and by looking every few seconds, because a signal
//! only saves waiting.

use futures::StreamExt;
use std::time::Duration;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep_until},
};

use super::item::QUEUE_TOPIC;
use crate::store::events::{EventStores, Subscription};
use dunlin_api::StoreError;

/// Between looks; up to the second while they fail.
const LOOK: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));

/// Tells `found` of queues until nobody listens. A slow listener makes it look less often, no more.
pub(super) async fn discover(stores: EventStores, found: mpsc::Sender<String>) {
    let mut pause = LOOK.0;
    let mut trouble = None;
    loop {
        let looked = look(&stores, &found).await;
        let listened = match looked {
            Ok(()) => stores.bus.signals(&format!("{QUEUE_TOPIC}.>")).await,
            Err(error) => Err(error),
        };
        let signals = match listened {
            Ok(signals) => {
                (pause, trouble) = (LOOK.0, None);
                signals
            }
            Err(error) => {
                let text = error.to_string();
                if trouble.as_ref() != Some(&text) {
                    tracing::warn!(%error, "queues with work cannot be found: it is tried again");
                    trouble = Some(text);
                }
                if sleep_or_closed(&found, pause).await {
                    return;
                }
                pause = (pause * 2).min(LOOK.1);
                continue;
            }
        };
        if follow(&stores, &found, signals).await {
            return;
        }
    }
}

/// Follows signals, and looks now and then, until one of both fails; true if nobody listens any more.
async fn follow(stores: &EventStores, found: &mpsc::Sender<String>, mut signals: Subscription) -> bool {
    loop {
        let look_at = Instant::now() + jittered(LOOK.0);
        loop {
            tokio::select! {
                () = found.closed() => return true,
                () = sleep_until(look_at) => break,
                signal = signals.next() => {
                    let Some(signal) = signal else { return false };
                    let queue = signal.message.subject.strip_prefix(QUEUE_TOPIC).and_then(|rest| rest.strip_prefix('.'));
                    if let Some(queue) = queue
                        && found.send(queue.to_owned()).await.is_err()
                    {
                        return true;
                    }
                }
            }
        }
        if let Err(error) = look(stores, found).await {
            tracing::debug!(%error, "the queues cannot be listed");
            return false;
        }
    }
}

async fn look(stores: &EventStores, found: &mpsc::Sender<String>) -> Result<(), StoreError> {
    for queue in stores.streams.queues().await?.into_keys() {
        // Nobody listening is seen by the caller.
        let _ = found.send(queue).await;
    }
    Ok(())
}

fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(rand::random_range(0.8..1.2))
}

async fn sleep_or_closed(found: &mpsc::Sender<String>, wait: Duration) -> bool {
    tokio::select! {
        () = found.closed() => true,
        () = tokio::time::sleep(jittered(wait)) => false,
    }
}

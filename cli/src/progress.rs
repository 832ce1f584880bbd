//! Progress of what takes longer than a second, on a terminal and nowhere else.

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use crate::output::Output;

/// What is done sooner needs no progress.
const SILENT: Duration = Duration::from_secs(1);
const REDRAW: Duration = Duration::from_millis(100);

/// How far a transfer is; shared with whoever does it.
#[derive(Clone, Debug)]
pub(crate) struct Transfer {
    pub(crate) done: Arc<AtomicU64>,
    pub(crate) total: u64,
}

/// Waits for `work`, and shows a spinner with `label` and the time once it takes long.
pub(crate) async fn spinner<T>(out: &Output, label: String, work: impl Future<Output = T>) -> T {
    let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}");
    shown(out, label, ProgressBar::new_spinner(), style.ok(), work, |bar| bar.tick()).await
}

/// Waits for `work`, and shows a bar with `label` once it takes long.
pub(crate) async fn bar<T>(out: &Output, label: String, transfer: Transfer, work: impl Future<Output = T>) -> T {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes} of {total_bytes}, {bytes_per_sec}");
    let update = move |bar: &ProgressBar| bar.set_position(transfer.done.load(Ordering::Relaxed));
    shown(out, label, ProgressBar::new(transfer.total), style.ok(), work, update).await
}

/// Waits for `work`, and shows how many of many things are done once it takes long.
pub(crate) async fn count<T>(out: &Output, label: String, transfer: Transfer, work: impl Future<Output = T>) -> T {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {pos} of {len}, {per_sec:.0}");
    let update = move |bar: &ProgressBar| bar.set_position(transfer.done.load(Ordering::Relaxed));
    shown(out, label, ProgressBar::new(transfer.total), style.ok(), work, update).await
}

async fn shown<T>(
    out: &Output,
    label: String,
    bar: ProgressBar,
    style: Option<ProgressStyle>,
    work: impl Future<Output = T>,
    update: impl Fn(&ProgressBar),
) -> T {
    if !out.is_watched() {
        return work.await;
    }
    tokio::pin!(work);
    tokio::select! {
        result = &mut work => return result,
        () = tokio::time::sleep(SILENT) => {}
    }
    bar.set_draw_target(ProgressDrawTarget::stderr());
    if let Some(style) = style {
        bar.set_style(style);
    }
    bar.set_message(label);
    loop {
        update(&bar);
        tokio::select! {
            result = &mut work => {
                bar.finish_and_clear();
                return result;
            }
            () = tokio::time::sleep(REDRAW) => {}
        }
    }
}

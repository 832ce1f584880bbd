//! What one guest can see and use: the data of its store, its limits, and how each is enforced.
//!
//! Memory is counted over all memories of the instance. CPU time is counted when the epoch interrupts the guest, by
//! the clock of the thread it runs on: a guest that never computes longer than a tick is never charged, one that spins
//! cannot escape, and one that waits pays nothing. Handles, tables and bytes per host call are bounded by wasmtime.

use dunlin_api::{BoxFuture, Invocation, InvocationId, InvokeError, Limits};
use rustix::time::{ClockId, clock_gettime};
use std::{thread::ThreadId, time::Duration};
use tokio::time::Instant;
use wasmtime::{ResourceLimiter, Store, StoreContextMut, UpdateDeadline, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

use crate::{
    config::TICK,
    host::{KeyValueCtx, KeyValueView, MessagingCtx, MessagingView, Outbound, Output},
    ready::Ready,
    turns::give_way,
};

/// Host resources (streams, fields, requests…) a guest may hold at once.
const MAX_HANDLES: usize = 10_000;
/// Bytes that one host call may make the host copy; bodies stream in smaller pieces.
const MAX_HOSTCALL_BYTES: usize = 16 << 20;
/// Bytes of randomness in one call.
const MAX_RANDOM_BYTES: u64 = 1 << 20;
/// Elements of one table; the pool's wall is the same.
const MAX_TABLE_ELEMENTS: usize = 100_000;

/// The data of a guest's store.
pub(crate) struct Guest {
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    pub(crate) outbound: Outbound,
    pub(crate) keyvalue: KeyValueCtx,
    pub(crate) messaging: MessagingCtx,
    pub(crate) output: Output,
    pub(crate) memory: MemoryMeter,
    pub(crate) cpu: CpuMeter,
}

impl WasiView for Guest {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Guest {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.outbound }
    }
}

impl Guest {
    /// The revision's grant of stores, with the table that holds open ones.
    pub(crate) fn keyvalue(&mut self) -> KeyValueView<'_> {
        KeyValueView { ctx: &self.keyvalue, table: &mut self.table }
    }

    /// What the invocation may send.
    pub(crate) fn messaging(&mut self) -> MessagingView<'_> {
        MessagingView { ctx: &mut self.messaging, outbound: &mut self.outbound, output: &self.output }
    }

    /// Points a reused store at its next invocation.
    pub(crate) fn begin(&mut self, id: InvocationId, deadline: Instant) {
        self.output.begin(id);
        self.outbound.begin(deadline);
        self.cpu.used = Duration::ZERO;
        self.memory.denied = false;
    }
}

/// Makes the store for an instance of `ready`, whose first invocation prints to `output` and ends at `deadline`.
pub(crate) fn store(ready: &Ready, deadline: Instant, output: Output) -> Store<Guest> {
    let settings = &ready.revision.settings;
    let mut table = ResourceTable::new();
    table.set_max_capacity(MAX_HANDLES);
    let guest = Guest {
        table,
        wasi: wasi(ready, &output),
        http: WasiHttpCtx::new(),
        outbound: ready.outbound(output.clone(), deadline),
        keyvalue: ready.keyvalue(),
        messaging: ready.messaging(),
        output,
        memory: MemoryMeter { limit: settings.limits.memory.as_usize(), used: 0, denied: false },
        cpu: CpuMeter::new(&settings.limits),
    };
    let mut store = Store::new(&ready.code.engine, guest);
    store.limiter(|guest| &mut guest.memory);
    store.set_max_component_handles(MAX_HANDLES);
    store.set_hostcall_fuel(MAX_HOSTCALL_BYTES);
    store.epoch_deadline_callback(on_tick);
    store.set_epoch_deadline(1);
    store
}

/// Prepares a store that served before for `call`.
pub(crate) fn reuse(store: &mut Store<Guest>, call: &Invocation) {
    store.data_mut().begin(call.id, call.deadline);
    store.set_epoch_deadline(1);
}

fn wasi(ready: &Ready, output: &Output) -> WasiCtx {
    let mut builder = WasiCtxBuilder::new();
    builder.stdout(output.stdout()).stderr(output.stderr()).max_random_size(MAX_RANDOM_BYTES);
    for (key, value) in &ready.revision.settings.env {
        builder.env(key, value);
    }
    builder.build()
}

/// Counts linear memory over all memories of an instance.
pub(crate) struct MemoryMeter {
    limit: usize,
    used: usize,
    /// Whether the guest was refused memory; tells a guest that died of it from one that trapped otherwise.
    pub(crate) denied: bool,
}

impl ResourceLimiter for MemoryMeter {
    fn memory_growing(&mut self, current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        let total = self.used.saturating_add(desired.saturating_sub(current));
        let allowed = total <= self.limit;
        if allowed {
            self.used = total;
        } else {
            self.denied = true;
        }
        Ok(allowed)
    }

    fn table_growing(&mut self, _current: usize, desired: usize, _maximum: Option<usize>) -> wasmtime::Result<bool> {
        Ok(desired <= MAX_TABLE_ELEMENTS)
    }
}

/// Counts the CPU time of an invocation.
pub(crate) struct CpuMeter {
    limit: Duration,
    used: Duration,
    last: Option<(ThreadId, Duration)>,
}

/// The guest used up its CPU time; ends the call as a trap does.
#[derive(Debug, thiserror::Error)]
#[error("the CPU limit of {0:?} is used up")]
pub(crate) struct CpuExceeded(Duration);

impl CpuMeter {
    fn new(limits: &Limits) -> Self {
        Self { limit: limits.cpu, used: Duration::ZERO, last: None }
    }

    /// Charges the time since the last tick. The guest was resumed at most one tick ago, so never more than that; and
    /// never more than this thread has worked meanwhile, so that a crowded machine does not charge it for waiting.
    fn charge(&mut self) -> Result<(), CpuExceeded> {
        let thread = std::thread::current().id();
        let clock = clock_gettime(ClockId::ThreadCPUTime);
        let now = Duration::new(clock.tv_sec.unsigned_abs(), clock.tv_nsec.unsigned_abs() as u32);
        let worked = match self.last {
            Some((last, then)) if last == thread => now.saturating_sub(then).min(TICK),
            _ => TICK,
        };
        self.last = Some((thread, now));
        self.used += worked;
        if self.used > self.limit { Err(CpuExceeded(self.limit)) } else { Ok(()) }
    }
}

/// Runs when a guest has computed past a tick: it pays, and lets others run. Waking itself directly, as wasmtime's own
/// yield does, would starve timers and sockets (65 ms late).
fn on_tick(mut store: StoreContextMut<'_, Guest>) -> wasmtime::Result<UpdateDeadline> {
    store.data_mut().cpu.charge()?;
    let others: BoxFuture<'static, ()> = Box::pin(give_way());
    Ok(UpdateDeadline::YieldCustom(1, others))
}

/// Says in our words why a call into the guest of `store` failed, and leaves the details in its log.
pub(crate) fn explain(guest: &Guest, limits: &Limits, error: &wasmtime::Error) -> InvokeError {
    if error.downcast_ref::<CpuExceeded>().is_some() {
        return InvokeError::Cpu(limits.cpu);
    }
    if let Some(exit) = error.downcast_ref::<wasmtime_wasi::I32Exit>() {
        return InvokeError::NoResponse(format!("it exited with code {}", exit.0));
    }
    if guest.memory.denied {
        return InvokeError::Memory(limits.memory);
    }
    remark(guest, error);
    InvokeError::Trap(error.root_cause().to_string())
}

/// Leaves `error` with its causes in the log of `guest`: the guest's own backtrace is one of them, the host's, which the
/// debug form would add, is nobody's business there.
pub(crate) fn remark(guest: &Guest, error: &wasmtime::Error) {
    for cause in error.chain() {
        for line in cause.to_string().lines().filter(|line| !line.trim().is_empty()) {
            guest.output.remark(line);
        }
    }
}

//! The thread that makes running guests yield, by advancing the engines' epoch every tick.
//!
//! It sleeps for good while nothing runs, so an idle node wakes nobody. Whoever starts an invocation calls
//! [`Ticker::enter`]; the price on that path is one atomic load when the thread is awake.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU32, Ordering::SeqCst},
    },
    thread::{self, JoinHandle},
};
use wasmtime::EngineWeak;

use crate::config::TICK;

/// Ticks without any invocation before the thread goes to sleep: waking it costs a system call, so not at every gap.
const IDLE_TICKS: u32 = 200;

pub(crate) struct Ticker {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct State {
    running: AtomicU32,
    asleep: AtomicBool,
    stop: AtomicBool,
    engines: Mutex<Vec<EngineWeak>>,
}

/// Keeps the ticker awake until dropped.
pub(crate) struct Running(Arc<State>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, SeqCst);
    }
}

impl Ticker {
    /// Starts the thread. It ends with the ticker.
    pub(crate) fn start() -> std::io::Result<Self> {
        let state = Arc::new(State::default());
        let shared = state.clone();
        let thread = thread::Builder::new().name("dunlin-ticker".into()).spawn(move || run(&shared))?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// Advances the epoch of `engine` from now on, as long as it is there.
    pub(crate) fn drive(&self, engine: EngineWeak) {
        self.state.engines.lock().unwrap_or_else(PoisonError::into_inner).push(engine);
    }

    /// Says that guest code will run until the answer is dropped.
    pub(crate) fn enter(&self) -> Running {
        self.state.running.fetch_add(1, SeqCst);
        // The thread sets `asleep` before it looks at `running` a last time, and here the order is the reverse: one
        // of the two sees the other.
        if self.state.asleep.load(SeqCst)
            && let Some(thread) = &self.thread
        {
            thread.thread().unpark();
        }
        Running(self.state.clone())
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.state.stop.store(true, SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            if thread.join().is_err() {
                tracing::error!("the epoch thread panicked");
            }
        }
    }
}

impl State {
    fn tick(&self) {
        // A panic while pushing leaves a vector that is still whole.
        for engine in self.engines.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            if let Some(engine) = engine.upgrade() {
                engine.increment_epoch();
            }
        }
    }
}

fn run(state: &State) {
    let mut idle = 0;
    while !state.stop.load(SeqCst) {
        thread::sleep(TICK);
        state.tick();
        idle = if state.running.load(SeqCst) == 0 { idle + 1 } else { 0 };
        if idle >= IDLE_TICKS {
            state.asleep.store(true, SeqCst);
            while state.running.load(SeqCst) == 0 && !state.stop.load(SeqCst) {
                thread::park();
            }
            state.asleep.store(false, SeqCst);
            idle = 0;
        }
    }
}

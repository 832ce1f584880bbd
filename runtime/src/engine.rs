//! The two wasmtime engines of a node and everything decided once for all guests.
//!
//! Guests of `wasi:http@0.2` run on an engine without component-model concurrency: a fresh instance costs it 13 µs
//! instead of 22, and what is not compiled in cannot be attacked. Guests that need concurrency run on the other. Both
//! have the same limits: the pool bounds instances, memories, tables and stacks; epochs make every loop yield.

use std::{
    collections::hash_map::DefaultHasher,
    hash::{Hash, Hasher},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};
use wasmtime::{Config, Enabled, Engine, InstanceAllocationStrategy, PoolingAllocationConfig, component::Linker};

use crate::{StartError, linker, sandbox::Guest, ticker::Ticker};

/// Which of the two engines a component runs on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum EngineKind {
    /// Without component-model concurrency.
    Plain,
    /// With it.
    Concurrent,
}

impl EngineKind {
    /// Its name in file names and arguments.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Concurrent => "concurrent",
        }
    }

    /// Reads what [`Self::as_str`] wrote.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        [Self::Plain, Self::Concurrent].into_iter().find(|kind| kind.as_str() == text)
    }
}

/// What code is compiled for: it names the files.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Target {
    pub(crate) kind: EngineKind,
    /// Identifies configuration, compiler version and machine.
    pub(crate) compatibility: u64,
}

impl Target {
    /// What `engine`, of `kind`, runs.
    pub(crate) fn of(kind: EngineKind, engine: &Engine) -> Self {
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        Self { kind, compatibility: hasher.finish() }
    }
}

/// One engine with everything a guest may call linked to it.
pub(crate) struct LinkedEngine {
    pub(crate) engine: Engine,
    pub(crate) linker: Linker<Guest>,
}

/// The engines of a node. Each is made when it is first asked for: a pool takes milliseconds and a thousand mappings, and
/// many a node never sees a guest for the second one.
pub struct Engines {
    plain: OnceLock<LinkedEngine>,
    concurrent: OnceLock<LinkedEngine>,
    targets: [OnceLock<Target>; 2],
    /// Held by the one who makes an engine.
    making: Mutex<()>,
    slots: u32,
    pub(crate) ticker: Arc<Ticker>,
}

impl Engines {
    /// Engines for `slots` instances at once, and the thread that interrupts their guests. The plain one is made now, which
    /// blocks for some milliseconds.
    ///
    /// # Errors
    /// If wasmtime cannot work on this machine.
    pub fn new(slots: u32) -> Result<Self, StartError> {
        let ticker = Arc::new(Ticker::start().map_err(StartError::Thread)?);
        let engines = Self {
            plain: OnceLock::new(),
            concurrent: OnceLock::new(),
            targets: Default::default(),
            making: Mutex::new(()),
            slots,
            ticker,
        };
        engines.get(EngineKind::Plain)?;
        Ok(engines)
    }

    /// The engine, made if this is the first call for it, which blocks for some milliseconds.
    pub(crate) fn get(&self, kind: EngineKind) -> Result<&LinkedEngine, StartError> {
        let place = match kind {
            EngineKind::Plain => &self.plain,
            EngineKind::Concurrent => &self.concurrent,
        };
        if let Some(made) = place.get() {
            return Ok(made);
        }
        // It guards no data, so a panic in its holder leaves nothing half-done.
        let _making = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(made) = place.get() {
            return Ok(made);
        }
        let engine = pooled_or_not(kind, self.slots)?;
        let linker = linker::link(&engine, kind).map_err(StartError::Engine)?;
        self.ticker.drive(engine.weak());
        Ok(place.get_or_init(|| LinkedEngine { engine, linker }))
    }

    /// What code for `kind` is compiled for, also before that engine is made.
    pub(crate) fn target(&self, kind: EngineKind) -> Result<Target, StartError> {
        let place = &self.targets[kind as usize];
        if let Some(target) = place.get() {
            return Ok(*target);
        }
        // As the compiler does, without a pool, which takes a fraction of a millisecond.
        let engine = Engine::new(&base_config(kind)).map_err(StartError::Engine)?;
        Ok(*place.get_or_init(|| Target::of(kind, &engine)))
    }
}

/// Reserving address space fails under `ulimit -v` and on small machines: try smaller pools, then none at all. Scanning
/// the page map needs kernel 6.7.
fn pooled_or_not(kind: EngineKind, slots: u32) -> Result<Engine, StartError> {
    for (divisor, scan) in [(1, true), (1, false), (4, true), (4, false), (16, false)] {
        let instances = (slots / divisor).max(1);
        let mut config = base_config(kind);
        config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool(instances, scan)));
        match Engine::new(&config) {
            Ok(engine) => {
                if divisor > 1 {
                    let engine = kind.as_str();
                    tracing::warn!(engine, wanted = slots, instances, "little address space: the pool is smaller");
                }
                return Ok(engine);
            }
            Err(error) => tracing::debug!(engine = kind.as_str(), instances, scan, %error, "no such pool"),
        }
    }
    tracing::warn!(
        engine = kind.as_str(),
        "no address space for pooled instances (see `ulimit -v`): each invocation allocates its own, which is slower"
    );
    Engine::new(&base_config(kind)).map_err(StartError::Engine)
}

/// Reused instances wait in the pool while they are idle, beside those that run: hence twice the slots.
fn pool(slots: u32, scan: bool) -> PoolingAllocationConfig {
    let mut pool = PoolingAllocationConfig::default();
    let instances = slots.saturating_mul(2);
    pool.total_component_instances(instances)
        .total_memories(instances.saturating_mul(2))
        .total_stacks(instances)
        // A component of a linked language runtime has dozens of core instances and tables; both are only counts
        // and address space.
        .total_core_instances(instances.saturating_mul(64))
        .total_tables(instances.saturating_mul(8))
        .max_core_instances_per_component(200)
        .max_memories_per_component(32)
        .max_tables_per_component(64)
        .max_tables_per_module(4)
        .table_elements(100_000)
        .max_component_instance_size(10 << 20)
        .max_core_instance_size(10 << 20)
        // The wall behind each function's own limit, which the sandbox enforces.
        .max_memory_size(4 << 30);
    if scan {
        // Pages a guest touched stay with the slot and are only zeroed, found by scanning the page map. Without the
        // scan, keeping them costs more than giving them back.
        pool.pagemap_scan(Enabled::Yes)
            .linear_memory_keep_resident(1 << 20)
            .table_keep_resident(64 << 10)
            .async_stack_keep_resident(64 << 10);
    }
    pool
}

/// Everything that compiled code depends on; the compiler process uses exactly this.
pub(crate) fn base_config(kind: EngineKind) -> Config {
    let mut config = Config::new();
    config
        .epoch_interruption(true)
        .async_stack_zeroing(true)
        // For debuggers only: wasmtime never unwinds through guests with it. Registering it costs each load, the more the
        // more functions are loaded.
        .native_unwind_info(false)
        // Proposals with a history of advisories that no handler needs.
        .wasm_threads(false)
        .wasm_memory64(false)
        .wasm_gc(false)
        .wasm_function_references(false)
        .wasm_exceptions(false)
        .gc_support(false)
        .concurrency_support(kind == EngineKind::Concurrent);
    config
}

//! Settings of one node's runtime, with the defaults that suit a machine of any size.

use dunlin_api::ByteSize;
use std::{ffi::OsString, net::SocketAddr, num::NonZero, path::PathBuf, time::Duration};

/// How often running guests are interrupted to let others run. Shorter is fairer and costs guests more yields; at 1 ms
/// a yield of about 1 µs is lost in the noise.
pub(crate) const TICK: Duration = Duration::from_millis(1);

/// Compiled code that a node keeps loaded: 1,100 small functions, or 14 of those that bring a language runtime along. With
/// 10,000 small functions deployed a node then stays well below a gigabyte.
pub const DEFAULT_CODE_MEMORY: ByteSize = ByteSize::mib(512);

/// Settings of the runtime of one node.
#[derive(Clone, Debug)]
pub struct RuntimeConfig {
    /// Where compiled code is kept; made if missing, readable by this user only.
    pub data_dir: PathBuf,
    /// Invocations that may run at once.
    pub slots: u32,
    /// How components are compiled.
    pub compiler: Compiler,
    /// Largest component taken.
    pub max_component: ByteSize,
    /// Disk space for compiled code; the least recently used goes first.
    pub code_cache: ByteSize,
    /// Code kept loaded, counted as the sizes of the files that are mapped and a little for each function; the least
    /// recently used goes first and is mapped again when it is called, which takes less than a millisecond for a small
    /// one. A function that is larger than this is loaded all the same, alone.
    pub code_memory: ByteSize,
    /// Compilations at once, by default one for each core. More wait in line.
    pub max_compiles: usize,
    /// Sockets that no guest may reach, whatever its `egress` says: the node's own admin API for example.
    pub forbidden_egress: Vec<SocketAddr>,
}

/// Where the compiler runs.
#[derive(Clone, Debug)]
pub enum Compiler {
    /// In a child process with limits of its own, so that a component made to break the compiler breaks only that.
    /// The child must call [`crate::compile_worker`] with the arguments that follow `args`.
    Process {
        /// The program, usually this one.
        program: PathBuf,
        /// Arguments before ours.
        args: Vec<OsString>,
        /// What one compilation may use.
        limits: CompileLimits,
    },
    /// On a thread of this process: for tests, and where no child can be started.
    InProcess,
}

/// What one compilation may use before it is given up.
#[derive(Clone, Copy, Debug)]
pub struct CompileLimits {
    /// Address space of the child.
    pub memory: ByteSize,
    /// CPU time of the child. A large JavaScript or Python component takes about 15 s.
    pub cpu: Duration,
}

impl Default for CompileLimits {
    fn default() -> Self {
        Self { memory: ByteSize::mib(4096), cpu: Duration::from_secs(120) }
    }
}

impl RuntimeConfig {
    /// The defaults, with compiled code below `data_dir`.
    pub fn new(data_dir: impl Into<PathBuf>) -> Self {
        Self {
            data_dir: data_dir.into(),
            slots: default_slots(),
            compiler: Compiler::InProcess,
            max_component: ByteSize::mib(64),
            code_cache: ByteSize::mib(4096),
            code_memory: DEFAULT_CODE_MEMORY,
            max_compiles: cores() as usize,
            forbidden_egress: Vec::new(),
        }
    }
}

/// Most invocations wait for something most of the time, so a core carries many; 256 on each keeps the worst case of
/// resident memory (one kept-resident MiB a slot) below what a small machine has.
fn default_slots() -> u32 {
    cores().saturating_mul(256).clamp(256, 4096)
}

fn cores() -> u32 {
    std::thread::available_parallelism().map_or(1, NonZero::get) as u32
}

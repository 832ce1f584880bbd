//! Turns a component into machine code, away from everything that runs.
//!
//! Cranelift on a hostile component may need minutes and gigabytes, or crash. So it works in a child process with
//! limits of its own, at the lowest priority, and a bounded number of children work at once. What the child wrote is
//! not trusted for being there: [`crate::code::CodeStore`] authenticates it after this module has seen the child succeed.

use dunlin_api::{ByteSize, Refusal};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::{
    ffi::{OsStr, OsString},
    io,
    path::Path,
    process::{ExitCode, ExitStatus, Stdio},
    time::Duration,
};
use tokio::{io::AsyncReadExt, process::Command, sync::Semaphore};
use wasmtime::Engine;

use crate::{
    config::{CompileLimits, Compiler},
    engine::{EngineKind, base_config},
};

/// What is kept of a compiler's complaint.
const MAX_MESSAGE_BYTES: u64 = 16 << 10;

/// Compiles components, a bounded number at once.
pub(crate) struct Compile {
    compiler: Compiler,
    places: Semaphore,
}

impl Compile {
    pub(crate) fn new(compiler: Compiler, at_once: usize) -> Self {
        Self { compiler, places: Semaphore::new(at_once.max(1)) }
    }

    /// Compiles the component in the file `input` for the engine `kind` into the file `output`.
    ///
    /// # Errors
    /// `Refusal::Compile` with the compiler's own words, or which of its limits ended it; `Refusal::Node` if it could
    /// not be started.
    pub(crate) async fn run(&self, kind: EngineKind, input: &Path, output: &Path) -> Result<(), Refusal> {
        let _place = self.places.acquire().await.map_err(|_| Refusal::Node("it is shutting down".into()))?;
        match &self.compiler {
            Compiler::Process { program, args, limits } => child(program, args, *limits, kind, input, output).await,
            Compiler::InProcess => {
                let (input, output) = (input.to_owned(), output.to_owned());
                let work = tokio::task::spawn_blocking(move || compile(kind, &input, &output));
                work.await
                    .map_err(|e| Refusal::Compile(format!("the compiler panicked: {e}")))?
                    .map_err(Refusal::Compile)
            }
        }
    }
}

async fn child(
    program: &Path,
    args: &[OsString],
    limits: CompileLimits,
    kind: EngineKind,
    input: &Path,
    output: &Path,
) -> Result<(), Refusal> {
    let node = |e: io::Error| Refusal::Node(format!("the compiler process `{}` failed: {e}", program.display()));
    let mut child = Command::new(program)
        .args(args)
        .args([kind.as_str(), &limits.memory.bytes().to_string(), &limits.cpu.as_secs().to_string()])
        .args([input, output])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(node)?;
    let mut message = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        stderr.take(MAX_MESSAGE_BYTES).read_to_end(&mut message).await.map_err(node)?;
    }
    let status = child.wait().await.map_err(node)?;
    if status.success() { Ok(()) } else { Err(Refusal::Compile(verdict(status, &message, limits))) }
}

/// Puts the end of a compiler process into words.
fn verdict(status: ExitStatus, message: &[u8], limits: CompileLimits) -> String {
    use std::os::unix::process::ExitStatusExt;
    let message = String::from_utf8_lossy(message);
    let out_of_memory = message.contains("memory allocation of") || message.contains("out of memory");
    match status.signal() {
        _ if out_of_memory => format!("the compiler needed more than its {} of memory", limits.memory),
        None => message.trim().to_owned(),
        // SIGXCPU, and the kernel's last resort where that is ignored.
        Some(24 | 9) => format!("the compiler needed more than its {} s of CPU time", limits.cpu.as_secs()),
        Some(signal) => format!("the compiler crashed (signal {signal}); this component should be reported"),
    }
}

/// The compiler's side: the body of the child process that [`Compiler::Process`] starts, with the arguments that it was
/// given after its own. Limits itself, compiles one component, says on stderr why not.
pub fn compile_worker(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    match worker(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            use io::Write;
            // The parent went away if this fails; then nobody is left to tell.
            let _ = writeln!(io::stderr(), "{message}");
            ExitCode::FAILURE
        }
    }
}

fn worker(args: &[OsString]) -> Result<(), String> {
    let [kind, memory, cpu, input, output] = args else {
        return Err(format!("expected 5 arguments: engine, memory, cpu, input, output; got {}", args.len()));
    };
    let text = |arg: &OsString| arg.to_str().map(str::to_owned).ok_or("an argument is not UTF-8");
    let number = |arg: &OsString| text(arg)?.parse::<u64>().map_err(|_| "a limit is not a number");
    let kind = EngineKind::parse(&text(kind)?).ok_or("no such engine")?;
    let limits = CompileLimits { memory: ByteSize(number(memory)?), cpu: Duration::from_secs(number(cpu)?) };
    limit_self(limits).map_err(|e| format!("cannot limit the compiler: {e}"))?;
    compile(kind, Path::new(input), Path::new(output))
}

fn limit_self(limits: CompileLimits) -> rustix::io::Result<()> {
    let lower = |resource, wanted: u64| {
        let maximum = getrlimit(resource).maximum;
        let value = Some(maximum.map_or(wanted, |m| m.min(wanted)));
        setrlimit(resource, Rlimit { current: value, maximum: value })
    };
    // macOS has no address-space limit that works; the CPU limit still holds there.
    #[cfg(target_os = "linux")]
    lower(Resource::As, limits.memory.bytes())?;
    lower(Resource::Cpu, limits.cpu.as_secs())?;
    lower(Resource::Core, 0)?;
    rustix::process::nice(19).map(drop)
}

fn compile(kind: EngineKind, input: &Path, output: &Path) -> Result<(), String> {
    let file = |what: &str, path: &Path, e: io::Error| format!("cannot {what} {}: {e}", file_name(path));
    let engine = Engine::new(&base_config(kind)).map_err(|e| format!("{e:#}"))?;
    let component = std::fs::read(input).map_err(|e| file("read", input, e))?;
    let code = engine.precompile_component(&component).map_err(|e| format!("{e:#}"))?;
    std::fs::write(output, code).map_err(|e| file("write", output, e))
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or(OsStr::new("?")).to_string_lossy().into_owned()
}

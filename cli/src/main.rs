//! `dunlin`: the one binary. Read from here it is the life of the process: arguments, output, one command, exit code.

mod args;
mod client;
mod cluster;
mod cluster_args;
mod commands;
mod component;
mod config;
mod confirm;
mod exit;
mod function_args;
mod node;
mod output;
mod process;
mod progress;
mod project;
mod signals;
mod time;
mod toolchain;
mod urls;
mod watch;
mod wire;

use clap::Parser as _;
use std::{future::Future, io, process::ExitCode};
use tracing_subscriber::EnvFilter;

use crate::{
    args::{Cli, Command},
    exit::{Exit, Failure},
    output::{Format, Output},
};

/// Functions allocate on every request, from many threads: worth an allocator made for that.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let cli = Cli::parse();
    if let Command::Compile { args } = cli.command {
        return dunlin_runtime::compile_worker(args);
    }
    let out = Output::new(cli.output);
    log(&cli.command, cli.output);
    // Two crates of ours bring TLS; they must agree on who does the cryptography. It fails only if that was decided before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    match run(cli.command, &out) {
        Ok(()) => Exit::Ok.into(),
        Err(error) => {
            let exit = Exit::of(&error);
            if exit != Exit::Ok {
                out.error(&error);
            }
            exit.into()
        }
    }
}

fn run(command: Command, out: &Output) -> anyhow::Result<()> {
    match command {
        Command::New(args) => commands::new::run(&args, out),
        Command::Build(args) => client(commands::build::run(args, out)),
        Command::Dev(args) => server(commands::dev::run(args, out)),
        Command::Serve(args) => server(commands::serve::run(args, out)),
        Command::Deploy(args) => client(commands::deploy::run(args, out)),
        Command::Remove(args) => client(commands::remove::run(args, out)),
        Command::Invoke(args) => client(commands::invoke::run(args, out)),
        Command::Publish(args) => client(commands::publish::run(args, out)),
        Command::Result(args) => client(commands::result::run(args, out)),
        Command::Dlq(args) => client(commands::dlq::run(args, out)),
        Command::List(args) => client(commands::list::run(args, out)),
        Command::Show(args) => client(commands::show::run(args, out)),
        Command::Logs(args) => client(commands::logs::run(args, out)),
        Command::Node(args) => server(commands::node::run(args, out)),
        Command::Nodes(args) => client(commands::nodes::run(args, out)),
        Command::Drain(args) => client(commands::drain::drain(args, out)),
        Command::Undrain(args) => client(commands::drain::undrain(args, out)),
        Command::Doctor(args) => client(commands::doctor::run(args, out)),
        Command::Why(args) => client(commands::why::run(args, out)),
        Command::Completions(args) => commands::completions::run(&args, out),
        Command::Version(args) => client(commands::version::run(args, out)),
        Command::Help(args) => match args.text() {
            Some(text) => out.bytes(text.as_bytes()),
            None => {
                let message = format!("there is no help about `{}`", args.topic.join(" "));
                Err(Failure::new(Exit::Usage, message).hint("`dunlin help` lists the commands").into())
            }
        },
        Command::Compile { .. } => Ok(()),
    }
}

/// Commands that talk to a node need one thread.
fn client(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    finish(runtime, command)
}

/// Commands that are a node run guests.
fn server(command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    finish(dunlin_runtime::tokio_runtime()?, command)
}

/// A thread may still wait for stdin or the disk: nobody waits for it.
fn finish(runtime: tokio::runtime::Runtime, command: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    let result = runtime.block_on(command);
    runtime.shutdown_background();
    result
}

/// A node logs what happens, with `DUNLIN_LOG` as filter (`debug`, `dunlin_scheduler=trace`); other commands only what
/// should not have happened, and nothing that a function prints: they show that themselves.
fn log(command: &Command, format: Format) {
    let quiet = if matches!(command, Command::Node(_)) { "info,async_nats=warn" } else { "warn,function=off" };
    let filter = EnvFilter::try_from_env("DUNLIN_LOG").unwrap_or_else(|_| EnvFilter::new(quiet));
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        Format::Json => subscriber.json().flatten_event(true).init(),
        Format::Human => subscriber.with_ansi(Output::new(format).is_colored()).init(),
    }
}

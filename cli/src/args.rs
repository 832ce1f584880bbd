//! The command line as it is typed. Nothing here acts: each command turns its arguments into settings of its own, so that the
//! defaults and the rules stand in one place and can be tested.

use clap::{Parser, Subcommand};

use crate::{commands, exit, output::Format};

const AFTER_HELP: &str = "\
Start here:
  dunlin new hello && cd hello      a project to change
  dunlin dev                        build it, serve it, rebuild on every save
  dunlin node                       a node on this machine, for `deploy`
  dunlin deploy                     build the project and put it on the node
  dunlin invoke hello               call it

Exit codes: see `dunlin help exit-codes`.";

/// Runs WebAssembly components as functions.
#[derive(Debug, Parser)]
#[command(
    name = "dunlin",
    bin_name = "dunlin",
    version,
    about = "A serverless runtime for WebAssembly functions",
    after_help = AFTER_HELP,
    arg_required_else_help = true,
    max_term_width = 100,
    disable_help_subcommand = true
)]
pub(crate) struct Cli {
    /// How to write data: `human`, or `json` of a stable shape
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t, global = true, hide_possible_values = true)]
    pub(crate) output: Format,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a project from a template
    #[command(display_order = 1)]
    New(commands::new::Args),
    /// Build the functions of a project
    #[command(display_order = 2)]
    Build(commands::build::Args),
    /// Build and serve a project, and do it again on every change
    #[command(display_order = 3)]
    Dev(commands::dev::Args),
    /// Serve one component, without a project
    #[command(display_order = 4)]
    Serve(commands::serve::Args),
    /// Put a project or one component on a node
    #[command(display_order = 5)]
    Deploy(commands::deploy::Args),
    /// Take a function off the node
    #[command(display_order = 6)]
    Remove(commands::remove::Args),
    /// Call a function
    #[command(display_order = 7)]
    Invoke(commands::invoke::Args),
    /// Publish a message to a subject
    #[command(display_order = 8)]
    Publish(commands::publish::Args),
    /// Show what became of an asynchronous call
    #[command(display_order = 9)]
    Result(commands::result::Args),
    /// Dead letters: events that failed too often or were rejected
    #[command(display_order = 10)]
    Dlq(commands::dlq::Args),
    /// List the functions
    #[command(display_order = 11, visible_alias = "ls")]
    List(commands::list::Args),
    /// Show one function: revisions, routes, triggers, limits, grants
    #[command(display_order = 12)]
    Show(commands::show::Args),
    /// Show what functions print
    #[command(display_order = 13)]
    Logs(commands::logs::Args),
    /// Run a node
    #[command(display_order = 14)]
    Node(commands::node::Args),
    /// List the nodes of the cluster, weigh and forget them
    #[command(display_order = 15)]
    Nodes(commands::nodes::Args),
    /// Keep calls from a node until it is undrained
    #[command(display_order = 16)]
    Drain(commands::drain::DrainArgs),
    /// Let a drained node take calls again
    #[command(display_order = 17)]
    Undrain(commands::drain::UndrainArgs),
    /// Check the cluster: each finding with its remedy
    #[command(display_order = 18)]
    Doctor(commands::doctor::Args),
    /// Say where a function would run now, and why
    #[command(display_order = 19)]
    Why(commands::why::Args),
    /// Write completions for a shell to stdout
    #[command(display_order = 20)]
    Completions(commands::completions::Args),
    /// Show the version of this program and of the node
    #[command(display_order = 21)]
    Version(commands::version::Args),
    /// Show help for a command, or the exit codes
    #[command(display_order = 22)]
    Help(HelpArgs),
    /// What a node runs to compile a component; it reads its orders from its arguments
    #[command(name = "__compile", hide = true, disable_help_flag = true)]
    Compile {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<std::ffi::OsString>,
    },
}

/// `dunlin help [TOPIC]…`
#[derive(clap::Args, Debug)]
pub(crate) struct HelpArgs {
    /// A command, or `exit-codes`
    pub(crate) topic: Vec<String>,
}

impl HelpArgs {
    /// The text about the topic; none if there is no such topic.
    pub(crate) fn text(&self) -> Option<String> {
        if self.topic == ["exit-codes"] {
            return Some(exit::HELP.into());
        }
        let mut command = <Cli as clap::CommandFactory>::command();
        command.build();
        let mut at = &mut command;
        for name in &self.topic {
            at = at.find_subcommand_mut(name).filter(|found| !found.is_hide_set())?;
        }
        Some(at.render_long_help().to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn help_knows_commands_and_exit_codes_and_hides_the_compiler() {
        let text = |topic: &[&str]| HelpArgs { topic: topic.iter().map(|&t| t.into()).collect() }.text();
        assert!(text(&[]).unwrap().contains("Start here"));
        assert!(text(&["deploy"]).unwrap().contains("--egress"));
        assert!(text(&["exit-codes"]).unwrap().contains("no node answers"));
        assert!(text(&["nonsense"]).is_none() && text(&["__compile"]).is_none());
    }

    #[test]
    fn every_command_with_arguments_shows_an_example() {
        for command in Cli::command().get_subcommands().filter(|c| !c.is_hide_set()) {
            let takes = command.get_arguments().any(|a| a.get_id() != "help");
            let example = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            let shown = example.contains("Example") || matches!(command.get_name(), "help" | "version" | "list");
            assert!(!takes || shown, "`{}` shows no example", command.get_name());
        }
    }
}

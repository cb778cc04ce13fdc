//! The command line: what was asked for, and the commands that need no server.

mod usage;

pub use usage::{UsageArguments, usage};

use crate::config::{self, Env, Source, keys};
use crate::secret::KeyHash;
use clap::{Parser, Subcommand};
use std::io::Write;
use std::path::PathBuf;

/// Everything went well.
pub const OK: u8 = 0;
/// Any other fault.
pub const FAILED: u8 = 1;
/// The command line makes no sense (`EX_USAGE`).
pub const USAGE: u8 = 64;
/// A port is taken (`EX_UNAVAILABLE`).
pub const PORT_TAKEN: u8 = 69;
/// The configuration is faulty (`EX_CONFIG`).
pub const BAD_CONFIG: u8 = 78;

/// An LLM edge gateway in front of OpenRouter and any OpenAI-compatible provider.
#[derive(Debug, Parser)]
#[command(name = "cirque", version, about, disable_help_subcommand = true)]
pub struct Arguments {
    /// What to do; without one, serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Configuration file; else `$CIRQUE_CONFIG`, else conf/gateway.yaml, else the environment alone.
    #[arg(short, long, value_name = "FILE", global = true)]
    pub config: Option<PathBuf>,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve (the default).
    Run,
    /// Serve with a simulated provider inside the process: no key, no network.
    Demo,
    /// Load and validate the configuration; report every fault with its place.
    Check {
        /// Also ask every upstream, Langfuse and other destinations of traces once; exit 1 where
        /// one does not answer or refuses our credentials.
        #[arg(long)]
        online: bool,
    },
    /// Print what was spent, from the ledger of the embedded store; also while the gateway runs.
    Usage(UsageArguments),
    /// Keys for callers.
    Keys {
        /// What about keys.
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Print the JSON Schema of the configuration.
    Schema,
    /// Ask a running gateway on this machine whether it lives; for container health checks.
    #[command(hide = true)]
    Health {
        /// Address of the data plane; by default as the configuration says.
        #[arg(long)]
        address: Option<String>,
    },
}

/// Commands about keys.
#[derive(Debug, Subcommand)]
pub enum KeysCommand {
    /// Print a new key once, and the YAML entry that holds only its SHA-256.
    New {
        /// The caller's name.
        #[arg(long)]
        name: String,
    },
}

/// Reads the command line. `Err` is the exit code after help, version or a mistake was printed.
pub fn parse() -> Result<Arguments, u8> {
    Arguments::try_parse().map_err(|error| {
        let code = if error.use_stderr() { USAGE } else { OK };
        // Help that cannot be printed is no reason to do anything else.
        let _printed = error.print();
        code
    })
}

/// `cirque check`
pub fn check(file: Option<PathBuf>) -> u8 {
    let env = Env::from_process();
    let source = config::find(file, &env);
    match config::load(&source, &env) {
        Ok(loaded) => {
            let config = &loaded.config;
            say(&format!(
                "ok: {} keys, {} upstreams, {} routes",
                config.keys.len(),
                config.upstreams.len(),
                config.routes.len()
            ));
            for warning in &loaded.warnings {
                complain(&format!("warning: {warning}"));
            }
            for setting in config::not_yet(config) {
                complain(&format!("warning: {setting}"));
            }
            OK
        }
        Err(faults) => {
            complain(&faults.to_string());
            BAD_CONFIG
        }
    }
}

/// `cirque keys new`
pub fn new_key(name: &str) -> u8 {
    if let Err((problem, hint)) = config::check_name(name) {
        complain(&format!("--name: {problem}\n  hint: {hint}"));
        return USAGE;
    }
    let key = keys::new_key();
    let hash = KeyHash::of(key.expose().as_bytes()).to_hex();
    say(&format!(
        "{}\n\n# The key above is shown this once. Under `keys:` goes only its hash:\n\
         \x20 - name: \"{name}\"\n    sha256: \"{hash}\"",
        key.expose()
    ));
    OK
}

/// `cirque schema`
pub fn schema() -> u8 {
    match serde_json::to_string_pretty(&config::schema()) {
        Ok(schema) => {
            say(&schema);
            OK
        }
        Err(_) => FAILED,
    }
}

/// Where a server's configuration comes from.
pub fn source(file: Option<PathBuf>, env: &Env) -> Source {
    config::find(file, env)
}

/// Prints for the person at the console. A closed pipe is no fault of ours.
pub fn say(text: &str) {
    let _written = writeln!(std::io::stdout(), "{text}");
}

/// Prints a complaint for the person at the console.
pub fn complain(text: &str) {
    let _written = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        use clap::CommandFactory;
        Arguments::command().debug_assert();
    }
}

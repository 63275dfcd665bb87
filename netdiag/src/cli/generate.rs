//! `netdiag completions` and `netdiag man`: made of the same definitions as `--help`.

use clap::{Args, Command, CommandFactory as _, ValueEnum, builder::Resettable};
use clap_complete::{
    generate,
    shells::{Bash, Fish, Zsh},
};
use clap_mangen::{
    Man as Page,
    roff::{Roff, bold, roman},
};

use super::Cli;

const NAME: &str = "netdiag";

/// `netdiag completions`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  netdiag completions bash > /usr/share/bash-completion/completions/netdiag
  netdiag completions zsh > /usr/local/share/zsh/site-functions/_netdiag
  netdiag completions fish > /etc/fish/completions/netdiag.fish
  . <(netdiag completions bash)          for this shell only")]
pub struct Completions {
    /// Which shell is to complete what is typed
    #[arg(value_enum, value_name = "SHELL")]
    pub shell: Shell,
}

/// A shell that completes command lines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Shell {
    /// GNU bash, with its package bash-completion
    Bash,
    /// zsh, from a directory of its fpath
    Zsh,
    /// fish
    Fish,
}

/// `netdiag man`.
#[derive(Clone, Debug, Args)]
#[command(after_help = "\
Examples:
  netdiag man | man -l -
  netdiag man events | man -l -
  netdiag man > /usr/local/share/man/man1/netdiag.1
  netdiag man record > /usr/local/share/man/man1/netdiag-record.1")]
pub struct Man {
    /// Of which command [default: of netdiag as a whole]
    #[arg(value_name = "COMMAND", value_parser = command)]
    pub command: Option<String>,
}

/// The name of a command.
fn command(text: &str) -> Result<String, String> {
    let cli = Cli::command();
    if cli.find_subcommand(text).is_some() {
        return Ok(text.to_owned());
    }
    Err(super::value::unknown("command", text, cli.get_subcommands().map(Command::get_name)))
}

/// A script that tells a shell how to complete.
pub(super) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    let cli = &mut Cli::command();
    match shell {
        Shell::Bash => generate(Bash, cli, NAME, &mut script),
        Shell::Zsh => generate(Zsh, cli, NAME, &mut script),
        Shell::Fish => generate(Fish, cli, NAME, &mut script),
    }
    String::from_utf8_lossy(&script).into_owned()
}

/// A manual page in roff, of a command or of the whole.
pub(super) fn man(command: Option<&str>) -> String {
    let mut cli = Cli::command();
    cli.build();
    let found = command.and_then(|name| cli.find_subcommand(name)).cloned();
    page(found.unwrap_or(cli))
}

/// Paragraphs behind the flags are not left to clap_mangen, which fills lines that are examples.
fn page(command: Command) -> String {
    let after = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let title = command.get_display_name().unwrap_or(NAME).to_uppercase();
    let command = command.after_help(Resettable::Reset);
    let version = concat!("netdiag ", env!("CARGO_PKG_VERSION"));
    let mut text = Vec::new();
    // Memory refuses nothing.
    let page = Page::new(command).title(title).manual("netdiag").source(version);
    let _written = page.render(&mut text);
    let mut roff = Roff::new();
    let (notes, examples) = after.split_once("Examples:\n").unwrap_or((&after, ""));
    let (examples, more) = examples.split_once("\n\n").unwrap_or((examples, ""));
    for (heading, lines) in [("NOTES", notes), ("EXAMPLES", examples), ("NOTES", more)] {
        if lines.trim().is_empty() {
            continue;
        }
        roff.control("SH", [heading]).control("nf", []);
        for line in lines.trim_end().lines() {
            match heading {
                "EXAMPLES" => roff.text([bold(line.trim_start())]),
                _ => roff.text([roman(line)]),
            };
        }
        roff.control("fi", []);
    }
    let _written = roff.to_writer(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

//! What is for terminals and shells: colours, completions, manual pages.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use netdiag_tests::{
    facts::Facts,
    netdiag::{binary, command, run_command},
    require,
    requirement::{Feature, alone},
    tool,
};

const ESCAPE: u8 = 0x1b;

/// Standard output of netdiag on a terminal of its own, with these variables.
fn on_terminal(arguments: &str, variables: &[(&str, &str)]) -> Result<Vec<u8>> {
    let mut script = tool::command("script")?;
    let line = format!("{} {arguments}", binary()?.display());
    script.args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).env_remove("NO_COLOR");
    script.env("TERM", "xterm").envs(variables.iter().copied());
    Ok(run_command(script)?.stdout)
}

#[test]
fn colours_are_for_terminals_of_who_wants_them() -> Result<()> {
    let _alone = alone();
    let mut facts = Facts::new();
    for arguments in ["--help", "events --help", "doctor", "man", "completions zsh"] {
        let words: Vec<_> = arguments.split(' ').collect();
        let piped = run_command(command(&words)?)?.stdout;
        facts.holds(format_args!("{arguments} says something"), piped.len() > 100);
        facts.holds(format_args!("{arguments}, piped"), !piped.contains(&ESCAPE));
        for variable in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            let shown = on_terminal(arguments, &[variable])?;
            let what = format!("{arguments} with {variable:?}");
            facts.holds(format_args!("{what} says something"), shown.len() > 100);
            facts.holds(what, !shown.contains(&ESCAPE));
        }
    }
    facts.holds("help stands out on a terminal", on_terminal("--help", &[])?.contains(&ESCAPE));
    facts.finish();
    Ok(())
}

/// What a shell prints.
fn print(mut shell: Command) -> Result<String> {
    let what = format!("{shell:?}");
    let output = run_command({
        shell.stdin(Stdio::null());
        shell
    })?;
    let text = tool::finish(&what, &output)?;
    let stderr = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(stderr.is_empty(), "{what} says {stderr}");
    Ok(text)
}

#[test]
fn shells_complete_commands_and_flags() -> Result<()> {
    require!(Feature::Shells);
    let netdiag = binary()?;
    let directory = netdiag.parent().context("a directory")?;
    let path = format!("{}:{}", directory.display(), std::env::var("PATH")?);
    let mut facts = Facts::new();
    let bash = |words: &str, nth: usize| -> Result<String> {
        let mut bash = tool::command("bash")?;
        let line = format!(
            ". <(netdiag completions bash)\nCOMP_WORDS=({words}) COMP_CWORD={nth}\n\
             _netdiag netdiag \"${{COMP_WORDS[{nth}]}}\" \"\"\necho \"${{COMPREPLY[@]}}\""
        );
        bash.args(["--norc", "-c", &line]).env("PATH", &path);
        print(bash)
    };
    facts.equal("bash, a command", bash("netdiag ev", 1)?.trim(), "events");
    facts.equal("bash, a flag", bash("netdiag events --stac", 2)?.trim(), "--stack");
    let mut fish = tool::command("fish")?;
    let line = "netdiag completions fish | source; complete -C 'netdiag ev'; complete -C 'netdiag events --stac'";
    fish.args(["--no-config", "-c", line]).env("PATH", &path);
    let found = print(fish)?;
    for word in ["events", "--stack"] {
        let is_there = found.lines().any(|line| line.split('\t').next() == Some(word));
        facts.holds(format_args!("fish: {word} in {found}"), is_there);
    }
    let mut zsh = tool::command("zsh")?;
    // Completing itself takes a terminal.
    let line = "autoload -Uz compinit && compinit -D -u && source <(netdiag completions zsh) && \
                whence -w _netdiag && print $_comps[netdiag]";
    zsh.args(["-f", "-c", line]).env("PATH", &path);
    facts.equal("zsh", print(zsh)?.trim(), "_netdiag: function\n_netdiag");
    facts.finish();
    Ok(())
}

#[test]
fn manual_pages_are_read_by_man() -> Result<()> {
    require!(Feature::Shells);
    let mut facts = Facts::new();
    for (arguments, words) in [
        (&["man"][..], ["NETDIAG(1)", "netdiag events --kind drop --stack", "--version"]),
        (&["man", "events"][..], ["NETDIAG-EVENTS(1)", "netdiag events --kind", "--stack"]),
        (
            &["man", "record"][..],
            ["NETDIAG-RECORD(1)", "netdiag record --out /var/lib/netdiag", "--max-disk"],
        ),
    ] {
        let file = tempfile::NamedTempFile::new()?;
        std::fs::write(file.path(), run_command(command(arguments)?)?.stdout)?;
        let mut man = tool::command("man")?;
        man.args(["--warnings=all", "-P", "cat", "-l"]).arg(file.path());
        man.env("MANWIDTH", "100").env("LC_ALL", "C.UTF-8").env_remove("MANOPT");
        let page = print(man)?;
        let page: String = page.split_inclusive('\n').map(|line| line.replace('‐', "-")).collect();
        for word in words {
            facts.holds(format_args!("{arguments:?}: {word} in {page}"), page.contains(word));
        }
    }
    facts.finish();
    Ok(())
}

use super::*;
use crate::{signal::DEFINITIONS, snapshot::build::Sort};

fn parse_line(line: &str) -> Result<Asked, exit::Error> {
    parse(line.split(' ').map(OsString::from))
}

fn refusal(line: &str) -> String {
    match parse_line(line) {
        Err(error) => {
            assert_eq!(error.status(), exit::Status::Usage, "{line}");
            error.to_string()
        }
        Ok(asked) => panic!("`{line}` was accepted: {asked:?}"),
    }
}

fn watch(line: &str) -> Watch {
    match parse_line(line) {
        Ok(Asked::Run(cli)) => match cli.command {
            Command::Live(live) => live.watch,
            Command::Record(record) => record.watch,
            _ => panic!("`{line}` watches nothing"),
        },
        other => panic!("`{line}`: {other:?}"),
    }
}

#[test]
fn clap_finds_no_contradiction() {
    Cli::command().debug_assert();
}

#[test]
fn live_is_the_default() {
    for line in ["netdiag", "netdiag live", "netdiag -i 1s", "netdiag --pid 1"] {
        assert!(
            matches!(parse_line(line), Ok(Asked::Run(cli)) if matches!(cli.command, Command::Live(_))),
            "{line}"
        );
    }
}

#[test]
fn values_repeat_or_come_by_comma() {
    assert_eq!(watch("netdiag --port 80,443 --port 8080").filters.port, [80, 443, 8080]);
    let times = watch("netdiag -i 500ms -d 1m30s");
    assert_eq!(times.interval, Duration::from_millis(500));
    assert_eq!(times.duration, Some(Duration::from_secs(90)));
}

#[test]
fn max_cpu_is_percent_of_a_core() {
    for (text, part) in [("5", 0.05), ("2.5%", 0.025), ("0.1", 0.001), ("100 %", 1.0)] {
        assert_eq!(value::max_cpu(text), Ok(part), "{text}");
    }
    for text in ["", "0", "0.09", "101", "-5", "NaN", "five"] {
        assert!(value::max_cpu(text).is_err(), "{text}");
    }
    assert_eq!(watch("netdiag --max-cpu 5").flows.max_cpu, Some(0.05));
}

#[test]
fn every_source_of_every_signal_can_be_forced() {
    for definition in DEFINITIONS {
        for source in definition.sources {
            let text = format!("{}={}", definition.signal.name(), source.name);
            assert_eq!(
                value::source(&text),
                Ok(SourceChoice { signal: definition.signal, source: source.name })
            );
        }
    }
}

#[test]
fn every_kind_of_event_can_be_asked_for() {
    for kind in crate::snapshot::told::kinds() {
        assert_eq!(value::kind(kind.name), Ok(kind));
    }
}

#[test]
fn every_metric_and_count_sorts() {
    for (_, _, metric) in crate::signal::metrics() {
        assert_eq!(value::sort(metric.name), Ok(Sort::Samples(metric.name)));
        assert_eq!(value::sort(&format!("{}.p99", metric.name)), Ok(Sort::P99(metric.name)));
    }
    for (_, _, count) in crate::signal::counts() {
        assert_eq!(value::sort(count.name), Ok(Sort::Count(count.name)));
    }
    assert_eq!(value::sort("retransmits"), Ok(Sort::Count("retransmits.")));
}

#[test]
fn wrong_usage_gets_one_line_that_says_what_is_right() {
    let cases = [
        ("netdiag -i 5", "no unit in `5`"),
        ("netdiag -i 5parsec", "unknown unit `parsec`"),
        ("netdiag -i 50ms", "give 100ms to 1h"),
        ("netdiag -i 2h", "give 100ms to 1h"),
        ("netdiag -i -5s", "netdiag --help"),
        ("netdiag -d 99999999999999999999999h", "too long"),
        ("netdiag --no-such-flag", "--no-such-flag"),
        ("netdiag recrod", "record"),
        ("netdiag record", "--out"),
        ("netdiag record --out x --max-disk 1", "at least 1MiB"),
        ("netdiag record --out x --node a/b", "file name"),
        ("netdiag --port 0", "--port"),
        ("netdiag --port 70000", "70000"),
        ("netdiag --pid 0", "--pid"),
        ("netdiag --peer 10.0.0.0/33", "0 to 32"),
        ("netdiag --peer example", "no address"),
        ("netdiag --netns pid:x", "pid:4711"),
        ("netdiag --source send=kprobes", "did you mean `kprobe`?"),
        ("netdiag --source sned=kprobe", "did you mean `send`?"),
        ("netdiag --source kprobe", "SIGNAL=SOURCE"),
        ("netdiag --signals drops", "there are: socket, send, retransmit"),
        ("netdiag --sort send.p98", "did you mean `send.p99`?"),
        ("netdiag --otlp https://collector.example", "does not encrypt"),
        ("netdiag --otlp collector.example:4318", "http://HOST"),
        ("netdiag diagnose --otlp http://127.0.0.1", "--otlp"),
        ("netdiag --ring-size 3MiB", "such as 2097152"),
        ("netdiag --ring-size 1", "power of two"),
        ("netdiag --top 0", "--top"),
        ("netdiag -o xml", "text"),
        ("netdiag doctor --pid 1", "--pid"),
        ("netdiag events --kind drops", "did you mean `drop`? there are: connect, close"),
        ("netdiag events --limit many", "--limit"),
        ("netdiag events -i 1s", "-i"),
        ("netdiag completions tcsh", "bash, zsh, fish"),
        ("netdiag man recrod", "did you mean `record`?"),
        ("netdiag -i 1s record", "record"),
    ];
    for (line, expected) in cases {
        let message = refusal(line);
        assert!(message.contains(expected), "`{line}` says: {message}");
        assert!(!message.contains('\n'), "`{line}` says more than one line: {message}");
    }
}

/// Nothing is watched and nothing filtered then: a flag that did not count would mislead. What is read is redacted,
/// and by whom it is read is confined, as well.
#[test]
fn from_refuses_all_that_only_watching_heeds() {
    const HEEDED: [&str; 2] = ["redact", "no_sandbox"];
    let mut command = Cli::command();
    command.build();
    let diagnose = command.find_subcommand("diagnose").expect("diagnose");
    let from = diagnose.get_arguments().find(|arg| arg.get_id() == "from").expect("--from");
    let refused: Vec<_> =
        diagnose.get_arg_conflicts_with(from).into_iter().map(|arg| arg.get_id().clone()).collect();
    let none = || clap::Command::new("none");
    let groups =
        [Filters::augment_args(none()), Flows::augment_args(none()), Kernel::augment_args(none())];
    for flag in groups.iter().flat_map(clap::Command::get_arguments) {
        let is_heeded = HEEDED.contains(&flag.get_id().as_str());
        assert_eq!(refused.contains(flag.get_id()), !is_heeded, "--from and {}", flag.get_id());
    }
}

#[test]
fn prefixes_are_mapped_and_masked() {
    let cases = [
        ("10.1.2.3/8", "::ffff:10.0.0.0", 104),
        ("0.0.0.0/0", "::ffff:0.0.0.0", 96),
        ("192.0.2.7", "::ffff:192.0.2.7", 128),
        ("2001:db8::5/32", "2001:db8::", 32),
        ("::/0", "::", 0),
    ];
    for (text, network, length) in cases {
        let network = network.parse().expect(network);
        assert_eq!(value::prefix(text), Ok(Prefix { network, length }), "{text}");
    }
}

#[test]
fn help_fits_80_columns_and_names_every_command() {
    let cli = Cli::command();
    let of_commands =
        cli.get_subcommands().map(|command| format!("netdiag {}", command.get_name()));
    let commands: Vec<_> = ["netdiag".to_owned()].into_iter().chain(of_commands).collect();
    for command in &commands {
        for flag in ["--help", "-h"] {
            let line = format!("{command} {flag}");
            let Ok(Asked::Print(text)) = parse_line(&line) else { panic!("{line} prints nothing") };
            for row in text.lines() {
                assert!(row.chars().count() <= 80, "{line}: {row}");
            }
            let (_, examples) = text.split_once("\nExamples:\n").expect(&line);
            let examples = examples.lines().take_while(|row| row.starts_with("  ")).count();
            assert!(examples >= 2, "{line}");
        }
    }
    let Ok(Asked::Print(text)) = parse_line("netdiag --help") else { panic!("no help") };
    for command in &commands[1..] {
        let name = command.trim_start_matches("netdiag ");
        assert!(text.lines().any(|row| row.trim_start().starts_with(name)), "{name}");
    }
}

/// What an example types is understood.
#[test]
fn examples_are_right_usage() {
    let cli = Cli::command();
    let all = cli.get_subcommands().chain([&cli]);
    let mut examples = 0;
    for text in all.filter_map(|command| command.get_after_help()).map(ToString::to_string) {
        let (_, lines) = text.split_once("Examples:\n").expect(&text);
        for line in lines.lines().take_while(|row| row.starts_with("  ")) {
            // What is behind it, a shell's or an explanation, is not netdiag's.
            let line = line.trim().split(['|', '>']).next().unwrap_or_default();
            let Some(line) = line.strip_prefix("netdiag") else { continue };
            let line = line.split("   ").next().unwrap_or_default().trim();
            let (line, _explained) = line.split_once(" what is ").unwrap_or((line, ""));
            let line = format!("netdiag {line}");
            let parsed = parse(line.split_whitespace().map(OsString::from));
            assert!(parsed.is_ok(), "{line}: {parsed:?}");
            examples += 1;
        }
    }
    assert!(examples > 20, "{examples}");
}

#[test]
fn help_stands_out_only_for_whom_colours_are_shown() {
    for (shows_colours, expected) in [(true, true), (false, false)] {
        let help = parse_for(["netdiag", "--help"].map(OsString::from), shows_colours);
        let Ok(Asked::Print(text)) = help else { panic!("{help:?}") };
        assert_eq!(text.contains('\u{1b}'), expected, "{text}");
    }
}

#[test]
fn each_command_has_a_manual_page() {
    let cli = Cli::command();
    let names: Vec<_> = cli.get_subcommands().map(clap::Command::get_name).collect();
    for name in names.iter().map(|name| format!(" {name}")).chain([String::new()]) {
        let line = format!("netdiag man{name}");
        let Ok(Asked::Print(page)) = parse_line(&line) else { panic!("{line} prints nothing") };
        let title = format!(".TH NETDIAG{}", name.replace(' ', "-").to_uppercase());
        for part in [title.as_str(), ".SH NAME", ".SH SYNOPSIS", ".SH EXAMPLES"] {
            assert!(page.contains(part), "{line} has no {part}: {page}");
        }
        assert!(!page.contains(".SH EXTRA"), "{line}: {page}");
    }
}

#[test]
fn shells_learn_every_command_and_flag() {
    let mut cli = Cli::command();
    cli.build();
    for shell in ["bash", "zsh", "fish"] {
        let line = format!("netdiag completions {shell}");
        let Ok(Asked::Print(script)) = parse_line(&line) else { panic!("{line} prints nothing") };
        for command in cli.get_subcommands() {
            assert!(script.contains(command.get_name()), "{shell}: {}", command.get_name());
            let shown = command.get_arguments().filter(|arg| !arg.is_hide_set());
            for flag in shown.filter_map(|arg| arg.get_long()) {
                assert!(script.contains(flag), "{shell}: --{flag}");
            }
        }
    }
}
